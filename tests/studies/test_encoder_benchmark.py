"""The benchmark of encoders: small sizes, real models, every encoder fine-tuned for two steps."""

import dataclasses
import json

import pandas as pd
import pytest
import torch
from test_benchmark import SMALL

from daitir.common.errors import DataError
from daitir.evaluation import RESULT_COLUMNS
from daitir.models.encoders import load_encoder
from daitir.models.recogniser import load_recogniser
from daitir.models.reformulation import load_reformulator
from daitir.models.views import load_view_generator
from daitir.recipes.finetune import encode
from daitir.recipes.settings import EncoderRecipe
from daitir.recipes.triples import FinetuneData
from daitir.scenes import render_scenes, sample_scenes
from daitir.studies import encoder_benchmark, queries
from daitir.studies.encoder_benchmark import encode_sets, encoder_rows, run_encoder_benchmark

RECIPE = EncoderRecipe(steps=2, batch_size=6, warmup_steps=1, eval_every=2, rank=4)


def test_every_encoder_is_trained_measured_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_benchmark, "BENCHMARKS", ("human",))
    sets = {name: queries.SETS[name] for name in ("human", "train", "val")}
    monkeypatch.setattr(queries, "SETS", sets)
    small = dataclasses.replace(
        SMALL,
        queries=str(tmp_path / "queries"),
        trained_encoders=str(tmp_path / "none"),
        num_encoder_seeds=1,
        encoders={
            "finetune_text": dataclasses.replace(RECIPE, terms=("text_target",), query="text"),
            "dmcl_raw": dataclasses.replace(RECIPE, text="raw_dialogue"),
        },
    )
    generator = load_view_generator(steps=1)
    models = queries.Models(
        load_reformulator(), generator, load_encoder("mini"), load_recogniser()
    )
    cache = tmp_path / "cache"
    queries.make_query_sets(small, tmp_path / "queries", models, cache=cache)
    folders = {"cache": cache, "work_dir": tmp_path / "work", "results_dir": tmp_path / "results"}
    table = pd.read_csv(run_encoder_benchmark(small, generator, **folders))
    assert tuple(table.columns) == RESULT_COLUMNS
    asked = ("text", "view", "dar", "placebo", "memory", "adafuse")
    assert set(table["method"]) == {
        f"{name}+{query}" for name in ("zero_shot", "finetune_text", "dmcl_raw") for query in asked
    }
    rows = table[(table["benchmark"] == "human") & (table["round"] == 10)]
    assert set(rows["seed"]) == {"mean of 1", "0"}
    rows = rows[rows["seed"] == "mean of 1"]
    values = rows.set_index(["method", "metric"])["value"]
    assert values["zero_shot+dar", "recall_at_10_gain_over_dar"] == 0
    assert values["finetune_text+text", "recall_at_10_gain_over_finetune_text"] == 0
    difference = values["dmcl_raw+dar", "recall_at_10"] - values["zero_shot+dar", "recall_at_10"]
    assert values["dmcl_raw+dar", "recall_at_10_gain_over_dar"] == pytest.approx(difference)
    short = table[table["benchmark"] == "short_caption"]
    assert set(short["round"]) == {0} and short["method"].nunique() == 3
    notes = json.loads((tmp_path / "results" / "small_encoders.json").read_text())
    assert len(set(notes["encoders"].values())) == 3

    def untouched(*arguments, **options):
        raise AssertionError("a second run measures nothing anew")

    monkeypatch.setattr(encoder_benchmark, "_ranks", untouched)
    again = pd.read_csv(run_encoder_benchmark(small, generator, **folders))
    pd.testing.assert_frame_equal(again, table)
    (tmp_path / "work" / "encoders").rename(tmp_path / "gone")
    shorter = {n: dataclasses.replace(r, steps=1) for n, r in small.encoders.items()}
    with pytest.raises(DataError, match="ranks of another encoder"):
        run_encoder_benchmark(dataclasses.replace(small, encoders=shorter), generator, **folders)


def test_a_gallery_that_several_sets_search_is_encoded_once(monkeypatch):
    encoder = load_encoder("mini")
    pictures = [render_scenes(sample_scenes(seed, "val", 6), size=64) for seed in (0, 1)]
    rounds = torch.zeros(2, 1, dtype=torch.long)
    sets = {
        name: FinetuneData(
            [[f"a {word}"] for word in words], rounds, pictures[1][:2, None], gallery
        )
        for name, words, gallery in (
            ("first", ("dog", "cat"), pictures[0]),
            ("same", ("car", "tree"), pictures[0].copy()),
            ("other", ("car", "tree"), pictures[1]),
        )
    }  # fmt: skip
    wanted = {name: encode(encoder, data) for name, data in sets.items()}
    plain, numbers = encoder.encode_images, []

    def counted(images, **options):
        numbers.append(len(images))
        return plain(images, **options)

    monkeypatch.setattr(encoder, "encode_images", counted)
    found = encode_sets(encoder, sets)
    assert numbers == [2, 6, 2, 2, 6]
    for name, features in found.items():
        for mine, theirs in zip(
            (features.text_features, features.view_features, features.gallery_features),
            wanted[name], strict=True,
        ):  # fmt: skip
            assert torch.equal(mine, theirs)


def test_views_of_another_generator_are_refused(tmp_path):
    encoder = load_encoder("mini")
    with pytest.raises(DataError, match="another pipeline or with other settings"):
        queries.view_files(SMALL, "val", load_view_generator(steps=3), encoder, tmp_path)


def test_our_own_encoder_is_compared_with_dmcl_query_by_query():
    torch.manual_seed(0)
    ranks = {
        (name, "human", query): torch.randint(0, 20, (2, 30, 3))
        for name in ("dmcl", "dmcl_resampled") for query in ("text", "dar")
    }  # fmt: skip
    rows = encoder_rows(ranks)
    pooled = rows[rows["seed"] == "mean of 2"].set_index(["method", "metric", "round"])["value"]
    for query in ("text", "dar"):
        mine, other = (
            (ranks[name, "human", query] < 10).double().mean(dim=(0, 1))
            for name in ("dmcl_resampled", "dmcl")
        )
        gains = pooled[f"dmcl_resampled+{query}", "recall_at_10_gain_over_dmcl"]
        assert gains.to_numpy() == pytest.approx((mine - other).numpy(), abs=1e-4)
    assert not any("over_dmcl" in metric for _, metric, _ in pooled.loc[["dmcl+dar"]].index)

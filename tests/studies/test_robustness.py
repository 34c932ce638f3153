"""Robustness: perturbations do what they say, and every condition is in the table once."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from test_fusion_training import RECIPE
from test_view_generation import tiny_pipeline

from daitir.common.files import atomic_write
from daitir.evaluation import RESULT_COLUMNS
from daitir.metrics import bootstrap_interval
from daitir.models.encoders import load_encoder
from daitir.models.reformulation import Reformulator, load_reformulator
from daitir.models.views import ViewGenerator
from daitir.recipes.settings import ClipRecipe
from daitir.scenes import SOURCES, dialogue, sample_scenes
from daitir.studies import robustness
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.perturbations import (
    dropped_rounds,
    last_views,
    refine_arrived,
    shuffled_rounds,
    typos,
)
from daitir.studies.profiles import PROFILES
from daitir.studies.queries import (
    MANIFEST_NAME,
    QUERIES_FOLDER,
    QuerySet,
    load_query_set,
    manifest_of,
    save_query_set,
)
from daitir.studies.robustness import condition_rows, run_robustness

SAID = ["a red sailboat by the pier", "is it day? yes", "where is it? at the beach", "any dog? no"]


@pytest.mark.parametrize("seed", range(5))
def test_typos_change_the_share_of_words_that_they_should(seed):
    assert typos(SAID, seed, share=0) == SAID
    words = ["sailboat"] * 2000
    found = typos([" ".join(words)], seed, share=0.3)[0].split()
    changed = [word for word in found if word != "sailboat"]
    assert len(found) == 2000 and 0.25 < len(changed) / 2000 < 0.35
    assert {len(word) for word in changed} == {7, 8, 9}
    assert all(sorted(word) == sorted("sailboat") for word in changed if len(word) == 8)


def test_short_words_and_marks_stay_and_every_long_word_differs():
    found = typos(SAID, 3, share=1)
    for text, other in zip(SAID, found, strict=True):
        for word, typed in zip(text.split(), other.split(), strict=True):
            letters = word.strip("?")
            assert (word == typed) == (len(letters) < 3)
            assert word.endswith("?") == typed.endswith("?")


def test_dropped_rounds_keep_the_caption_and_shuffled_ones_keep_every_word():
    long = ["caption", *map(str, range(1000))]
    found = dropped_rounds(long, 1, share=0.3)
    assert found[0] == "caption" and 0.25 < sum(text is None for text in found) / 1000 < 0.35
    assert all(a == b for a, b in zip(long, found, strict=True) if b is not None)
    mixed = shuffled_rounds(long, 1)
    assert mixed[0] == "caption" and mixed != long and sorted(mixed) == sorted(long)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_probability(share):
    for perturb in (typos, dropped_rounds):
        with pytest.raises(ValueError, match="probability"):
            perturb(SAID, 0, share=share)


@pytest.fixture(scope="module")
def reformulator():
    return load_reformulator("mini")


def test_a_lost_round_leaves_the_last_caption(reformulator):
    lost = [SAID[0], None, SAID[2], None]
    first, second = reformulator.refine([[SAID[0], SAID[2]]]).captions[0]
    assert refine_arrived(reformulator, [lost]) == [[first, first, second, second]]
    with pytest.raises(ValueError, match="first round"):
        refine_arrived(reformulator, [[None, "is it day? yes"]])


def test_the_last_view_agrees_with_a_loop():
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(20, 6, 3, generator=generator)
    missing = torch.rand(20, 6, generator=generator) < 0.6
    found, none = last_views(views, missing)
    for i in range(20):
        there = None
        for t in range(6):
            there = views[i, t] if not missing[i, t] else there
            assert none[i, t] == (there is None)
            if there is not None:
                assert found[i, t].equal(there)
    assert none.any() and not none.all()


@pytest.mark.parametrize("source", SOURCES)
def test_a_longer_dialogue_begins_as_the_shorter_one(source):
    for scene in sample_scenes(0, "test", 5):
        long = dialogue(source, scene, num_questions=20)
        assert len(long) == 21 and long[:11] == dialogue(source, scene)


def test_rows_average_seeds_before_the_bootstrap_and_compare_dialogue_by_dialogue():
    generator = torch.Generator().manual_seed(0)

    def ranks(seeds):
        return torch.randint(0, 25, (seeds, 40, 2), generator=generator)

    found, usual = ({"text": ranks(1), "dar": ranks(1), "adafuse": ranks(5)} for _ in range(2))
    rows = condition_rows("noisy", found, (2, 10), usual=usual)
    assert tuple(rows.columns) == RESULT_COLUMNS
    assert not rows.duplicated(["method", "metric", "round"]).any()
    hits = {name: (some < 10).double().mean(dim=0).numpy() for name, some in found.items()}
    before = (usual["adafuse"] < 10).double().mean(dim=0).numpy()
    expected = {
        "recall_at_10": hits["adafuse"],
        "recall_at_10_gain": hits["adafuse"] - hits["text"],
        "recall_at_10_gain_over_dar": hits["adafuse"] - hits["dar"],
        "recall_at_10_change": hits["adafuse"] - before,
    }
    of_adafuse = rows[rows["method"] == "adafuse"]
    assert set(of_adafuse["metric"]) == {*expected, "degradation_rate_ln2"}
    for metric, values in expected.items():
        row = of_adafuse[of_adafuse["metric"] == metric]
        assert row["round"].tolist() == [2, 10] and (row["seed"] == "mean of 5").all()
        np.testing.assert_allclose(row["value"], values.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(row["ci_low"], bootstrap_interval(values)[0], atol=1e-12)
    places = {name: np.log1p(some.numpy()) for name, some in found.items()}
    worse = places["adafuse"] - places["text"] > np.log(2)
    doubled = of_adafuse.query("metric == 'degradation_rate_ln2'")["value"]
    np.testing.assert_allclose(doubled, worse.mean(axis=(0, 1)), atol=1e-12)
    of_text = rows[rows["method"] == "text"]
    assert set(of_text["metric"]) == {"recall_at_10", "recall_at_10_change"}


@pytest.fixture
def small(tmp_path):
    """A profile of a few dialogues whose query sets are the first of the shipped ones."""
    encoder, folder = load_encoder("mini"), tmp_path / "queries"
    with atomic_write(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest_of(QUERIES_FOLDER)))
    for name in (*BENCHMARKS, "train", "val"):
        found = load_query_set(name, encoder, QUERIES_FOLDER)
        parts = (found.captions, found.rounds, found.view_features, found.readings)
        save_query_set(QuerySet(*(part[:4] for part in parts)), folder, name)
    profile = dataclasses.replace(
        PROFILES["classroom"], name="small", num_other_dialogues=3, num_test_dialogues=4,
        num_train_dialogues=4, num_val_dialogues=4, num_gallery=12, queries=str(folder),
        fusions={"adafuse": dataclasses.replace(RECIPE, steps=2)},
        clip=ClipRecipe("daitir-mini", num_scenes=40, steps=5, batch_size=8, warmup_steps=1),
    )  # fmt: skip
    return profile, encoder


def test_the_table_has_every_condition_and_a_second_run_measures_nothing(
    small, reformulator, tmp_path, monkeypatch
):
    profile, encoder = small
    generator = ViewGenerator("tiny", tiny_pipeline(), steps=1)
    options = {"cache": tmp_path / "views", "work_dir": tmp_path / "work", "results_dir": tmp_path}
    path = run_robustness(profile, reformulator, generator, encoder, **options)
    rows = pd.read_csv(path)
    assert tuple(rows.columns) == RESULT_COLUMNS
    assert not rows.duplicated(["benchmark", "method", "metric", "round"]).any()
    expected = {"as_trained", "typos_10", "typos_30", "dropped_rounds", "shuffled_rounds",
                "longer", "guidance_1", "steps_2", "redrawn", "controlled_05", "controlled_15",
                "controlled_30", "missing_text_alone", "missing_text_as_view",
                "missing_previous_view", "rotated_carried_over", "rotated_trained_for_it",
                "other_encoder_carried_over", "other_encoder_trained_for_it"}  # fmt: skip
    assert set(rows["benchmark"]) == expected
    assert (rows["num_queries"] == 3).all()
    assert set(rows.query("benchmark == 'longer'")["round"]) == {10, 15, 20}
    changes = rows.query("metric == 'recall_at_10_change'")
    assert (changes.query("benchmark == 'as_trained'")["value"] == 0).all()
    assert not changes["benchmark"].str.contains("longer|rotated|encoder").any()
    seeds = rows.query("method == 'adafuse'").groupby("benchmark")["seed"].unique().str[0]
    for name in ("rotated_trained_for_it", "other_encoder_trained_for_it"):
        assert seeds.pop(name) == "mean of 3"
    for method in ("text", "view", "dar"):  # a rotation leaves every angle as it is
        of_method = rows[(rows["method"] == method) & (rows["metric"] == "recall_at_10")]
        values = of_method.set_index("benchmark")["value"]
        turned = values["rotated_carried_over"].tolist()
        assert turned == values["as_trained"].tolist()
    assert set(seeds) == {"mean of 5"}
    assert json.loads(path.with_suffix(".json").read_text())["other_encoder"]["steps"] == 1

    monkeypatch.setattr(ViewGenerator, "draw", None)
    monkeypatch.setattr(Reformulator, "refine", None)
    monkeypatch.setattr(robustness, "train_clip", None)
    first = path.read_bytes()
    again = run_robustness(profile, reformulator, generator, encoder, **options)
    assert again.read_bytes() == first

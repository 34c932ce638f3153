"""Kept views with fine-tuned encoders: small sizes, real models, ranks against a loop."""

import dataclasses

import pandas as pd
import pytest
import torch
from test_benchmark import SMALL
from torch.nn import functional as F

from daitir.common.errors import DataError
from daitir.evaluation import RESULT_COLUMNS
from daitir.models.encoders import load_encoder
from daitir.models.recogniser import load_recogniser
from daitir.models.reformulation import load_reformulator
from daitir.models.views import load_view_generator
from daitir.recipes.finetune import encode
from daitir.recipes.fusion import load_fusion
from daitir.recipes.settings import EncoderRecipe
from daitir.studies import encoder_benchmark, encoder_memory, queries
from daitir.studies.encoder_benchmark import run_encoder_benchmark
from daitir.studies.encoder_memory import DECAY, run_encoder_memory
from daitir.studies.training_sets import profile_data

RECIPE = EncoderRecipe(steps=2, batch_size=6, warmup_steps=1, eval_every=2, rank=4)


def test_the_table_holds_what_a_loop_finds(tmp_path, monkeypatch):
    for module in (encoder_benchmark, encoder_memory):
        monkeypatch.setattr(module, "BENCHMARKS", ("human",))
    sets = {name: queries.SETS[name] for name in ("human", "train", "val")}
    monkeypatch.setattr(queries, "SETS", sets)
    small = dataclasses.replace(
        SMALL,
        queries=str(tmp_path / "queries"),
        trained_encoders=str(tmp_path / "none"),
        num_encoder_seeds=1,
        encoders={
            "finetune_text": dataclasses.replace(RECIPE, terms=("text_target",), query="text"),
            "dmcl": RECIPE,
        },
    )
    generator, encoder = load_view_generator(steps=1), load_encoder("mini")
    models = queries.Models(load_reformulator(), generator, encoder, load_recogniser())
    cache, work = tmp_path / "cache", tmp_path / "work"
    queries.make_query_sets(small, tmp_path / "queries", models, cache=cache)
    folders = {"cache": cache, "work_dir": work, "results_dir": tmp_path / "results"}
    with pytest.raises(DataError, match="no trained encoder; run `daitir encoders`"):
        run_encoder_memory(small, generator, **folders)
    run_encoder_benchmark(small, generator, **folders)
    table = pd.read_csv(run_encoder_memory(small, generator, **folders))
    assert tuple(table.columns) == RESULT_COLUMNS
    assert set(table["method"]) == {
        f"{name}+adafuse_memory" for name in ("zero_shot", "finetune_text", "dmcl")
    }
    data = profile_data(small, "human", generator, encoder, cache)
    text, view, gallery = encode(encoder, data)
    fusion = load_fusion(work / "fusions_memory" / "zero_shot" / "0", dim=encoder.dim)
    hits = []
    for i in range(len(text)):
        mean = torch.zeros(encoder.dim)
        for t in range(text.shape[1]):
            mean = DECAY * mean + view[i, t]
            with torch.no_grad():
                query, _ = fusion(text[i, t], F.normalize(mean, dim=-1))
            scores = gallery @ query
        hits.append(float((scores > scores[i]).sum() < 10))
    rows = table[(table["round"] == table["round"].max()) & (table["seed"] == "mean of 1")]
    values = rows.set_index(["method", "metric"])["value"]
    assert values["zero_shot+adafuse_memory", "recall_at_10"] == pytest.approx(
        sum(hits) / len(hits), abs=1e-4
    )
    gain = values["dmcl+adafuse_memory", "recall_at_10_gain_over_finetune_text_memory"]
    mine, other = (
        values[f"{n}+adafuse_memory", "recall_at_10"] for n in ("dmcl", "finetune_text")
    )
    assert gain == pytest.approx(mine - other, abs=2e-4)

    def untouched(*arguments, **options):
        raise AssertionError("a second run measures nothing anew")

    monkeypatch.setattr(encoder_memory, "_ranks", untouched)
    again = pd.read_csv(run_encoder_memory(small, generator, **folders))
    pd.testing.assert_frame_equal(again, table)

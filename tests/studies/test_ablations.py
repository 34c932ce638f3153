"""Ablations: every variant changes one thing, and the table has each with its seeds."""

import dataclasses
import json

import pandas as pd
import pytest
import torch
from test_fusion_training import RECIPE

from daitir.evaluation import RESULT_COLUMNS
from daitir.fusion import build_fusion
from daitir.models.encoders import load_encoder
from daitir.recipes.fusion import FusionData
from daitir.studies import ablations
from daitir.studies.ablations import WITHOUT_VIEW, run_ablations, variants
from daitir.studies.profiles import PROFILES


def test_every_variant_differs_from_the_whole_in_one_thing():
    recipe = PROFILES["classroom"].fusions["adafuse"]
    for name, other in variants(recipe).items():
        changed = [
            field.name for field in dataclasses.fields(recipe)
            if getattr(recipe, field.name) != getattr(other, field.name)
        ]  # fmt: skip
        size = {"projection_dim", "hidden_dim", "learning_rate"}
        few = 0 if name in ("whole", WITHOUT_VIEW) else 1
        assert len(changed) == few or (name.endswith(("width", "size")) and set(changed) <= size)


@pytest.mark.parametrize(("part", "expected"), [("use_residual", "between"), ("use_gate", "half")])
def test_a_part_that_is_left_out_has_no_effect(part, expected):
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    text, view = unit(torch.randn(6, 16), dim=-1), unit(torch.randn(6, 16), dim=-1)
    model = build_fusion(16, dataclasses.replace(RECIPE, **{part: False})).eval()
    query, details = model(text, view)
    if expected == "half":
        assert (details["gate"] == 0.5).all()
    else:
        gate = details["gate"]
        assert torch.allclose(query, unit(gate * text + (1 - gate) * view, dim=-1), atol=1e-6)


def test_the_table_has_every_variant_and_a_second_run_trains_nothing(tmp_path, monkeypatch):
    encoder = load_encoder("mini")
    unit = torch.nn.functional.normalize

    def made_up(profile, name, encoder, **options):
        torch.manual_seed(len(name))
        shape = (4, 11 if name == "human" else 2, encoder.dim)
        return FusionData(*(unit(torch.randn(s), dim=-1) for s in (shape, shape, (9, shape[2]))))

    monkeypatch.setattr(ablations, "encode_queries", made_up)
    monkeypatch.setattr(ablations, "NUM_SEEDS", 1)
    recipe = dataclasses.replace(RECIPE, steps=2)
    small = dataclasses.replace(PROFILES["classroom"], name="small", fusions={"adafuse": recipe})
    options = {"work_dir": tmp_path / "work", "results_dir": tmp_path}
    path = run_ablations(small, encoder, **options)
    rows = pd.read_csv(path)
    assert tuple(rows.columns) == RESULT_COLUMNS
    assert set(rows["method"]) == set(variants(recipe))
    assert set(rows.query("benchmark == 'human_val'")["metric"]) == {"recall_at_10_val"}
    notes = json.loads(path.with_suffix(".json").read_text())
    assert set(notes["parameters"]) == set(variants(recipe))
    monkeypatch.setattr("daitir.recipes.fusion.train", None)
    first = path.read_bytes()
    assert run_ablations(small, encoder, **options).read_bytes() == first

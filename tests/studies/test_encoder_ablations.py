"""Ablations of DMCL: every variant changes one thing, is trained shortly, measured and kept."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from test_encoder_benchmark import RECIPE

from daitir.evaluation import RESULT_COLUMNS
from daitir.recipes.triples import FinetuneData
from daitir.scenes import parse, render_scenes, sample_scenes
from daitir.studies import encoder_ablations
from daitir.studies.encoder_ablations import (
    QUERIES,
    SHUFFLED,
    ablation_rows,
    growth,
    run_encoder_ablations,
    variants,
)
from daitir.studies.profiles import PROFILES
from daitir.studies.training_sets import training_data, with_resampled_views

CAPTIONS = [["a red dog at the beach", "a cat"], ["a city at night", "a tree"], ["a cow", "a bus"]]


@pytest.fixture
def data():
    """Three dialogues with two views each, at the size of the mini encoder."""
    pictures = render_scenes(sample_scenes(0, "train", 12), size=64)
    rounds = torch.tensor([[0, 3], [1, 2], [4, 9]])
    return FinetuneData(CAPTIONS, rounds, pictures[:6].reshape(3, 2, 64, 64, 3), pictures[6:])


def test_every_variant_differs_from_the_whole_in_one_thing():
    found = variants(PROFILES["classroom"].encoders["dmcl"])
    whole = dataclasses.asdict(found["whole"])
    for name, other in found.items():
        changed = [key for key, value in dataclasses.asdict(other).items() if value != whole[key]]
        assert len(changed) == (0 if name in ("whole", SHUFFLED) else 1), name


def test_resampled_views_keep_what_is_stated(data):
    found = with_resampled_views(data)
    assert found.views.shape == (3, 4, 64, 64, 3) and found.rounds.shape == (3, 4)
    assert (found.views[:, :2] == data.views).all() and (found.rounds[:, 2:] == data.rounds).all()
    assert found.texts[0] == CAPTIONS[0] * 2
    # What the picture shows is what its own caption states, and not what the others do.
    from daitir.models.recogniser import load_recogniser

    read = load_recogniser().read(found.views[:, 2:].reshape(-1, 64, 64, 3))
    told = [caption for row in CAPTIONS for caption in row]
    for caption, reading in zip(told, read, strict=True):
        subjects = {f.subject for f in parse(caption).facts if f.attribute == "present"}
        assert all(reading.scene.object(subject) for subject in subjects), caption


def test_the_recipe_says_whether_views_are_resampled(data):
    profile = PROFILES["classroom"]
    plain, ours = (profile.encoders[name] for name in ("dmcl", "dmcl_resampled"))
    assert training_data(data, profile, plain) is data
    assert (training_data(data, profile, ours).views == with_resampled_views(data).views).all()


def test_more_data_and_nothing_else():
    found = growth(PROFILES["classroom"])
    assert [r.num_dialogues for r in found.values()] == [187, 375, 750, 1500, 3000] * 2
    for name in ("dmcl", "finetune_text"):
        some = [dataclasses.replace(r, num_dialogues=None) for n, r in found.items()
                if n.startswith(name)]  # fmt: skip
        assert len(some) == 5 and len(set(some)) == 1


def test_the_rows_average_over_seeds_and_pair_with_the_whole(monkeypatch):
    monkeypatch.setattr(encoder_ablations, "NUM_SEEDS", 2)
    rng = np.random.default_rng(0)
    hits = {
        (name, seed): {query: rng.random(5).tolist() for query in QUERIES}
        for name in ("whole", "other") for seed in range(2)
    }  # fmt: skip
    values = ablation_rows(hits).set_index(["method", "metric"])["value"]
    mean = {name: np.mean([hits[name, s]["dar"] for s in range(2)]) for name in ("whole", "other")}
    assert values["other+dar", "recall_at_10"] == pytest.approx(mean["other"])
    difference = mean["other"] - mean["whole"]
    assert values["other+dar", "recall_at_10_change"] == pytest.approx(difference)
    text = np.mean([hits["other", s]["text"] for s in range(2)])
    assert values["other+dar", "recall_at_10_gain"] == pytest.approx(mean["other"] - text)


def test_every_variant_is_trained_and_a_second_run_trains_nothing(data, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_ablations, "NUM_SEEDS", 1)
    monkeypatch.setattr(encoder_ablations, "DATA_DIVISORS", (1,))
    monkeypatch.setattr(encoder_ablations, "profile_data", lambda *a, **options: data)
    recipe = dataclasses.replace(RECIPE, steps=10, batch_size=6, warmup_steps=10)
    small = dataclasses.replace(
        PROFILES["classroom"],
        name="small",
        num_train_dialogues=len(CAPTIONS),
        num_val_dialogues=len(CAPTIONS),
        encoders={
            "dmcl": recipe,
            "finetune_text": dataclasses.replace(recipe, terms=("text_target",)),
        },
    )
    options = {"cache": tmp_path, "work_dir": tmp_path / "work", "results_dir": tmp_path}
    path = run_encoder_ablations(small, None, **options)
    table = pd.read_csv(path)
    assert tuple(table.columns) == RESULT_COLUMNS
    names = [*variants(recipe), *growth(small), "zero_shot"]
    assert set(table["method"]) == {f"{name}+{query}" for name in names for query in QUERIES}
    notes = json.loads(path.with_suffix(".json").read_text())
    assert sum(notes["learned_weights"]["0"].values()) == pytest.approx(1, abs=1e-4)
    monkeypatch.setattr(encoder_ablations, "finetune", None)
    first = path.read_bytes()
    assert run_encoder_ablations(small, None, **options).read_bytes() == first

"""Training a fusion: on made-up features with a known answer, it learns whom to trust."""

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from small_profiles import FUSION_RECIPE as RECIPE
from torch.nn.functional import normalize

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.fusion import TRAINED_FUSIONS, build_fusion, fuse_views
from daitir.models.encoders import load_encoder
from daitir.recipes import fusion
from daitir.recipes.checkpoint import BEST_NAME, CHECKPOINT_NAME, read_best
from daitir.recipes.fusion import (
    FUSION_WEIGHTS,
    FusionData,
    load_fusion,
    recall,
    train_fusion,
    tuned_weights,
)
from daitir.scenes import sample_scenes
from daitir.studies.profiles import PROFILES
from daitir.studies.queries import MANIFEST_NAME, QuerySet, save_query_set
from daitir.studies.training_sets import fusion_folder

NRGR = dataclasses.replace(RECIPE, kind="nrgr")


def queries(seed, number=200, dim=16):
    """Texts near their targets, and views that are near them or far, and show which by a flag."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    target = normalize(noise(number, dim), dim=-1)
    target[:, -1] = 0
    good = torch.rand(number, 3, 1, generator=generator) < 0.5
    text = normalize(target[:, None] + 2.5 * normalize(noise(number, 3, dim), dim=-1), dim=-1)
    wrong = normalize(noise(number, 3, dim), dim=-1)
    view = torch.where(good, target[:, None], wrong).clone()
    view[..., -1] = torch.where(good, 1.0, -1.0)[..., 0]
    return FusionData(text, normalize(view, dim=-1), normalize(target, dim=-1))


@pytest.fixture(scope="module")
def data():
    return queries(0), queries(1)


def pair_loss(a, b, scale, labels):
    """Symmetric InfoNCE by a loop: rows of one target are no negatives of each other."""
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for i, row in enumerate(one):
            rivals = [j for j in range(len(other)) if j == i or labels[j] != labels[i]]
            scores = [scale * float(row @ other[j]) for j in rivals]
            total += math.log(sum(map(math.exp, scores))) - scale * float(row @ other[i])
    return total / (2 * len(a))


@pytest.mark.parametrize("kind", TRAINED_FUSIONS)
@pytest.mark.parametrize("labels", [None, [4, 2, 2, 0, 9, 4]])
def test_the_loss_is_of_the_query_and_for_nrgr_of_three_more_pairs(kind, labels):
    torch.manual_seed(0)
    model = build_fusion(8, dataclasses.replace(RECIPE, kind=kind)).eval()
    text, view, target = (normalize(torch.randn(6, 8), dim=-1) for _ in range(3))
    pairs = [(model(text, view)[0], target)]
    if kind == "nrgr":
        pairs += [(view, target), (text, target), (view, text)]
    expected = sum(pair_loss(*pair, 50.0, labels or list(range(6))) for pair in pairs)
    given = None if labels is None else torch.tensor(labels)
    found = model.training_loss(text, view, target, labels=given)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_weights_are_tuned_by_the_first_ten_before_and_from_round_two():
    # Ten pictures are the first axis and the target is the second: it stands behind them, and is
    # not found, until more than half of the query is the second.
    text, view = torch.eye(2)
    gallery = torch.stack([view, *[text] * 10])
    both = FusionData(torch.stack([text, view])[None], torch.stack([view, text])[None], gallery)
    for rounds in ([1, 2], [0, 2], [1, 10]):
        assert tuned_weights(both, torch.tensor([rounds])) == (0.55, 0.0)
    swapped = FusionData(both.view_features, both.text_features, gallery)
    assert tuned_weights(swapped, torch.tensor([[1, 2]])) == (0.0, 0.55)
    fewer = FusionData(both.text_features, both.view_features, gallery[:10])
    assert tuned_weights(fewer, torch.tensor([[1, 2]])) == (0.0, 0.0)  # the tenth by any weight


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAINED_FUSIONS)
def test_training_beats_the_start_and_is_written_as_it_is_used(kind, data, tmp_path):
    recipe = dataclasses.replace(RECIPE, kind=kind)
    torch.manual_seed(0)
    before = recall(build_fusion(16, recipe), data[1])
    model = train_fusion(*data, recipe, tmp_path, progress=False)
    least = 0 if kind in ("scalar_gate", "cosine_gate") else 0.03  # those two cannot read the flag
    assert recall(model, data[1]) >= before + least
    again = load_fusion(tmp_path)
    assert recall(again, data[1]) == pytest.approx(read_best(tmp_path / BEST_NAME)[1], abs=0.01)


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(data, tmp_path, monkeypatch):
    whole = train_fusion(*data, RECIPE, tmp_path / "whole", progress=False)
    evaluations = itertools.count(1)

    def killed_at_the_third(*arguments):
        if next(evaluations) == 3:
            raise KeyboardInterrupt
        return recall(*arguments)

    monkeypatch.setattr(fusion, "recall", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train_fusion(*data, RECIPE, tmp_path / "parts", progress=False)
    monkeypatch.undo()
    parts = train_fusion(*data, RECIPE, tmp_path / "parts", progress=False)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_ends_where_nothing_gets_better(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, learning_rate=0.0, patience=2)
    train_fusion(*data, recipe, tmp_path, progress=False)
    assert read_best(tmp_path / BEST_NAME)[0] == 10
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.slow
def test_bad_input_is_refused(data, tmp_path):
    with pytest.raises(DataError, match="unknown fusion 'sum'"):
        train_fusion(*data, dataclasses.replace(RECIPE, kind="sum"), tmp_path, progress=False)
    with pytest.raises(DataError, match="config.json: no such file"):
        load_fusion(tmp_path)
    train_fusion(*data, NRGR, tmp_path, progress=False)
    (tmp_path / FUSION_WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(DataError, match="no fusion"):
        load_fusion(tmp_path)
    with pytest.raises(DataError, match="another model"):
        (tmp_path / "config.json").unlink()
        train_fusion(*data, RECIPE, tmp_path, progress=False)
    assert (tmp_path / CHECKPOINT_NAME).is_file()


def test_a_fusion_of_another_dimension_seed_or_recipe_is_refused(data, tmp_path):
    few = dataclasses.replace(RECIPE, steps=2)
    train_fusion(*data, few, tmp_path, progress=False)
    for asked, name in (({"dim": 32}, "dim"), ({"seed": 1}, "seed"), ({"recipe": NRGR}, "recipe")):
        with pytest.raises(DataError, match=f"config.json: a fusion of another {name}"):
            load_fusion(tmp_path, **asked)
    with pytest.raises(DataError, match="a fusion of another recipe"):
        train_fusion(*data, RECIPE, tmp_path, progress=False)
    load_fusion(tmp_path, dim=16, seed=0, recipe=few)


@pytest.mark.slow
def test_the_shipped_fusions_are_those_of_the_profile():
    profile = PROFILES["classroom"]
    for name, recipe in profile.fusions.items():
        for seed in range(profile.num_fusion_seeds):
            folder = fusion_folder(profile, name, seed)
            load_fusion(folder, dim=load_encoder("mini").dim, seed=seed, recipe=recipe)


def test_a_single_dialogue_trains(tmp_path):
    one = queries(0, number=1)
    train_fusion(one, one, dataclasses.replace(RECIPE, steps=2), tmp_path,
                 progress=False)  # fmt: skip


def test_a_round_with_several_views_is_fused_view_by_view():
    torch.manual_seed(0)
    text, views = normalize(torch.randn(3, 16), dim=-1), normalize(torch.randn(3, 4, 16), dim=-1)
    for kind in TRAINED_FUSIONS:
        model = build_fusion(16, dataclasses.replace(RECIPE, kind=kind)).eval()
        fused, details = fuse_views(model, text, views)
        shuffled, _ = fuse_views(model, text, views[:, [2, 0, 3, 1]])
        assert torch.allclose(fused, shuffled, atol=1e-6)
        alone, _ = fuse_views(model, text, views[:, :1])
        assert torch.allclose(alone, model(text, views[:, 0])[0], atol=1e-6)
        assert all(detail.shape[:2] == (3, 4) for detail in details.values())


def test_small_fusions_add_no_more_than_was_published():
    encoder = load_encoder("mini")
    limit = 0.0529 * sum(p.numel() for p in encoder.model.parameters())
    for recipe in PROFILES["classroom"].fusions.values():
        size = sum(p.numel() for p in build_fusion(encoder.dim, recipe).parameters())
        assert size <= limit, f"{recipe.kind}: {size:,} parameters, more than {limit:,.0f}"


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A profile with query sets of a few dialogues, made up."""
    profile = dataclasses.replace(
        PROFILES["classroom"],
        name="small",
        num_gallery=12,
        num_train_dialogues=8,
        num_val_dialogues=8,
        queries=str(tmp_path / "queries"),
        fusions={"adafuse": dataclasses.replace(RECIPE, steps=10)},
    )
    monkeypatch.setitem(PROFILES, "small", profile)
    encoder, folder = load_encoder("mini"), Path(profile.queries)
    folder.mkdir()
    manifest = {"encoder": encoder.digest}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    torch.manual_seed(0)
    for name in ("train", "val"):
        scenes = sample_scenes(0, name, 8)
        features = normalize(torch.randn(8, 2, encoder.dim), dim=-1)
        captions = [["a dog", "a cat at night", "a red kite"]] * 8
        made = QuerySet(captions, torch.tensor([[0, 2]] * 8), features, [[s, s] for s in scenes])
        save_query_set(made, folder, name)
    return profile


@pytest.mark.slow
def test_the_command_trains(small, tmp_path, capsys):
    command = ["train", "adafuse", "--profile", "small", "--seed", "3", "--workers", "1",
               "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    assert "R@10 on validation" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["seed"] == 3 and settings["recipe"]["kind"] == "adafuse"


def test_the_command_names_what_is_missing(small, tmp_path, capsys):
    shutil.rmtree(small.queries)
    command = ["train", "adafuse", "--profile", "small", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "manifest.json: no such file; `daitir queries" in capsys.readouterr().err
    assert main(["train", "moe", "--profile", "small", "--out", str(tmp_path / "out")]) == 2
    assert "unknown method 'moe'; the profile small has adafuse" in capsys.readouterr().err

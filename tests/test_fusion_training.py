"""Training a fusion: on made-up features with a known answer, it learns whom to trust."""

import dataclasses
import itertools

import pytest
import torch
from torch.nn.functional import normalize

from daitir.errors import DataError
from daitir.profiles import FusionRecipe
from daitir.training import fusion
from daitir.training.fusion import (
    BEST_NAME,
    WEIGHTS_NAME,
    FusionData,
    build_fusion,
    load_fusion,
    read_best,
    recall,
    train_fusion,
)
from daitir.training.loop import CHECKPOINT_NAME

RECIPE = FusionRecipe(
    steps=120,
    projection_dim=16,
    hidden_dim=32,
    batch_size=64,
    warmup_steps=5,
    eval_every=10,
    learning_rate=5e-3,
)


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


@pytest.mark.parametrize("kind", ["adafuse", "nrgr"])
def test_training_beats_the_start_and_is_written_as_it_is_used(kind, data, tmp_path):
    torch.manual_seed(0)
    before = recall(build_fusion(kind, 16, RECIPE), data[1])
    model = train_fusion(kind, *data, RECIPE, tmp_path, progress=False)
    assert recall(model, data[1]) > before + 0.03
    again = load_fusion(tmp_path)
    assert recall(again, data[1]) == pytest.approx(read_best(tmp_path / BEST_NAME)[1], abs=0.01)


def test_a_killed_run_ends_as_one_that_was_not(data, tmp_path, monkeypatch):
    whole = train_fusion("adafuse", *data, RECIPE, tmp_path / "whole", progress=False)
    evaluations = itertools.count(1)

    def killed_at_the_third(*arguments):
        if next(evaluations) == 3:
            raise KeyboardInterrupt
        return recall(*arguments)

    monkeypatch.setattr(fusion, "recall", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train_fusion("adafuse", *data, RECIPE, tmp_path / "parts", progress=False)
    monkeypatch.undo()
    parts = train_fusion("adafuse", *data, RECIPE, tmp_path / "parts", progress=False)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_ends_where_nothing_gets_better(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, learning_rate=0.0, patience=2)
    train_fusion("adafuse", *data, recipe, tmp_path, progress=False)
    assert read_best(tmp_path / BEST_NAME)[0] == 10
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 3


def test_bad_input_is_refused(data, tmp_path):
    with pytest.raises(DataError, match="unknown fusion 'sum'"):
        train_fusion("sum", *data, RECIPE, tmp_path, progress=False)
    with pytest.raises(DataError, match="config.json: no such file"):
        load_fusion(tmp_path)
    train_fusion("nrgr", *data, RECIPE, tmp_path, progress=False)
    (tmp_path / WEIGHTS_NAME).write_bytes(b"damaged")
    with pytest.raises(DataError, match="no fusion"):
        load_fusion(tmp_path)
    with pytest.raises(DataError, match="another model"):
        (tmp_path / "config.json").unlink()
        train_fusion("adafuse", *data, RECIPE, tmp_path, progress=False)
    assert (tmp_path / CHECKPOINT_NAME).is_file()


def test_a_single_dialogue_trains(tmp_path):
    one = queries(0, number=1)
    train_fusion("adafuse", one, one, dataclasses.replace(RECIPE, steps=2), tmp_path,
                 progress=False)  # fmt: skip

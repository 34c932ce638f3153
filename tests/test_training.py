"""The training loop resumes exactly; the recipe of the dual encoder runs end to end."""

import csv
import dataclasses

import pytest
import torch
from torch import nn

from daitir.encoders import load_encoder
from daitir.errors import DataError
from daitir.profiles import PROFILES, ClipRecipe, get_profile
from daitir.training.clip import train_clip
from daitir.training.loop import CHECKPOINT_NAME, LOG_NAME, LoopConfig, train
from daitir.training.tokenizer import train_tokenizer

CONFIG = LoopConfig(
    steps=40,
    learning_rate=0.05,
    weight_decay=0.1,
    warmup_steps=5,
    clip_norm=1.0,
    log_every=5,
    checkpoint_every=10,
)


def regression(folder, *, config=CONFIG, stop_at=None, poison=None):
    """Fit a linear map to noisy targets; optionally interrupted or with a NaN at a step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))

    def step_loss(step):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        return {"loss": loss * float("nan") if step == poison else loss}

    train(model, step_loss, config, folder, progress=False)
    return model


def rows(folder):
    with (folder / LOG_NAME).open() as file:
        return [(r["step"], r["loss"], r["learning_rate"]) for r in csv.DictReader(file)]


def test_resumed_equals_uninterrupted(tmp_path):
    whole = regression(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        regression(tmp_path / "parts", stop_at=27)
    parts = regression(tmp_path / "parts")
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    losses = [float(loss) for _, loss, _ in rows(tmp_path / "whole")]
    assert losses[-1] < 0.5 * losses[0]


def test_each_step_draws_its_own_numbers_and_again_the_same(tmp_path):
    def drawn(name, seed):
        numbers, model = [], nn.Linear(1, 1)

        def step_loss(step):
            numbers.append(torch.rand(()).item())
            return {"loss": model(torch.ones(1)).sum()}

        config = dataclasses.replace(CONFIG, steps=20, seed=seed)
        train(model, step_loss, config, tmp_path / name, progress=False)
        return numbers

    first, second = drawn("a", 0), drawn("b", 1)
    assert len(set(first + second)) == 40
    assert drawn("c", 0) == first


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = regression(tmp_path)
    again = regression(tmp_path, stop_at=0)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
    with pytest.raises(FloatingPointError, match="step 23"):
        regression(tmp_path, poison=23)
    assert (tmp_path / CHECKPOINT_NAME).is_file()


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    regression(tmp_path)
    with pytest.raises(DataError, match="another seed"):
        regression(tmp_path, config=dataclasses.replace(CONFIG, seed=1))
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"half a file")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        regression(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    regression(tmp_path)
    with pytest.raises(DataError, match="another model"):
        train(nn.Linear(2, 2), lambda step: {}, CONFIG, tmp_path, progress=False)


def test_the_clip_recipe_trains_and_its_folder_loads(tmp_path):
    recipe = ClipRecipe(
        model="daitir-mini", num_scenes=32, steps=3, batch_size=8, warmup_steps=1
    )
    train_clip(recipe, tmp_path, progress=False)
    encoder = load_encoder(f"open_clip:{tmp_path}")
    assert encoder.encode_texts(["a dog"]).shape == (1, 128)
    parameters = sum(p.numel() for p in encoder.model.parameters())
    assert parameters < 4_000_000
    with pytest.raises(DataError, match="no config in"):
        train_clip(dataclasses.replace(recipe, model="RN50"), tmp_path / "other")


def test_the_gpu_recipe_runs_on_a_cpu_at_reduced_size(tmp_path):
    recipe = dataclasses.replace(
        PROFILES["gpu"].clip, num_scenes=8, steps=1, batch_size=2, warmup_steps=1
    )
    train_clip(recipe, tmp_path, progress=False)
    encoder = load_encoder(f"open_clip:{tmp_path}")
    assert (encoder.dim, encoder.image_size) == (256, PROFILES["gpu"].image_size)


def test_the_tokenizer_is_deterministic_and_byte_level():
    one, two = (train_tokenizer(512, num_scenes=50) for _ in range(2))
    assert one.get_vocab() == two.get_vocab()
    text = "a kite, ein drachen, 凧 🪁"
    assert one.decode(one(text)["input_ids"][1:-1]) == text
    assert one.pad_token_id == 0 and one.eos_token_id == len(one) - 1 == 511


def test_profiles(monkeypatch):
    monkeypatch.delenv("DAITIR_PROFILE", raising=False)
    assert get_profile().name == "classroom"
    monkeypatch.setenv("DAITIR_PROFILE", "gpu")
    assert get_profile() is PROFILES["gpu"]
    with pytest.raises(DataError, match="unknown profile 'cluster'"):
        get_profile("cluster")

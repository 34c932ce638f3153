"""The training loop resumes exactly; the recipe of the dual encoder runs end to end."""

import csv
import dataclasses
import fcntl
import os
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.recipes.checkpoint import CHECKPOINT_NAME, LOG_NAME, keep_best, read_best
from daitir.recipes.clip import train_clip
from daitir.recipes.run import LoopConfig, Run
from daitir.recipes.settings import ClipRecipe
from daitir.recipes.tokenizer import train_tokenizer
from daitir.studies.profiles import PROFILES

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

    Run(folder, config.seed, progress=False).train(model, step_loss, config)
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

        run = Run(tmp_path / name, seed, progress=False)
        run.train(model, step_loss, CONFIG, steps=20)
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
    with pytest.raises(DataError, match="damaged.*training begins anew"):
        regression(tmp_path)


def test_a_killed_run_ends_as_one_that_was_not(tmp_path):
    whole = regression(tmp_path / "whole")

    class Kill(int):
        def __eq__(self, step):
            return step == 27 and os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        regression(tmp_path / "parts", stop_at=Kill())
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    parts = regression(tmp_path / "parts")
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "num_left"),
    [
        (lambda text: text[:-20], 7),  # half a row
        (lambda text: text[:-2], 7),  # a row whose end may be missing
        (lambda text: text + b"45,0.1", 8),
        (lambda text: text.replace(b"\r\n20,", b"\r\n20,1,"), 7),
        (lambda text: text.replace(b"\r\n20,", b"\r\nx0,"), 7),
        (lambda text: text.replace(b"\r\n20,", b"\r\n"), 7),
        (lambda text: text + bytes(range(256)) * 999 + b"\n", 8),
        (lambda text: text + b'"', 8),
        (lambda text: b"\0" * len(text), 0),
        (lambda text: text.replace(b"step", b"stop"), 0),
    ],
)
def test_a_torn_log_keeps_its_whole_rows(tmp_path, caplog, damage, num_left):
    regression(tmp_path)
    before = rows(tmp_path)
    path = tmp_path / LOG_NAME
    path.write_bytes(damage(path.read_bytes()))
    regression(tmp_path)
    assert "damaged rows are dropped" in caplog.text
    assert path.is_file() == bool(num_left)
    if num_left:
        assert set(rows(tmp_path)) <= set(before) and len(rows(tmp_path)) == num_left
    caplog.clear()
    regression(tmp_path)
    assert "damaged" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "about",
    [
        None,
        {},
        {"step": "20"},
        {"config": "{}"},
        {"step": "x", "config": "{}"},
        {"step": "-1", "config": "{}"},
        {"step": "20", "config": "{"},
        {"step": "20", "config": "[1]"},
        {"step": "20", "config": "[" * 100_000},
    ],
)
def test_a_checkpoint_with_damaged_metadata_is_one_line(tmp_path, about):
    regression(tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    save_file(load_file(path), path, metadata=about)
    with pytest.raises(DataError, match=f"{CHECKPOINT_NAME}: .*training begins anew") as caught:
        regression(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["optimizer.0.exp_avg", "optimizer.99.exp_avg", "optimizer.x"])
def test_an_optimisers_state_of_another_model_is_one_line(tmp_path, name):
    regression(tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file(load_file(path) | {name: torch.zeros(7)}, path, metadata=about)
    with pytest.raises(DataError, match="state is of another model"):
        regression(tmp_path)


@pytest.mark.parametrize("damage", ["half", "metadata", "measure", "model", "missing"])
def test_damaged_best_weights_are_one_line(tmp_path, damage):
    model, path = nn.Linear(2, 2), tmp_path / "best.safetensors"
    keep_best(model, lambda: 0.5, path, 2, 4)
    assert read_best(path, model) == (2, 0.5)
    if damage == "half":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "missing":
        path.unlink()
    else:
        about = {"step": "2", "measure": "nan" if damage == "measure" else "0.5"}
        save_file(load_file(path), path, metadata=None if damage == "metadata" else about)
    with pytest.raises(DataError, match="best.safetensors: the weights that were best") as caught:
        if damage in ("half", "metadata", "measure"):  # told before anything is trained
            read_best(path)
        read_best(path, nn.Linear(3, 3))
    assert "\n" not in str(caught.value)


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    regression(tmp_path)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another run works in this folder"):
            regression(tmp_path)
    regression(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    regression(tmp_path)
    with pytest.raises(DataError, match="another model"):
        Run(tmp_path, progress=False).train(nn.Linear(2, 2), lambda step: {}, CONFIG)


@pytest.mark.slow
def test_the_clip_recipe_trains_and_its_folder_loads(tmp_path):
    recipe = ClipRecipe(model="daitir-mini", num_scenes=32, steps=3, batch_size=8, warmup_steps=1)
    train_clip(recipe, Run(tmp_path, progress=False))
    encoder = load_encoder(f"open_clip:{tmp_path}")
    assert encoder.encode_texts(["a dog"]).shape == (1, 128)
    parameters = sum(p.numel() for p in encoder.model.parameters())
    assert parameters < 4_000_000
    with pytest.raises(DataError, match="no config in"):
        train_clip(dataclasses.replace(recipe, model="RN50"), Run(tmp_path / "other"))


@pytest.mark.slow
def test_the_gpu_recipe_runs_on_a_cpu_at_reduced_size(tmp_path):
    recipe = dataclasses.replace(
        PROFILES["gpu"].clip, num_scenes=8, steps=1, batch_size=2, warmup_steps=1
    )
    train_clip(recipe, Run(tmp_path, progress=False))
    encoder = load_encoder(f"open_clip:{tmp_path}")
    assert (encoder.dim, encoder.image_size) == (256, PROFILES["gpu"].image_size)


def test_the_tokenizer_is_deterministic_and_byte_level():
    one, two = (train_tokenizer(512, num_scenes=50) for _ in range(2))
    assert one.get_vocab() == two.get_vocab()
    text = "a kite, ein drachen, 凧 🪁"
    assert one.decode(one(text)["input_ids"][1:-1]) == text
    assert one.pad_token_id == 0 and one.eos_token_id == len(one) - 1 == 511

"""The recipe of the language model: windows, resuming, and a folder that transformers loads."""

import csv
import dataclasses
import functools
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models import TOKENIZER_FOLDER
from daitir.models.reformulation import load_reformulator
from daitir.recipes import lm
from daitir.recipes.checkpoint import LOG_NAME
from daitir.recipes.run import LoopConfig, Run
from daitir.recipes.settings import TRAINING_SOURCES
from daitir.scenes import (
    NUM_QUESTIONS,
    describe,
    dialogue,
    merge_facts,
    parse,
    sample_scene,
)
from daitir.studies.profiles import PROFILES

TINY = dataclasses.replace(
    PROFILES["classroom"].lm, width=16, layers=1, heads=2, steps=3, answer_steps=2, batch_size=2,
    warmup_steps=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    lm.train_lm(TINY, Run(folder, progress=False))
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)


@pytest.mark.parametrize("index", range(10))
def test_windows_write_every_rounds_caption_once(tokenizer, index):
    scene = lm.unlikely_scene(0, index) if index % 2 else sample_scene(0, "train", index)
    turns = dialogue(TRAINING_SOURCES[index % 5], scene)
    windows = lm.training_windows(tokenizer, 0, index)
    written = [
        [token for token, is_written in zip(ids, flags, strict=True) if is_written]
        for ids, flags in windows
    ]
    captions = "".join(tokenizer.decode(ids) for ids in written).split("<end>")
    assert captions[-1] == ""
    assert captions[:-1] == [
        describe(merge_facts(turns[: t + 1])) for t in range(NUM_QUESTIONS + 1)
    ]
    assert max(len(ids) for ids, _ in windows) <= lm.CONTEXT_LENGTH


@pytest.mark.parametrize("index", range(10))
def test_answers_change_one_object_of_a_caption(tokenizer, index):
    ids, flags = lm.answer_window(tokenizer, 0, index)
    before, *rounds = tokenizer.decode(ids).split("<end>")[:-1]
    written = "".join(tokenizer.decode(t) for t, w in zip(ids, flags, strict=True) if w)
    assert len(rounds) == lm.WINDOW_ROUNDS
    facts = set(parse(before.removeprefix("<start>")).facts)
    for said, refined in (part.split("<start>") for part in rounds):
        assert refined + "<end>" in written
        new = set(parse(refined).facts) - facts
        assert "?" in said and len({fact.subject for fact in new}) <= 1
        facts |= new


def test_the_loss_is_that_of_transformers(tokenizer):
    model = lm.build_lm(TINY, tokenizer).eval()
    windows = lm.training_windows(tokenizer, 0, 0)
    ids, labels = lm._pad(windows, tokenizer.pad_token_id)
    with torch.no_grad():
        ours = lm.losses_of(model, [(ids, labels)])
        theirs = model(input_ids=ids, labels=labels, attention_mask=(ids != 0).long()).loss
        one_by_one = lm.losses_of(
            model, [lm._pad([window], tokenizer.pad_token_id) for window in windows]
        )
    assert torch.allclose(ours["loss"], theirs, atol=1e-5)
    assert torch.allclose(ours["loss"], one_by_one["loss"], atol=1e-5)


@pytest.mark.slow
def test_the_folder_loads_and_has_half_precision_weights_a_card_and_a_log(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<end>"
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
    card = json.loads((folder / "card.json").read_text())
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    with (folder / LOG_NAME).open() as file:
        assert {"loss", "accuracy"} < set(next(csv.DictReader(file)))
    reformulator = load_reformulator(str(folder))
    assert reformulator.round_by_round
    assert len(reformulator.refine([["a dog", "what colour is the car? red"]]).captions[0]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [4, 9])  # in the first and in the second stage
def test_resumed_equals_uninterrupted(folder, tmp_path, monkeypatch, kill_at):
    often = functools.partial(LoopConfig.of, checkpoint_every=1)
    monkeypatch.setattr(LoopConfig, "of", staticmethod(often))
    original, calls = lm.training_windows, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == kill_at:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(lm, "training_windows", killed)
    with pytest.raises(KeyboardInterrupt):
        lm.train_lm(TINY, Run(tmp_path, progress=False))
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.setattr(lm, "training_windows", original)
    lm.train_lm(TINY, Run(tmp_path, progress=False))
    again = load_file(tmp_path / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, again[name]), name
    with pytest.raises(DataError, match="another seed"):
        lm.train_lm(TINY, Run(tmp_path, seed=1, progress=False))


def test_the_classroom_model_is_small(tokenizer):
    model = lm.build_lm(PROFILES["classroom"].lm, tokenizer)
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000


@pytest.mark.slow
def test_the_commands(tmp_path, capsys, monkeypatch):
    tiny = dataclasses.replace(PROFILES["classroom"], name="tiny", lm=TINY)
    monkeypatch.setitem(PROFILES, "tiny", tiny)
    out, table = str(tmp_path / "tiny"), str(tmp_path / "quality.csv")
    assert main(["pretrain", "lm", "--profile", "tiny", "--workers", "1", "--out", out]) == 0
    assert "written to" in capsys.readouterr().out
    assert main(["quality", "lm", "--out", table, "--spec", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err

"""Views are drawn once, whole or not at all, and depend on prompt, seed and model alone."""

import logging
import os
import shutil

import numpy as np
import pytest
from hub_models import PROMPTS, SEEDS, tiny_pipeline
from PIL import Image

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, write_dialogues
from daitir.data.viewfiles import find_views
from daitir.models import views
from daitir.models.views import ViewGenerator, load_view_generator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def generator(folder):
    return load_view_generator(str(folder), steps=2)


def test_the_command_draws_what_evaluate_reads(folder, tmp_path, capsys):
    dialogues = [Dialogue("a.png", ("a dog", "a red dog")), Dialogue("b.png", ("a cat",))]
    write_dialogues(tmp_path / "rewrites.json", dialogues)
    command = ["generate", "--dialogues", str(tmp_path / "rewrites.json"), "--steps", "2"]
    command += ["--pipeline", str(folder), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--out", str(tmp_path / "views")]) == 2
    assert "name --text current_rewrite where each round is a whole" in capsys.readouterr().err
    command += ["--text", "current_rewrite", "--out"]
    assert main([*command, str(tmp_path / "views")]) == 0
    assert "3 views of 2 dialogues" in capsys.readouterr().out
    found = find_views(tmp_path / "views", dialogues)
    assert [len(rounds) for rounds in found] == [2, 1]
    with pytest.raises(DataError, match="steps is 1 to 1000"):
        load_view_generator(str(folder), steps=0)


def pixels(paths):
    return [np.asarray(Image.open(path)) for path in paths]


def test_draws_each_prompt_once_and_in_order(generator, tmp_path):
    prompts, seeds = [*PROMPTS, PROMPTS[0]], [*SEEDS, SEEDS[0]]
    paths = generator.generate(prompts, seeds, tmp_path, batch_size=3)
    assert len(list(tmp_path.iterdir())) == len(PROMPTS)
    assert paths[0] == paths[4] and len(set(paths)) == len(PROMPTS)
    assert all(image.shape == (8, 8, 3) for image in pixels(paths))


def test_another_seed_is_another_image(generator, tmp_path):
    first, second = pixels(generator.generate(["a dog"] * 2, [1, 2], tmp_path))
    assert (first != second).any()


def test_a_killed_run_continues_with_the_same_images(generator, tmp_path, monkeypatch):
    whole = pixels(generator.generate(PROMPTS, SEEDS, tmp_path / "whole", batch_size=2))
    save, count = Image.Image.save, []

    def dies(image, path, **options):
        count.append(path)
        if len(count) == 4:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        generator.generate(PROMPTS, SEEDS, tmp_path / "killed", batch_size=2)
    monkeypatch.undo()
    assert len(list((tmp_path / "killed").iterdir())) == 3
    again = pixels(generator.generate(PROMPTS, SEEDS, tmp_path / "killed", batch_size=2))
    assert all((a == b).all() for a, b in zip(whole, again, strict=True))


def test_what_is_cached_is_not_drawn_again(generator, tmp_path, monkeypatch):
    generator.generate(PROMPTS, SEEDS, tmp_path)
    monkeypatch.setattr(generator, "draw", lambda *batch: pytest.fail("drawn again"))
    generator.generate(PROMPTS[::-1], SEEDS[::-1], tmp_path)


@pytest.mark.parametrize("damage", ["empty", "half", "other", "no words", "resized", "pipe"])
def test_a_damaged_view_of_the_cache_is_drawn_anew_and_told(generator, tmp_path, caplog, damage):
    paths = generator.generate(PROMPTS, SEEDS, tmp_path, batch_size=3)
    before = [path.read_bytes() for path in paths]
    bad = paths[3]  # alone in the last batch, whose rest are the first ones again
    if damage == "empty":
        bad.write_bytes(b"")
    elif damage == "half":
        bad.write_bytes(before[3][:-20])
    elif damage == "other":
        bad.write_bytes(before[2])
    elif damage == "no words":
        Image.open(bad).save(bad)
    elif damage == "resized":
        exif = Image.open(bad).getexif()
        Image.open(bad).resize((9, 9)).save(bad, exif=exif)
    else:
        bad.unlink()
        os.mkfifo(bad)
    again = generator.generate(PROMPTS, SEEDS, tmp_path, batch_size=3)
    assert again == paths and [path.read_bytes() for path in again] == before
    assert "1 files were damaged or other views, drawn anew" in caplog.text
    caplog.clear()
    generator.generate(PROMPTS, SEEDS, tmp_path, batch_size=3)
    assert not caplog.text


def test_models_and_settings_do_not_mix_in_one_cache(generator, tmp_path):
    other = ViewGenerator("other", tiny_pipeline(seed=1), steps=2)
    longer = ViewGenerator("longer", generator.pipeline, steps=3)
    guided = ViewGenerator("guided", generator.pipeline, steps=2, guidance=5.0)
    paths = [g.generate(["a dog"], [1], tmp_path)[0] for g in (generator, other, longer, guided)]
    assert len(set(paths)) == 4


def test_a_full_disk_leaves_no_half_image(generator, tmp_path, monkeypatch):
    def full(image, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match="the disk is full"):
        generator.generate(PROMPTS, SEEDS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_prompts_and_long_ones(generator, tmp_path, caplog):
    with pytest.raises(DataError, match="1 of 2 prompts are empty, the first is number 1"):
        generator.generate(["a dog", " \n"], [1, 2], tmp_path)
    with pytest.raises(ValueError, match="as many seeds"):
        generator.generate(["a dog"], [1, 2], tmp_path)
    logging.getLogger(type(generator.pipeline).__module__).addHandler(caplog.handler)
    generator.generate(["a dog", "a dog and a cat " * 20], [1, 2], tmp_path)
    assert "1 of 2 prompts are too long" in caplog.text
    assert "and a cat" not in caplog.text  # the pipeline would tell all that it cuts off


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 1 to 1000, not 0"),
        ({"steps": -3}, "not -3"),
        ({"steps": 10**6}, "not 1000000"),
        ({"guidance": -1.0}, "guidance scale is 0 to 100, not -1"),
        ({"guidance": float("nan")}, "not nan"),
        ({"guidance": 1e9}, "not 1000000000"),
    ],
)
def test_settings_out_of_range_are_refused(generator, settings, message):
    with pytest.raises(DataError, match=message):
        ViewGenerator("x", generator.pipeline, **settings)


@pytest.mark.parametrize("part", ["unet", "tokenizer", "vae", "scheduler"])
def test_a_folder_with_a_missing_part_is_refused(folder, tmp_path, part):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / part)
    with pytest.raises(DataError, match="copy: no text-to-image pipeline"):
        load_view_generator(str(copy))


def test_damaged_and_foreign_folders_are_refused(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "damaged")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(DataError, match="damaged: no text-to-image pipeline"):
        load_view_generator(str(copy))
    with pytest.raises(DataError, match=r"no model_index\.json"):
        load_view_generator(str(tmp_path))
    monkeypatch.setattr(views, "PIPELINE_FOLDER", tmp_path / "not shipped")
    with pytest.raises(DataError, match=r"not shipped: has no model_index\.json"):
        load_view_generator("mini")

"""Negative prompts, precision and offloading, on tiny pipelines of the real classes."""

import json

import numpy as np
import pytest
import torch
from hub_models import save_encoder, save_pipeline, tiny_pipeline
from own_data import make_own_data
from PIL import ExifTags, Image

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, write_dialogues
from daitir.models.encoders import load_encoder
from daitir.models.views import load_view_generator

KINDS = ("sd", "sdxl", "sd3")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(root / "sd")
    for kind in KINDS[1:]:
        save_pipeline(kind, root / kind)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_prompt_changes_the_view_and_its_name(models, kind, tmp_path):
    generator = load_view_generator(str(models / kind), steps=2, guidance=5.0)
    prompts, seeds = ["a beach", "a dog", "a beach"], [1, 1, 1]
    plain = generator.generate(prompts, seeds, tmp_path, batch_size=2)
    found = generator.generate(prompts, seeds, tmp_path, negatives=["people", "", ""], batch_size=2)
    assert found[1:] == plain[1:] and found[0] != plain[0]
    pictures = [np.asarray(Image.open(path)) for path in (found[0], plain[0])]
    assert (pictures[0] != pictures[1]).any()
    told = [json.loads(Image.open(p).getexif()[ExifTags.Base.ImageDescription]) for p in found[:2]]
    assert told[0]["negative_prompt"] == "people" and "negative_prompt" not in told[1]
    # The one without a negative prompt is what it is without the other beside it.
    alone = generator.generate(["a dog"], [1], tmp_path / "alone", negatives=[""], batch_size=2)
    assert alone[0].name == found[1].name


def test_without_guidance_there_is_no_negative_prompt(models, tmp_path, caplog):
    generator = load_view_generator(str(models / "sd"), steps=1, guidance=1.0)
    plain = generator.generate(["a dog"], [1], tmp_path)
    assert generator.generate(["a dog"], [1], tmp_path, negatives=["cat"]) == plain
    assert "guidance 1 is too small for one; drawn without" in caplog.text


def test_the_command_counts_what_it_takes_out(models, tmp_path, capsys):
    rounds = ("a beach, no people", "a beach, no people and no dog", "no")
    write_dialogues(tmp_path / "d.json", [Dialogue("a.png", rounds)])
    command = ["generate", "--dialogues", str(tmp_path / "d.json"), "--out", str(tmp_path / "v")]
    command += ["--pipeline", str(models / "sd"), "--steps", "1", "--without-negation"]
    command += ["--text", "current_rewrite"]
    assert main([*command, "--cache", str(tmp_path / "cache"), "--dtype", "bfloat16"]) == 0
    told = "3 negations were taken out of 2 prompts, and 1 that only negate stay"
    assert told in capsys.readouterr().out
    with Image.open(tmp_path / "v" / "0_1.webp") as view:
        facts = json.loads(view.getexif()[ExifTags.Base.ImageDescription])
    assert (facts["prompt"], facts["negative_prompt"]) == ("a beach", "people, dog")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_other_precisions_draw_nearly_alike_and_under_other_names(models, kind, tmp_path):
    full, half = (
        load_view_generator(str(models / kind), steps=1, dtype=dtype)
        for dtype in (None, torch.bfloat16)
    )
    assert full.pipeline.dtype == torch.float32 and half.pipeline.dtype == torch.bfloat16
    paths = [g.generate(["a dog"], [1], tmp_path)[0] for g in (full, half)]
    pictures = [np.asarray(Image.open(path)).astype(float) for path in paths]
    assert paths[0] != paths[1] and abs(pictures[0] - pictures[1]).mean() < 8


def test_offloading_needs_a_gpu(models, capsys, tmp_path):
    with pytest.raises(DataError, match="CUDA device, not cpu; add --device cuda"):
        load_view_generator(str(models / "sd"), offload=True)
    write_dialogues(tmp_path / "d.json", [Dialogue("a.png", ("a dog",))])
    command = ["generate", "--dialogues", str(tmp_path / "d.json"), "--out", str(tmp_path / "v")]
    assert main([*command, "--pipeline", str(models / "sd"), "--offload"]) == 2
    assert "leave --offload out" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is at hand")
@pytest.mark.parametrize("kind", KINDS)
def test_an_offloaded_pipeline_draws_the_same(models, kind):
    plain, moved = (
        load_view_generator(str(models / kind), steps=2, device="cuda", offload=offload)
        for offload in (False, True)
    )
    pictures = [np.asarray(g.draw(["a dog"], [1])[0]).astype(float) for g in (plain, moved)]
    assert plain.digest == moved.digest and abs(pictures[0] - pictures[1]).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mini", "clip", "siglip", "blip"])
def test_encoders_in_half_precision_are_near_and_do_not_mix(kind, tmp_path, capsys):
    make_own_data(tmp_path / "set", num_pictures=4, num_dialogues=1)
    spec = "mini"
    if kind != "mini":
        save_encoder(kind, tmp_path / kind)
        spec = f"hf:{tmp_path / kind}"
    full, half = (load_encoder(spec, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    paths = sorted((tmp_path / "set" / "images").rglob("*.*"))
    for one, other in (
        (full.encode_images(paths), half.encode_images(paths)),
        (full.encode_texts(["a dog"]), half.encode_texts(["a dog"])),
    ):
        assert other.dtype == torch.float32 and not torch.equal(one, other)
        assert ((one * other).sum(dim=-1) > 0.99).all()
    assert full.digest == load_encoder(spec).digest != half.digest
    if kind == "mini":
        embed = ["embed", str(tmp_path / "set"), "--encoder", spec]
        assert main([*embed, "--dtype", "bfloat16"]) == main(embed) == 0
        assert len(list((tmp_path / "set" / "features").iterdir())) == 2

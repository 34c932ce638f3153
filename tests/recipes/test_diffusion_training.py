"""The recipe of the diffusion pipeline: parts, resuming, and a folder that diffusers loads."""

import dataclasses
import functools
import json
import random

import numpy as np
import open_clip
import pytest
import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionPipeline
from safetensors.torch import load_file

from daitir.cli import main
from daitir.models.open_clip_encoders import CLIP_FOLDER, shortened_context
from daitir.models.recogniser import VALUES, to_pixels
from daitir.models.views import load_view_generator
from daitir.recipes import autoencoder, diffusion, text_encoder
from daitir.recipes.run import LoopConfig, Run, count_parameters
from daitir.scenes import describe, render_scenes, sample_scenes
from daitir.studies import quality
from daitir.studies.profiles import PROFILES

pytestmark = pytest.mark.slow

TINY = dataclasses.replace(
    PROFILES["classroom"].diffusion,
    autoencoder_steps=2,
    text_steps=2,
    steps=4,
    autoencoder_channels=(8, 8, 8, 8),
    latent_channels=4,
    unet_channels=(16, 24),
    autoencoder_batch_size=8,
    autoencoder_scenes=16,
    num_scenes=16,
    batch_size=8,
    text_batch_size=8,
    warmup_steps=1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion")
    diffusion.train_diffusion(TINY, Run(folder, progress=False))
    return folder


def test_the_text_model_has_the_features_of_open_clips_tower():
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{CLIP_FOLDER}")
    model.eval()
    tokenizer = text_encoder.prompt_tokenizer()
    tokens = text_encoder.tokenize(tokenizer, ["a red car at night", "", "凧 " * 200])
    assert tokens.shape == (3, text_encoder.PROMPT_LENGTH)
    mapped = text_encoder.clip_text_model().eval()
    tower = model.text
    tower.output_tokens, tower.text_projection = True, None
    with torch.no_grad(), shortened_context(model, tokens.shape[1]):
        _, states = tower(tokens)
        wanted = tower.ln_final(states) if not _is_normalised(states, tower) else states
        assert torch.allclose(mapped(tokens).last_hidden_state, wanted, atol=1e-4)


def _is_normalised(states, tower):
    """Whether this version of open_clip gives tokens after its last normalisation."""
    plain = (states - tower.ln_final.bias) / tower.ln_final.weight
    return bool(plain.mean(dim=-1).abs().max() < 1e-3)


def test_prompts_fit_and_say_nothing_wrong():
    tokenizer = text_encoder.prompt_tokenizer()
    scenes = sample_scenes(0, "val", 300)
    full = [describe(s.own_facts, random.Random(i)) for i, s in enumerate(scenes)]
    written = [text_encoder.write_prompt(s, random.Random(i)) for i, s in enumerate(scenes)]
    lengths = [len(ids) for ids in tokenizer(full + written)["input_ids"]]
    assert max(lengths) <= text_encoder.PROMPT_LENGTH - text_encoder.NUM_PLACES
    assert sum(", no " in prompt for prompt in written) > 20
    assert text_encoder.write_prompt(scenes[0], random.Random(0)) == written[0]


def test_the_speller_reads_one_place_for_each_cell():
    model = text_encoder.Speller(text_encoder.clip_text_model())
    tokens = text_encoder.tokenize(text_encoder.prompt_tokenizer(), ["a dog", "a cat"])
    logits = model(tokens)
    assert {name: logits[name].shape for name in VALUES} == {
        name: (2, len(values)) if name in ("place", "time", "weather") else (2, 6, len(values))
        for name, values in VALUES.items()
    }


def test_folding_the_scale_changes_latents_and_nothing_else():
    torch.manual_seed(0)
    model = autoencoder.build_autoencoder(TINY).eval()
    images = render_scenes(sample_scenes(0, "val", 8))
    pixels = to_pixels(torch.from_numpy(images))
    latents = autoencoder.encode(model, images, "cpu")
    with torch.no_grad():
        before = model.decode(latents).sample
        spread = model.encode(pixels).latent_dist.std
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    autoencoder._fold_scale(model, mean, deviation)
    scaled = autoencoder.encode(model, images, "cpu")
    assert torch.allclose(scaled.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(scaled.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
    with torch.no_grad():
        assert torch.allclose(model.decode(scaled).sample, before, atol=1e-4)
        posterior = model.encode(pixels).latent_dist
    assert torch.allclose(posterior.std * deviation[:, None, None], spread, rtol=1e-3)


def test_the_average_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    model = diffusion.Denoiser(diffusion.build_unet(TINY), decay=0.5)
    name, weight = next(iter(model.unet.named_parameters()))
    expected = weight.detach().clone()
    for count in range(1, 8):
        with torch.no_grad():
            weight.add_(count)
        model.update_average()
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * weight.detach()
    assert torch.allclose(model.average.get_parameter(name), expected, rtol=1e-4)


def test_the_folder_is_a_pipeline_that_draws(folder):
    pipeline = AutoPipelineForText2Image.from_pretrained(folder, local_files_only=True)
    assert type(pipeline) is StableDiffusionPipeline
    ours = load_view_generator(str(folder)).pipeline
    prompts = ["a red car at night", "", "没有人 🙂", "word " * 300]

    def draw(prompts, seed=0, guidance=2.0):
        generator = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
        return np.stack(
            ours(
                prompts, num_inference_steps=3, guidance_scale=guidance, generator=generator,
                output_type="np",
            ).images
        )  # fmt: skip

    images = draw(prompts)
    assert images.shape == (4, 64, 64, 3) and np.isfinite(images).all()
    assert np.array_equal(images, draw(prompts))
    assert np.allclose(images[:1], draw(prompts[:1]), atol=1e-3)
    assert not np.array_equal(images, draw(prompts, seed=9))


def test_the_folder_holds_half_precision_weights_a_card_and_a_log(folder):
    files = [*folder.glob("*/*.safetensors")]
    weights = [path for path in files if path.parent.name != "work"]
    assert len(weights) == 3
    for path in weights:
        kinds = {t.dtype for t in load_file(path).values() if t.is_floating_point()}
        assert kinds == {torch.float16}
    card = json.loads((folder / "card.json").read_text())
    assert set(card["parameters"]) == {"autoencoder", "text_encoder", "unet"}
    assert (folder / "log.csv").is_file()


def test_the_classroom_recipe_is_small():
    recipe = PROFILES["classroom"].diffusion
    parts = (
        autoencoder.build_autoencoder(recipe), diffusion.build_unet(recipe),
        text_encoder.clip_text_model(),
    )  # fmt: skip
    assert sum(count_parameters(part) for part in parts) <= 8_000_000  # 16 MB in half precision


def test_the_gpu_recipe_has_parts_that_fit_together():
    recipe = PROFILES["gpu"].diffusion
    slim = dataclasses.replace(
        recipe, autoencoder_channels=(8,) * len(recipe.autoencoder_channels),
        unet_channels=(16,) * len(recipe.unet_channels),
    )  # fmt: skip
    unet, coder = diffusion.build_unet(slim), autoencoder.build_autoencoder(slim)
    images = render_scenes(sample_scenes(0, "val", 2), size=recipe.image_size)
    latents = autoencoder.encode(coder.eval(), images, "cpu")
    assert latents.shape[-1] == unet.config.sample_size
    states = torch.zeros(2, text_encoder.PROMPT_LENGTH, 128)
    assert unet(latents, 3, encoder_hidden_states=states).sample.shape == latents.shape


@pytest.mark.parametrize("stage", ["write_prompt", "autoencoder_loss"])
def test_resumed_equals_uninterrupted(folder, tmp_path, monkeypatch, stage):
    """A kill in the middle of each trained part; both runs then give the same weights."""
    often = functools.partial(LoopConfig.of, checkpoint_every=1)
    monkeypatch.setattr(LoopConfig, "of", staticmethod(often))
    module, stop = (diffusion, 9) if stage == "write_prompt" else (autoencoder, 2)
    original, calls = getattr(module, stage), []

    def killed(*arguments, **options):
        calls.append(arguments)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(module, stage, killed)
    with pytest.raises(KeyboardInterrupt):
        diffusion.train_diffusion(TINY, Run(tmp_path, progress=False))
    monkeypatch.setattr(module, stage, original)
    diffusion.train_diffusion(TINY, Run(tmp_path, progress=False))
    for path in folder.glob("*/diffusion_pytorch_model.safetensors"):
        again = load_file(tmp_path / path.relative_to(folder))
        for name, tensor in load_file(path).items():
            assert torch.equal(tensor, again[name]), (path, name)


def test_quality_of_a_folder(folder, tmp_path, monkeypatch):
    small = functools.partial(quality.pipeline_quality, num_prompts=4, batch_size=3)
    monkeypatch.setattr(quality, "pipeline_quality", small)
    out = tmp_path / "quality.csv"
    assert main(["quality", "diffusion", "--spec", str(folder), "--out", str(out)]) == 0
    assert "object, 8 steps, guidance 2" in out.read_text()


def test_latents_of_another_autoencoder_are_made_anew(tmp_path):
    scenes = sample_scenes(0, "train", 3)
    path = tmp_path / "latents.safetensors"

    def latents(seed):
        torch.manual_seed(seed)
        model = autoencoder.build_autoencoder(TINY).eval()
        return diffusion.cached_latents(path, TINY, model, scenes, Run(tmp_path, progress=False))

    first = latents(0)
    written = path.stat().st_mtime_ns
    assert first.equal(latents(0)) and path.stat().st_mtime_ns == written
    assert not first.equal(latents(1))

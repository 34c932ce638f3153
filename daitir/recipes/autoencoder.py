"""The recipe of the autoencoder: pictures to an eighth of their side and back, facts kept."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.models.recogniser import (
    CELL_ATTRIBUTES,
    SCENE_ATTRIBUTES,
    RecogniserNet,
    load_recogniser,
    starting_windows,
    to_pixels,
    to_values,
    value_heads,
)
from daitir.recipes.recogniser import crowded_scene, reading_losses
from daitir.recipes.run import Run
from daitir.recipes.settings import DiffusionRecipe
from daitir.scenes import render_scenes, sample_scenes
from daitir.scenes.render import background

SQUARED, PERCEPTUAL, READING, SPELLING, KL = 2.0, 0.1, 0.005, 0.01, 1e-4
OBJECT_WEIGHT = 5.0
RAMP_STEPS = 500  # until a picture is roughly there, the recogniser's view of it is no help
FIRST_LOG_VARIANCE = -5.0  # else the noise of the first latents drowns them
NUM_SCALING = 2048


def build_autoencoder(recipe: DiffusionRecipe) -> AutoencoderKL:
    """An untrained autoencoder of the recipe; each level but the last halves the side."""
    levels = len(recipe.autoencoder_channels)
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.autoencoder_channels,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=8,
        sample_size=recipe.image_size,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        model.quant_conv.weight.chunk(2)[1].zero_()
        model.quant_conv.bias.chunk(2)[1].fill_(FIRST_LOG_VARIANCE)
    return model


class LatentReader(nn.Module):
    """Reads the facts of a scene off latents by one linear map for each attribute.

    It is thrown away after training. An encoder that is asked for facts finds objects long before
    the decoder can draw them, and latents that tell facts plainly are easily drawn from words.
    """

    def __init__(self, latent_channels: int):
        super().__init__()
        self.windows = nn.Parameter(starting_windows())
        width = self.windows.shape[1] * latent_channels
        self.heads = value_heads(SCENE_ATTRIBUTES, 6 * width)
        self.heads.update(value_heads(CELL_ATTRIBUTES, width))

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Logits as `RecogniserNet` gives them, of latents (batch, channels, height, width)."""
        grid = F.adaptive_avg_pool2d(latents, 8).flatten(2)
        seen = torch.einsum("bcp,kwp->bkwc", grid, self.windows.softmax(dim=-1)).flatten(2)
        return {
            name: head(seen.flatten(1) if name in SCENE_ATTRIBUTES else seen)
            for name, head in self.heads.items()
        }


def train_autoencoder(recipe: DiffusionRecipe, run: Run) -> tuple[AutoencoderKL, float]:
    """Train an autoencoder whose latents have mean 0 and deviation 1; returns it and the seconds.

    The loss is `autoencoder_loss`, and the cross-entropy of what `LatentReader` reads.
    """
    torch.manual_seed(run.seed)
    model = build_autoencoder(recipe).to(run.device, memory_format=torch.channels_last)
    both = nn.ModuleDict({"coder": model, "reader": LatentReader(recipe.latent_channels)})
    both.to(run.device)
    recogniser = load_recogniser("mini", device=run.device).model
    recogniser.requires_grad_(False).to(memory_format=torch.channels_last)
    # Backgrounds are learned soon, objects are not: most pictures hold many.
    number, size = recipe.autoencoder_scenes, recipe.image_size
    scenes = sample_scenes(run.seed, "train", number // 4)
    scenes += [crowded_scene(run.seed, i, fewest=4) for i in range(number - len(scenes))]
    truth = to_values(scenes)

    @cache
    def images() -> np.ndarray:  # a finished run that is started again needs none
        return run.render(scenes, size)

    def step_loss(step: int) -> dict[str, Tensor]:
        chosen = run.batch(step, len(scenes), recipe.autoencoder_batch_size)
        pixels = _pixels(images()[chosen], run.device)
        posterior = model.encode(pixels).latent_dist
        latents = posterior.sample()
        decoded = model.decode(latents).sample
        facts = {name: values[chosen].to(run.device) for name, values in truth.items()}
        shown = [scenes[i] for i in chosen]
        stages = np.stack([background(s.place, s.time, s.weather, size) for s in shown])
        in_front = torch.from_numpy((images()[chosen] != stages).any(axis=-1)).to(run.device)
        ramp = min(1.0, step / RAMP_STEPS)
        losses = autoencoder_loss(pixels, decoded, posterior, recogniser, facts, in_front, ramp)
        spelling = sum(reading_losses(both["reader"](latents), facts).values())
        return losses | {"loss": losses["loss"] + SPELLING * spelling, "spelling": spelling}

    changes = {"steps": recipe.autoencoder_steps, "learning_rate": recipe.autoencoder_learning_rate}
    changes |= {"stage": "work/autoencoder", "weight_decay": 0.0}
    seconds = run.train(both, step_loss, recipe, **changes)
    latents = encode(model, render_scenes(scenes[:NUM_SCALING], size=size), run.device)
    _fold_scale(model, latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)))
    return model, seconds


def autoencoder_loss(
    pixels: Tensor,
    decoded: Tensor,
    posterior,
    recogniser: RecogniserNet,
    facts: dict[str, Tensor],
    in_front: Tensor,
    ramp: float,
) -> dict[str, Tensor]:
    """The losses of a batch of pixels (batch, 3, size, size) in [-1, 1], `"loss"` their sum.

    They are the error of pixels; with the weight `ramp` that of the recogniser's maps and the
    cross-entropy of what it reads, which keeps the `facts` (`to_values`); and a little
    Kullback–Leibler divergence, which keeps the latents smooth. `in_front` (batch, size, size)
    tells which pixels show an object, which are few and weigh more.
    """
    side = 64 / pixels.shape[-1]
    seen, wanted = (
        x if side == 1 else F.interpolate(x, scale_factor=side, mode="area")
        for x in (decoded, pixels)
    )
    with torch.no_grad():
        wanted_maps = recogniser.features(wanted)
    maps = recogniser.features(seen)
    perceptual = sum(
        (a - b).abs().mean() / b.abs().mean() for a, b in zip(maps, wanted_maps, strict=True)
    )
    reading = sum(reading_losses(recogniser.read_maps(maps), facts).values())
    weights = (1 + (OBJECT_WEIGHT - 1) * in_front.float())[:, None]
    errors = (decoded - pixels) * weights / weights.mean()
    absolute, squared = errors.abs().mean(), (errors * (decoded - pixels)).mean()
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    recognised = PERCEPTUAL * perceptual + READING * reading
    loss = absolute + SQUARED * squared + ramp * recognised + KL * divergence
    terms = {"absolute": absolute, "squared": squared, "perceptual": perceptual}
    return {"loss": loss, **terms, "reading": reading, "divergence": divergence}


@torch.no_grad()
def encode(model: AutoencoderKL, images: np.ndarray, device: str, batch_size: int = 128) -> Tensor:
    """The latents (num_images, channels, height, width) of uint8 images, on the CPU."""
    batches = []
    for start in range(0, len(images), batch_size):
        pixels = _pixels(images[start : start + batch_size], device)
        batches.append(model.encode(pixels).latent_dist.mode().contiguous().cpu())
    return torch.cat(batches)


def _pixels(images: np.ndarray, device: str) -> Tensor:
    pixels = to_pixels(torch.from_numpy(images).to(device))
    return pixels.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _fold_scale(model: AutoencoderKL, mean: Tensor, deviation: Tensor) -> None:
    """Give the latents mean 0 and deviation 1 by the 1×1 convolutions on either side of them.

    Pipelines know one scaling factor for all channels; this way each has its own.
    """
    mean, deviation = mean.to(model.device), deviation.to(model.device)
    inner, outer = model.quant_conv, model.post_quant_conv
    outer.bias.add_(outer.weight[:, :, 0, 0] @ mean)
    outer.weight.mul_(deviation[None, :, None, None])
    inner.weight.chunk(2)[0].div_(deviation[:, None, None, None])
    means, logvars = inner.bias.chunk(2)
    means.sub_(mean).div_(deviation)
    logvars.sub_(2 * deviation.log())

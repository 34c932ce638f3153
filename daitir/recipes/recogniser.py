"""The recipe of the recogniser: rendered scenes, crowded ones among them, crisp and degraded."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.common.files import write_json
from daitir.models.identity import CONFIG_NAME
from daitir.models.recogniser import (
    IMAGE_SIZE,
    NO_VALUE,
    RECOGNISER_WEIGHTS,
    VALUES,
    RecogniserNet,
    to_pixels,
    to_values,
)
from daitir.recipes.checkpoint import save_half
from daitir.recipes.run import Run, count_parameters
from daitir.recipes.settings import RecogniserRecipe
from daitir.scenes import Scene, SceneObject, sample_scenes, split_of, world


def train_recogniser(recipe: RecogniserRecipe, run: Run) -> None:
    """Train a recogniser from scratch; `load_recogniser` reads its folder.

    Half of the pictures are training scenes as the world has them; the other half is crowded, so
    that what is read is what is seen and not what is usual.
    """
    torch.manual_seed(run.seed)
    model = RecogniserNet(recipe.width).to(run.device, memory_format=torch.channels_last)
    scenes = sample_scenes(run.seed, "train", recipe.num_scenes // 2)
    scenes += [crowded_scene(run.seed, index) for index in range(recipe.num_scenes - len(scenes))]
    images = run.render(scenes, IMAGE_SIZE)
    truth = to_values(scenes)

    def step_loss(step: int) -> dict[str, Tensor]:
        chosen = run.batch(step, len(scenes), recipe.batch_size)
        pixels = degrade(to_pixels(torch.from_numpy(images[chosen]).to(run.device)))
        logits = model(pixels.contiguous(memory_format=torch.channels_last))
        losses = reading_losses(logits, {name: truth[name][chosen] for name in logits})
        return {"loss": sum(losses.values()), **losses}

    seconds = run.train(model, step_loss, recipe)
    save_half(run.folder / RECOGNISER_WEIGHTS, model)
    settings = {"width": recipe.width, "image_size": IMAGE_SIZE, "values": VALUES}
    write_json(run.folder / CONFIG_NAME, settings)
    facts = {"parameters": count_parameters(model), "training_scenes": recipe.num_scenes}
    run.write_card(seconds, recipe, model="daitir-recogniser", **facts)


def reading_losses(logits: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, Tensor]:
    """For each attribute the cross-entropy of its logits (..., num_values) with values (...)."""
    losses = {}
    for name, values in logits.items():
        numbers = truth[name].flatten().to(values.device)
        losses[name] = F.cross_entropy(values.flatten(0, -2), numbers, ignore_index=NO_VALUE)
    return losses


def crowded_scene(seed: int, index: int, *, fewest: int = 0) -> Scene:
    """A training scene with up to six objects of any categories, one category perhaps twice."""
    rng = random.Random(f"crowded/{seed}/train/{index}")

    def objects() -> list[SceneObject]:
        cells, drawn = rng.sample(world.CELLS, rng.randint(fewest, len(world.CELLS))), []
        for cell in cells:
            twice = drawn and rng.random() < 0.1
            category = drawn[-1].category if twice else rng.choice(list(world.CATEGORIES))
            drawn.append(any_object(rng, category, *cell))
        return drawn

    return any_scene(rng, objects)


def any_scene(rng: random.Random, objects: Callable[[], list[SceneObject]]) -> Scene:
    """A training scene of drawn objects, its place, time and weather as likely as any other."""
    while True:
        drawn = objects()
        stage = [rng.choice(of) for of in (world.PLACES, world.TIMES, world.WEATHERS)]
        scene = Scene(*stage, tuple(drawn))
        if split_of(scene) == "train":
            return scene


def any_object(rng: random.Random, category: str, column: str, row: str) -> SceneObject:
    """An object whose looks are as likely as any others."""
    colour = rng.choice(world.COLOURS) if world.CATEGORIES[category].has_colour else None
    jitter = (rng.randint(-1, 1), rng.randint(-1, 1))
    return SceneObject(category, colour, rng.choice(world.SIZES), column, row, jitter)


def degrade(pixels: Tensor) -> Tensor:
    """What drawing does to pictures, at random, on pixels (batch, 3, size, size) in [-1, 1].

    All are shifted a little and change brightness and contrast. Three in four are mixed with their
    own blur, as an autoencoder smears, and get grain and soft patches of wrong colour.
    """
    batch, _, size, _ = pixels.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, 1, device=pixels.device)

    pixels = pixels * uniform(0.9, 1.1) + uniform(-0.1, 0.1)
    dx, dy = torch.randint(0, 5, (2,)).tolist()
    pixels = F.pad(pixels, (2, 2, 2, 2), mode="replicate")[..., dy : dy + size, dx : dx + size]
    smaller = int(size * (0.4 + 0.5 * torch.rand(()).item()))
    blurred = F.interpolate(pixels, smaller, mode="bilinear", antialias=True)
    blurred = F.interpolate(blurred, size, mode="bicubic")
    rough = (torch.rand(batch, 1, 1, 1, device=pixels.device) < 0.75).float()
    pixels = torch.lerp(pixels, blurred, rough * uniform(0, 1))
    patches = torch.randn(batch, 3, size // 8, size // 8, device=pixels.device)
    patches = F.interpolate(patches, size, mode="bicubic") * uniform(0, 0.12)
    grain = torch.randn_like(pixels) * uniform(0, 0.12)
    return (pixels + rough * (patches + grain)).clamp(-1, 1)


def degraded(images: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """uint8 images (num_images, size, size, 3) made worse by `degrade`, for measuring."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        batches = [degrade(to_pixels(batch)) for batch in torch.from_numpy(images).split(128)]
    pixels = ((torch.cat(batches) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()

"""The recipe of the recogniser: rendered scenes, crowded ones among them, crisp and degraded."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from daitir.common.files import atomic_write
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
from daitir.recipes.card import write_card
from daitir.recipes.loop import LoopConfig, train
from daitir.scenes import (
    Scene,
    SceneObject,
    render_scenes,
    sample_scenes,
    split_of,
    world,
)
from daitir.studies.profiles import RecogniserRecipe


def train_recogniser(
    recipe: RecogniserRecipe,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = True,
) -> None:
    """Train a recogniser from scratch and write the folder that `load_recogniser` reads.

    Half of the pictures are training scenes as the world has them; the other half is crowded:
    any category anywhere, up to six objects, also twice the same, so that what is read is what
    is seen and not what is usual. No picture shows a held-out combination.

    Args:
        recipe: width, data and optimiser.
        folder: gets checkpoint and log, and at the end weights, config and card. A run that was
            interrupted continues.
        seed: of weights, data and degradations.
        device: where to train.
        num_workers: processes that render the scenes.

    Raises DataError for a checkpoint of another run.
    """
    config = LoopConfig.of(recipe, seed=seed)
    torch.manual_seed(seed)
    model = RecogniserNet(recipe.width).to(device, memory_format=torch.channels_last)
    scenes = sample_scenes(seed, "train", recipe.num_scenes // 2)
    scenes += [crowded_scene(seed, index) for index in range(recipe.num_scenes - len(scenes))]
    images = render_scenes(scenes, size=IMAGE_SIZE, num_workers=num_workers, progress=progress)
    truth = to_values(scenes)

    def step_loss(step: int) -> dict[str, Tensor]:
        chosen = np.random.default_rng([seed, step]).choice(
            len(scenes), recipe.batch_size, replace=False
        )
        pixels = degrade(to_pixels(torch.from_numpy(images[chosen]).to(device)))
        logits = model(pixels.contiguous(memory_format=torch.channels_last))
        losses = {
            name: F.cross_entropy(
                values.flatten(0, -2),
                truth[name][chosen].flatten().to(device),
                ignore_index=NO_VALUE,
            )
            for name, values in logits.items()
        }
        return {"loss": sum(losses.values()), **losses}

    seconds = train(model, step_loss, config, folder, progress=progress)
    weights = {n: t.detach().cpu() for n, t in model.state_dict().items()}
    weights = {n: (t.half() if t.is_floating_point() else t).contiguous() for n, t in
               weights.items()}  # fmt: skip
    with atomic_write(folder / RECOGNISER_WEIGHTS) as temporary:
        save_file(weights, temporary)
    settings = {"width": recipe.width, "image_size": IMAGE_SIZE, "values": VALUES}
    with atomic_write(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    facts = {
        "model": "daitir-recogniser",
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_scenes": recipe.num_scenes,
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
    }
    write_card(folder, facts, seed=seed, device=device, seconds=seconds)


def crowded_scene(seed: int, index: int, *, split: str = "train", fewest: int = 0) -> Scene:
    """A scene of a split with up to six objects of any categories, one category perhaps twice."""
    rng = random.Random(f"crowded/{seed}/{split}/{index}")
    while True:
        cells = rng.sample(world.CELLS, rng.randint(fewest, len(world.CELLS)))
        objects = []
        for column, row in cells:
            twice = objects and rng.random() < 0.1
            category = objects[-1].category if twice else rng.choice(list(world.CATEGORIES))
            objects.append(any_object(rng, category, column, row))
        scene = Scene(*any_stage(rng), tuple(objects))
        if split_of(scene) == split:
            return scene


def any_object(rng: random.Random, category: str, column: str, row: str) -> SceneObject:
    """An object whose looks are as likely as any others."""
    colour = rng.choice(world.COLOURS) if world.CATEGORIES[category].has_colour else None
    jitter = (rng.randint(-1, 1), rng.randint(-1, 1))
    return SceneObject(category, colour, rng.choice(world.SIZES), column, row, jitter)


def any_stage(rng: random.Random) -> tuple[str, str, str]:
    """A place, time and weather, each as likely as any other."""
    place, time, weather = (
        rng.choice(options) for options in (world.PLACES, world.TIMES, world.WEATHERS)
    )
    return place, time, weather


def degrade(pixels: Tensor) -> Tensor:
    """What drawing does to pictures, at random, on pixels (batch, 3, size, size) in [-1, 1].

    All are shifted by up to two pixels and change brightness and contrast by a tenth. Three in
    four are mixed with their own blur, as an autoencoder smears, and get grain and soft patches
    of wrong colour.
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
        batches = [degrade(to_pixels(part)) for part in torch.from_numpy(images).split(128)]
    pixels = ((torch.cat(batches) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()

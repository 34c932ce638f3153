"""Many scenes at once: rendered pictures and encoded words for training and galleries."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from functools import partial

import numpy as np
from tqdm import tqdm

from daitir.scenes.render import render
from daitir.scenes.scene import Scene, sample_scene


def sample_scenes(seed: int, split: str, num_scenes: int, *, start: int = 0) -> list[Scene]:
    """Scenes `start` to `start + num_scenes - 1` of a split."""
    return [sample_scene(seed, split, start + index) for index in range(num_scenes)]


def render_scenes(
    scenes: Sequence[Scene], *, size: int = 64, num_workers: int = 1, progress: bool = False
) -> np.ndarray:
    """Pictures of many scenes, (num_scenes, size, size, 3) uint8, in the order of the scenes.

    `num_workers` processes share the work; the result does not depend on their number.
    """
    images = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    draw = partial(_draw, size=size)
    bar = partial(tqdm, total=len(scenes), desc="rendering", unit="scene", disable=not progress)
    if num_workers <= 1:
        for index, image in enumerate(bar(map(draw, scenes))):
            images[index] = image
        return images
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        for index, image in enumerate(bar(pool.imap(draw, scenes, chunksize=256))):
            images[index] = image
    return images


def _draw(scene: Scene, size: int) -> np.ndarray:
    return render(scene, size).image

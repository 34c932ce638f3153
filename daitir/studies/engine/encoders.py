"""Encoders of conditions: the profile's, those that are trained from it, and others, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from daitir.models.encoders import Encoder, load_encoder
from daitir.models.identity import CONFIG_NAME
from daitir.recipes.clip import train_clip
from daitir.recipes.finetune import finetune, load_trained
from daitir.recipes.run import Run
from daitir.studies.engine.conditions import ZERO_SHOT, named
from daitir.studies.queries import SEED
from daitir.studies.training_sets import as_read, encoder_folder, training_data

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

SHUFFLED = "shuffled_views"  # the encoder that is trained with the views of other dialogues


def _turn(bench: Bench) -> Tensor:
    """(dim, dim), a rotation drawn at random."""
    dim = bench.base.dim
    noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(SEED))
    return torch.linalg.qr(noise).Q


class Rotated:
    """An encoder in other coordinates: the same to DAR, another space to a trained fusion."""

    def __init__(self, encoder: Encoder, turn: Tensor):
        self.encoder, self.turn = encoder, turn
        self.spec, self.digest = f"rotated:{encoder.spec}", encoder.digest

    def encode_texts(self, texts, **options) -> Tensor:
        return self.encoder.encode_texts(texts, **options) @ self.turn

    def encode_images(self, images, **options) -> Tensor:
        return self.encoder.encode_images(images, **options) @ self.turn


def _other_clip(bench: Bench) -> Encoder:
    """An encoder of the same recipe, from another seed and trained for less long."""
    usual = bench.profile.clip
    shorter = {"steps": usual.steps // 5, "num_scenes": usual.num_scenes // 5}
    recipe = replace(usual, batch_size=usual.batch_size // 2, **shorter)
    folder = bench.work_dir / "encoders" / "other_clip"
    if not (folder / "open_clip_config.json").is_file():
        train_clip(recipe, Run(folder, seed=SEED + 1, device=bench.device, **bench.drawing))
    return load_encoder(f"open_clip:{folder}", device=bench.device)


def finetuned(bench: Bench, name: str, seed: int) -> Encoder:
    """An encoder that is trained by a recipe, from the profile's."""
    recipe = named(bench.recipes, name, "encoder")
    folder = encoder_folder(bench.profile, name, seed)
    if not (folder / CONFIG_NAME).is_file():
        folder = bench.work_dir / "encoders" / name / str(seed)
    if (folder / CONFIG_NAME).is_file():
        return load_trained(folder, recipe, seed=seed, device=bench.device)
    drawn, number = bench.finetune_data("train"), bench.num_workers
    train = training_data(drawn, bench.profile, recipe, num_workers=number)
    if name == SHUFFLED:
        train = replace(train, views=np.roll(train.views, 1, axis=0))
    val = as_read(bench.finetune_data("val"), bench.profile, "val", recipe)
    if recipe.eval_every >= recipe.steps:  # nothing is selected: a validation that costs nothing
        val = replace(val.first(1), gallery=val.gallery[:1])
    encoder = load_encoder(bench.profile.encoder, device=bench.device)
    return finetune(encoder, train, val, recipe, folder, seed=seed, progress=bench.progress)


ENCODERS: dict[str, Callable[[Bench], Encoder]] = {
    ZERO_SHOT: lambda bench: bench.base,
    "rotated": lambda bench: Rotated(bench.base, _turn(bench)),
    "other_clip": _other_clip,
}
KEPT_UNDER: dict[str, Callable[[Bench, Tensor], Tensor]] = {
    ZERO_SHOT: lambda bench, features: features,
    "rotated": lambda bench, features: features @ _turn(bench),
}
"""What kept features are under an encoder; under any other, views must be drawn."""

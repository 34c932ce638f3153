"""Profiles: the sizes and names that a run uses. They never select other code.

`DAITIR_PROFILE` names the profile; `classroom` is the default.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from daitir.errors import DataError


@dataclass(frozen=True)
class ClipRecipe:
    """How the dual encoder is trained: model by its registered open_clip name, data, optimiser."""

    model: str
    num_scenes: int
    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup_steps: int = 150
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Profile:
    """Sizes and names of one profile.

    `encoder` is a spec for `daitir.encoders.load_encoder`; the `num_*` fields are sizes of the
    benchmark; `broken_shares` are the shares of stated facts that controlled views break.
    """

    name: str
    image_size: int
    encoder: str
    clip: ClipRecipe
    num_train_dialogues: int
    num_test_dialogues: int
    num_gallery: int
    broken_shares: tuple[float, ...] = (0.05, 0.15, 0.30)


PROFILES = {
    "classroom": Profile(
        name="classroom",
        image_size=64,
        encoder="mini",
        clip=ClipRecipe(model="daitir-mini", num_scenes=50_000, steps=2500, batch_size=128),
        num_train_dialogues=3000,
        num_test_dialogues=1000,
        num_gallery=5000,
    ),
    "gpu": Profile(
        name="gpu",
        image_size=128,
        encoder="open_clip:runs/gpu/clip",
        clip=ClipRecipe(
            model="daitir-wide",
            num_scenes=400_000,
            steps=12_000,
            batch_size=512,
            learning_rate=5e-4,
            warmup_steps=500,
        ),
        num_train_dialogues=20_000,
        num_test_dialogues=5000,
        num_gallery=20_000,
    ),
}


def get_profile(name: str | None = None) -> Profile:
    """The profile of a name, or of `DAITIR_PROFILE`, or `classroom`.

    Raises DataError for an unknown name.

    >>> get_profile("classroom").num_gallery
    5000
    """
    name = name or os.environ.get("DAITIR_PROFILE") or "classroom"
    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise DataError(f"unknown profile {name!r}; set DAITIR_PROFILE to one of {known}")
    return PROFILES[name]

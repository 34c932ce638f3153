"""What ranks, by name: encoders, fusions that need no training, and rankings.

Encoders are the profile's, those that are trained from it, and others. Rankings put scores or ranks
together. Views have an axis before the last where there are several of a round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.fusion import average_views, dar_fusion, dar_weights
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.identity import CONFIG_NAME
from daitir.recipes.cast import cast_ranks
from daitir.recipes.clip import train_clip
from daitir.recipes.finetune import finetune, load_trained
from daitir.recipes.run import Run
from daitir.retrieval import first_equal, reciprocal_rank_fusion, target_ranks
from daitir.studies.engine.conditions import ZERO_SHOT, Condition, named
from daitir.studies.queries import SEED
from daitir.studies.training_sets import encoder_folder

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

    def __init__(self, bench: Bench):
        self.encoder, self.turn = bench.base, _turn(bench)
        self.spec, self.digest = f"rotated:{self.encoder.spec}", self.encoder.digest

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
    train, val = (bench.finetune_data(queries, recipe) for queries in ("train", "val"))
    if name == SHUFFLED:
        train = replace(train, views=np.roll(train.views, 1, axis=0))
    if recipe.eval_every >= recipe.steps:  # nothing is selected: a validation that costs nothing
        val = replace(val.first(1), gallery=val.gallery[:1])
    encoder = load_encoder(bench.profile.encoder, device=bench.device)
    return finetune(encoder, train, val, recipe, folder, seed=seed, progress=bench.progress)


ENCODERS: dict[str, Callable[[Bench], Encoder | Rotated]] = {
    ZERO_SHOT: lambda bench: bench.base,
    "rotated": Rotated,
    "other_clip": _other_clip,
}
KEPT_UNDER: dict[str, Callable[[Bench, Tensor], Tensor]] = {
    ZERO_SHOT: lambda bench, features: features,
    "rotated": lambda bench, features: features @ _turn(bench),
}
"""What kept features are under an encoder; under any other, views must be drawn."""


def _single(view: Tensor, text: Tensor) -> Tensor:
    return view if view.ndim == text.ndim else average_views(view)


def _rounds(bench: Bench, condition: Condition) -> Tensor:
    return torch.tensor(bench.rounds(condition))


def _dar(bench: Bench, condition: Condition, text: Tensor, view: Tensor) -> Tensor:
    return dar_fusion(text, _single(view, text), round=_rounds(bench, condition))


def _tuned(bench: Bench, condition: Condition, text: Tensor, view: Tensor) -> Tensor:
    """The weighted sum whose weights validation chose, for the encoder and the text."""
    early, late = bench.tuned_weights(condition)
    weight = torch.where(_rounds(bench, condition) < 2, early, late)[..., None]
    return F.normalize((1 - weight) * text + weight * view, dim=-1)


FUSIONS: dict[str, Callable[[Bench, Condition, Tensor, Tensor], Tensor]] = {
    "text": lambda bench, condition, text, view: text,
    "view": lambda bench, condition, text, view: _single(view, text),
    "dar": _dar,
    "dar_tuned": _tuned,
}


def by_scores(text, view, gallery, targets, rounds, *, together: Callable) -> Tensor:
    """Ranks by DAR's sum of scores, where those of several views are put `together` first."""
    firsts = first_equal(gallery)  # equal pictures tie
    columns = []
    for t, (text_weight, view_weight) in enumerate(zip(*dar_weights(rounds[0]), strict=True)):
        scores = text_weight * (text[:, t] @ gallery.T)
        scores = scores + together(view_weight * (view[:, t] @ gallery.T))
        scores = scores[:, firsts]
        columns.append((scores >= scores[targets, targets][:, None]).sum(dim=1) - 1)
    return torch.stack(columns, dim=1)


def _summed(bench: Bench, condition: Condition, *features: Tensor, together: Callable) -> Tensor:
    return by_scores(*features, _rounds(bench, condition), together=together)


def _rank_fusion(
    bench: Bench, condition: Condition, text: Tensor, view: Tensor, *gallery: Tensor
) -> Tensor:
    """Of text and view, or of two views of a round without the text, as VisRet does."""
    both = (text, view) if view.ndim == text.ndim else view.unbind(dim=2)
    return reciprocal_rank_fusion(*both, *gallery)


def _best(
    bench: Bench, condition: Condition, text: Tensor, view: Tensor, *gallery: Tensor
) -> Tensor:
    return torch.minimum(target_ranks(text, *gallery), target_ranks(view, *gallery))


def _cast(
    bench: Bench, condition: Condition, text: Tensor, view: Tensor, *gallery: Tensor
) -> Tensor:
    """No view is used: text and gallery are moved by what the dialogue says."""
    return cast_ranks(bench.cast(condition), text, *gallery)


RANKINGS: dict[str, Callable[..., Tensor]] = {
    "rank_fusion": _rank_fusion,
    "best_of_text_and_view": _best,
    "dar_of_scores": partial(_summed, together=lambda scores: scores.mean(dim=1)),
    "dar_of_best": partial(_summed, together=lambda scores: scores.amax(dim=1)),
    "cast": _cast,
}
"""Given texts, views, the gallery's features, and the places of the targets."""

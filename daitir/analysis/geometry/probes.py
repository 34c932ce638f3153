"""Is information gone, or only moved? Linear probes of what a picture shows, layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.analysis.geometry.nullspace import PER_BATCH
from daitir.common.errors import DataError
from daitir.models.encoders import Encoder

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge, as shares of the mean eigenvalue
FOLDS = 5


@torch.no_grad()
def layer_features(encoder: Encoder, pixels: Tensor) -> list[Tensor]:
    """What an open_clip ViT knows of images at each layer, and its feature as the last.

    Each layer gives the class token and the mean of the patches side by side, (num_images,
    2 · width); the feature is (num_images, dim), of unit length. `pixels` are as `image_pixels`
    gives them, (num_images, 3, size, size). Raises DataError for a tower of another kind.
    """
    tower = encoder.model.visual
    if not hasattr(tower, "transformer") or not hasattr(tower, "forward_intermediates"):
        raise DataError(f"{type(tower).__name__}: no open_clip ViT, so it has no layers to probe")
    batches = []
    for batch in pixels.split(PER_BATCH):
        out = tower.forward_intermediates(
            batch.to(encoder.device), output_fmt="NLC", output_extra_tokens=True
        )
        layers = zip(out["image_intermediates_prefix"], out["image_intermediates"], strict=True)
        rows = [torch.cat([first[:, 0], rest.mean(dim=1)], dim=-1) for first, rest in layers]
        batches.append([*rows, F.normalize(out["image_features"], dim=-1)])
    return [torch.cat(rows).float().cpu() for rows in zip(*batches, strict=True)]


@dataclass(frozen=True)
class Probe:
    """A linear read-out of labels from features: the labels in the order of the scores, and how."""

    classes: tuple
    strength: float
    _mean: Tensor
    _weights: Tensor
    _bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(num_items, num_classes) of (num_items, dim)."""
        return (features.double() - self._mean) @ self._weights + self._bias


def fit_probe(features: Tensor, labels: Sequence[Collection]) -> Probe:
    """Ridge regression of labels, its strength chosen by the error of five-fold cross-validation.

    The features (num_items, dim) come from other pictures than the probe will read. Each item
    has any number of labels, such as the facts of a scene. Raises DataError for fewer items than
    twice the dimensions, where a probe reads what is not there.
    """
    number, dim = features.shape
    classes = tuple(sorted({label for own in labels for label in own}, key=str))
    target = torch.tensor([[label in own for label in classes] for own in labels]).double()
    if number < 2 * dim:
        raise DataError(
            f"{number} items in {dim} dimensions are too few for a probe; take at least {2 * dim}"
        )
    wide = features.double()
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
    errors = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    for fold in order.tensor_split(FOLDS):
        others = torch.ones(number, dtype=torch.bool)
        others[fold] = False
        for index, (mean, weights, bias) in enumerate(_ridges(wide[others], target[others])):
            scores = (wide[fold] - mean) @ weights + bias
            errors[index] += (scores - target[fold]).square().sum()
    best = int(errors.argmin())
    return Probe(classes, STRENGTHS[best], *_ridges(wide, target)[best])


def beaten_shares(scores: Tensor, others: Tensor) -> Tensor:
    """Share of `others` (num_others,) that each score (num_items,) exceeds, ties one half.

    The mean over items is the area under the ROC curve of telling the items from the others.
    """
    if not len(scores) or not len(others):
        raise DataError("both kinds of items are needed; the cue is absent from the sample")
    greater = (scores[:, None] > others).double() + (scores[:, None] == others).double() / 2
    return greater.mean(dim=1).to(scores)


def _ridges(features: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Mean, weights and bias for each of STRENGTHS, from one eigendecomposition."""
    mean, bias = features.mean(dim=0), target.mean(dim=0)
    centred = features - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    rotated = vectors.T @ (centred.T @ (target - bias))
    scale = values.mean()
    return [
        (mean, vectors @ (rotated / (values + strength * scale)[:, None]), bias)
        for strength in STRENGTHS
    ]

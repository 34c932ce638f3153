"""Is information gone, or only moved? Linear probes of what a picture shows, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.encoders import Encoder
from daitir.errors import DataError

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge, as shares of the mean eigenvalue
FOLDS = 5


@torch.no_grad()
def layer_features(encoder: Encoder, pixels: Tensor, *, batch_size: int = 256) -> list[Tensor]:
    """What an open_clip ViT knows of images at each layer, and its feature as the last.

    Of each layer the class token and the mean of the patches side by side, (num_images,
    2 · width); the last is (num_images, dim), of unit length. `pixels` (num_images, 3, size, size)
    as `image_pixels` gives them. Raises DataError for a tower of another kind.
    """
    tower = encoder.model.visual
    if not hasattr(tower, "transformer") or not hasattr(tower, "forward_intermediates"):
        raise DataError(f"{type(tower).__name__}: no open_clip ViT, so it has no layers to probe")
    parts = []
    for batch in pixels.split(batch_size):
        found = tower.forward_intermediates(
            batch.to(encoder.device), output_fmt="NLC", output_extra_tokens=True
        )
        layers = zip(found["image_intermediates_prefix"], found["image_intermediates"], strict=True)
        rows = [torch.cat([first[:, 0], rest.mean(dim=1)], dim=-1) for first, rest in layers]
        parts.append([*rows, F.normalize(found["image_features"], dim=-1)])
    return [torch.cat(rows).float().cpu() for rows in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Probe:
    """A linear read-out of a label from features.

    Attributes:
        classes: the labels, in the order of the scores.
        strength: of the ridge, chosen by cross-validation.
        accuracy: share of the training items read right when their fold was left out.
    """

    classes: tuple
    strength: float
    accuracy: float
    _mean: Tensor
    _weights: Tensor
    _bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(num_items, num_classes) of (num_items, dim); the largest is the label that is read."""
        return (features.double() - self._mean) @ self._weights + self._bias

    def read(self, features: Tensor) -> list:
        """The label of each item."""
        return [self.classes[index] for index in self.scores(features).argmax(dim=1).tolist()]


def fit_probe(features: Tensor, labels: Sequence, *, seed: int = 0) -> Probe:
    """Ridge regression of one-hot labels, its strength chosen by five-fold cross-validation.

    Args:
        features: (num_items, dim), of pictures other than those that the probe is for.
        labels: one for each item.
        seed: of the folds.

    Raises DataError for labels that are not as many, for a single label, and for fewer items than
    twice the dimensions, where a probe reads what is not there.
    """
    number, dim = features.shape
    classes = tuple(sorted(set(labels), key=str))
    if len(labels) != number or len(classes) < 2:
        raise DataError(
            f"{number} items with {len(labels)} labels of {len(classes)} kinds: each item needs "
            "one, and there must be two kinds"
        )
    if number < 2 * dim:
        raise DataError(
            f"{number} items in {dim} dimensions are too few for a probe; take at least {2 * dim}"
        )
    wide = features.double()
    truth = torch.tensor([classes.index(label) for label in labels])
    target = F.one_hot(truth, len(classes)).double()
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    right = torch.zeros(len(STRENGTHS))
    for fold in order.tensor_split(FOLDS):
        kept = torch.ones(number, dtype=torch.bool)
        kept[fold] = False
        for index, (mean, weights, bias) in enumerate(_ridges(wide[kept], target[kept])):
            read = ((wide[fold] - mean) @ weights + bias).argmax(dim=1)
            right[index] += (read == truth[fold]).sum()
    best = int(right.argmax())
    mean, weights, bias = _ridges(wide, target)[best]
    return Probe(classes, STRENGTHS[best], float(right[best]) / number, mean, weights, bias)


def beaten_shares(scores: Tensor, others: Tensor) -> Tensor:
    """Share of `others` (num_others,) that each score (num_items,) exceeds, ties one half.

    The mean over items is the area under the ROC curve of telling the items from the others.

    >>> beaten_shares(torch.tensor([2.0, 0.5]), torch.tensor([0.5, 1.0]))
    tensor([1.0000, 0.2500])
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

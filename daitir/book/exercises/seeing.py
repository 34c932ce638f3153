"""Checks of the exercises of chapters 11 to 13; imported apart, since they need the instruments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.analysis.attention import mask_share
from daitir.analysis.geometry import (
    effective_rank,
    modality_gap,
    project_out,
    share_in_span,
    uniformity,
)
from daitir.book.exercises.compare import PASSED, compare, shape

_WEIGHTS = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
_POINTS = [[2.0, 0.5, 0.1], [-1.0, 1.5, 0.4], [0.3, -2.0, 0.6], [-1.5, 0.2, -1.0], [0.4, 0.3, 0.9]]


def residual_mix(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 11: `function(attention)` is half of `(tokens, tokens)` and half of the identity."""
    weights = torch.tensor(_WEIGHTS)
    compare(function(weights.clone()), (weights + torch.eye(3)) / 2, "half each, row by row")
    return PASSED


def mass_on_mask(function: Callable[[Tensor, Tensor], float]) -> str:
    """Chapter 11: `function(map, mask)` is the share of a map's mass on a mask of its size."""
    values = torch.tensor(_WEIGHTS) + 1
    mask = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    expected = mask_share(values[None], mask[None])[0]
    compare(function(values.clone(), mask), expected, "sum on the mask, over the sum of all")
    compare(function(torch.ones(3, 3), mask), 1 / 3, "an even map has the mask's own share")
    return PASSED


def highest_cells(function: Callable[[Tensor, int], Tensor]) -> str:
    """Chapter 11: `function(map, number)` marks the cells of a map with the highest values."""
    values = torch.tensor(_POINTS)
    for number in (1, 4):
        expected = torch.zeros(values.numel())
        expected[values.flatten().argsort(descending=True)[:number]] = 1
        hint = f"exactly the {number} highest of all cells, whatever their row"
        compare(function(values.clone(), number), expected.view_as(values), hint)
    return PASSED


def gap(function: Callable[[Tensor, Tensor], float]) -> str:
    """Chapter 12: `function(image_features, text_features)` is the distance of their means."""
    images, texts = (F.normalize(torch.tensor(rows), dim=-1) for rows in (_POINTS, _WEIGHTS))
    hint = "average each set over its rows first, then take one distance"
    compare(function(images, texts), modality_gap(images, texts), hint)
    return PASSED


def evenness(function: Callable[[Tensor], float]) -> str:
    """Chapter 12: `function(features)` is the uniformity of `(num_items, dim)` unit vectors."""
    features = F.normalize(torch.tensor(_POINTS), dim=-1)
    hint = "log of the mean of exp(-2 d²), over pairs of different rows only"
    compare(function(features), uniformity(features), hint)
    return PASSED


def rank_in_effect(function: Callable[[Tensor], float]) -> str:
    """Chapter 12: `function(features)` is the effective rank of `(num_items, dim)`."""
    features = torch.tensor(_POINTS)
    compare(function(features + 3), effective_rank(features), "take the mean row away first")
    compare(function(features), effective_rank(features), "shares of the singular values, not "
             "of their squares; then the exponential of the entropy")  # fmt: skip
    return PASSED


def without_direction(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Chapter 13: `function(features, direction)` projects `(num, dim)` rows off a `(dim,)`."""
    features, direction = F.normalize(torch.tensor(_POINTS), dim=-1), torch.tensor([0.0, 3.0, 4.0])
    expected = project_out(features, direction.expand_as(features))
    hint = "scale the direction to length 1, subtract the part along it, scale the rows again"
    compare(function(features.clone(), direction), expected, hint)
    return PASSED


def share_inside(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Chapter 13: `function(vectors, basis)` is each row's share of squared length in a span."""
    basis = torch.linalg.qr(torch.tensor(_POINTS[:2]).T)[0].T
    vectors = torch.tensor(_WEIGHTS)
    hint = "the basis is orthonormal: square the products with it, sum, divide by the length's"
    compare(function(vectors.clone(), basis), share_in_span(vectors, basis), hint)
    return PASSED


def lost_directions(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 13: `function(weight)` is an orthonormal basis of what x @ weight sends to 0."""
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    answer = function(weight.clone())
    shape(answer, (2, 4))
    answer = torch.as_tensor(answer)
    compare(answer @ weight, torch.zeros(2, 2), "x @ weight must be 0 for every row")
    compare(answer @ answer.T, torch.eye(2), "the rows must be of length 1 and orthogonal")
    return PASSED

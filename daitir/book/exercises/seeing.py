"""Exercises of chapters 11 to 13: attention, geometry, the null space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from daitir.analysis import attention, geometry
from daitir.book.exercises.compare import PASSED, answer_to, check_shape, compare, exercise

WEIGHTS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
POINTS = torch.tensor(
    [[2.0, 0.5, 0.1], [-1.0, 1.5, 0.4], [0.3, -2.0, 0.6], [-1.5, 0.2, -1.0], [0.4, 0.3, 0.9]]
)
UNIT_POINTS = F.normalize(POINTS, dim=-1)
MASK = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])


@exercise((WEIGHTS, "half each, row by row"))
def residual_mix(attention):
    """Chapter 11: `function(attention)` is half of `(tokens, tokens)` and half of the identity."""
    return (attention + torch.eye(len(attention))) / 2


@exercise(
    (WEIGHTS + 1, MASK, "sum on the mask, over the sum of all"),
    (torch.ones(3, 3), MASK, "an even map has the mask's own share"),
)
def mass_on_mask(values, mask):
    """Chapter 11: `function(values, mask)` is the share of a map's mass on a mask of its size."""
    return attention.mask_share(values[None], mask[None])[0]


@exercise(*(
    (POINTS, number, f"exactly the {number} highest of all cells, whatever their row")
    for number in (1, 4)
))  # fmt: skip
def highest_cells(values, number):
    """Chapter 11: `function(values, number)` marks the cells of a map with the highest values."""
    return values >= values.flatten().topk(number).values[-1]


@exercise((UNIT_POINTS, F.normalize(WEIGHTS, dim=-1),
           "average each set over its rows first, then take one distance"))  # fmt: skip
def gap(image_features, text_features):
    """Chapter 12: `function(image_features, text_features)` is the distance of their means."""
    return geometry.modality_gap(image_features, text_features)


@exercise((UNIT_POINTS, "log of the mean of exp(-2 d²), over pairs of different rows only"))
def evenness(features):
    """Chapter 12: `function(features)` is the uniformity of `(num_items, dim)` unit vectors."""
    return geometry.uniformity(features)


@exercise(
    (POINTS + 3, "take the mean row away first"),
    (POINTS, "shares of the singular values, not of their squares; then the exponential of the "
     "entropy"),
)  # fmt: skip
def rank_in_effect(features):
    """Chapter 12: `function(features)` is the effective rank of `(num_items, dim)`."""
    return geometry.effective_rank(features)


@exercise(
    (UNIT_POINTS, torch.tensor([0.0, 3.0, 4.0]),
     "scale the direction to length 1, subtract the part along it, scale the rows again"),
)  # fmt: skip
def without_direction(features, direction):
    """Chapter 13: `function(features, direction)` projects `(num, dim)` rows off a `(dim,)`."""
    return geometry.project_out(features, direction.expand_as(features))


@exercise(
    (WEIGHTS, torch.linalg.qr(POINTS[:2].T)[0].T,
     "the basis is orthonormal: square the products with it, sum, divide by the length's"),
)  # fmt: skip
def share_inside(vectors, basis):
    """Chapter 13: `function(vectors, basis)` is each row's share of squared length in a span."""
    return geometry.share_in_span(vectors, basis)


def lost_directions(function: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Chapter 13: `function(weight)` is an orthonormal basis of what x @ weight sends to 0."""
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    answer = answer_to(function, weight)
    check_shape(answer, (2, 4))
    answer = torch.as_tensor(answer)
    compare(answer @ weight, torch.zeros(2, 2), "x @ weight must be 0 for every row")
    compare(answer @ answer.T, torch.eye(2), "the rows must be of length 1 and orthogonal")
    return PASSED

"""Exercises of chapters 11 to 14: attention, geometry, the null space, answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.analysis import attention, geometry
from daitir.book.exercises import PASSED, answer_to, array_of, compare, exercise

WEIGHTS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
POINTS = torch.tensor(
    [[2.0, 0.5, 0.1], [-1.0, 1.5, 0.4], [0.3, -2.0, 0.6], [-1.5, 0.2, -1.0], [0.4, 0.3, 0.9]]
)
UNIT_POINTS = F.normalize(POINTS, dim=-1)
MASK = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])

# --- chapter 11 ---
residual_mix = exercise(
    lambda weights: (weights + torch.eye(len(weights))) / 2, (WEIGHTS, "half each, row by row")
)

mass_on_mask = exercise(
    lambda values, mask: attention.mask_share(values[None], mask[None])[0],
    (WEIGHTS + 1, MASK, "sum on the mask, over the sum of all"),
    (torch.ones(3, 3), MASK, "an even map has the mask's own share"),
)

highest_cells = exercise(
    lambda values, number: values >= values.flatten().topk(number).values[-1],
    *((POINTS, number, f"exactly the {number} highest of all cells, whatever their row")
      for number in (1, 4)),
)  # fmt: skip

# --- chapter 12 ---
gap = exercise(
    geometry.modality_gap,
    (UNIT_POINTS, F.normalize(WEIGHTS, dim=-1), "average each set first, then take one distance"),
)

evenness = exercise(
    geometry.uniformity,
    (UNIT_POINTS, "log of the mean of exp(-2 d²), over pairs of different rows only"),
)

rank_in_effect = exercise(
    geometry.effective_rank,
    (POINTS + 3, "take the mean row away first"),
    (POINTS, "take shares of the singular values, not of their squares; then entropy and exp"),
)

# --- chapter 13 ---
without_direction = exercise(
    lambda features, direction: geometry.project_out(features, direction.expand_as(features)),
    (UNIT_POINTS, torch.tensor([0.0, 3.0, 4.0]),
     "scale the direction to length 1, subtract the part along it, scale the rows again"),
)  # fmt: skip

share_inside = exercise(
    geometry.share_in_span,
    (WEIGHTS, torch.linalg.qr(POINTS[:2].T)[0].T,
     "the basis is orthonormal: square the products with it, sum, divide by the length's"),
)  # fmt: skip


def lost_directions(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 13: `function(weight)` is an orthonormal basis of what x @ weight sends to 0."""
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    answer = array_of(answer_to(function, weight), (2, 4))
    compare(answer @ weight.numpy(), torch.zeros(2, 2), "x @ weight must be 0 for every row")
    compare(answer @ answer.T, torch.eye(2), "the rows must be of length 1 and orthogonal")
    return PASSED


# --- chapter 14 ---
roc_area = exercise(
    lambda a, b: (np.greater.outer(a, b) + np.equal.outer(a, b) / 2).mean(),
    (np.array([0.9, 0.4, 0.4]), np.array([0.4, 0.1]), "compare every score with every other one"),
)

violations = exercise(
    lambda places, holds, denied: (holds[places] & denied).any(axis=1).mean(),
    (np.array([2, 0, 1]), MASK.numpy(), np.array([True, True, False]), "count each picture once"),
)

"""Checks of chapters 11 to 14: each passes a right answer and fails a wrong one."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from daitir.analysis.geometry import (
    effective_rank,
    null_basis,
    project_out,
    share_in_span,
    uniformity,
)
from daitir.book.exercises import PASSED, NotFilledIn, WrongAnswer, seeing


def _highest(values, number):
    found = torch.zeros(values.numel(), dtype=torch.bool)
    found[values.flatten().topk(number).indices] = True
    return found.view_as(values)


RIGHT = {
    "residual_mix": lambda a: 0.5 * a + 0.5 * torch.eye(len(a)),
    "mass_on_mask": lambda m, mask: m[mask].sum() / m.sum(),
    "highest_cells": _highest,
    "gap": lambda a, b: (a.mean(0) - b.mean(0)).norm(),
    "evenness": uniformity,
    "rank_in_effect": effective_rank,
    "without_direction": lambda x, d: project_out(x, d.expand_as(x)),
    "share_inside": share_in_span,
    "lost_directions": null_basis,
    "roc_area": lambda a, b: (np.greater.outer(a, b) + np.equal.outer(a, b) / 2).mean(),
    "violations": lambda places, holds, denied: holds[places][:, denied].any(axis=1).mean(),
}
WRONG = {
    "residual_mix": lambda a: a + torch.eye(len(a)),
    "mass_on_mask": lambda m, mask: m[mask].mean(),
    "highest_cells": lambda m, k: m >= m.max(),
    "gap": lambda a, b: (a[: len(b)] - b).norm(dim=1).mean(),
    "evenness": lambda x: (-2 * torch.cdist(x, x).square()).exp().mean().log(),
    "rank_in_effect": lambda x: torch.linalg.matrix_rank(x).float(),
    "without_direction": lambda x, d: F.normalize(x - d, dim=-1),
    "share_inside": lambda x, basis: (x @ basis.T).square().sum(dim=-1),
    "lost_directions": lambda w: torch.eye(4)[:2],
    "roc_area": lambda a, b: np.greater.outer(a, b).mean(),
    "violations": lambda places, holds, denied: (holds[places] & denied).mean(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_each_check_passes_what_is_right_and_fails_what_is_wrong(name):
    check = getattr(seeing, name)
    assert check(RIGHT[name]) == PASSED
    with pytest.raises(WrongAnswer):
        check(WRONG[name])
    with pytest.raises(NotFilledIn):
        check(lambda *arguments: ...)

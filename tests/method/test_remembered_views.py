"""The memory of views: a running mean against a loop."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from daitir.fusion import average_views, remembered_views


def views(*shape):
    generator = torch.Generator().manual_seed(0)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize("decay", [0, 0.3, 1])
def test_remembered_views_agree_with_a_loop(decay):
    some = views(3, 2, 5, 8)
    found = remembered_views(some, decay=decay)
    for index in np.ndindex(3, 2):
        for t in range(5):
            total = sum(decay ** (t - s) * some[index][s] for s in range(t + 1))
            torch.testing.assert_close(found[index][t], total / total.norm())


def test_no_memory_is_the_view_and_a_whole_one_the_mean_of_all():
    some = views(4, 6, 8)
    torch.testing.assert_close(remembered_views(some, decay=0), some)
    for t in range(6):
        torch.testing.assert_close(
            remembered_views(some, decay=1)[:, t], average_views(some[:, : t + 1])
        )


def test_what_is_remembered_does_not_depend_on_what_follows():
    some = views(4, 6, 8)
    found = remembered_views(some, decay=0.7)
    torch.testing.assert_close(remembered_views(some[:, :3], decay=0.7), found[:, :3])


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        remembered_views(views(2, 3, 4), decay=decay)


def test_views_that_are_no_unit_vectors_or_cancel_out_are_refused():
    with pytest.raises(ValueError, match="unit vectors"):
        remembered_views(2 * views(2, 3, 4), decay=0.5)
    one = views(1, 4)
    with pytest.raises(ValueError, match="cancel out"):
        remembered_views(torch.cat([one, -one]), decay=1)

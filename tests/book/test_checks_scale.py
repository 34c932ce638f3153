"""Checks of chapter 16: each passes a right answer and fails wrong ones with a hint."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from daitir.book.exercises import PASSED, NotFilledIn, WrongAnswer, scale
from daitir.data.indexes import IvfPq


def recall_in_smaller(ranks, num_images, smaller, k):
    return hypergeom.cdf(k - 1, num_images - 1, ranks, smaller - 1).mean()


def found_share(found, exact):
    kept = [set(f) & set(e) - {-1} for f, e in zip(found.tolist(), exact.tolist(), strict=True)]
    return sum(map(len, kept)) / exact.numel()


RIGHT = {
    scale.card_hours: lambda n, o, peak, share: n * o / peak / share / 3600,
    scale.index_bytes: lambda n, dim, code, lists: n * (code + 8) + lists * dim * 4,
    scale.found_share: found_share,
    scale.recall_in_smaller: recall_in_smaller,
}
WRONG = [
    (scale.card_hours, lambda n, o, peak, share: n * o / peak * share / 3600, "over peak"),
    (scale.card_hours, lambda n, o, peak, share: n * o / peak / share / 60, "over peak times"),
    (scale.index_bytes, lambda n, dim, code, lists: n * code + lists * dim * 4, "a number"),
    (scale.index_bytes, lambda n, dim, code, lists: (n and 1) * (n * 12 + 640), "before the"),
    (scale.found_share, lambda found, exact: (found == exact).float().mean(), "the order"),
    (scale.found_share, lambda f, e: (e[:, :, None] == f[:, None]).any(2).float().mean(), "-1"),
    (scale.recall_in_smaller, lambda r, n, m, k: (r < k).mean(), "hypergeometric"),
    (scale.recall_in_smaller, lambda r, n, m, k: (r * m / n < k).mean(), "hypergeometric"),
    (scale.recall_in_smaller, lambda r, n, m, k: hypergeom.cdf(k, n - 1, r, m - 1).mean(), "hyp"),
    (scale.recall_in_smaller, lambda r, n, m, k: recall_in_smaller(r, n, m, 10), "need not be"),
]


@pytest.mark.parametrize("check", RIGHT)
def test_a_right_answer_passes(check):
    assert check(RIGHT[check]) == PASSED
    with pytest.raises(NotFilledIn):
        check(lambda *arguments: ...)


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_a_wrong_answer_fails_with_a_hint(check, answer, hint):
    with pytest.raises(WrongAnswer, match=hint):
        check(answer)


def test_the_exercise_is_the_index_without_code_book_and_rotation():
    by_exercise = RIGHT[scale.index_bytes](10**6, 256, 32, 4096) / 10**6
    left_out = (256 + 256) * 256 * 4 / 10**6
    whole = IvfPq(32).bytes_per_image(10**6, 256)
    assert np.isclose(whole, by_exercise + left_out)

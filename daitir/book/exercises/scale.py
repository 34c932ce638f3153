"""Exercises of chapters 15 and 16: own pictures, the papers' setting, large galleries."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import hypergeom
from torch.nn import functional as F

from daitir.book.exercises import exercise
from daitir.data.indexes import recall_against_exact

FOUND, EXACT = torch.tensor([[[4, 1, 9, -1], [8, 7, 6, 5]], [[1, 2, 3, 4], [5, 6, 7, 8]]])
GALLERY_RANKS = np.array([0, 3, 12, 40])
SAMPLED = "the better pictures that are sampled are hypergeometric; fewer than k of them may be"

# --- chapter 15 ---
chance_recall = exercise(
    lambda k, num_images: min(k / num_images, 1.0),
    (10, 400, "k of the places are good ones, all equally likely"),
    (10, 4, "in a gallery of fewer than k pictures none is missed"),
)

carried_forward = exercise(
    lambda ranks, lengths: np.take_along_axis(
        ranks, np.minimum(np.arange(ranks.shape[1]), lengths[:, None] - 1), axis=1
    ),
    (np.array([[4, 2, -1, -1], [9, -1, -1, -1], [7, 8, 1, 0]]), np.array([2, 1, 4]),
     "the last rank of a dialogue is the one at its length less one"),
)  # fmt: skip

ragged_means = exercise(
    lambda features, counts: F.normalize(torch.stack([v.mean(0) for v in features.split(counts)])),
    (F.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])), [1, 2, 1],
     "split the views by their counts, take each part's mean, scale it to length 1"),
)  # fmt: skip

# --- chapter 16 ---
card_hours = exercise(
    lambda items, operations, peak, utilisation: items * operations / (peak * utilisation) / 3600,
    (7200, 2.5e11, 1e12, 0.25, "seconds are operations over peak times share"),
    (100, 9e12, 1e12, 1.0, "an hour has 3,600 seconds"),
)

index_bytes = exercise(
    lambda num, dim, code_bytes, num_lists: num * (code_bytes + 8) + num_lists * dim * 4,
    (1000, 16, 4, 10,
     "a code and a number for each picture, and for each list dim numbers of 4 bytes"),
    (0, 256, 32, 4, "the centres are there before the first picture"),
)  # fmt: skip

found_share = exercise(
    lambda found, exact: recall_against_exact(found, exact).mean(),
    (FOUND, EXACT, "the order does not count, only which pictures"),
    (EXACT + 100, EXACT, "other pictures are not found"),
    (FOUND[:1, -2:], FOUND[:1, -2:], "-1 is no picture, so it is not found"),
)

recall_in_smaller = exercise(
    lambda ranks, num_images, smaller, k: np.mean(
        hypergeom.cdf(k - 1, num_images - 1, ranks, smaller - 1)
    ),
    (GALLERY_RANKS, 60, 60, 10, "the whole gallery changes nothing"),
    *((GALLERY_RANKS, 60, smaller, 10, SAMPLED) for smaller in (10, 25, 45)),
    (GALLERY_RANKS, 60, 20, 1, "k need not be 10"),
)

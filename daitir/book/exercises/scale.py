"""Exercises of chapters 14 and 15: own pictures, the papers' setting, large galleries."""

from __future__ import annotations

from math import comb

import numpy as np
import torch
from torch.nn import functional as F

from daitir.book.exercises.compare import exercise

EXACT = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
GALLERY_RANKS = np.array([0, 3, 12, 40])
SAMPLED = "the better pictures that are sampled are hypergeometric; fewer than k of them may be"


@exercise(
    (10, 400, "k of the places are good ones, all equally likely"),
    (10, 4, "in a gallery of fewer than k pictures none is missed"),
)
def chance_recall(k, num_images):
    """Chapter 14: `function(k, num_images)` is R@k of a random order of the gallery."""
    return min(k / num_images, 1.0)


@exercise(
    (np.array([[4, 2, -1, -1], [9, -1, -1, -1], [7, 8, 1, 0]]), np.array([2, 1, 4]),
     "the last rank of a dialogue is the one at its length less one"),
)  # fmt: skip
def carried_forward(ranks, lengths):
    """Chapter 14: `function(ranks, lengths)` fills each row behind its end with its last rank."""
    return [[row[min(t, length - 1)] for t in range(len(row))]
            for row, length in zip(ranks, lengths, strict=True)]  # fmt: skip


@exercise(
    (F.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1), [1, 2, 1],
     "split the views by their counts, take each part's mean, scale it to length 1"),
)  # fmt: skip
def ragged_means(view_features, counts):
    """Chapter 14: `function(view_features, counts)` averages each round's views to unit length."""
    means = [views.mean(dim=0) for views in view_features.split(counts)]
    return F.normalize(torch.stack(means), dim=1)


@exercise(
    (7200, 2.5e11, 1e12, 0.25, "seconds are operations over peak times share"),
    (100, 9e12, 1e12, 1.0, "an hour has 3,600 seconds"),
)
def card_hours(items, operations, peak, utilisation):
    """Chapter 15: `function(items, operations, peak, utilisation)` is the hours of one card."""
    return items * operations / (peak * utilisation) / 3600


@exercise(
    (1000, 16, 4, 10,
     "a code and a number for each picture, and for each list dim numbers of 4 bytes"),
    (0, 256, 32, 4, "the centres are there before the first picture"),
)  # fmt: skip
def index_bytes(num_images, dim, code_bytes, num_lists):
    """Chapter 15: `function(num_images, dim, code_bytes, num_lists)` is the memory of an IVF-PQ.

    Each picture takes a code and a number of 8 bytes, each list a centre in single precision.
    """
    return num_images * (code_bytes + 8) + num_lists * dim * 4


@exercise(
    (torch.tensor([[4, 1, 9, -1], [8, 7, 6, 5]]), EXACT,
     "the order does not count, only which pictures"),
    (EXACT + 100, EXACT, "other pictures are not found"),
    (torch.tensor([[1, -1]]), torch.tensor([[1, -1]]), "-1 is no picture, so it is not found"),
)  # fmt: skip
def found_share(found, exact):
    """Chapter 15: `function(found, exact)` is the mean share of the exact pictures that are found.

    Both are `(num_queries, k)` numbers of pictures, in any order; -1 stands for none.
    """
    is_found = (found[:, :, None] == exact[:, None]) & (exact[:, None] >= 0)
    return is_found.sum() / exact.numel()


@exercise(
    (GALLERY_RANKS, 60, 60, 10, "the whole gallery changes nothing"),
    *((GALLERY_RANKS, 60, smaller, 10, SAMPLED) for smaller in (10, 25, 45)),
    (GALLERY_RANKS, 60, 20, 1, "k need not be 10"),
)
def recall_in_smaller(ranks, num_images, smaller, k):
    """Chapter 15: `function(ranks, num_images, smaller, k)` is R@k expected in a smaller gallery.

    `ranks` `(num_queries,)` are 0-based in a gallery of `num_images`; the smaller one keeps the
    target and a random sample of the others.
    """
    sampled, others = smaller - 1, num_images - 1
    ways = [
        sum(comb(rank, better) * comb(others - rank, sampled - better)
            for better in range(min(k, sampled + 1)))
        for rank in ranks.tolist()
    ]  # fmt: skip
    return np.mean(ways) / comb(others, sampled)

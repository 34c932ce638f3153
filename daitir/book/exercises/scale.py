"""Exercises of chapter 15: what the papers' setting costs, and galleries that are too large."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import torch
from torch import Tensor

from daitir.book.exercises.compare import PASSED, compare


def card_hours(function: Callable[[float, float, float, float], float]) -> str:
    """Chapter 15: `function(items, operations, peak, utilisation)` is the hours of one card.

    `operations` are of one item, `peak` is operations a second.
    """
    compare(function(7200, 2.5e11, 1e12, 0.25), 2.0, "seconds are operations over peak times share")
    compare(function(100, 9e12, 1e12, 1.0), 0.25, "an hour has 3,600 seconds")
    return PASSED


def index_bytes(function: Callable[[int, int, int, int], int]) -> str:
    """Chapter 15: `function(num_images, dim, code_bytes, num_lists)` is the memory of an IVF-PQ.

    Of each picture a code and a number of 8 bytes, of each list a centre in single precision.
    """
    hint = "a code and a number for each picture, and for each list dim numbers of 4 bytes"
    compare(function(1000, 16, 4, 10), 1000 * 12 + 10 * 64, hint)
    compare(function(0, 256, 32, 4), 4 * 1024, "the centres are there before the first picture")
    return PASSED


def found_share(function: Callable[[Tensor, Tensor], float]) -> str:
    """Chapter 15: `function(found, exact)` is the mean share of the exact pictures that are found.

    Both are `(num_queries, k)` numbers of pictures, in any order; -1 stands for none.
    """
    exact = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = torch.tensor([[4, 1, 9, -1], [8, 7, 6, 5]])
    compare(function(found, exact), 0.75, "the order does not count, only which pictures")
    compare(function(exact + 100, exact), 0.0, "other pictures are not found")
    short = torch.tensor([[1, -1]])
    compare(function(short, short), 0.5, "-1 is no picture, so it is not found")
    return PASSED


def recall_in_smaller(function: Callable[[np.ndarray, int, int, int], float]) -> str:
    """Chapter 15: `function(ranks, num_images, smaller, k)` is R@k expected in a smaller gallery.

    `ranks` `(num_queries,)` are 0-based in a gallery of `num_images`; the smaller one keeps the
    target and a random sample of the others.
    """
    ranks = np.array([0, 3, 12, 40])

    def expected(num_images: int, smaller: int, k: int) -> float:
        kept, others = smaller - 1, num_images - 1
        chances = [
            sum(comb(rank, better) * comb(others - rank, kept - better)
                for better in range(min(k, kept + 1))) / comb(others, kept)
            for rank in ranks.tolist()
        ]  # fmt: skip
        return float(np.mean(chances))

    hint = "the better pictures that are sampled are hypergeometric; fewer than k of them may be"
    compare(function(ranks, 60, 60, 10), (ranks < 10).mean(), "the whole gallery changes nothing")
    for smaller in (10, 25, 45):
        compare(function(ranks, 60, smaller, 10), expected(60, smaller, 10), hint)
    compare(function(ranks, 60, 20, 1), expected(60, 20, 1), "k need not be 10")
    return PASSED

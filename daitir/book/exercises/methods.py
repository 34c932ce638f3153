"""Exercises of the chapters from 06 on: hallucination, ADaFuSE, DMCL, own data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.book.exercises.compare import PAIRS, PASSED, compare, shape
from daitir.fusion import ADaFuSE
from daitir.objectives import info_nce, jensen_shannon


def chair(function: Callable[[set[str], set[str]], float]) -> str:
    """Chapter 06: `function(shown, true)` is the share of the shown objects that are not there."""
    hint = "of the objects that the view shows, count those that the target lacks"
    compare(function({"dog", "kite", "boat"}, {"dog"}), 2 / 3, hint)
    compare(function({"dog"}, {"dog", "kite"}), 0.0, "what a view leaves out is another matter")
    compare(function(set(), {"dog"}), 0.0, "a view without objects has invented none")
    return PASSED


def corrected_rate(function: Callable[[float, float, float], float]) -> str:
    """Chapter 06: `function(read, false_alarm, miss)` is the true share behind the share read."""
    compare(function(0.3, 0.0, 0.0), 0.3, "a perfect instrument needs no correction")
    hint = "what is read is true and not missed, or untrue and a false alarm: solve for the truth"
    compare(function(0.2 * 0.9 + 0.8 * 0.05, 0.05, 0.1), 0.2, hint)
    return PASSED


def area_under_curve(function: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """Chapter 06: `function(scores, labels)` is the area under the ROC curve, ties one half."""
    scores = np.array([0.1, 0.4, 0.35, 0.8, 0.4])
    labels = np.array([False, False, True, True, True])
    compare(function(scores, labels), 4.5 / 6, "compare every positive with every negative")
    compare(function(np.ones(4), np.array([True, False, True, False])), 0.5, "a tie is one half")
    return PASSED


def interaction(function: Callable[[float, float, float, float], float]) -> str:
    """Chapter 06: `function(before, first, second, both)` is what two repairs do beyond their sum.

    The log-ranks of a view as it is, with one repair, with the other, and with both.
    """
    compare(function(3.0, 2.0, 2.5, 1.5), 0.0, "effects that add up do not interact")
    compare(function(3.0, 2.0, 2.5, 1.0), -0.5, "effect of both, less the effects of each")
    return PASSED


def gated_query(function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Chapter 07: `function(gate, text, view, residual)` is ADaFuSE's query.

    `gate` is `(num_queries, 1)`, the others `(num_queries, dim)`, and so is the answer.
    """
    view, text = F.normalize(torch.tensor(PAIRS), dim=-1)
    gate = torch.linspace(0.2, 0.9, len(text))[:, None]
    residual = 0.1 * text.flip(-1)
    expected = F.normalize(gate * text + (1 - gate) * view + residual, dim=-1)
    hint = "gate times text, the rest times view, plus the residual, scaled to length 1"
    compare(function(gate, text, view, residual), expected, hint)
    return PASSED


def adafuse_parameters(function: Callable[[int, int, int, int], int]) -> str:
    """Chapter 07: `function(dim, projection_dim, hidden_dim, num_experts)` counts parameters."""
    for sizes in ((256, 512, 2048, 4), (16, 8, 12, 3)):
        model = ADaFuSE(sizes[0], projection_dim=sizes[1], hidden_dim=sizes[2],
                        num_experts=sizes[3])  # fmt: skip
        expected = sum(p.numel() for p in model.parameters())
        answer = function(*sizes)
        shape(answer, ())
        hint = "every layer has a weight for each pair and a bias; the logit scale is one more"
        assert answer == expected, f"{hint}: for {sizes} expected {expected:,}, got {answer:,}"
    return PASSED


def experts_in_use(function: Callable[[Tensor], float]) -> str:
    """Chapter 07: `function(router)` is the exponential of the entropy of the average router.

    `router` is `(num_queries, num_experts)`, probabilities.
    """
    even, single = torch.full((3, 4), 0.25), torch.eye(4)[:1].expand(3, 4)
    hint = "average over the queries first, then the entropy in natural units, then exp"
    compare(function(even.clone()), 4.0, hint)
    compare(function(single.clone()), 1.0, "0 times log 0 is 0: one expert alone is one expert")
    compare(function(torch.eye(4)), 4.0, hint)
    return PASSED


def linear_flops(function: Callable[[int, int], int]) -> str:
    """Chapter 08: `function(num_inputs, num_outputs)` counts operations of a linear layer.

    Of one query, a multiplication and an addition for each weight; the bias is not counted.
    """
    compare(function(3, 2), 12, "each output is a sum of one product for each input")
    compare(function(512, 2048), 2 * 512 * 2048, "two operations a weight")
    return PASSED


def permutation_share(function: Callable[[float, np.ndarray], float]) -> str:
    """Chapter 08: `function(observed, shuffled)` is the share of values at least as large.

    The observed value counts as one of them, so the share is never zero.
    """
    shuffled = np.array([0.1, 0.4, 0.2, 0.3])
    compare(function(0.25, shuffled), 3 / 5, "two of the four and the observed one, of five")
    compare(function(0.9, shuffled), 1 / 5, "the observed value is a possible shuffle too")
    return PASSED


def mutual_information(function: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """Chapter 08: `function(a, b)` is the mutual information of two labellings, in nats."""
    a = np.array([0, 0, 1, 1])
    compare(function(a, a), math.log(2), "two equal halves tell ln 2 about themselves")
    compare(function(a, np.array([0, 1, 0, 1])), 0.0, "independent labels tell nothing")
    joint = {(0, 0): 0.5, (1, 0): 0.25, (1, 1): 0.25}  # of a and the labels below
    expected = sum(p * math.log(p / (0.5 * (0.75, 0.25)[b])) for (_, b), p in joint.items())
    hint = "sum p(a, b) ln(p(a, b) / (p(a) p(b))), 0 where p is 0"
    compare(function(a, np.array([0, 0, 0, 1])), expected, hint)
    return PASSED


def divergence_in_bits(function: Callable[[Tensor, Tensor], Any]) -> str:
    """Chapter 09: the divergence (Jensen–Shannon) of rows `(num_queries, num_targets)`, in bits."""
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    q = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    compare(function(p, p), 0.0, "the same distributions do not diverge")
    expected = jensen_shannon(p.log(), q.log()) / math.log(2)
    compare(function(p, q), expected, "one bit is ln 2 nats; take the mean over the queries")
    return PASSED


def contrast_without_twins(function: Callable[[Tensor, Tensor, float, Tensor], Any]) -> str:
    """Chapter 09: InfoNCE in which rows with the same label are no negatives of each other."""
    a, b = (F.normalize(torch.tensor(rows), dim=1) for rows in PAIRS)
    for labels in (torch.tensor([4, 5, 6]), torch.tensor([7, 7, 8])):
        expected = info_nce(a, b, 3.0, labels=labels)
        hint = "leave twins out of both directions, but each row's own partner in"
        compare(function(a, b, 3.0, labels), expected, hint)
    return PASSED


def hardest_of_rows(function: Callable[[Tensor, int, float, float], Any]) -> str:
    """Chapter 09: the mean softplus over the `k` most similar negatives of each row."""
    cosines = torch.tensor([[0.6, 0.5, -0.2], [0.1, 0.2, 0.3], [0.9, -0.4, 0.7]])
    for k in (1, 2):
        gaps = [
            sorted((row[j] - row[i] for j in range(3) if j != i), reverse=True)[:k]
            for i, row in enumerate(cosines.tolist())
        ]
        expected = F.softplus((torch.tensor(gaps) + 0.1) / 0.5).mean()
        compare(function(cosines, k, 0.1, 0.5), expected, "leave the diagonal out before top-k")
    return PASSED


def layer_rate(function: Callable[[float, float, int, int], float]) -> str:
    """Chapter 10: `function(rate, decay, block, num_blocks)` is the step size of a block.

    Blocks are counted from 1; the layer above the last block has the whole rate.
    """
    compare(function(1.0, 0.5, 6, 6), 0.5, "the last block lies one layer below the top")
    compare(function(3e-4, 0.9, 1, 4), 3e-4 * 0.9**4, "one factor for every layer above")
    return PASSED


def numbers_kept(function: Callable[[int, int, int], int]) -> str:
    """Chapter 10: `function(rows, columns, rank)` is how many numbers a difference takes.

    As two factors of the rank where that is less than the matrix, else as the matrix.
    """
    compare(function(480, 160, 8), 8 * (480 + 160), "one factor has the rows, one the columns")
    compare(function(4, 160, 8), 640, "keep the matrix where its factors are no smaller")
    return PASSED


def blend(function: Callable[[dict, dict, float], dict]) -> str:
    """Chapter 10: `function(start, trained, share)` lies between two sets of named weights."""
    start, trained = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, -2.0])}
    answer = function(start, trained, 0.75)
    assert isinstance(answer, dict), "return the weights by name"
    assert set(answer) == {"w"}, "keep the names of the weights"
    compare(answer["w"], [2.5, -1.0], "a share of 1 is the trained encoder, of 0 the start")
    assert start["w"].tolist() == [1.0, 2.0], "the weights passed in must stay as they are"
    return PASSED


def chance_recall(function: Callable[[int, int], float]) -> str:
    """Chapter 14: `function(k, num_images)` is R@k of a random order of the gallery."""
    compare(function(10, 400), 10 / 400, "k of the places are good ones, all equally likely")
    compare(function(10, 4), 1.0, "in a gallery of fewer than k pictures none is missed")
    return PASSED


def carried_forward(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> str:
    """Chapter 14: `function(ranks, lengths)` fills each row behind its end with its last rank.

    `ranks` is `(num_queries, num_rounds)`, -1 behind the end; `lengths` `(num_queries,)`.
    """
    ranks = np.array([[4, 2, -1, -1], [9, -1, -1, -1], [7, 8, 1, 0]])
    kept = ranks.copy()
    answer = function(ranks, np.array([2, 1, 4]))
    assert np.array_equal(ranks, kept), "the ranks that were passed in must stay as they are"
    filled = [[4, 2, 2, 2], [9, 9, 9, 9], [7, 8, 1, 0]]
    compare(answer, filled, "the last rank of a dialogue is the one at its length less one")
    return PASSED


def ragged_means(function: Callable[[Tensor, list[int]], Tensor]) -> str:
    """Chapter 14: `function(view_features, counts)` averages each round's views to unit length.

    `view_features` `(num_views, dim)` lie round after round, `counts` of them each.
    """
    features = F.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    expected = [features[:1].mean(0), features[1:3].mean(0), features[3:].mean(0)]
    expected = F.normalize(torch.stack(expected), dim=1)
    hint = "split the views by their counts, take each part's mean, scale it to length 1"
    compare(function(features.clone(), [1, 2, 1]), expected, hint)
    return PASSED

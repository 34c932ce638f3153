"""Exercises of chapters 06 to 10: hallucination, ADaFuSE, DMCL."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from daitir.book.exercises.compare import PAIRS, PASSED, check_shape, compare, exercise
from daitir.fusion import ADaFuSE
from daitir.objectives import info_nce, jensen_shannon

QUERY_VIEWS, QUERY_TEXTS = F.normalize(torch.tensor(PAIRS), dim=-1)
TWINS = "leave twins out of both directions, but each row's own partner in"
EXPERTS = "average over the queries first, then the entropy in natural units, then exp"
HALVES, NULL = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.2, 0.3])
COSINES = torch.tensor([[0.6, 0.5, -0.2], [0.1, 0.2, 0.3], [0.9, -0.4, 0.7]])
P, Q = torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.1, 0.9], [0.2, 0.8]]])


@exercise(
    ({"dog", "kite", "boat"}, {"dog"},
     "of the objects that the view shows, count those that the target lacks"),
    ({"dog"}, {"dog", "kite"}, "what a view leaves out is another matter"),
    (set(), {"dog"}, "a view without objects has invented none"),
)  # fmt: skip
def chair(shown, true):
    """Chapter 06: `function(shown, true)` is the share of the shown objects that are not there."""
    return len(shown - true) / max(len(shown), 1)


@exercise(
    (0.3, 0.0, 0.0, "a perfect instrument needs no correction"),
    (0.2 * 0.9 + 0.8 * 0.05, 0.05, 0.1,
     "what is read is true and not missed, or untrue and a false alarm: solve for the truth"),
)  # fmt: skip
def corrected_rate(read, false_alarm, miss):
    """Chapter 06: `function(read, false_alarm, miss)` is the true share behind the share read."""
    return (read - false_alarm) / (1 - false_alarm - miss)


@exercise(
    (np.array([0.1, 0.4, 0.35, 0.8, 0.4]), np.array([False, False, True, True, True]),
     "compare every positive with every negative"),
    (np.ones(4), np.array([True, False, True, False]), "a tie is one half"),
)  # fmt: skip
def area_under_curve(scores, labels):
    """Chapter 06: `function(scores, labels)` is the area under the ROC curve, ties one half."""
    positive, negative = scores[labels][:, None], scores[~labels]
    return ((positive > negative) + 0.5 * (positive == negative)).mean()


@exercise(
    (3.0, 2.0, 2.5, 1.5, "effects that add up do not interact"),
    (3.0, 2.0, 2.5, 1.0, "effect of both, less the effects of each"),
)
def interaction(before, first, second, both):
    """Chapter 06: `function(before, first, second, both)` is what two repairs do beyond their sum.

    The log-ranks of a view as it is, with one repair, with the other, and with both.
    """
    return (both - before) - (first - before) - (second - before)


@exercise(
    (torch.tensor([[0.2], [0.55], [0.9]]), QUERY_TEXTS, QUERY_VIEWS, 0.1 * QUERY_TEXTS.flip(-1),
     "gate times text, the rest times view, plus the residual, scaled to length 1"),
)  # fmt: skip
def gated_query(gate, text, view, residual):
    """Chapter 07: `function(gate, text, view, residual)` is ADaFuSE's query."""
    return F.normalize(gate * text + (1 - gate) * view + residual, dim=-1)


def adafuse_parameters(function: Callable[[int, int, int, int], int]) -> str:
    """Chapter 07: `function(dim, projection_dim, hidden_dim, num_experts)` counts parameters."""
    for dim, *sizes in ((256, 512, 2048, 4), (16, 8, 12, 3)):
        names = ("projection_dim", "hidden_dim", "num_experts")
        model = ADaFuSE(dim, **dict(zip(names, sizes, strict=True)))
        expected = sum(p.numel() for p in model.parameters())
        answer = function(dim, *sizes)
        check_shape(answer, ())
        hint = "every layer has a weight for each pair and a bias; the logit scale is one more"
        assert answer == expected, f"{hint}: expected {expected:,}, got {answer:,}"
    return PASSED


@exercise(
    (torch.full((3, 4), 0.25), EXPERTS),
    (torch.eye(4)[[0, 0, 0]], "0 times log 0 is 0: one expert alone is one expert"),
    (torch.eye(4), EXPERTS),
)
def experts_in_use(router):
    """Chapter 07: `function(router)` is the exponential of the entropy of the average router."""
    return torch.special.entr(router.mean(dim=0)).sum().exp()


@exercise(
    (3, 2, "each output is a sum of one product for each input"),
    (512, 2048, "two operations a weight"),
)
def linear_flops(num_inputs, num_outputs):
    """Chapter 08: `function(num_inputs, num_outputs)` counts operations of a linear layer."""
    return 2 * num_inputs * num_outputs


@exercise(
    (0.25, NULL, "two of the four and the observed one, of five"),
    (0.9, NULL, "the observed value is a possible shuffle too"),
)
def permutation_share(observed, shuffled):
    """Chapter 08: `function(observed, shuffled)` is the share of values at least as large."""
    return (1 + (shuffled >= observed).sum()) / (1 + len(shuffled))


@exercise(
    (HALVES, HALVES, "two equal halves tell ln 2 about themselves"),
    (HALVES, np.array([0, 1, 0, 1]), "independent labels tell nothing"),
    (HALVES, np.array([0, 0, 0, 1]), "sum p(a, b) ln(p(a, b) / (p(a) p(b))), 0 where p is 0"),
)
def mutual_information(a, b):
    """Chapter 08: `function(a, b)` is the mutual information of two labellings, in nats."""
    shares = [(np.mean((a == x) & (b == y)), np.mean(a == x), np.mean(b == y))
              for x in set(a) for y in set(b)]  # fmt: skip
    return sum(joint * math.log(joint / (p * q)) for joint, p, q in shares if joint)


@exercise(
    (P, P, "the same distributions do not diverge"),
    (P, Q, "one bit is ln 2 nats; take the mean over the queries"),
)
def divergence_in_bits(p, q):
    """Chapter 09: the divergence (Jensen–Shannon) of rows `(num_queries, num_targets)`, in bits."""
    return jensen_shannon(p.log(), q.log()) / math.log(2)


@exercise(
    (QUERY_VIEWS, QUERY_TEXTS, 3.0, torch.tensor([4, 5, 6]), TWINS),
    (QUERY_VIEWS, QUERY_TEXTS, 3.0, torch.tensor([7, 7, 8]), TWINS),
)
def contrast_without_twins(a, b, logit_scale, labels):
    """Chapter 09: InfoNCE in which rows with the same label are no negatives of each other."""
    return info_nce(a, b, logit_scale, labels=labels)


@exercise(*((COSINES, k, 0.1, 0.5, "leave the diagonal out before top-k") for k in (1, 2)))
def hardest_of_rows(cosines, k, margin, temperature):
    """Chapter 09: the mean softplus over the `k` most similar negatives of each row."""
    gaps = (cosines - cosines.diag()[:, None]).fill_diagonal_(float("-inf"))
    return F.softplus((gaps.topk(k, dim=1).values + margin) / temperature).mean()


@exercise(
    (1.0, 0.5, 6, 6, "the last block lies one layer below the top"),
    (3e-4, 0.9, 1, 4, "one factor for every layer above"),
)
def layer_rate(rate, decay, block, num_blocks):
    """Chapter 10: `function(rate, decay, block, num_blocks)` is the step size of a block."""
    return rate * decay ** (num_blocks + 1 - block)


@exercise(
    (480, 160, 8, "one factor has the rows, one the columns"),
    (4, 160, 8, "keep the matrix where its factors are no smaller"),
)
def numbers_kept(rows, columns, rank):
    """Chapter 10: `function(rows, columns, rank)` is how many numbers a difference takes."""
    return min(rank * (rows + columns), rows * columns)


def blend(function: Callable[[dict, dict, float], dict]) -> str:
    """Chapter 10: `function(start, trained, share)` lies between two sets of named weights."""
    start, trained = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, -2.0])}
    answer = function(start, trained, 0.75)
    assert isinstance(answer, dict), "return the weights by name"
    assert set(answer) == {"w"}, "keep the names of the weights"
    compare(answer["w"], [2.5, -1.0], "a share of 1 is the trained encoder, of 0 the start")
    assert start["w"].tolist() == [1.0, 2.0], "the weights passed in must stay as they are"
    return PASSED

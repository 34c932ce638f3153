"""Exercises of chapters 6 to 10: hallucination, ADaFuSE, DMCL."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import mutual_info_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from daitir.book.exercises import PAIRS, PASSED, call, compare, exercise, require
from daitir.fusion import ADaFuSE
from daitir.objectives import info_nce, jensen_shannon

QUERY_VIEWS, QUERY_TEXTS = F.normalize(torch.tensor(PAIRS), dim=-1)
TWINS = "leave twins out of both directions, but each row's own partner in"
EXPERTS = "average over the queries first, then the entropy in natural units, then exp"
PARAMETERS = "every layer has a weight for each pair and a bias; the logit scale is one more"
HALVES, NULL = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.2, 0.3])
COSINES = torch.tensor([[0.6, 0.5, -0.2], [0.1, 0.2, 0.3], [0.9, -0.4, 0.7]])
P, Q = torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.1, 0.9], [0.2, 0.8]]])

# --- chapter 6 ---
chair = exercise(
    lambda shown, true: len(shown - true) / max(len(shown), 1),
    ({"dog", "kite", "boat"}, {"dog"}, "of the shown objects, count those that the target lacks"),
    ({"dog"}, {"dog", "kite"}, "what a view leaves out is another matter"),
    (set(), {"dog"}, "a view without objects has invented none"),
)

corrected_rate = exercise(
    lambda read, false_alarm, miss: (read - false_alarm) / (1 - false_alarm - miss),
    (0.3, 0.0, 0.0, "a perfect instrument needs no correction"),
    (0.2 * 0.9 + 0.8 * 0.05, 0.05, 0.1,
     "what is read is true and not missed, or untrue and a false alarm: solve for the truth"),
)  # fmt: skip

area_under_curve = exercise(
    lambda scores, labels: roc_auc_score(labels, scores),
    (np.array([0.1, 0.4, 0.35, 0.8, 0.4]), np.array([False, False, True, True, True]),
     "compare every positive with every negative"),
    (np.ones(4), np.array([True, False, True, False]), "a tie is one half"),
)  # fmt: skip

interaction = exercise(
    lambda before, first, second, both: (both - before) - (first - before) - (second - before),
    (3.0, 2.0, 2.5, 1.5, "effects that add up do not interact"),
    (3.0, 2.0, 2.5, 1.0, "effect of both, less the effects of each"),
)

# --- chapter 7 ---
gated_query = exercise(
    lambda gate, text, view, residual: F.normalize(gate * text + (1 - gate) * view + residual),
    (torch.tensor([[0.2], [0.55], [0.9]]), QUERY_TEXTS, QUERY_VIEWS, 0.1 * QUERY_TEXTS.flip(-1),
     "gate times text, the rest times view, plus the residual, scaled to length 1"),
)  # fmt: skip


def _num_parameters(dim: int, projection_dim: int, hidden_dim: int, num_experts: int) -> int:
    sizes = {"projection_dim": projection_dim, "hidden_dim": hidden_dim}
    model = ADaFuSE(dim, num_experts=num_experts, **sizes)
    return sum(weights.numel() for weights in model.parameters())


adafuse_parameters = exercise(
    _num_parameters, (256, 512, 2048, 4, PARAMETERS), (16, 8, 12, 3, PARAMETERS)
)

experts_in_use = exercise(
    lambda router: torch.special.entr(router.mean(dim=0)).sum().exp(),
    (torch.full((3, 4), 0.25), EXPERTS),
    (torch.eye(4)[[0, 0, 0]], "0 times log 0 is 0: one expert alone is one expert"),
    (torch.eye(4), EXPERTS),
)

# --- chapter 8 ---
linear_flops = exercise(
    lambda num_inputs, num_outputs: 2 * num_inputs * num_outputs,
    (3, 2, "each output is a sum of one product for each input"),
    (512, 2048, "two operations a weight"),
)

permutation_share = exercise(
    lambda observed, shuffled: (1 + (shuffled >= observed).sum()) / (1 + len(shuffled)),
    (0.25, NULL, "two of the four and the observed one, of five"),
    (0.9, NULL, "the observed value is a possible shuffle too"),
)

mutual_information = exercise(
    mutual_info_score,
    (HALVES, HALVES, "two equal halves tell ln 2 about themselves"),
    (HALVES, np.array([0, 1, 0, 1]), "independent labels tell nothing"),
    (HALVES, np.array([0, 0, 0, 1]), "sum p(a, b) ln(p(a, b) / (p(a) p(b))), 0 where p is 0"),
)

# --- chapter 9 ---
divergence_in_bits = exercise(
    lambda p, q: jensen_shannon(p.log(), q.log()) / np.log(2),
    (P, P, "the same distributions do not diverge"),
    (P, Q, "one bit is ln 2 nats; take the mean over the queries"),
)

contrast_without_twins = exercise(
    lambda a, b, logit_scale, labels: info_nce(a, b, logit_scale, labels=labels),
    (QUERY_VIEWS, QUERY_TEXTS, 3.0, torch.tensor([4, 5, 6]), TWINS),
    (QUERY_VIEWS, QUERY_TEXTS, 3.0, torch.tensor([7, 7, 8]), TWINS),
)


def _hardest_of_rows(cosines: Tensor, k: int, margin: float, temperature: float) -> Tensor:
    gaps = (cosines - cosines.diag()[:, None]).fill_diagonal_(float("-inf"))
    return F.softplus((gaps.topk(k, dim=1).values + margin) / temperature).mean()


hardest_of_rows = exercise(
    _hardest_of_rows,
    *((COSINES, k, 0.1, 0.5, "leave the diagonal out before top-k") for k in (1, 2)),
)

# --- chapter 10 ---
layer_rate = exercise(
    lambda rate, decay, block, num_blocks: rate * decay ** (num_blocks + 1 - block),
    (1.0, 0.5, 6, 6, "the last block lies one layer below the top"),
    (3e-4, 0.9, 1, 4, "one factor for every layer above"),
)

numbers_kept = exercise(
    lambda rows, columns, rank: min(rank * (rows + columns), rows * columns),
    (480, 160, 8, "one factor has the rows, one the columns"),
    (4, 160, 8, "keep the matrix where its factors are no smaller"),
)


def blend(function: Callable[[dict, dict, float], dict]) -> str:
    """Chapter 10: `function(start, trained, share)` lies between two sets of named weights."""
    start, trained = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, -2.0])}
    answer = call(function, start, trained, 0.75)
    require(isinstance(answer, dict), "return the weights by name")
    require(set(answer) == {"w"}, "keep the names of the weights")
    compare(answer["w"], [2.5, -1.0], "a share of 1 is the trained encoder, of 0 the start")
    require(start["w"].tolist() == [1.0, 2.0], "the weights passed in must stay as they are")
    return PASSED

"""Fusions that need no training, and rankings that put scores or ranks together, by name.

Views have an axis before the last where there are several of a round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.fusion import average_views, dar_fusion, dar_weights
from daitir.recipes.fusion import tuned_weights
from daitir.retrieval import first_equal, reciprocal_rank_fusion, target_ranks
from daitir.studies.engine.conditions import Condition

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench


def _single(view: Tensor, text: Tensor) -> Tensor:
    return view if view.ndim == text.ndim else average_views(view)


def _tuned(bench: Bench, text: Tensor, view: Tensor, rounds: Tensor) -> Tensor:
    """The weighted sum whose weights validation chose."""
    val = Condition("", "", queries="val")
    early, late = tuned_weights(bench.fusion_data(val), bench.query_set("val").rounds)
    weight = torch.where(rounds < 2, early, late)[..., None]
    return F.normalize((1 - weight) * text + weight * view, dim=-1)


FUSIONS: dict[str, Callable[[Bench, Tensor, Tensor, Tensor], Tensor]] = {
    "text": lambda bench, text, view, rounds: text,
    "view": lambda bench, text, view, rounds: _single(view, text),
    "dar": lambda bench, text, view, rounds: dar_fusion(text, _single(view, text), round=rounds),
    "dar_tuned": _tuned,
}


def _by_scores(text, view, gallery, targets, rounds, *, together: Callable) -> Tensor:
    """Ranks by DAR's sum of scores, where those of several views are put `together` first."""
    firsts = first_equal(gallery)  # equal pictures tie
    columns = []
    for t, (text_weight, view_weight) in enumerate(zip(*dar_weights(rounds[0]), strict=True)):
        scores = text_weight * (text[:, t] @ gallery.T)
        scores = scores + together(view_weight * (view[:, t] @ gallery.T))
        scores = scores[:, firsts]
        columns.append((scores >= scores[targets, targets][:, None]).sum(dim=1) - 1)
    return torch.stack(columns, dim=1)


RANKINGS: dict[str, Callable[..., Tensor]] = {
    "rank_fusion": lambda text, view, gallery, targets, rounds: reciprocal_rank_fusion(
        text, view, gallery, targets
    ),
    "best_of_text_and_view": lambda text, view, gallery, targets, rounds: torch.minimum(
        *(target_ranks(query, gallery, targets) for query in (text, view))
    ),
    "dar_of_scores": partial(_by_scores, together=lambda scores: scores.mean(dim=1)),
    "dar_of_best": partial(_by_scores, together=lambda scores: scores.amax(dim=1)),
}

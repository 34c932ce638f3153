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
from daitir.recipes.cast import cast_ranks
from daitir.retrieval import first_equal, reciprocal_rank_fusion, target_ranks
from daitir.studies.engine.conditions import Condition

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench


def _single(view: Tensor, text: Tensor) -> Tensor:
    return view if view.ndim == text.ndim else average_views(view)


def _rounds(bench: Bench, condition: Condition) -> Tensor:
    return torch.tensor(bench.rounds(condition))


def _dar(bench: Bench, condition: Condition, text: Tensor, view: Tensor) -> Tensor:
    return dar_fusion(text, _single(view, text), round=_rounds(bench, condition))


def _tuned(bench: Bench, condition: Condition, text: Tensor, view: Tensor) -> Tensor:
    """The weighted sum whose weights validation chose, for the encoder and the text."""
    early, late = bench.tuned_weights(condition)
    weight = torch.where(_rounds(bench, condition) < 2, early, late)[..., None]
    return F.normalize((1 - weight) * text + weight * view, dim=-1)


FUSIONS: dict[str, Callable[[Bench, Condition, Tensor, Tensor], Tensor]] = {
    "text": lambda bench, condition, text, view: text,
    "view": lambda bench, condition, text, view: _single(view, text),
    "dar": _dar,
    "dar_tuned": _tuned,
}


def by_scores(text, view, gallery, targets, rounds, *, together: Callable) -> Tensor:
    """Ranks by DAR's sum of scores, where those of several views are put `together` first."""
    firsts = first_equal(gallery)  # equal pictures tie
    columns = []
    for t, (text_weight, view_weight) in enumerate(zip(*dar_weights(rounds[0]), strict=True)):
        scores = text_weight * (text[:, t] @ gallery.T)
        scores = scores + together(view_weight * (view[:, t] @ gallery.T))
        scores = scores[:, firsts]
        columns.append((scores >= scores[targets, targets][:, None]).sum(dim=1) - 1)
    return torch.stack(columns, dim=1)


def _summed(
    bench: Bench, condition: Condition, text: Tensor, view: Tensor, *, together: Callable
) -> Tensor:
    asked = _gallery(bench, condition, text), _rounds(bench, condition)
    return by_scores(text, view, *asked[0], asked[1], together=together)


def _gallery(bench: Bench, condition: Condition, text: Tensor) -> tuple[Tensor, Tensor]:
    """The gallery's features and the places of the targets."""
    return bench.gallery_features(condition), torch.arange(len(text))


def _rank_fusion(bench: Bench, condition: Condition, text: Tensor, view: Tensor) -> Tensor:
    """Of text and view, or of two views of a round without the text, as VisRet does."""
    both = (text, view) if view.ndim == text.ndim else view.unbind(dim=2)
    return reciprocal_rank_fusion(*both, *_gallery(bench, condition, text))


def _best(bench: Bench, condition: Condition, text: Tensor, view: Tensor) -> Tensor:
    ranks = [target_ranks(q, *_gallery(bench, condition, text)) for q in (text, view)]
    return torch.minimum(*ranks)


def _cast(bench: Bench, condition: Condition, text: Tensor, view: Tensor) -> Tensor:
    """No view is used: text and gallery are moved by what the dialogue says."""
    return cast_ranks(bench.cast(condition), text, *_gallery(bench, condition, text))


RANKINGS: dict[str, Callable[[Bench, Condition, Tensor, Tensor], Tensor]] = {
    "rank_fusion": _rank_fusion,
    "best_of_text_and_view": _best,
    "dar_of_scores": partial(_summed, together=lambda scores: scores.mean(dim=1)),
    "dar_of_best": partial(_summed, together=lambda scores: scores.amax(dim=1)),
    "cast": _cast,
}

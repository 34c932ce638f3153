"""Training objectives, and the registry of those that fine-tuning can be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daitir.common.errors import DataError

DMCL_WEIGHTS = MappingProxyType({
    "text_target": 1.0, "view_target": 1.0, "fused_target": 1.0, "text_view": 0.5,
    "agreement": 0.2,
})  # fmt: skip
"""The weights of DMCL's terms (released code)."""
DMCL_TERMS = tuple(DMCL_WEIGHTS)

HARD_WEIGHT, HARD_K, HARD_MARGIN, HARD_TEMPERATURE = 0.1, 4, 0.1, 0.1


def info_nce(
    a: Tensor, b: Tensor, logit_scale: Tensor | float, *, labels: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE: each row of a must find its own row of b in the batch, and the reverse.

    ½[CE(s·a bᵀ) + CE(s·b aᵀ)] with the diagonal as labels and CE the mean cross-entropy over rows,
    in nats.

    Args:
        a, b: unit vectors `(batch, dim)`.
        logit_scale: s, a factor, not its logarithm.
        labels: integers `(batch,)`, the ids of the rows' targets: rows with the same one are no
            negatives of each other.

    Returns:
        A scalar.

    Raises:
        ValueError: other shapes or an empty batch.

    Source: CLIP (Radford et al., 2021) and `book/notation.md`, Objectives.

    With two orthogonal pairs and s = 1 each row scores 1 against 0: ln(1 + 1/e) = 0.3133.

    >>> info_nce(torch.eye(2), torch.eye(2), 1.0)
    tensor(0.3133)
    """
    _check_rows("a and b", a, b, "dim")
    logits = logit_scale * a @ b.T
    if labels is not None:
        if labels.shape != a.shape[:1]:
            raise ValueError(f"labels must be of shape ({len(a)},), not {tuple(labels.shape)}")
        same = labels[:, None] == labels
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    diagonal = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2


def hard_negative_loss(similarity: Tensor, *, labels: Tensor | None = None) -> Tensor:
    """Softplus of how close the hardest negatives of a batch come to the positive.

    The mean of softplus((s_neg - s_pos + HARD_MARGIN) / HARD_TEMPERATURE) over the `HARD_K` most
    similar negatives of each row, averaged over both directions. `similarity` `(batch, batch)` are
    cosines with the pairs on the diagonal; `labels` are as in `info_nce`. Rows with fewer negatives
    use all they have. DMCL (released code), equation `eq-hard`. Raises ValueError for another shape
    or a batch without any negative.

    >>> hard_negative_loss(torch.tensor([[0.6, 0.5], [0.5, 0.6]]))
    tensor(0.6931)
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be (batch, batch), not {tuple(similarity.shape)}")
    negative = ~torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    if labels is not None:
        negative &= labels[:, None] != labels
    if not negative.any():
        raise ValueError("the batch holds no negative; use more than one target")
    terms = []
    for scores in (similarity, similarity.T):
        scores_of_negatives = scores.masked_fill(~negative, float("-inf"))
        hardest, indices = scores_of_negatives.topk(min(HARD_K, len(scores)))
        excess = hardest - scores.diagonal()[:, None] + HARD_MARGIN
        losses = F.softplus(excess / HARD_TEMPERATURE)
        terms.append(losses[negative.gather(1, indices)].mean())
    return (terms[0] + terms[1]) / 2


def jensen_shannon(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Mean Jensen–Shannon divergence of the softmaxes of two sets of logits, in nats.

    Both are `(batch, num_classes)`; the result is a scalar between 0 and ln 2. Raises ValueError
    for two shapes or an empty batch.

    >>> jensen_shannon(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]))
    tensor(0.6931)
    """
    _check_rows("the logits", logits_p, logits_q, "num_classes")
    log_p, log_q = logits_p.log_softmax(dim=-1), logits_q.log_softmax(dim=-1)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    divergences = [
        F.kl_div(log_mean, log, reduction="batchmean", log_target=True) for log in (log_p, log_q)
    ]
    return (divergences[0] + divergences[1]) / 2


def _check_rows(names: str, a: Tensor, b: Tensor, columns: str) -> None:
    if a.ndim != 2 or a.shape != b.shape or len(a) == 0:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"{names} must both be (batch, {columns}) and not empty, not {shapes}")


class Objective(nn.Module):
    """What fine-tuning minimises; a new one is a subclass, known by `register_objective`."""

    terms: tuple[str, ...]  # what the loss is made of, each a column of the training's log
    needs_views = True  # whether the loss looks at views

    def forward(
        self,
        text_features: Tensor,
        view_features: Tensor | None,
        target_features: Tensor,
        logit_scale: Tensor | float,
        *,
        labels: Tensor | None = None,
        view_rows: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and its terms by name.

        Args:
            text_features, target_features: `(batch, dim)`, unit vectors.
            view_features: `(batch, dim)`, unit vectors; None where no view is needed.
            logit_scale: a factor, not its logarithm.
            labels: `(batch,)`, ids of the targets; rows with the same are no negatives of each
                other.
            view_rows: `(num_views,)`, where only these rows have a view: `view_features` are then
                `(num_views, dim)`.
        """
        raise NotImplementedError

    def logged(self) -> dict[str, Tensor]:
        """What the log gets beside the loss and its terms."""
        return {}


class DMCLLoss(Objective):
    """DMCL's objective: text, view and their sum find the target, and the two views agree.

    Equation `eq-dmcl` of `book/notation.md`; DMCL (arXiv 2601.20391, released code).

    Args:
        weights: of the terms named in `DMCL_WEIGHTS`; those that are left out are 0.
        hard_negatives: add `HARD_WEIGHT` times `hard_negative_loss` to the three terms with the
            target.
        learnable_weights: train the weights through a softplus, as the released code does. Nothing
            keeps them from growing on the smallest term.

    Raises ValueError for an unknown term, a negative weight, or weights that are all 0.
    """

    fixed_weights: Tensor
    raw_weights: nn.Parameter

    def __init__(
        self,
        *,
        weights: Mapping[str, float] = DMCL_WEIGHTS,
        hard_negatives: bool = False,
        learnable_weights: bool = False,
    ):
        super().__init__()
        unknown = sorted(set(weights) - set(DMCL_WEIGHTS))
        if unknown:
            raise ValueError(f"unknown terms {unknown}; choose among {', '.join(DMCL_TERMS)}")
        chosen = torch.tensor([float(weights.get(name, 0.0)) for name in DMCL_TERMS])
        if (chosen < 0).any() or not chosen.any():
            raise ValueError("the weights must not be negative, nor all 0")
        self.hard_negatives, self.learnable_weights = hard_negatives, learnable_weights
        self.needs_views = learnable_weights or bool(chosen[1:].any())
        self.terms = DMCL_TERMS if self.needs_views else DMCL_TERMS[:1]
        if learnable_weights:
            # The inverse of softplus, so that training starts at the given weights.
            self.raw_weights = nn.Parameter(torch.log(torch.expm1(chosen.clamp(min=1e-6))))
        else:
            self.register_buffer("fixed_weights", chosen)

    @classmethod
    def of(cls, settings: Any) -> DMCLLoss:
        """The objective of a recipe: its `terms`, None for all, with their published weights."""
        terms = DMCL_TERMS if settings.terms is None else settings.terms
        return cls(
            weights={name: DMCL_WEIGHTS.get(name, 0.0) for name in terms},
            hard_negatives=settings.hard_negatives,
            learnable_weights=settings.learnable_weights,
        )

    @property
    def weights(self) -> Tensor:
        """The weights in force, `(num_terms,)`, in the order of `DMCL_TERMS`."""
        return F.softplus(self.raw_weights) if self.learnable_weights else self.fixed_weights

    def logged(self) -> dict[str, Tensor]:
        """The share of each weight, where they are trained."""
        if not self.learnable_weights:
            return {}
        shares = self.weights / self.weights.sum()
        return {f"weight_{name}": share for name, share in zip(DMCL_TERMS, shares, strict=True)}

    def forward(
        self,
        text_features: Tensor,
        view_features: Tensor | None,
        target_features: Tensor,
        logit_scale: Tensor | float,
        *,
        labels: Tensor | None = None,
        view_rows: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted mean of the terms, and each term by name; arguments as in `Objective`.

        Without views, for which `text_target` alone must have a weight, the other terms are
        missing. With `view_rows`, `text_target` is over the whole batch and each other term over
        those rows; where there are none, `text_target` is the loss. Raises ValueError for views
        that are needed, and as `info_nce` does.
        """

        def to_target(query_features: Tensor) -> Tensor:  # below, of the rows that have a view
            loss = info_nce(query_features, target_features, logit_scale, labels=labels)
            if self.hard_negatives:
                similarity = query_features @ target_features.T
                loss = loss + HARD_WEIGHT * hard_negative_loss(similarity, labels=labels)
            return loss

        text_target = to_target(text_features)
        terms = {"text_target": text_target}
        if view_rows is not None and len(view_rows) == 0:
            return text_target * (self.weights[0] > 0), terms
        if view_features is None:
            if self.needs_views:
                raise ValueError("the views are missing; only text_target alone needs none")
            return text_target, terms
        if view_rows is not None:
            text_features, target_features = text_features[view_rows], target_features[view_rows]
            labels = None if labels is None else labels[view_rows]
        terms["view_target"] = to_target(view_features)
        terms["fused_target"] = to_target(F.normalize(text_features + view_features, dim=-1))
        terms["text_view"] = info_nce(text_features, view_features, logit_scale, labels=labels)
        terms["agreement"] = jensen_shannon(
            logit_scale * text_features @ target_features.T,
            logit_scale * view_features @ target_features.T,
        )
        values = torch.stack([terms[name] for name in DMCL_TERMS])
        weights = self.weights.to(values)
        return (weights * values).sum() / weights.sum(), terms


OBJECTIVES: dict[str, Callable[[Any], Objective]] = {"dmcl": DMCLLoss.of}
"""The objective of each name that a recipe can give, built from that recipe."""


def register_objective(name: str, build: Callable[[Any], Objective]) -> None:
    """Let recipes name an objective; `build` makes it from the `EncoderRecipe` that names it."""
    OBJECTIVES[name] = build


def build_objective(recipe: Any) -> Objective:
    """The objective that a recipe names.

    Raises DataError for an unknown objective, and for terms or settings that it refuses.
    """
    if recipe.objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise DataError(f"unknown objective {recipe.objective!r}; choose one of {known}")
    try:
        return OBJECTIVES[recipe.objective](recipe)
    except ValueError as error:
        raise DataError(f"objective {recipe.objective}: {error}") from error

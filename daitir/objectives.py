"""Training objectives."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DMCL_WEIGHTS = MappingProxyType(
    {
        "text_target": 1.0,
        "view_target": 1.0,
        "fused_target": 1.0,
        "text_view": 0.5,
        "agreement": 0.2,
    }
)
"""The weights of DMCL's terms (released code)."""

HARD_WEIGHT, HARD_K, HARD_MARGIN, HARD_TEMPERATURE = 0.1, 4, 0.1, 0.1


def info_nce(
    a: Tensor, b: Tensor, logit_scale: Tensor | float, *, labels: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE: each row of a must find its own row of b in the batch, and the reverse.

    ½[CE(s·a bᵀ) + CE(s·b aᵀ)] with the diagonal as labels and CE the mean cross-entropy over rows,
    in nats.

    Args:
        a: unit vectors `(batch, dim)`.
        b: unit vectors `(batch, dim)`.
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
    if a.ndim != 2 or a.shape != b.shape or len(a) == 0:
        raise ValueError(
            f"a and b must both be (batch, dim) and not empty, not {tuple(a.shape)} "
            f"and {tuple(b.shape)}"
        )
    logits = logit_scale * a @ b.T
    if labels is not None:
        if labels.shape != a.shape[:1]:
            raise ValueError(f"labels must be of shape ({len(a)},), not {tuple(labels.shape)}")
        same = labels[:, None] == labels
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    diagonal = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2


def hard_negative_loss(
    similarity: Tensor,
    *,
    k: int = HARD_K,
    margin: float = HARD_MARGIN,
    temperature: float = HARD_TEMPERATURE,
    labels: Tensor | None = None,
) -> Tensor:
    """Softplus of how close the hardest negatives of a batch come to the positive.

    The mean of softplus((s_neg - s_pos + margin) / temperature) over the `k` most similar negatives
    of each row, averaged over both directions. `similarity` `(batch, batch)` are cosines with the
    pairs on the diagonal; `labels` are as in `info_nce`. Rows with fewer than `k` negatives use
    all they have. DMCL (released code), equation `eq-hard`. Raises ValueError for another shape,
    k below 1 or a batch without any negative.

    >>> hard_negative_loss(torch.eye(2), k=1, margin=1.0, temperature=1.0)
    tensor(0.6931)
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be (batch, batch), not {tuple(similarity.shape)}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    negative = ~torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    if labels is not None:
        negative &= labels[:, None] != labels
    if not negative.any():
        raise ValueError("the batch holds no negative; use more than one target")
    terms = []
    for scores in (similarity, similarity.T):
        hardest, found = scores.masked_fill(~negative, float("-inf")).topk(min(k, len(scores)))
        losses = F.softplus((hardest - scores.diagonal()[:, None] + margin) / temperature)
        terms.append(losses[negative.gather(1, found)].mean())
    return (terms[0] + terms[1]) / 2


def jensen_shannon(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Mean Jensen–Shannon divergence of the softmaxes of two sets of logits, in nats.

    Both are `(batch, num_classes)`; the result is a scalar between 0 and ln 2. Raises ValueError
    for two shapes or an empty batch.

    >>> jensen_shannon(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]))
    tensor(0.6931)
    """
    if logits_p.ndim != 2 or logits_p.shape != logits_q.shape or len(logits_p) == 0:
        raise ValueError(
            f"the logits must both be (batch, num_classes) and not empty, not "
            f"{tuple(logits_p.shape)} and {tuple(logits_q.shape)}"
        )
    log_p, log_q = logits_p.log_softmax(dim=-1), logits_q.log_softmax(dim=-1)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    divergences = [
        F.kl_div(log_mean, log, reduction="batchmean", log_target=True) for log in (log_p, log_q)
    ]
    return (divergences[0] + divergences[1]) / 2


class DMCLLoss(nn.Module):
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
            raise ValueError(f"unknown terms {unknown}; choose among {', '.join(DMCL_WEIGHTS)}")
        chosen = torch.tensor([float(weights.get(name, 0.0)) for name in DMCL_WEIGHTS])
        if (chosen < 0).any() or not chosen.any():
            raise ValueError("the weights must not be negative, nor all 0")
        self.hard_negatives, self.learnable_weights = hard_negatives, learnable_weights
        if learnable_weights:
            # The inverse of softplus, so that training starts at the given weights.
            self.raw_weights = nn.Parameter(torch.log(torch.expm1(chosen.clamp(min=1e-6))))
        else:
            self.register_buffer("fixed_weights", chosen)

    @property
    def weights(self) -> Tensor:
        """The weights in force, `(num_terms,)`, in the order of `DMCL_WEIGHTS`."""
        return F.softplus(self.raw_weights) if self.learnable_weights else self.fixed_weights

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
        """The weighted mean of the terms, and each term by name.

        The features `(batch, dim)` are unit vectors, `logit_scale` is a factor; rows with the same
        integer in `labels` `(batch,)`, the ids of their targets, are no negatives of each other.
        `view_features` may be None where only `text_target` has a weight; the other terms are then
        missing. Where only some rows have a view, `view_rows` `(num_views,)` are their indices and
        `view_features` `(num_views, dim)` theirs: `text_target` is over the whole batch, each other
        term over those rows, and where there are none `text_target` is the loss. Raises ValueError
        for views that are needed, and as `info_nce` does.
        """
        if view_features is None and view_rows is None:
            if (
                self.learnable_weights
                or self.fixed_weights.count_nonzero() > 1
                or not self.fixed_weights[0]
            ):
                raise ValueError("the views are missing; only text_target alone needs none")
            loss = self._to_target(text_features, target_features, logit_scale, labels)
            return loss, {"text_target": loss}
        text_target = self._to_target(text_features, target_features, logit_scale, labels)
        terms = {"text_target": text_target}
        if view_rows is not None:
            if len(view_rows) == 0:
                return text_target * (self.weights[0] > 0), terms
            text_features, target_features = text_features[view_rows], target_features[view_rows]
            labels = None if labels is None else labels[view_rows]
        if view_features is None:
            raise ValueError("view_rows tells which rows have a view; their features are missing")
        fused_features = F.normalize(text_features + view_features, dim=-1)
        for name, query in (("view", view_features), ("fused", fused_features)):
            found = self._to_target(query, target_features, logit_scale, labels)
            terms[f"{name}_target"] = found
        terms["text_view"] = info_nce(text_features, view_features, logit_scale, labels=labels)
        terms["agreement"] = jensen_shannon(
            logit_scale * text_features @ target_features.T,
            logit_scale * view_features @ target_features.T,
        )
        values = torch.stack([terms[name] for name in DMCL_WEIGHTS])
        weights = self.weights.to(values)
        return (weights * values).sum() / weights.sum(), terms

    def _to_target(
        self,
        query_features: Tensor,
        target_features: Tensor,
        logit_scale: Tensor | float,
        labels: Tensor | None,
    ) -> Tensor:
        """InfoNCE of queries with their targets, with hard negatives where they are asked for."""
        loss = info_nce(query_features, target_features, logit_scale, labels=labels)
        if self.hard_negatives:
            similarity = query_features @ target_features.T
            loss = loss + HARD_WEIGHT * hard_negative_loss(similarity, labels=labels)
        return loss

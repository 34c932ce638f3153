"""Fuse the text view and the generated view of a round into one query: fixed and trained rules."""

from __future__ import annotations

import math
import operator
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daitir.common.errors import DataError
from daitir.objectives import info_nce

UNIT_TOLERANCE = 1e-2  # half-precision features are this far from unit norm


def dar_weights(round: int | Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """Weights of text and view in DAR: 0.8 and 0.2 at rounds 0 and 1, one half each from round 2.

    An integer gives two floats, an integer tensor two tensors of its shape. DAR (arXiv
    2501.15379, released code). Raises ValueError for a negative round, TypeError for no integer.

    >>> dar_weights(1), dar_weights(2)
    ((0.8, 0.2), (0.5, 0.5))
    """
    if isinstance(round, Tensor):
        if round.dtype == torch.bool or round.is_floating_point() or round.is_complex():
            raise TypeError(f"round must be an integer tensor, not {round.dtype}")
        if (round < 0).any():
            raise ValueError(f"rounds are counted from 0; the lowest here is {int(round.min())}")
        early = round < 2
        return torch.where(early, 0.8, 0.5), torch.where(early, 0.2, 0.5)
    if operator.index(round) < 0:
        raise ValueError(f"rounds are counted from 0, not {round}")
    return (0.8, 0.2) if round < 2 else (0.5, 0.5)


def dar_fusion(text_features: Tensor, view_features: Tensor, *, round: int | Tensor) -> Tensor:
    """DAR's query: the weighted sum of text and view features, scaled to unit norm.

    Ranking by it is ranking by the weighted sum of the two scores.

    Args:
        text_features: unit vectors `(..., dim)`.
        view_features: unit vectors of the same shape.
        round: counted from 0; an integer tensor broadcasts to the features' shape without dim, as
            `torch.arange(num_rounds)` does for `(num_queries, num_rounds, dim)`.

    Returns:
        Unit vectors `(..., dim)`.

    Raises:
        ValueError, TypeError: two shapes, vectors that cancel out or are no unit vectors, such as a
            missing view filled with zeros, and as `dar_weights`.

    Source: DAR (arXiv 2501.15379, released code).

    >>> text, view = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> dar_fusion(text, view, round=2)
    tensor([0.7071, 0.7071])
    """
    _check_pair(text_features, view_features)
    text_weight, view_weight = dar_weights(round)
    if isinstance(round, Tensor):
        shape = text_features.shape[:-1]
        try:
            round.expand(shape)
        except RuntimeError as error:
            line = f"round {tuple(round.shape)} does not broadcast to {tuple(shape)}"
            raise ValueError(line) from error
        text_weight = torch.as_tensor(text_weight).to(text_features)[..., None]
        view_weight = torch.as_tensor(view_weight).to(view_features)[..., None]
    fused = text_weight * text_features + view_weight * view_features
    return _direction(fused, "a text and a view cancel out: their weighted sum")


def average_views(view_features: Tensor) -> Tensor:
    """One view feature `(..., dim)` out of several `(..., num_views, dim)`: their mean's direction.

    Raises ValueError for vectors that are not unit vectors or whose mean has no direction.

    >>> average_views(torch.eye(2))
    tensor([0.7071, 0.7071])
    """
    _check_unit("view_features", view_features)
    return _direction(view_features.mean(dim=-2), "the views of a round cancel out: their mean")


def remembered_views(view_features: Tensor, *, decay: float) -> Tensor:
    """Each round's view together with the earlier ones: a decaying mean, scaled to unit norm.

    `view_features` `(..., num_rounds, dim)` are unit vectors in the order of their rounds. Round t
    of the result, of the same shape, has the direction of the sum of decay^(t − s) times the view
    of round s over all s up to t. Raises ValueError for a decay outside [0, 1], vectors that are no
    unit vectors or that cancel out.

    >>> remembered_views(torch.eye(2), decay=1)[1]
    tensor([0.7071, 0.7071])
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is between 0 and 1, not {decay}")
    _check_unit("view_features", view_features)
    sums = [view_features[..., 0, :]]
    for view in view_features.unbind(dim=-2)[1:]:
        sums.append(decay * sums[-1] + view)
    return _direction(torch.stack(sums, dim=-2), "the views so far cancel out: their mean")


def first_logit_scale() -> nn.Parameter:
    """The logarithm of the logit scale that every fusion starts with, 50."""
    return nn.Parameter(torch.tensor(math.log(50.0)))


Fused = tuple[Tensor, dict[str, Tensor]]  # fused features, and how they were made, by name


class Fusion(nn.Module):
    """A trained fusion; a new one is a subclass, known by `register_fusion`.

    It is built from the length of the features, `dim`, and the sizes of a recipe that it names as
    arguments, and has a `logit_scale`, as `first_logit_scale` makes it.
    """

    logit_scale: nn.Parameter

    def forward(self, text_features: Tensor, view_features: Tensor) -> Fused:
        """The fused query and how it was made.

        Args:
            text_features, view_features: `(..., dim)`, unit vectors.

        Returns:
            The fused features `(..., dim)`, of unit norm, and details by name: `gate`, the weight
            of the text `(..., 1)` or of each dimension `(..., dim)`, where there is one, and
            `router` `(..., num_experts)`, probabilities.

        Raises ValueError for two shapes, or vectors that are not of unit norm.
        """
        raise NotImplementedError

    def training_loss(
        self, text: Tensor, view: Tensor, target: Tensor, *, labels: Tensor | None = None
    ) -> Tensor:
        """`info_nce` of the fused query with its target and of `more_pairs`: all `(batch, dim)`."""
        scale = self.logit_scale.exp()
        pairs = [(self(text, view)[0], target), *self.more_pairs(text, view, target)]
        losses = (info_nce(a, b, scale, labels=labels) for a, b in pairs)
        return sum(losses, start=scale.new_zeros(()))

    def more_pairs(self, text: Tensor, view: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pairs that training contrasts beside the fused query and its target."""
        return []


class ADaFuSE(Fusion):
    """Adaptive fusion: a gate weighs text and view, a mixture of experts adds what is missing.

    Equation `eq-adafuse` of `book/notation.md`; ADaFuSE (arXiv 2603.21886, released code). Every
    linear layer has a bias, and the router is dense: no expert is left out.

    Args:
        dim: length of the features.
        projection_dim: length of each projected feature.
        hidden_dim: width of the gate and the experts; the router has a quarter of it.
        num_experts: number of experts.
        dropout: probability of dropout.
        use_gate: without it both features weigh one half, as in DAR.
        use_residual: without it no expert adds anything and the query lies between the two.

    >>> sum(p.numel() for p in ADaFuSE(256).parameters())
    11812614
    """

    def __init__(
        self,
        dim: int,
        *,
        projection_dim: int = 512,
        hidden_dim: int = 2048,
        num_experts: int = 4,
        dropout: float = 0.2,
        use_gate: bool = True,
        use_residual: bool = True,
    ):
        super().__init__()
        self.use_gate, self.use_residual = use_gate, use_residual
        joint_dim = 2 * projection_dim
        self.text_projection = nn.Linear(dim, projection_dim)
        self.view_projection = nn.Linear(dim, projection_dim)
        self.gate = _two_layers(joint_dim, hidden_dim, 1, dropout)
        self.experts = nn.ModuleList(nn.Linear(joint_dim, hidden_dim) for _ in range(num_experts))
        self.router = nn.Sequential(
            nn.Linear(joint_dim, hidden_dim // 4),
            nn.GELU(),
            nn.Linear(hidden_dim // 4, num_experts),
        )
        self.output = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.logit_scale = first_logit_scale()

    def forward(self, text_features: Tensor, view_features: Tensor) -> Fused:
        """As in `Fusion`, with `gate` `(..., 1)` and `router`."""
        _check_pair(text_features, view_features)
        projected = [self.text_projection(text_features), self.view_projection(view_features)]
        joint = self.dropout(F.gelu(torch.cat(projected, dim=-1)))
        gate = self.gate(joint).sigmoid()
        if not self.use_gate:
            gate = torch.full_like(gate, 0.5)
        fused = gate * text_features + (1 - gate) * view_features
        router = self.router(joint).softmax(dim=-1)
        if self.use_residual:
            experts = torch.stack([expert(joint) for expert in self.experts], dim=-2)
            mixture = (router[..., None] * self.dropout(F.gelu(experts))).sum(dim=-2)
            fused = fused + self.dropout(self.output(mixture))
        return F.normalize(fused, dim=-1), {"gate": gate, "router": router}


class NRGR(Fusion):
    """The text as anchor plus a gated part of the view that is orthogonal to it.

    Equation `eq-nrgr` of `book/notation.md`; released code. Each dimension has a gate of its own.

    Args:
        dim: length of the features.
        hidden_dim: width of the experts, as published max(256, 4 * `dim`) where it is None; the
            router is as wide, but no wider than max(256, `dim`).
        num_experts: number of experts.
    """

    def __init__(self, dim: int, *, hidden_dim: int | None = None, num_experts: int = 8):
        super().__init__()
        width = hidden_dim or max(256, 4 * dim)

        def block(hidden: int, out: int) -> nn.Sequential:
            return nn.Sequential(
                nn.LayerNorm(2 * dim),
                nn.Linear(2 * dim, hidden),
                nn.GELU(),
                nn.Dropout(0.2),
                nn.LayerNorm(hidden),
                nn.Linear(hidden, out),
            )

        self.experts = nn.ModuleList(block(width, dim) for _ in range(num_experts))
        self.router = block(min(width, max(256, dim)), num_experts)
        self.logit_scale = first_logit_scale()
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        for expert in self.experts:
            nn.init.constant_(expert.get_parameter("5.bias"), -2.0)

    def forward(self, text_features: Tensor, view_features: Tensor) -> Fused:
        """As in `Fusion`, with `router` and the share of each dimension that enters, `gate`."""
        _check_pair(text_features, view_features)
        agreement = (text_features * view_features).sum(dim=-1, keepdim=True)
        residual = view_features - agreement * text_features
        joint = torch.cat([text_features, residual], dim=-1)
        router = self.router(joint).softmax(dim=-1)
        experts = torch.stack([expert(joint) for expert in self.experts], dim=-2)
        gate = (router[..., None] * experts).sum(dim=-2).sigmoid()
        fused = F.normalize(text_features + gate * residual, dim=-1)
        return fused, {"gate": gate, "router": router}

    def more_pairs(self, text: Tensor, view: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Three, as published."""
        return [(view, target), (text, target), (view, text)]


class ScalarGate(Fusion):
    """The least that can be learned: one weight of the text, the same for every query."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))
        self.logit_scale = first_logit_scale()

    def forward(self, text_features: Tensor, view_features: Tensor) -> Fused:
        """As in `Fusion`, with `gate` `(..., 1)`."""
        _check_pair(text_features, view_features)
        gate = self.logit.sigmoid().expand(*text_features.shape[:-1], 1)
        fused = gate * text_features + (1 - gate) * view_features
        return F.normalize(fused, dim=-1), {"gate": gate}


class CosineGate(Fusion):
    """A weight of the text that is a logistic function of the cosine of text and view."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.logistic = nn.Linear(1, 1)
        nn.init.zeros_(self.logistic.weight)  # one half each, as DAR has it
        nn.init.zeros_(self.logistic.bias)
        self.logit_scale = first_logit_scale()

    def forward(self, text_features: Tensor, view_features: Tensor) -> Fused:
        """As in `Fusion`, with `gate` `(..., 1)`."""
        _check_pair(text_features, view_features)
        agreement = (text_features * view_features).sum(dim=-1, keepdim=True)
        gate = self.logistic(agreement).sigmoid()
        fused = gate * text_features + (1 - gate) * view_features
        return F.normalize(fused, dim=-1), {"gate": gate}


class ConcatMLP(Fusion):
    """Both features, side by side, through two layers, `hidden_dim` wide: no gate, no sum."""

    def __init__(self, dim: int, *, hidden_dim: int, dropout: float = 0.2):
        super().__init__()
        self.layers = _two_layers(2 * dim, hidden_dim, dim, dropout)
        self.logit_scale = first_logit_scale()

    def forward(self, text_features: Tensor, view_features: Tensor) -> Fused:
        """As in `Fusion`, without details."""
        _check_pair(text_features, view_features)
        fused = self.layers(torch.cat([text_features, view_features], dim=-1))
        return F.normalize(fused, dim=-1), {}


TRAINED_FUSIONS: dict[str, type[Fusion]] = {
    "scalar_gate": ScalarGate,
    "cosine_gate": CosineGate,
    "concat_mlp": ConcatMLP,
    "nrgr": NRGR,
    "adafuse": ADaFuSE,
}
"""The trained fusion of each name; `daitir train NAME` trains it."""


def register_fusion(name: str, fusion: type[Fusion]) -> None:
    """Let recipes, `daitir train` and `--fusion` name a fusion."""
    TRAINED_FUSIONS[name] = fusion


def build_fusion(dim: int, recipe: Any) -> Fusion:
    """An untrained fusion of features of length `dim`; DataError for an unknown one.

    `recipe.kind` names one of `TRAINED_FUSIONS`, which gets those of the other attributes that its
    arguments name (`daitir.recipes.settings.FusionRecipe`).
    """
    if recipe.kind not in TRAINED_FUSIONS:
        raise DataError(f"unknown fusion {recipe.kind!r}; choose of {', '.join(TRAINED_FUSIONS)}")
    kind = TRAINED_FUSIONS[recipe.kind]
    sizes = {n: getattr(recipe, n) for n in signature(kind).parameters if hasattr(recipe, n)}
    return kind(dim, **sizes)


def fuse_views(fusion: Fusion, text_features: Tensor, view_features: Tensor) -> Fused:
    """A text with several views: each is fused by itself, with its own gate, and then averaged.

    `text_features` `(..., dim)` and `view_features` `(..., num_views, dim)` are unit vectors, and
    so is the result, `(..., dim)`; details have the axis of views. Raises ValueError as the fusion.
    """
    texts = text_features.unsqueeze(-2).expand_as(view_features)
    fused, details = fusion(texts, view_features)
    return average_views(fused), details


def not_unit(features: Tensor) -> Tensor:
    """Which of `(..., dim)` vectors are not of unit norm, NaN among them: `(...)`."""
    return ~((features.norm(dim=-1) - 1).abs() <= UNIT_TOLERANCE)


def _two_layers(dim: int, hidden_dim: int, out_dim: int, dropout: float) -> nn.Sequential:
    first, last = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, out_dim)
    return nn.Sequential(first, nn.GELU(), nn.Dropout(dropout), last)


def _direction(sums: Tensor, what: str) -> Tensor:
    """Sums of unit vectors scaled to unit norm; `what` names them where one is 0."""
    if (sums == 0).all(dim=-1).any():
        raise ValueError(f"{what} has no direction")
    return F.normalize(sums, dim=-1)


def _check_pair(text_features: Tensor, view_features: Tensor) -> None:
    text, view = tuple(text_features.shape), tuple(view_features.shape)
    if text != view:
        raise ValueError(f"text_features {text} and view_features {view} must have one shape")
    _check_unit("text_features", text_features)
    _check_unit("view_features", view_features)


def _check_unit(name: str, features: Tensor) -> None:
    bad = not_unit(features)
    if bad.any():
        raise ValueError(f"{name} must be unit vectors; {int(bad.sum())} of {bad.numel()} are not")

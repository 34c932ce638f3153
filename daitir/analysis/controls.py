"""Controls: stand-ins for a view that tell apart why adding it changes a rank.

A view can move the target by what it shows, or merely by moving the query. A stand-in that knows
nothing of the target moves the query as well, so what it does to the ranks is no merit and no fault
of what views show.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def placebo_views(view_features: Tensor) -> Tensor:
    """Every dialogue with the views of another one, round by round: real views, of other targets.

    `(num_queries, num_rounds, dim)` in and out. Raises ValueError for fewer than two queries.

    >>> placebo_views(torch.tensor([[[1.0]], [[2.0]], [[3.0]]])).flatten().tolist()
    [3.0, 1.0, 2.0]
    """
    if len(view_features) < 2:
        raise ValueError("a placebo is the view of another query; there must be at least two")
    return view_features.roll(1, dims=0)


def noise_views(text_features: Tensor, view_features: Tensor, *, seed: int) -> Tensor:
    """Random unit vectors that are as far from each text as its view is, all (..., dim).

    With c the cosine of text and view, the stand-in is c of the text and sqrt(1 - c²) of a random
    unit vector orthogonal to it, drawn anew for each query and round. A sum of text and stand-in
    then moves as far from the text as that of text and view.
    """
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(text_features.shape, generator=generator).to(text_features)
    cosine = (text_features * view_features).sum(dim=-1, keepdim=True).clamp(-1, 1)
    along = (random * text_features).sum(dim=-1, keepdim=True)
    across = F.normalize(random - along * text_features, dim=-1)
    return F.normalize(cosine * text_features + (1 - cosine.square()).sqrt() * across, dim=-1)

"""Training objectives."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    a: Tensor, b: Tensor, logit_scale: Tensor | float, *, labels: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE: each row of a must find its own row of b in the batch, and the reverse.

    ½[CE(s·a bᵀ) + CE(s·b aᵀ)] with the diagonal as labels, s the logit scale (a factor, not its
    logarithm) and CE the mean cross-entropy over rows, in nats. `a` and `b` `(batch, dim)` are
    unit vectors; the result is a scalar. Rows with the same integer in `labels` `(batch,)`, the
    ids of their targets, are no negatives of each other. CLIP (Radford et al., 2021) and
    `book/notation.md`, Objectives. Raises ValueError for other shapes or an empty batch.

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

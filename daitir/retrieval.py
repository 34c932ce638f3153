"""Rank targets in a gallery by the inner product of features."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = 64 * 2**20  # scores held at once
MIN_CHUNK_ROWS = 16  # thinner products round otherwise, and a query alone as among others
ROUNDED = 1 - 2**-50  # two sums of two fractions in double precision that differ by less are equal
MAX_GALLERY = 2**24  # counts are summed in float32, which is exact up to here


@torch.no_grad()
def target_ranks(
    query_features: Tensor,
    gallery_features: Tensor,
    target_indices: Tensor,
) -> Tensor:
    """Rank of each query's target: how many other gallery images score at least as high.

    Ties count against the query, so that a collapsed encoder ranks last, not first; equal rows of
    the gallery always tie, and equal queries rank a target alike, however products are rounded.
    The gallery is never sorted. Half-precision features are scored in float32.

    Args:
        query_features: `(num_queries, dim)` or `(num_queries, num_rounds, dim)`.
        gallery_features: `(num_images, dim)`.
        target_indices: `(num_queries,)`, places in the gallery.

    Returns:
        int64 ranks, counted from 0: `(num_queries,)` or `(num_queries, num_rounds)`.

    Raises:
        ValueError, TypeError: shapes that do not fit, an empty input, NaN or infinite features, or
            targets outside the gallery.

    Source: `book/notation.md`, Ranks.

    >>> gallery = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> target_ranks(torch.tensor([[0.8, 0.6], [0.0, 1.0]]), gallery, torch.tensor([0, 2]))
    tensor([1, 0])
    """

    def count(scores: Tensor, targets: Tensor) -> Tensor:
        target_scores = scores.gather(1, targets)
        # Written over the scores as 0.0 and 1.0: summing floats is twice as fast as booleans.
        return torch.ge(scores, target_scores, out=scores).sum(dim=1)

    return _ranks([query_features], gallery_features, target_indices, count)


@torch.no_grad()
def reciprocal_rank_fusion(
    text_features: Tensor,
    view_features: Tensor,
    gallery_features: Tensor,
    target_indices: Tensor,
) -> Tensor:
    """Ranks of targets where each image scores 1 / (60 + place) in both rankings, summed.

    An image's place is the number of images that score at least as high, itself included: places
    count from 1, and images that tie share the last of their places. Ties in the sum, which is
    taken in double precision, count against the query.

    Args:
        text_features: `(num_queries, dim)` or `(num_queries, num_rounds, dim)`.
        view_features: of the same shape.
        gallery_features: `(num_images, dim)`.
        target_indices: `(num_queries,)`, places in the gallery.

    Returns:
        int64 ranks, counted from 0: `(num_queries,)` or `(num_queries, num_rounds)`.

    Raises:
        ValueError, TypeError: texts and views of two shapes, and as `target_ranks`.

    Source: Cormack et al. (2009).

    >>> gallery = torch.eye(3)
    >>> text, view = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[0.1, 0.9, 0.5]])
    >>> reciprocal_rank_fusion(text, view, gallery, torch.tensor([1]))
    tensor([0])
    """
    texts, views = tuple(text_features.shape), tuple(view_features.shape)
    if texts != views:
        raise ValueError(f"texts {texts} and views {views} differ")
    num_images = len(gallery_features)
    indices = np.arange(num_images)
    rewards = 1 / (60.0 + num_images - indices)  # by how many images score lower

    def by_places(scores: Tensor) -> Tensor:
        """The reward of each image's place; NumPy sorts a row many times faster than torch."""
        rewarded = np.empty(scores.shape)
        for row, of_images in zip(scores.cpu().numpy(), rewarded, strict=True):
            order = row.argsort()
            ascending = row[order]
            is_higher = np.concatenate([[True], ascending[1:] > ascending[:-1]])
            of_images[order] = rewards[np.maximum.accumulate(indices * is_higher)]
        return torch.from_numpy(rewarded).to(scores.device)

    def count(text_scores: Tensor, view_scores: Tensor, targets: Tensor) -> Tensor:
        total = by_places(text_scores) + by_places(view_scores)
        return (total >= ROUNDED * total.gather(1, targets)).sum(dim=1)

    return _ranks([text_features, view_features], gallery_features, target_indices, count)


def _ranks(
    kinds: Sequence[Tensor],
    gallery_features: Tensor,
    target_indices: Tensor,
    count: Callable[..., Tensor],
) -> Tensor:
    """Ranks of targets by several kinds of scores, each of one of the `kinds` of query features.

    `count` maps the scores `(rows, num_images)` of each kind and the targets `(rows, 1)` to numbers
    of images that score at least as high, the target included; it may write over the scores.
    """
    for features in kinds:
        _check_features(features, gallery_features)
    num_images, dim = gallery_features.shape
    targets = _checked_targets(target_indices, len(kinds[0]), num_images)
    dtype = torch.float32
    for features in (*kinds, gallery_features):
        dtype = torch.promote_types(dtype, features.dtype)
    queries = [features.reshape(-1, dim) for features in kinds]
    targets = targets.to(queries[0].device).repeat_interleave(len(queries[0]) // len(targets))
    # A product rounds a row by its place, so that equal queries are ranked once for a target...
    asked = torch.stack([*map(first_equal, queries), targets], dim=1)
    asked, inverse = asked.unique(dim=0, return_inverse=True)
    # ...and a column too, so that equal images get the score of the first of them.
    gallery = gallery_features.to(dtype)
    firsts = first_equal(gallery)
    copies = (firsts != torch.arange(num_images, device=firsts.device)).nonzero()[:, 0]
    num_rows = chunk_rows(len(asked), num_images, itemsize=dtype.itemsize)

    ranks = torch.empty(len(asked), dtype=torch.int64, device=gallery.device)
    scores = [torch.empty(num_rows, num_images, dtype=dtype, device=gallery.device) for _ in kinds]
    for start in range(0, len(asked), num_rows):
        # The last chunk wraps around: every product has one shape, and so one way of rounding.
        rows = torch.arange(start, start + num_rows, device=gallery.device) % len(asked)
        for features, numbers, out in zip(queries, asked[rows].T, scores, strict=False):
            torch.mm(features[numbers].to(dtype), gallery.T, out=out)
            if len(copies):
                out[:, copies] = out[:, firsts[copies]]
        ranks[rows] = count(*scores, asked[rows, -1:]).long() - 1  # less the target itself
    return ranks[inverse].reshape(kinds[0].shape[:-1])


def seen_first(
    query_features: Tensor, gallery_features: Tensor, k: int, gone: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scores and places of the best `k` images of each query, `(..., num_queries, k)`.

    Those that are `gone`, `(num_queries, num_images)` bool, are not seen. A query of NaN has scores
    of NaN.

    >>> query, gone = torch.tensor([[0.8, 0.6]]), torch.tensor([[True, False, False]])
    >>> seen_first(query, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), 1, gone)[1]
    tensor([[2]])
    """
    scores = query_features @ gallery_features.T
    scores = scores if gone is None else scores.masked_fill(gone, -torch.inf)
    scores, places = scores.topk(k)
    return scores, places


def shared_places(places: Tensor, others: Tensor) -> Tensor:
    """The share of k images, `(..., k)`, that are among k others: `(...)`.

    >>> shared_places(torch.tensor([4, 2, 7]), torch.tensor([7, 4, 1]))
    tensor(0.6667)
    """
    return (places[..., None] == others[..., None, :]).any(dim=-1).float().mean(dim=-1)


def presence_signals(
    query_features: Tensor,
    earlier_features: Tensor,
    gallery_features: Tensor,
    *,
    k: int,
    gone: Tensor | None = None,
) -> dict[str, Tensor]:
    """What may tell that a gallery has the target, `(..., num_queries)` by name.

    `best_score`; `gap`, how far the next lies behind; `unchanged`, the share of the best `k` images
    that were among those of an earlier round, whose features are of the same shape. NaN where a
    query is. `gone` is as in `seen_first`.
    """
    scores, places = seen_first(query_features, gallery_features, k, gone)
    earlier_scores, earlier = seen_first(earlier_features, gallery_features, k, gone)
    is_missing = (scores + earlier_scores).isnan().any(dim=-1)
    return {
        "best_score": scores[..., 0],
        "gap": scores[..., 0] - scores[..., 1],
        "unchanged": shared_places(places, earlier).masked_fill(is_missing, torch.nan),
    }


def without_denied(
    query_features: Tensor, denied: Tensor, concepts: Tensor, *, weight: float, along: bool = False
) -> Tensor:
    """Queries less `weight` times the features of what they deny, scaled to unit norm.

    `query_features` `(..., num_queries, dim)`; `denied` `(num_queries, num_concepts)` bool tells
    which of the `concepts` `(num_concepts, dim)` each denies. With `along`, a concept is taken out
    as far as the query lies along it: of one unit vector, a weight of 1 removes that part.

    >>> query, concept = torch.tensor([[0.8, 0.6]]), torch.tensor([[0.0, 1.0]])
    >>> without_denied(query, torch.tensor([[True]]), concept, weight=1, along=True)
    tensor([[1., 0.]])
    """
    amount = denied.to(query_features)
    if along:
        amount = amount * (query_features @ concepts.T)
    return F.normalize(query_features - weight * (amount @ concepts), dim=-1)


@torch.no_grad()
def first_equal(features: Tensor) -> Tensor:
    """Index of the first row that equals each row, `(num_rows,)`; 0.0 and -0.0 are equal.

    >>> first_equal(torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 2.0], [3.0, -0.0]]))
    tensor([0, 1, 0, 1])
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    firsts = torch.arange(len(features), device=features.device)
    # Few rows share their first value with another row, and only those are compared.
    _, value, number = features[:, 0].unique(return_inverse=True, return_counts=True)
    rows = (number[value] > 1).nonzero()[:, 0]
    if len(rows):
        _, group = features[rows].unique(dim=0, return_inverse=True)
        first = torch.full_like(rows, len(features)).scatter_reduce(0, group, rows, "amin")
        firsts[rows] = first[group]
    return firsts


def chunk_rows(num_queries: int, num_images: int, *, itemsize: int = 4) -> int:
    """Number of queries in each product of `target_ranks`: chunks of equal size, of about 64 MB.

    `itemsize` is the size of a score in bytes.

    >>> chunk_rows(22_704, 50_000), chunk_rows(400, 50_000), chunk_rows(1, 50_000)
    (334, 200, 16)
    """
    limit = max(CHUNK_BYTES // (num_images * itemsize), MIN_CHUNK_ROWS)
    num_chunks = math.ceil(num_queries / limit)
    return max(math.ceil(num_queries / num_chunks), MIN_CHUNK_ROWS)


def pair_scores(query_features: Tensor, features: Tensor, indices: Tensor) -> Tensor:
    """Inner products of each query with rows of its own, float32 and the same for equal rows.

    `query_features` `(num_queries, dim)`, `features` `(num_rows, dim)` and `indices` `(num_queries,
    k)` give `(num_queries, k)`. Each pair is summed by itself, in double precision.
    """
    size = max(1, CHUNK_BYTES // (8 * indices.shape[1] * features.shape[1]))
    chunks = zip(query_features.split(size), indices.split(size), strict=True)
    scores = [(query[:, None].double() * features[rows]).sum(dim=2) for query, rows in chunks]
    return torch.cat(scores).float()


def best_first(scores: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Both `(num_queries, k)` in order: higher scores first, equal scores by index."""
    indices, order = indices.sort(dim=1)
    scores, places = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, indices.gather(1, places)


def _check_features(query_features: Tensor, gallery_features: Tensor) -> None:
    named = {"query_features": query_features, "gallery_features": gallery_features}
    for name, features in named.items():
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"{name} must be a floating-point tensor, not {kind}")
        if features.numel() == 0:
            raise ValueError(f"{name} are empty: {tuple(features.shape)}")
    asked, known = (tuple(features.shape) for features in named.values())
    if len(asked) not in (2, 3) or len(known) != 2:
        wanted = "(num_queries, dim) or (num_queries, num_rounds, dim)"
        line = f"query_features {asked} must be {wanted}, and gallery_features {known}"
        raise ValueError(f"{line} (num_images, dim)")
    if asked[-1] != known[-1]:
        line = f"query_features have dim {asked[-1]} and gallery_features {known[-1]}"
        raise ValueError(f"{line}: encode both with one encoder")
    if known[0] > MAX_GALLERY:
        raise ValueError(f"gallery_features have {known[0]} rows, above {MAX_GALLERY}")
    for name, features in named.items():
        extremes = features.aminmax(dim=-1)  # NaN passes through, and no copy is made
        num_bad = int((~(extremes.min.isfinite() & extremes.max.isfinite())).sum())
        if num_bad:
            num_rows = extremes.min.numel()
            raise ValueError(f"{name} hold NaN or infinite values in {num_bad} of {num_rows} rows")


def _checked_targets(target_indices: Tensor, num_queries: int, num_images: int) -> Tensor:
    targets = torch.as_tensor(target_indices)
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        raise TypeError(f"target_indices must be integers, not {targets.dtype}")
    if targets.shape != (num_queries,):
        shape = tuple(targets.shape)
        raise ValueError(f"target_indices must be of shape ({num_queries},), not {shape}")
    num_outside = int(((targets < 0) | (targets >= num_images)).sum())
    if num_outside:
        outside = f"{num_outside} of {num_queries} target_indices"
        raise ValueError(f"{outside} lie outside the gallery of {num_images} images")
    return targets.long()

"""Rank targets in a gallery, and search it, by the inner product of features."""

import math

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # scores held at once
MIN_CHUNK_ROWS = 16  # thinner products round the gallery's last columns differently, breaking ties
SEARCHED_SHARE = 0.1  # of the lists of an approximate index
MAX_GALLERY = 2**24  # counts are summed in float32, which is exact up to here


@torch.no_grad()
def target_ranks(
    query_features: Tensor,
    gallery_features: Tensor,
    target_indices: Tensor,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """0-based rank of each query's target: how many other gallery images score at least as high.

    `query_features` `(num_queries, dim)` or `(num_queries, num_rounds, dim)`, `gallery_features`
    `(num_images, dim)` and `target_indices` `(num_queries,)` give int64 ranks `(num_queries,)` or
    `(num_queries, num_rounds)`. Ties count against the query, so that a collapsed encoder ranks
    last, not first. The gallery is never sorted; at most `chunk_size` queries' scores exist at
    once, by default about 64 MB of them. Half-precision features are scored in float32.
    `book/notation.md`, Ranks. Raises ValueError or TypeError for shapes or devices that do not
    fit, an empty input, NaN or infinite features, and targets outside the gallery.

    >>> gallery = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> target_ranks(torch.tensor([[0.8, 0.6], [0.0, 1.0]]), gallery, torch.tensor([0, 2]))
    tensor([1, 0])
    """
    _check_features(query_features, gallery_features, query_ndims=(2, 3))
    num_images, dim = gallery_features.shape
    targets = _checked_targets(target_indices, len(query_features), num_images)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")

    dtype = torch.promote_types(query_features.dtype, gallery_features.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    queries = query_features.reshape(-1, dim)
    targets = targets.to(queries.device).repeat_interleave(len(queries) // len(targets))
    gallery = gallery_features.to(dtype)
    num_rows = chunk_rows(len(queries), num_images, itemsize=dtype.itemsize, chunk_size=chunk_size)

    ranks = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    scores = torch.empty(num_rows, num_images, dtype=dtype, device=queries.device)
    for start in range(0, len(queries), num_rows):
        # The last chunk wraps around: every product has one shape, and so one way of rounding.
        rows = torch.arange(start, start + num_rows, device=queries.device) % len(queries)
        torch.mm(queries[rows].to(dtype), gallery.T, out=scores)
        target_scores = scores.gather(1, targets[rows, None])
        # Written over the scores as 0.0 and 1.0: summing floats is twice as fast as booleans.
        at_least = torch.ge(scores, target_scores, out=scores)
        ranks[rows] = at_least.sum(dim=1).long() - 1  # the target itself is counted too
    return ranks.reshape(query_features.shape[:-1])


@torch.no_grad()
def reciprocal_rank_fusion(
    text_features: Tensor,
    view_features: Tensor,
    gallery_features: Tensor,
    target_indices: Tensor,
    *,
    constant: float = 60.0,
) -> Tensor:
    """0-based ranks where each image scores 1 / (constant + place) in both rankings, summed.

    Places count from 1 and scores are not looked at. Shapes and errors as in `target_ranks`, for
    texts and views of one shape; ties in the sum count against the query. Cormack et al. 2009.

    >>> gallery = torch.eye(3)
    >>> text, view = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[0.1, 0.9, 0.5]])
    >>> reciprocal_rank_fusion(text, view, gallery, torch.tensor([1]))
    tensor([0])
    """
    if text_features.shape != view_features.shape:
        raise ValueError(
            f"texts {tuple(text_features.shape)} and views {tuple(view_features.shape)} differ"
        )
    _check_features(text_features, gallery_features, query_ndims=(2, 3))
    _check_features(view_features, gallery_features, query_ndims=(2, 3))
    num_images, dim = gallery_features.shape
    targets = _checked_targets(target_indices, len(text_features), num_images)
    texts, views = text_features.reshape(-1, dim), view_features.reshape(-1, dim)
    targets = targets.to(texts.device).repeat_interleave(len(texts) // len(targets))
    size = chunk_rows(len(texts), num_images)
    ranks = []
    for rows in torch.arange(len(texts)).split(size):
        total = 0
        for features in (texts[rows], views[rows]):
            order = (features @ gallery_features.T).argsort(dim=1, descending=True, stable=True)
            places = torch.empty_like(order).scatter_(
                1, order, torch.arange(1, num_images + 1).to(order).expand_as(order)
            )
            total = total + 1 / (constant + places)
        ranks.append((total >= total.gather(1, targets[rows, None])).sum(dim=1) - 1)
    return torch.cat(ranks).reshape(text_features.shape[:-1])


def chunk_rows(
    num_queries: int, num_images: int, *, itemsize: int = 4, chunk_size: int | None = None
) -> int:
    """Number of queries in each product of `target_ranks`: chunks of equal size within the limit.

    `itemsize` is the size of a score in bytes; `chunk_size` replaces the limit of about 64 MB.

    >>> chunk_rows(22_704, 50_000), chunk_rows(400, 50_000), chunk_rows(1, 50_000)
    (334, 200, 16)
    """
    limit = chunk_size or max(CHUNK_BYTES // (num_images * itemsize), MIN_CHUNK_ROWS)
    num_chunks = math.ceil(num_queries / limit)
    return max(math.ceil(num_queries / num_chunks), min(limit, MIN_CHUNK_ROWS))


@torch.no_grad()
def search(
    query_features: Tensor, gallery_features: Tensor, *, k: int, approximate: bool = False
) -> tuple[Tensor, Tensor]:
    """The k best gallery images of each query, best first, by faiss.

    `query_features` `(num_queries, dim)` and `gallery_features` `(num_images, dim)` give float32
    scores and int64 indices, `(num_queries, k)` both. Equal scores are ordered by index; which of
    the images that tie for the last place are listed is not defined. With `approximate` only the
    part of the gallery around the query is looked at (an inverted file, `SEARCHED_SHARE` of its
    lists): for galleries of a million images, and a few of the best are missed. Raises ValueError
    or TypeError as `target_ranks` does, and for k outside 1 to num_images.

    >>> gallery = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> search(torch.tensor([[0.0, 1.0]]), gallery, k=2)
    (tensor([[1.0000, 0.8000]]), tensor([[2, 1]]))
    """
    _check_features(query_features, gallery_features, query_ndims=(2,))
    num_images, dim = gallery_features.shape
    if not 1 <= k <= num_images:
        raise ValueError(f"k must lie between 1 and {num_images} images, not {k}")
    import faiss  # here, since it takes long to load and only searching needs it

    gallery = gallery_features.float().cpu().contiguous().numpy()
    queries = query_features.float().cpu().contiguous().numpy()
    index = faiss.IndexFlatIP(dim)
    if approximate:
        # faiss asks for at least 39 images a list to place the lists well.
        num_lists = max(1, min(int(4 * math.sqrt(num_images)), num_images // 39))
        coarse = index  # kept alive: the new index only refers to it
        index = faiss.IndexIVFFlat(coarse, dim, num_lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = math.ceil(SEARCHED_SHARE * num_lists)
        index.train(gallery)
    index.add(gallery)
    scores, indices = index.search(queries, k)
    while (indices < 0).any():  # the lists that were searched hold fewer than k images
        index.nprobe = min(2 * index.nprobe, index.nlist)
        scores, indices = index.search(queries, k)
    indices, order = torch.from_numpy(indices).sort(dim=1)
    scores = torch.from_numpy(scores).gather(1, order)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    device = query_features.device
    return scores.to(device), indices.gather(1, order).to(device)


def _check_features(
    query_features: Tensor, gallery_features: Tensor, *, query_ndims: tuple[int, ...]
) -> None:
    named = {"query_features": query_features, "gallery_features": gallery_features}
    for name, features in named.items():
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"{name} must be a floating-point tensor, not {kind}")
        if features.numel() == 0:
            raise ValueError(f"{name} are empty: {tuple(features.shape)}")
    if query_features.ndim not in query_ndims or gallery_features.ndim != 2:
        raise ValueError(
            f"query_features {tuple(query_features.shape)} must be (num_queries, dim)"
            f"{' or (num_queries, num_rounds, dim)' if 3 in query_ndims else ''}, and "
            f"gallery_features {tuple(gallery_features.shape)} (num_images, dim)"
        )
    if query_features.shape[-1] != gallery_features.shape[-1]:
        raise ValueError(
            f"query_features have dim {query_features.shape[-1]} and gallery_features "
            f"{gallery_features.shape[-1]}: encode both with one encoder"
        )
    if query_features.device != gallery_features.device:
        raise ValueError(
            f"query_features are on {query_features.device} and gallery_features on "
            f"{gallery_features.device}: move both to one device"
        )
    if len(gallery_features) > MAX_GALLERY:
        raise ValueError(f"gallery_features have {len(gallery_features)} rows, above {MAX_GALLERY}")
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
        raise ValueError(
            f"target_indices must be of shape ({num_queries},), not {tuple(targets.shape)}"
        )
    num_outside = int(((targets < 0) | (targets >= num_images)).sum())
    if num_outside:
        raise ValueError(
            f"{num_outside} of {num_queries} target_indices lie outside the gallery of "
            f"{num_images} images"
        )
    return targets.long()

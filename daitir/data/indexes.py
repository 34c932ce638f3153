"""Approximate indexes of faiss, for galleries too large to compare a query with every picture.

`IvfPq` keeps each feature as a code of a few bytes and looks only into the lists whose centres lie
nearest (Jégou et al. 2011); `Hnsw` keeps whole features and walks from neighbour to neighbour
(Malkov and Yashunin 2018). What an index weighs and reads is given as formulas too, for galleries
that are larger than one can build.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from daitir.retrieval import best_first, first_equal, pair_scores

if TYPE_CHECKING:
    import faiss

FLOAT, ID, LINK = 4, 8, 4  # bytes of a number of a feature, of a picture's number, of a link
MIN_PER_LIST = 39  # features for each centre, below which faiss warns
MAX_PER_LIST = 64  # more do not place the centres better
NUM_CODES = 256  # of each byte of a code


@dataclass(frozen=True)
class Flat:
    """Exact search: every feature is kept and compared."""

    def bytes_per_image(self, num_images: int, dim: int) -> float:
        """Memory of the index over the number of pictures."""
        return FLOAT * dim

    def bytes_read(self, num_images: int, dim: int) -> float:
        """What one query reads of the index."""
        return num_images * self.bytes_per_image(num_images, dim)

    def empty(self, num_images: int, dim: int) -> faiss.Index:
        """An index without pictures."""
        import faiss  # here and below, since it takes long to load

        return faiss.IndexFlatIP(dim)


@dataclass(frozen=True)
class IvfPq:
    """An inverted file of product-quantised features."""

    code_bytes: int = 32  # of a picture; must divide the dimension
    probes: int = 32  # lists that a query looks into
    num_lists: int | None = None  # None for `default_lists`

    def lists(self, num_images: int) -> int:
        return self.num_lists or default_lists(num_images)

    def bytes_per_image(self, num_images: int, dim: int) -> float:
        """A code, a number, and a share of the centres, the code book and the rotation.

        >>> round(IvfPq(code_bytes=32).bytes_per_image(10_000_000, 256), 1)
        41.7
        """
        shared = (self.lists(num_images) + NUM_CODES + dim) * dim * FLOAT
        return self.code_bytes + ID + shared / num_images

    def bytes_read(self, num_images: int, dim: int) -> float:
        """All centres, and codes and numbers of the probed lists, taken to be of equal length."""
        lists = self.lists(num_images)
        share = min(1.0, self.probes / lists)
        return lists * dim * FLOAT + share * num_images * (self.code_bytes + ID)

    def empty(self, num_images: int, dim: int) -> faiss.Index:
        """An index without pictures, not trained.

        The features are rotated at random first, so that every byte of the code has as much to say.
        """
        import faiss

        if dim % self.code_bytes:
            raise ValueError(f"code_bytes {self.code_bytes} must divide the dimension {dim}")
        # "np": no ordering of the codes, which takes long and which only Hamming filters use.
        kind = f"RR{dim},IVF{self.lists(num_images)},PQ{self.code_bytes}x8np"
        index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        set_effort(index, self)
        return index


@dataclass(frozen=True)
class Hnsw:
    """A graph of whole features; `links` of each picture, twice as many on the ground level."""

    links: int = 16  # `M` of the paper
    build_effort: int = 40  # candidates kept while a picture is linked (`efConstruction`)
    effort: int = 64  # candidates kept during a search (`efSearch`)

    def bytes_per_image(self, num_images: int, dim: int) -> float:
        """The feature, its links, also of levels above the ground, its level and their place.

        >>> round(Hnsw(links=16).bytes_per_image(1_000_000, 256))
        1168
        """
        above = 1 / (self.links - 1)
        return FLOAT * dim + LINK * self.links * (2 + above) + FLOAT + ID

    def bytes_read(self, num_images: int, dim: int) -> float:
        """At most all links of each kept candidate, a feature and a link each."""
        return self.effort * 2 * self.links * (FLOAT * dim + LINK)

    def empty(self, num_images: int, dim: int) -> faiss.Index:
        """An index without pictures."""
        import faiss

        index = faiss.IndexHNSWFlat(dim, self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.build_effort
        set_effort(index, self)
        return index


def set_effort(index: faiss.Index, spec: Flat | IvfPq | Hnsw) -> None:
    """Give an index the `probes` or the `effort` of a spec."""
    import faiss

    if isinstance(spec, IvfPq):
        faiss.extract_index_ivf(index).nprobe = spec.probes
    elif isinstance(spec, Hnsw):
        faiss.downcast_index(index).hnsw.efSearch = spec.effort


def default_lists(num_images: int) -> int:
    """The power of two nearest to 4 times the root of the gallery's size, as faiss advises.

    Fewer where there would not be enough features to place the centres.

    >>> default_lists(1_000_000), default_lists(10_000_000), default_lists(10**9)
    (4096, 16384, 131072)
    """
    wanted = max(1, min(4 * math.sqrt(num_images), num_images / MIN_PER_LIST))
    lists = 2 ** round(math.log2(wanted))
    return lists if lists * MIN_PER_LIST <= num_images or lists == 1 else lists // 2


def build_index(
    spec: Flat | IvfPq | Hnsw,
    shards: Sequence[Tensor],
    *,
    num_images: int,
    dim: int,
    seed: int = 0,
) -> faiss.Index:
    """An index of unit features, `(num_rows, dim)` in each shard; pictures are numbered in order.

    `seed` chooses the features that the index is trained on. Raises ValueError for another number
    of rows than `num_images`, and for a gallery too small to train the codes of an `IvfPq`.
    """
    index = spec.empty(num_images, dim)
    if not index.is_trained:
        least = MIN_PER_LIST * NUM_CODES
        if num_images < least:
            raise ValueError(
                f"{num_images:,} images are too few to train codes, at least {least:,}; search "
                "them exactly"
            )
        number = min(max(least, MAX_PER_LIST * spec.lists(num_images)), num_images)
        index.train(_sample(shards, number, num_images, seed))
    for shard in shards:
        index.add(_array(shard))
    if index.ntotal != num_images:
        raise ValueError(f"the shards hold {index.ntotal:,} features, not {num_images:,}")
    return index


@torch.no_grad()
def search_index(
    index: faiss.Index,
    queries: Tensor,
    *,
    k: int,
    candidates: int | None = None,
    rows: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best pictures of each query, best first, as far as the index finds them.

    With `rows`, which maps `(n,)` numbers of pictures to their `(n, dim)` features, the index names
    `candidates`, at least k, that are ordered anew by their features.

    Returns:
        float32 scores and int64 numbers, `(num_queries, k)` both; -1 where nothing more was found.
        Equal pictures score alike, and equal scores are ordered by number.
    """
    import faiss

    if (candidates is None) != (rows is None) or candidates and candidates < k:
        raise ValueError(f"candidates, at least k = {k}, and rows go together")
    # Some indexes turn all queries in one product, which rounds a query by its place.
    asked, inverse = first_equal(queries).unique(return_inverse=True)
    queries = queries[asked].float()
    scores, numbers = map(torch.from_numpy, index.search(_array(queries), candidates or k))
    if rows is None and isinstance(index, faiss.IndexFlat):

        def rows(numbers: Tensor) -> Tensor:
            return torch.from_numpy(index.reconstruct_batch(numbers.numpy()))

    if rows is not None:
        unique, place = numbers.clamp(min=0).unique(return_inverse=True)
        scores = pair_scores(queries, rows(unique).float(), place)
        scores = scores.masked_fill(numbers < 0, -torch.inf)
    scores, numbers = best_first(scores, numbers)
    return scores[inverse, :k], numbers[inverse, :k]


def recall_against_exact(found: Tensor, exact: Tensor) -> Tensor:
    """(num_queries,) share of the pictures of exact search that an index finds too.

    `found` and `exact` are `(num_queries, k)` numbers of pictures in any order, -1 for none.

    >>> recall_against_exact(torch.tensor([[3, 1, -1]]), torch.tensor([[1, 2, 3]]))
    tensor([0.6667])
    """
    same = (exact[:, :, None] == found[:, None, :]) & (exact[:, :, None] >= 0)
    return same.any(dim=2).float().mean(dim=1)


def at_size(sizes: Sequence[float], values: Sequence[float], size: float) -> float:
    """A value at another size, a guess along the straight line through values over log size.

    >>> round(at_size([1e4, 1e5, 1e6], [0.9, 0.8, 0.7], 1e7), 3)
    0.6
    """
    slope, height = np.polyfit(np.log(sizes), values, 1)
    return float(slope * math.log(size) + height)


def num_machines(total_bytes: float, memory_bytes: float, *, fill: float = 0.7) -> int:
    """Machines whose memory holds an index, each filled to a share that leaves room to work.

    >>> num_machines(72e9, 64e9), num_machines(1.2e12, 64e9)
    (2, 27)
    """
    return math.ceil(total_bytes / (fill * memory_bytes))


def _sample(shards: Iterable[Tensor], number: int, num_images: int, seed: int) -> np.ndarray:
    """(number, dim) features chosen at random, in the order of the gallery."""
    chosen = np.random.default_rng(seed).choice(num_images, number, replace=False)
    chosen.sort()
    taken, first = [], 0
    for shard in shards:
        inside = chosen[(chosen >= first) & (chosen < first + len(shard))] - first
        taken.append(shard[torch.from_numpy(inside)])
        first += len(shard)
    return _array(torch.cat(taken))


def _array(features: Tensor) -> np.ndarray:
    return features.float().cpu().contiguous().numpy()

"""Approximate indexes of faiss, for galleries too large to compare a query with every picture.

`IvfPq` keeps each feature as a code of a few bytes and looks only into the lists whose centres lie
nearest (Jégou et al. 2011); `Hnsw` keeps whole features and walks from neighbour to neighbour
(Malkov and Yashunin 2018). What an index weighs and reads is given as formulas too, for galleries
that are larger than one can build.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
FILL = 0.7  # of a machine's memory; the rest is room to work


@dataclass(frozen=True)
class Flat:
    """Exact search: every feature is kept and compared."""

    words, settings = "Flat", ""  # by which faiss makes an empty index, and sets it

    def bytes_per_image(self, num_images: int, dim: int) -> float:
        """Memory of the index over the number of pictures."""
        return FLOAT * dim

    def bytes_read(self, num_images: int, dim: int) -> float:
        """What one query reads of the index."""
        return num_images * FLOAT * dim


@dataclass(frozen=True)
class IvfPq:
    """An inverted file of product-quantised features."""

    code_bytes: int = 32  # of a picture; must divide the dimension
    probes: int = 32  # lists that a query looks into

    # "RR": features are rotated at random, so that every byte of a code has as much to say; "np":
    # codes are not ordered, which takes long and which only Hamming filters use.
    words, settings = "RR{dim},IVF{lists},PQ{code_bytes}x8np", "nprobe={probes}"

    def bytes_per_image(self, num_images: int, dim: int) -> float:
        """A code, a number, and a share of the centres, the code book and the rotation.

        >>> round(IvfPq(code_bytes=32).bytes_per_image(10_000_000, 256), 1)
        41.7
        """
        shared = (default_lists(num_images) + NUM_CODES + dim) * dim * FLOAT
        return self.code_bytes + ID + shared / num_images

    def bytes_read(self, num_images: int, dim: int) -> float:
        """All centres, and codes and numbers of the probed lists, taken to be of equal length."""
        lists = default_lists(num_images)
        share = min(1.0, self.probes / lists)
        return lists * dim * FLOAT + share * num_images * (self.code_bytes + ID)


@dataclass(frozen=True)
class Hnsw:
    """A graph of whole features; `links` of each picture, twice as many on the ground level."""

    links: int = 16  # `M` of the paper
    build_effort: int = 40  # candidates kept while a picture is linked (`efConstruction`)
    effort: int = 64  # candidates kept during a search (`efSearch`)

    words, settings = "HNSW{links},Flat", "efConstruction={build_effort},efSearch={effort}"

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


def default_lists(num_images: int) -> int:
    """The power of two nearest to 4 times the root of the gallery's size, as faiss advises.

    Fewer where there would not be enough features to place the centres.
    """
    wanted = max(1, min(4 * math.sqrt(num_images), num_images / MIN_PER_LIST))
    lists = 2 ** round(math.log2(wanted))
    return lists if lists * MIN_PER_LIST <= num_images or lists == 1 else lists // 2


def set_effort(index: faiss.Index, spec: Flat | IvfPq | Hnsw) -> None:
    """Give an index the `probes` or the `effort` of a spec."""
    import faiss  # here and below, since it takes long to load

    faiss.ParameterSpace().set_index_parameters(index, spec.settings.format(**vars(spec)))


def build_index(spec: Flat | IvfPq | Hnsw, shards: Sequence[Tensor]) -> faiss.Index:
    """An index of unit features, `(num_rows, dim)` in each shard; pictures are numbered in order.

    What faiss cannot build, such as codes that do not divide the dimension, is its RuntimeError.
    """
    import faiss

    num_images, dim = sum(map(len, shards)), shards[0].shape[1]
    lists = default_lists(num_images)
    words = spec.words.format(dim=dim, lists=lists, **vars(spec))
    index = faiss.index_factory(dim, words, faiss.METRIC_INNER_PRODUCT)
    set_effort(index, spec)
    if not index.is_trained:
        number = min(max(MIN_PER_LIST * NUM_CODES, MAX_PER_LIST * lists), num_images)
        is_chosen = torch.zeros(num_images, dtype=torch.bool)
        is_chosen[np.random.default_rng(0).choice(num_images, number, replace=False)] = True
        parts = zip(shards, is_chosen.split([len(shard) for shard in shards]), strict=True)
        index.train(_array(torch.cat([shard[chosen] for shard, chosen in parts])))
    for shard in shards:
        index.add(_array(shard))
    return index


@torch.no_grad()
def search_index(
    index: faiss.Index,
    queries: Tensor,
    *,
    k: int,
    candidates: int = 0,
    rows: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best pictures of each query, best first, as far as the index knows them.

    With `rows`, which maps `(n,)` numbers of pictures to their `(n, dim)` features, the index names
    `candidates`, or k where those are fewer, that are ordered anew by their features. The float32
    scores and int64 numbers are `(num_queries, k)`, -1 where nothing more was found. Equal pictures
    score alike, and equal scores are ordered by number.
    """
    import faiss

    # Some indexes turn all queries in one product, which rounds a query by its place.
    asked, inverse = first_equal(queries).unique(return_inverse=True)
    queries = queries[asked].float()
    scores, numbers = map(torch.from_numpy, index.search(_array(queries), max(k, candidates)))
    if rows or isinstance(index, faiss.IndexFlat):
        unique, place = numbers.clamp(min=0).unique(return_inverse=True)
        kept = rows(unique) if rows else torch.from_numpy(index.reconstruct_batch(unique.numpy()))
        scores = pair_scores(queries, kept.float(), place).masked_fill(numbers < 0, -torch.inf)
    scores, numbers = best_first(scores, numbers)
    return scores[inverse, :k], numbers[inverse, :k]


def recall_against_exact(found: Tensor, exact: Tensor) -> Tensor:
    """(num_queries,) share of the pictures of exact search that an index finds too.

    `found` and `exact` are `(num_queries, k)` numbers of pictures in any order, -1 for none.
    """
    same = (exact[:, :, None] == found[:, None, :]) & (exact[:, :, None] >= 0)
    return same.any(dim=2).float().mean(dim=1)


def at_size(sizes: Sequence[float], values: Sequence[float], size: float) -> float:
    """A value at another size, a guess along the straight line through values over log size."""
    slope, height = np.polyfit(np.log(sizes), values, 1)
    return float(slope * math.log(size) + height)


def num_machines(total_bytes: float, memory_bytes: float) -> int:
    """Machines whose memory holds an index, each filled to FILL."""
    return math.ceil(total_bytes / (FILL * memory_bytes))


def _array(features: Tensor) -> np.ndarray:
    return features.float().cpu().contiguous().numpy()

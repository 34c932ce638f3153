"""What a set of features looks like: gap, alignment, uniformity, spectrum, rank, similarity.

Features are `(num_items, dim)`, one row an item. Each statistic is of the whole set; `leave_out`
and `jackknife_interval` give its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.common.errors import DataError
from daitir.models.encoders import Encoder
from daitir.scenes import Fact, describe

TOLERANCE = 1e-6  # of a singular value beside the largest, in single precision
NUM_GROUPS = 20  # of rows that are left out


def modality_gap(image_features: Tensor, text_features: Tensor) -> float:
    """Distance of the means of two sets of unit vectors, between 0 and 2. Liang et al. (2022).

    >>> modality_gap(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.6, -0.8], [1.0, 0]]))
    0.800...
    """
    _check(image_features, text_features)
    return float((image_features.double().mean(dim=0) - text_features.double().mean(dim=0)).norm())


def alignment_values(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of each pair, (num_pairs,), 0 to 4; the mean is the alignment, low is good.

    Wang and Isola (2020).
    """
    return (a - b).square().sum(dim=1)


def uniformity(features: Tensor) -> float:
    """Logarithm of the mean of exp(-2 d²) over pairs of different rows; low is even.

    Wang and Isola (2020). Raises DataError for fewer than two rows.

    >>> round(uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), 6)
    -8.0
    """
    _check(features)
    return float((-2 * torch.pdist(features.double()).square()).exp().mean().log())


def added_directions(encoder: Encoder, facts: Sequence[Fact], contexts: Sequence[Fact]) -> Tensor:
    """Unit directions, (num_facts, dim), in which facts move captions, on average over contexts.

    A caption of a fact and a context is compared with that of the context alone.
    """
    pairs = [describe(pair) for pair in product(facts, contexts)]
    texts = [describe([context]) for context in contexts]
    both, alone = encoder.encode_texts(pairs), encoder.encode_texts(texts)
    added = both.view(len(facts), len(contexts), -1) - alone
    return F.normalize(added.mean(dim=1), dim=-1)


def spectrum(features: Tensor) -> Tensor:
    """Eigenvalues of the covariance of centred features, (dim,) double, the largest first.

    Raises DataError where there are no more rows than dimensions, too few to estimate the smallest
    eigenvalues, and where the features do not vary.

    >>> spectrum(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5], [0.0, -0.5]]))
    tensor([0.6667, 0.1667], dtype=torch.float64)
    """
    _check(features)
    num_items, dim = features.shape
    check_enough(num_items, dim, f"at most {num_items - 1} eigenvalues can be estimated, the "
                 "others are 0 for want of items")  # fmt: skip
    values = torch.linalg.svdvals(_centred(features)).square() / (num_items - 1)
    if not values[0] > 0:
        raise DataError(f"the {num_items} features are all the same: they have no spectrum")
    return values


def effective_rank(features: Tensor) -> float:
    """Exponential of the entropy of the centred features' singular values, as shares: 1 to dim.

    Roy and Vetterli (2007). Raises DataError as `spectrum` does.

    >>> cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(effective_rank(cross), 6)
    2.0
    """
    shares = spectrum(features).sqrt()
    shares = shares / shares.sum()
    return float(torch.special.entr(shares).sum().exp())


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same items, 0 to 1.

    1 where one is a rotation and rescaling of the other. Kornblith et al. (2019). Raises DataError
    for items that are not as many or no more than dimensions, which make it high for any two
    encoders, and for a set that does not vary.

    >>> a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(linear_cka(a, 3 * a.flip(1)), 6)
    1.0
    """
    _check(a)
    _check(b)
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} items: both encoders must see the same ones")
    why = "similarity cannot be estimated, since so few items can be matched at will"
    check_enough(len(a), max(a.shape[1], b.shape[1]), why)
    a, b = _centred(a), _centred(b)
    norms = (a.T @ a).norm() * (b.T @ b).norm()
    if not norms > 0:
        raise DataError("the features of one encoder are all the same: nothing to compare")
    return float((b.T @ a).square().sum() / norms)


def leave_out(statistic: Callable[..., float], *features: Tensor) -> Tensor:
    """A statistic of all rows, and with each group of rows left out, (1 + NUM_GROUPS,) double.

    For statistics of a whole set that are no means: resampling with replacement would put copies
    of a row at distance 0 and lower the rank, leaving rows out does neither. The rows of all
    `features` (num_items, ...) belong together; chance divides them into groups. Raises DataError
    for fewer rows than groups.
    """
    number = len(features[0])
    if number < NUM_GROUPS:
        raise DataError(f"{number} rows are too few for {NUM_GROUPS} groups to leave out")
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
    values = [statistic(*features)]
    for group in order.tensor_split(NUM_GROUPS):
        others = torch.ones(number, dtype=torch.bool)
        others[group] = False
        values.append(statistic(*(rows[others] for rows in features)))
    return torch.tensor(values, dtype=torch.float64)


def jackknife_interval(values: Tensor) -> tuple[float, float, float]:
    """The value and the 95% interval that `leave_out` gives, or a mean or difference of several.

    Delete-a-group jackknife, a normal interval. Source: Efron and Tibshirani (1993), chapter 11.
    """
    value, without = float(values[0]), values[1:]
    variance = (len(without) - 1) / len(without) * (without - without.mean()).square().sum()
    half = 1.96 * float(variance.sqrt())
    return value, value - half, value + half


def _centred(features: Tensor) -> Tensor:
    wide = features.double()
    return wide - wide.mean(dim=0)


def _check(*features: Tensor) -> None:
    for rows in features:
        if rows.ndim != 2 or len(rows) < 2:
            wanted = "(num_items, dim) with at least 2 items are wanted"
            raise DataError(f"features of shape {tuple(rows.shape)}: {wanted}")
        if not rows.isfinite().all():
            raise DataError("features hold NaN or infinite values; look for damaged images")
    if len({rows.shape[1] for rows in features}) > 1:
        raise DataError(f"features of shapes {[tuple(r.shape) for r in features]} do not match")


def check_enough(number: int, dim: int, why: str) -> None:
    """DataError, which says why that is too little, unless there are more items than dimensions."""
    if number <= dim:
        raise DataError(f"{number} items in {dim} dimensions: {why}; take more than {dim} items")


def unit(features: Tensor) -> Tensor:
    """Rows scaled to length 1; DataError where one has no length."""
    if not (features.norm(dim=-1) > 0).all():
        raise DataError("a vector of length 0 has no direction; leave it out")
    return F.normalize(features, dim=-1)

"""Metrics of interactive retrieval, and bootstrap intervals over queries.

Every metric is the mean over queries of a per-query array, which its `*_values` twin returns, so
that intervals resample those values and no formula exists twice. Ranks are 0-based integers
`(num_queries, num_rounds)`: NumPy array, tensor or nested list. Where dialogues differ in length,
`lengths` `(num_queries,)` gives the rounds of each; entries beyond them are ignored, and the
per-query arrays are NaN there.
"""

import math
import operator
from typing import Any, NamedTuple

import numpy as np

NUM_SAMPLES = 1000
RESAMPLE_ENTRIES = 2**22  # weights held at once while bootstrapping, 64 MB with their float copy
TAILS = [(1 - 0.95) / 2, (1 + 0.95) / 2]  # shares of the samples below the ends of an interval
SHARES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)  # bounds of shares, and of differences of two shares
Bounds = tuple[float, float] | None  # None where nothing bounds the values


def recall_at_k(ranks: Any, k: int, *, lengths: Any = None) -> np.ndarray:
    """Share of the dialogues with a round t whose rank at that round is below k (R@K).

    Args:
        ranks: `(num_queries, num_rounds)`, counted from 0.
        k: how many images a user looks at.
        lengths: `(num_queries,)`, the rounds of each dialogue where they differ.

    Returns:
        Fractions `(num_rounds,)`, NaN where no dialogue has the round.

    Raises:
        ValueError, TypeError: ranks are no rectangle of non-negative integers, or k is below 1.

    >>> recall_at_k([[12, 3, 20], [0, 5, 1]], 10)
    array([0.5, 1. , 0.5])
    """
    return _mean(recall_values(ranks, k, lengths=lengths))


def recall_values(ranks: Any, k: int, *, lengths: Any = None) -> np.ndarray:
    """1 where the rank is below k, else 0: `(num_queries, num_rounds)`; see `recall_at_k`."""
    ranks, present = _checked_ranks(ranks, lengths)
    return np.where(present, ranks < _checked_k(k), np.nan)


def hits_at_k(ranks: Any, k: int, *, lengths: Any = None) -> np.ndarray:
    """Share of all dialogues whose rank was below k at any round up to t (Hits@K).

    Cumulative: a dialogue keeps its hit when the target is lost again, and when it has ended.

    Args:
        ranks, k, lengths: as in `recall_at_k`, with the same errors.

    Returns:
        Fractions `(num_rounds,)`.

    Source: ChatIR (Levy et al., NeurIPS 2023).

    >>> hits_at_k([[12, 3, 20], [0, 5, 1]], 10)
    array([0.5, 1. , 1. ])
    """
    return _mean(hit_values(ranks, k, lengths=lengths))


def hit_values(ranks: Any, k: int, *, lengths: Any = None) -> np.ndarray:
    """1 from the first round with a rank below k on: `(num_queries, num_rounds)`, never NaN."""
    ranks, present = _checked_ranks(ranks, lengths)
    return np.logical_or.accumulate((ranks < _checked_k(k)) & present, axis=1).astype(float)


def best_log_rank_integral(ranks: Any, *, lengths: Any = None) -> float:
    r"""Area under the logarithm of the best rank so far, per round (BRI); lower is better.

    With m_t the lowest rank up to round t and T the last round of a dialogue, its value is
    (1/T) Σ_{t<T} ½[ln(m_t + 1) + ln(m_{t+1} + 1)]. A dialogue of one round has no area: it counts
    with ln(m_0 + 1), the value of a dialogue whose best rank never changes.

    Args:
        ranks, lengths: as in `recall_at_k`, with the same errors.

    Returns:
        The mean over dialogues, in natural logarithms of ranks.

    Source: PlugIR (Lee et al., ACL 2024).

    Here the best ranks are 12, 3, 3 and 0, 0, 0, which count ½[½(ln 13 + ln 4) + ln 4] and 0.

    >>> round(best_log_rank_integral([[12, 3, 20], [0, 5, 1]]), 4)
    0.8405
    """
    return float(_mean(best_log_rank_integral_values(ranks, lengths=lengths)))


def best_log_rank_integral_values(ranks: Any, *, lengths: Any = None) -> np.ndarray:
    """BRI of each dialogue over its own rounds: `(num_queries,)`; see `best_log_rank_integral`."""
    ranks, present = _checked_ranks(ranks, lengths)
    log_best = np.log1p(np.minimum.accumulate(ranks, axis=1))
    areas = np.where(present[:, 1:], (log_best[:, :-1] + log_best[:, 1:]) / 2, 0.0)
    num_areas = present[:, 1:].sum(axis=1)
    return np.where(num_areas > 0, areas.sum(axis=1) / np.maximum(num_areas, 1), log_best[:, 0])


def reciprocal_rank_values(ranks: Any, *, lengths: Any = None) -> np.ndarray:
    """1 / (rank + 1), whose mean is MRR: `(num_queries, num_rounds)`, NaN after a dialogue's end.

    `book/notation.md`, Metrics. Raises as `recall_at_k` does.

    >>> reciprocal_rank_values([[3, 1], [0, 4]])
    array([[0.25, 0.5 ],
           [1.  , 0.2 ]])
    """
    ranks, present = _checked_ranks(ranks, lengths)
    return np.where(present, 1.0 / (ranks + 1), np.nan)


def degradation_rate(
    ranks: Any, baseline_ranks: Any, *, margin: float = 0.0, lengths: Any = None
) -> np.ndarray:
    """Share of the dialogues with a round t that rank worse there than under the baseline.

    Worse means ln(rank + 1) − ln(baseline rank + 1) > margin. With a margin of 0 the loss of one
    place counts, so pure noise comes near one half; ln 2 asks that rank + 1 more than doubles.
    Shapes and errors are those of `recall_at_k`. Raises ValueError, too, for two shapes or a
    margin that is negative or not finite. ADaFuSE (arXiv 2603.21886).

    >>> degradation_rate([[12, 3, 20], [0, 5, 1]], [[11, 9, 2], [0, 3, 0]])
    array([0.5, 0.5, 1. ])
    >>> degradation_rate([[12, 3, 20], [0, 5, 1]], [[11, 9, 2], [0, 3, 0]], margin=1.0)
    array([0. , 0. , 0.5])
    """
    return _mean(degradation_values(ranks, baseline_ranks, margin=margin, lengths=lengths))


def degradation_values(
    ranks: Any, baseline_ranks: Any, *, margin: float = 0.0, lengths: Any = None
) -> np.ndarray:
    """1 where the rank is worse than the baseline's: `(num_queries, num_rounds)`."""
    ranks, baseline_ranks, present = _checked_pair(ranks, baseline_ranks, lengths)
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin must be a finite number of at least 0, not {margin}")
    return np.where(present, np.log1p(ranks) - np.log1p(baseline_ranks) > margin, np.nan)


class RankDrop(NamedTuple):
    """Places lost by the degraded dialogues, `(num_rounds,)` each, NaN where none is degraded."""

    mean: np.ndarray
    median: np.ndarray


def rank_drop(ranks: Any, baseline_ranks: Any, *, lengths: Any = None) -> RankDrop:
    """Mean and median number of places lost against the baseline, over degraded dialogues only.

    Shapes and errors are those of `degradation_rate`. ADaFuSE (arXiv 2603.21886).

    >>> drop = rank_drop([[12, 3, 20], [0, 5, 1]], [[11, 9, 2], [0, 3, 0]])
    >>> drop.mean, drop.median
    (array([1. , 2. , 9.5]), array([1. , 2. , 9.5]))
    """
    values = rank_drop_values(ranks, baseline_ranks, lengths=lengths)
    median = np.full(values.shape[1], np.nan)
    degraded = ~np.isnan(values).all(axis=0)
    median[degraded] = np.nanmedian(values[:, degraded], axis=0)
    return RankDrop(_mean(values), median)


def rank_drop_values(ranks: Any, baseline_ranks: Any, *, lengths: Any = None) -> np.ndarray:
    """Places lost where the dialogue is degraded, else NaN: `(num_queries, num_rounds)`."""
    ranks, baseline_ranks, present = _checked_pair(ranks, baseline_ranks, lengths)
    return np.where(present & (ranks > baseline_ranks), ranks - baseline_ranks, np.nan)


def bootstrap_interval(
    values: Any, *, seed: int = 0, bounds: Bounds = SHARES, known: Any = False
) -> tuple[Any, Any]:
    """95% percentile interval of the mean over queries, resampling queries with replacement.

    Where all n values of a column are v, every sample is the same, and yet a share of up to
    p = 1 − 0.025^(1/n) of all queries may have other values. With `bounds` (a, b) the interval then
    is [v − p (v − a), v + p (b − v)], as that of Clopper and Pearson (1934).

    Args:
        values: `(num_queries,)`, or `(num_queries, num_columns)`, whose columns share their
            samples. NaN entries are left out of the means.
        seed: of the resampling, `NUM_SAMPLES` times.
        bounds: between which values lie; `DIFFERENCES` for those of shares. None where nothing
            bounds them: the interval of equal values is then NaN, as it is for one outside.
        known: a bool or `(num_columns,)`: columns whose equal values are no chance, such as the
            differences of a method to itself (`same_ranks`). Their interval is the value.

    Returns:
        The lower and the upper bound: floats, or arrays `(num_columns,)`.

    Raises:
        ValueError: values that are empty, infinite or of another shape, or bounds out of order.

    Source: Efron (1979).

    >>> low, high = bootstrap_interval([0.0, 1.0] * 50)
    >>> low < 0.5 < high, round(high - low, 1)
    (True, 0.2)
    >>> bootstrap_interval([1.0, 1.0, 1.0])
    (0.292401773821286..., 1.0)
    """
    columns, is_single = _checked_values(values, "values")
    lowest, highest = bounds or (np.nan, np.nan)
    if lowest >= highest:
        raise ValueError(f"bounds must be in order, not {bounds}")
    samples = _resampled_means(columns, seed)
    ends = np.full((2, samples.shape[1]), np.nan)
    seen = ~np.isnan(samples).all(axis=0)
    ends[:, seen] = np.nanquantile(samples[:, seen], TAILS, axis=0)
    # What is known of a column of equal values.
    value = np.fmin.reduce(columns, axis=0)
    equal = value == np.fmax.reduce(columns, axis=0)
    unseen = 1 - TAILS[0] ** (1 / np.maximum((~np.isnan(columns)).sum(axis=0), 1))
    reach = value + unseen * (np.array([[lowest], [highest]]) - value)
    inside = (value >= lowest) & (value <= highest)
    ends = np.where(equal, np.where(inside, reach, np.nan), ends)
    low, high = np.where(known, _mean(columns), ends)
    return (float(low[0]), float(high[0])) if is_single else (low, high)


def same_ranks(ranks: Any, others: Any) -> np.ndarray:
    """Where two methods rank every target alike: they are one method there, `(num_rounds,)`.

    Both `(num_queries, num_rounds)`, or with an axis of seeds before it; two shapes never are.

    >>> same_ranks([[3, 1], [0, 5]], [[3, 2], [0, 5]])
    array([ True, False])
    """
    ranks, others = np.asarray(ranks), np.asarray(others)
    if ranks.shape != others.shape:
        return np.zeros(ranks.shape[-1], dtype=bool)
    return (ranks == others).reshape(-1, ranks.shape[-1]).all(axis=0)


class PairedBootstrap(NamedTuple):
    """Mean of b − a, and its percentile interval."""

    difference: Any
    low: Any
    high: Any


def paired_bootstrap(values_a: Any, values_b: Any) -> PairedBootstrap:
    """Compare two methods on the same queries: mean of b − a, resampling queries in pairs.

    Args:
        values_a, values_b: `(num_queries,)` or `(num_queries, num_columns)` both. A query where
            either value is NaN is left out. Values that all lie between 0 and 1 are taken for
            shares, which bounds the interval of equal differences.

    Returns:
        Floats, or arrays `(num_columns,)`.

    Raises:
        ValueError: as `bootstrap_interval`, or values of two shapes.

    >>> paired_bootstrap([0.0, 1.0, 0.0], [1.0, 1.0, 1.0]).difference
    0.6666666666666666
    """
    columns_a, is_single = _checked_values(values_a, "values_a")
    columns_b, _ = _checked_values(values_b, "values_b")
    _check_shapes("values_a and values_b", np.shape(values_a), np.shape(values_b))
    is_beyond = any((c < SHARES[0]).any() or (c > SHARES[1]).any() for c in (columns_a, columns_b))
    differences = columns_b - columns_a
    interval = bootstrap_interval(differences, bounds=None if is_beyond else DIFFERENCES)
    results = (_mean(differences), *interval)
    return PairedBootstrap(*(float(column[0]) if is_single else column for column in results))


def auroc(signal: Any, positive: Any, weights: Any = 1.0) -> Any:
    """Area under the ROC curve: how often a positive has the higher signal, ties one half.

    With `weights` `(..., num_answers)`, such as counts of bootstrap samples, areas are `(...)`.

    >>> float(auroc([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0]))
    0.875
    """
    above, below = _by_signal(signal, positive, weights)
    wins = above * (below.sum(axis=-1, keepdims=True) - below.cumsum(axis=-1) + below / 2)
    return wins.sum(axis=-1) / (above.sum(axis=-1) * below.sum(axis=-1))


def risk_coverage(signal: Any, failures: Any, weights: Any = 1.0) -> tuple[Any, Any, Any]:
    """Share of answers accepted from each value on, share of these that fail, and the curve's area.

    The highest value comes first; shapes are as in `auroc`. Geifman and El-Yaniv (2017).

    >>> [array.tolist() for array in risk_coverage([0.9, 0.5], [0, 1])]
    [[0.5, 1.0], [0.0, 0.5], 0.25]
    """
    failed, right = _by_signal(signal, failures, weights)
    accepted = (failed + right).cumsum(axis=-1)
    risk = failed.cumsum(axis=-1) / np.where(accepted, accepted, 1)
    coverage = accepted / accepted[..., -1:]
    return coverage, risk, (np.diff(coverage, prepend=0.0) * risk).sum(axis=-1)


def _by_signal(signal: Any, flags: Any, weights: Any) -> list[np.ndarray]:
    """What flagged answers weigh at each value of a signal, the highest first, and the others."""
    signal, flags = np.asarray(signal, dtype=float), np.asarray(flags, dtype=bool)
    if signal.ndim != 1 or signal.shape != flags.shape or not np.isfinite(signal).all():
        raise ValueError("a signal is a row of finite numbers, with a flag for each")
    order = np.argsort(-signal, kind="stable")
    starts = np.flatnonzero(np.diff(signal[order], prepend=np.inf))
    ordered, flags = (weights * np.ones(len(signal)))[..., order], flags[order]
    return [np.add.reduceat(ordered * kind, starts, axis=-1) for kind in (flags, ~flags)]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over queries without NaN entries; NaN, silently, where no entry is left."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / np.sum(~np.isnan(values), axis=0)


def _resampled_means(columns: np.ndarray, seed: int) -> np.ndarray:
    """Means `(NUM_SAMPLES, num_columns)` of resampled queries, as products with their counts."""
    rng = np.random.default_rng(seed)
    num_queries = len(columns)
    present = ~np.isnan(columns)
    filled = np.where(present, columns, 0.0)
    chunk_size = max(1, RESAMPLE_ENTRIES // num_queries)
    means = []
    for start in range(0, NUM_SAMPLES, chunk_size):
        size = min(chunk_size, NUM_SAMPLES - start)
        counts = rng.multinomial(num_queries, np.full(num_queries, 1 / num_queries), size=size)
        counts = counts.astype(float)  # a product of floats is a fast matrix product
        with np.errstate(invalid="ignore"):  # a sample may miss every present entry of a column
            means.append((counts @ filled) / (counts @ present.astype(float)))
    return np.concatenate(means)


def _to_numpy(values: Any, name: str) -> np.ndarray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    try:
        return np.asarray(values)
    except ValueError as error:
        line = f"{name} have rows of different lengths: pad them and pass lengths"
        raise ValueError(line) from error


def _integers(values: Any, name: str) -> np.ndarray:
    values = _to_numpy(values, name)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"{name} must be integers, not {values.dtype}")
    return values


def _checked_ranks(ranks: Any, lengths: Any, name: str = "ranks") -> tuple[np.ndarray, np.ndarray]:
    """Ranks as int64 and a mask of the rounds that exist, `(num_queries, num_rounds)` both."""
    ranks = _integers(ranks, name)
    if ranks.ndim != 2 or ranks.size == 0:
        wanted = "(num_queries, num_rounds) and not empty"
        raise ValueError(f"{name} must be {wanted}, not of shape {ranks.shape}")
    num_queries, num_rounds = ranks.shape
    present = np.ones(ranks.shape, dtype=bool)
    if lengths is not None:
        lengths = _integers(lengths, "lengths")
        if lengths.shape != (num_queries,) or lengths.min() < 1 or lengths.max() > num_rounds:
            wanted = f"of shape ({num_queries},) and lie between 1 and the {num_rounds} rounds"
            raise ValueError(f"lengths must be {wanted} of ranks, not {lengths}")
        present = np.arange(num_rounds) < lengths[:, None]
    num_negative = int(np.sum((ranks < 0) & present))
    if num_negative:
        raise ValueError(f"{name} are 0-based and cannot be negative; {num_negative} are")
    return np.where(present, ranks, 0).astype(np.int64), present


def _checked_pair(ranks: Any, baseline_ranks: Any, lengths: Any) -> tuple[np.ndarray, ...]:
    ranks, present = _checked_ranks(ranks, lengths)
    baseline_ranks = _to_numpy(baseline_ranks, "baseline_ranks")
    _check_shapes("ranks and baseline_ranks", ranks.shape, baseline_ranks.shape)
    return ranks, _checked_ranks(baseline_ranks, lengths, "baseline_ranks")[0], present


def _check_shapes(names: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    if a != b:
        raise ValueError(f"{names} must have one shape, not {a} and {b}")


def _checked_k(k: int) -> int:
    if operator.index(k) < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return k


def _checked_values(values: Any, name: str) -> tuple[np.ndarray, bool]:
    """Values as float64 columns `(num_queries, num_columns)`, and whether they were one column."""
    values = _to_numpy(values, name).astype(float)
    if values.ndim not in (1, 2) or values.size == 0:
        wanted = "(num_queries,) or (num_queries, num_columns) and not empty"
        raise ValueError(f"{name} must be {wanted}, not of shape {values.shape}")
    if np.isinf(values).any():
        raise ValueError(f"{name} must not be infinite")
    return values.reshape(len(values), -1), values.ndim == 1

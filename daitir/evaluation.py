"""The table of results, from ranks to tidy rows with intervals, and how queries are fused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from daitir import metrics
from daitir.common.errors import DataError
from daitir.common.files import atomic_write, write_json
from daitir.fusion import average_views, dar_fusion, not_unit

UNTRAINED_FUSIONS = ("text", "view", "dar")
RESULT_COLUMNS = (
    "benchmark", "method", "seed", "round", "metric", "value", "ci_low", "ci_high", "num_queries",
)  # fmt: skip
PER_QUERY: dict[str, Callable[..., np.ndarray]] = {
    "hits_at_10": partial(metrics.hit_values, k=10),
    "recall_at_10": partial(metrics.recall_values, k=10),
    "recall_at_1": partial(metrics.recall_values, k=1),
    "mrr": metrics.reciprocal_rank_values,
    "bri": lambda *ranks, **of: metrics.best_log_rank_integral_values(*ranks, **of)[:, None],
}
"""Of ranks and, where they differ, `lengths`: values `(num_queries, num_rounds)`, or one column."""
AGAINST_A_BASELINE: dict[str, Callable[..., np.ndarray]] = {
    "degradation_rate": metrics.degradation_values,
    "degradation_rate_ln2": partial(metrics.degradation_values, margin=math.log(2)),
    "rank_drop": metrics.rank_drop_values,
}
"""The same, of ranks and those of a baseline."""
UNBOUNDED = ("bri", "rank_drop", "seconds_per_query", "parameters_added")  # the others are shares
FUSED_AT_ONCE = 4096  # a trained fusion's hidden features of more would take much memory


@dataclass(frozen=True)
class Evaluation:
    """What `daitir.data.evaluate` found."""

    rows: pd.DataFrame  # the tidy table, with the columns RESULT_COLUMNS
    ranks: Mapping[str, np.ndarray]  # by method, `(num_queries, num_rounds)`, -1 beyond the end
    lengths: np.ndarray  # `(num_queries,)`, the number of rounds of each dialogue
    dialogue_indices: np.ndarray  # `(num_queries,)`, which of the given dialogues the queries are
    num_images: int  # in the gallery
    num_texts: int  # of queries
    num_truncated: int  # of those, cut at the encoder's context length
    num_without_view: int = 0  # of those, ranked by text alone


def result_rows(
    ranks: np.ndarray | Tensor,
    *,
    benchmark: str,
    method: str,
    seed: int,
    lengths: Sequence[int] | np.ndarray | None = None,
    baseline_ranks: np.ndarray | Tensor | None = None,
) -> pd.DataFrame:
    """The results of one method as tidy rows with the columns RESULT_COLUMNS.

    Metrics per round are `hits_at_10`, `recall_at_10`, `recall_at_1` and `mrr`, as fractions; `bri`
    stands at the last round, in natural logarithms. `ci_low` and `ci_high` are the interval of
    `metrics.bootstrap_interval` over queries, NaN for `bri` and `rank_drop` where all queries have
    one value. `num_queries` counts the dialogues that have the round, for `hits_at_10` all.

    Args:
        ranks: `(num_queries, num_rounds)`, 0-based.
        benchmark, method, seed: labels.
        lengths: `(num_queries,)`, the number of rounds of each dialogue where they differ.
        baseline_ranks: of text alone. They add per round `degradation_rate`, the same with a margin
            of ln 2 in log-rank as `degradation_rate_ln2`, `rank_drop`, the mean number of places
            that degraded queries lose (no row where none is degraded), and `hits_at_10_gain` and
            `recall_at_10_gain`, the differences to text alone, query by query.

    Returns:
        A table with a row for each metric and round.

    Raises:
        ValueError: as the functions of `daitir.metrics` do.

    Source: `book/notation.md`, Metrics.
    """
    values = {metric: measure(ranks, lengths=lengths) for metric, measure in PER_QUERY.items()}
    options: dict[str, dict[str, Any]] = {}
    if baseline_ranks is not None:
        known = metrics.same_ranks(ranks, baseline_ranks)  # nothing of itself is chance
        for metric, measure in AGAINST_A_BASELINE.items():
            values[metric] = measure(ranks, baseline_ranks, lengths=lengths)
            options[metric] = {"known": known}
        for metric in ("hits_at_10", "recall_at_10"):
            gain, of_baseline = f"{metric}_gain", PER_QUERY[metric](baseline_ranks, lengths=lengths)
            values[gain] = values[metric] - of_baseline
            options[gain] = {"known": known, "bounds": metrics.DIFFERENCES}
    rounds = np.arange(values["mrr"].shape[1])
    tables = []
    for metric, columns in values.items():
        labels = (benchmark, method), seed, rounds[-columns.shape[1] :]
        tables.append(metric_rows(*labels, metric, columns, **options.get(metric, {})))
    return pd.concat(tables, ignore_index=True)


def metric_rows(
    key: tuple[str, str],
    seed: int | str,
    rounds: Sequence[int] | np.ndarray,
    metric: str,
    values: np.ndarray,
    *,
    known: bool | np.ndarray = False,
    bounds: metrics.Bounds = metrics.SHARES,
) -> pd.DataFrame:
    """Rows of values `(num_queries, num_rounds)`, their means with intervals over queries.

    `key` is benchmark and method; `known` and `bounds` are as in `metrics.bootstrap_interval`,
    which has no bounds for what is `UNBOUNDED`. Rounds that no query has give no row.
    """
    bounds = None if metric in UNBOUNDED else bounds
    low, high = metrics.bootstrap_interval(values, bounds=bounds, known=known)
    columns = pd.DataFrame(values)  # its mean and count leave NaN out, as the metrics do
    row = (*key, seed, rounds, metric, columns.mean(), low, high, columns.count())
    table = pd.DataFrame(dict(zip(RESULT_COLUMNS, row, strict=True)))
    return table[table["num_queries"] > 0]


def judged_signal(
    signal: np.ndarray, hits: np.ndarray, least: float, counts: Any = 1.0, *, absent: float = 0.2
) -> dict[str, np.ndarray]:
    """How well a signal tells that a target is there, and which answers to accept.

    `signal` `(2 * num_queries,)` holds the queries with their target in the gallery, then those
    without; `hits` `(num_queries,)` tells which targets are seen. Answers of a signal of at least
    `least` are accepted: `kept` of the first, `false_finds` of the second. The risk is that of a
    share `absent` of queries without a target, whose accepted answer fails, as one does that misses
    it. `counts` `(..., num_queries)` are bootstrap samples.

    >>> told = judged_signal(np.array([0.9, 0.3, 0.5, 0.2]), np.array([1, 0]), 0.4)
    >>> {name: float(share) for name, share in told.items() if name != "risk_coverage_area"}
    {'auroc': 0.75, 'kept': 0.5, 'false_finds': 0.5}
    """
    counts = np.broadcast_to(counts, np.broadcast_shapes(np.shape(counts), hits.shape))
    is_there, twice = np.arange(len(signal)) < len(hits), np.concatenate([counts, counts], axis=-1)
    weights = twice * np.where(is_there, 1 - absent, absent)
    failures, accepted = np.append(1 - hits, np.ones(len(hits))), signal >= least
    kept, false_finds = (counts @ half / counts.sum(axis=-1) for half in np.split(accepted, 2))
    return {
        "auroc": metrics.auroc(signal, is_there, twice),
        "risk_coverage_area": metrics.risk_coverage(signal, failures, weights)[2],
        "kept": kept,
        "false_finds": false_finds,
    }


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write a table of results as CSV, whole or not at all."""
    with atomic_write(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def write_results(path: Path, rows: pd.DataFrame, notes: Mapping) -> None:
    """Write result rows as CSV after how they came about, as JSON beside it."""
    write_json(path.with_suffix(".json"), notes)
    write_rows(path, rows)


@torch.no_grad()
def query_features(
    fusion: str | nn.Module,
    text_features: Tensor,
    view_features: Tensor,
    counts: Tensor,
    rounds: Tensor,
) -> Tensor:
    """The queries by `view`, `dar` or a trained fusion, (num_queries, dim).

    `view_features` (num_views, dim) are those of the first query first, of which each has `counts`
    (num_queries,). A query without a view is its text.
    """
    if isinstance(fusion, nn.Module):
        texts = text_features.repeat_interleave(counts, dim=0)
        pairs = zip(texts.split(FUSED_AT_ONCE), view_features.split(FUSED_AT_ONCE), strict=True)
        view_features = torch.cat([fusion(text, view)[0] for text, view in pairs])
    queries, starts = text_features.clone(), counts.cumsum(0) - counts
    viewed = counts > 0
    for number in counts[viewed].unique():
        rows = counts == number
        queries[rows] = average_views(view_features[starts[rows, None] + torch.arange(number)])
    if fusion == "dar":
        queries[viewed] = dar_fusion(text_features[viewed], queries[viewed], round=rounds[viewed])
    return queries


def check_features(what: str, features: Tensor, shape: tuple[int, int]) -> None:
    """Raises DataError unless `features` are finite unit vectors of the expected shape."""
    if tuple(features.shape) != shape:
        fault = f"features of shape {tuple(features.shape)} for {shape[0]:,} {what}"
        advice = f"of dimension {shape[1]}; use an encoder whose weights fit its configuration"
        raise DataError(f"the encoder gave {fault} {advice}")
    bad = not_unit(features)
    if bad.any():
        share = f"{int(bad.sum()):,} of {len(features):,} {what}"
        first = f"the first is number {int(bad.nonzero()[0])}; check its weights"
        fault = "NaN, infinite or unnormalised features"
        raise DataError(f"the encoder gave {fault} for {share}, {first}")

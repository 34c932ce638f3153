"""The table of results, from ranks to tidy rows with intervals, and how queries are fused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from daitir import metrics
from daitir.common.errors import DataError
from daitir.common.files import atomic_write, write_json
from daitir.fusion import average_views, dar_fusion

UNTRAINED_FUSIONS = ("text", "view", "dar")
RESULT_COLUMNS = (
    "benchmark",
    "method",
    "seed",
    "round",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "num_queries",
)
NORM_TOLERANCE = 1e-2
FUSED_AT_ONCE = 4096  # a trained fusion's hidden features of more would take much memory


@dataclass(frozen=True)
class Evaluation:
    """What `daitir.data.evaluate` found.

    Attributes:
        rows: the tidy table, with the columns RESULT_COLUMNS.
        ranks: by method, 0-based, `(num_queries, num_rounds)`, -1 beyond the end of a dialogue.
        lengths: `(num_queries,)`, the number of rounds of each dialogue.
        dialogue_indices: `(num_queries,)`, which of the given dialogues the queries are.
        num_images: in the gallery.
        num_texts, num_truncated: query texts, and those cut at the encoder's context length.
        num_without_view: query texts that had no view and were ranked by text alone.
    """

    rows: pd.DataFrame
    ranks: Mapping[str, np.ndarray]
    lengths: np.ndarray
    dialogue_indices: np.ndarray
    num_images: int
    num_texts: int
    num_truncated: int
    num_without_view: int = 0


def result_rows(
    ranks: np.ndarray | Tensor,
    *,
    benchmark: str,
    method: str,
    seed: int,
    lengths: Sequence[int] | np.ndarray | None = None,
    baseline_ranks: np.ndarray | Tensor | None = None,
    peer_ranks: Mapping[str, np.ndarray | Tensor] | None = None,
    num_samples: int = 1000,
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
        peer_ranks: of other methods by name. They add the differences to each, such as
            `hits_at_10_gain_over_dar` and `recall_at_10_gain_over_dar`.
        num_samples: of the bootstrap.

    Returns:
        A table with a row for each metric and round.

    Raises:
        ValueError: as the functions of `daitir.metrics` do.

    Source: `book/notation.md`, Metrics.
    """
    values = {
        "hits_at_10": metrics.hit_values(ranks, 10, lengths=lengths),
        "recall_at_10": metrics.recall_values(ranks, 10, lengths=lengths),
        "recall_at_1": metrics.recall_values(ranks, 1, lengths=lengths),
        "mrr": metrics.reciprocal_rank_values(ranks, lengths=lengths),
        "bri": metrics.best_log_rank_integral_values(ranks, lengths=lengths)[:, None],
    }
    known = {}  # where a method is its rival, nothing of a difference is chance
    if baseline_ranks is not None:
        for metric, margin in (("degradation_rate", 0.0), ("degradation_rate_ln2", math.log(2))):
            values[metric] = metrics.degradation_values(
                ranks, baseline_ranks, margin=margin, lengths=lengths
            )
            known[metric] = metrics.same_ranks(ranks, baseline_ranks)
        values["rank_drop"] = metrics.rank_drop_values(ranks, baseline_ranks, lengths=lengths)
    bounds: dict[str, metrics.Bounds] = {"bri": None, "rank_drop": None}  # the others are shares
    rivals = {} if baseline_ranks is None else {"gain": baseline_ranks}
    rivals |= {f"gain_over_{name}": others for name, others in (peer_ranks or {}).items()}
    for suffix, others in rivals.items():
        for metric, measure in (
            ("hits_at_10", metrics.hit_values), ("recall_at_10", metrics.recall_values),
        ):  # fmt: skip
            name = f"{metric}_{suffix}"
            values[name] = values[metric] - measure(others, 10, lengths=lengths)
            bounds[name] = metrics.DIFFERENCES
            known[name] = metrics.same_ranks(ranks, others)
    last = values["mrr"].shape[1] - 1
    tables = []
    for metric, columns in values.items():
        low, high = metrics.bootstrap_interval(
            columns,
            num_samples=num_samples,
            bounds=bounds.get(metric, metrics.SHARES),
            known=known.get(metric, False),
        )
        columns = pd.DataFrame(columns)  # its mean and count leave NaN out, as the metrics do
        table = {
            "benchmark": benchmark, "method": method, "seed": seed,
            "round": [last] if metric == "bri" else np.arange(last + 1),
            "metric": metric, "value": columns.mean(), "ci_low": low, "ci_high": high,
            "num_queries": columns.count(),
        }  # fmt: skip
        tables.append(pd.DataFrame(table, columns=list(RESULT_COLUMNS)))
    rows = pd.concat(tables, ignore_index=True)
    return rows[rows["num_queries"] > 0].reset_index(drop=True)


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
    """The queries, (num_queries, dim); one without a view is its text.

    Args:
        fusion: `view`, `dar` or a trained fusion.
        text_features: (num_queries, dim).
        view_features: (num_views, dim), those of the first query first.
        counts: (num_queries,), how many views each query has.
        rounds: (num_queries,).
    """
    if isinstance(fusion, nn.Module):
        texts = text_features.repeat_interleave(counts, dim=0)
        pairs = zip(texts.split(FUSED_AT_ONCE), view_features.split(FUSED_AT_ONCE), strict=True)
        view_features = torch.cat([fusion(text, view)[0] for text, view in pairs])
    queries, viewed = text_features.clone(), counts > 0
    queries[viewed] = _averaged(view_features, counts[viewed])
    if fusion == "dar":
        queries[viewed] = dar_fusion(text_features[viewed], queries[viewed], round=rounds[viewed])
    return queries


def _averaged(view_features: Tensor, counts: Tensor) -> Tensor:
    """One feature a query, (num_queries, dim), of (num_views, dim) that lie one after the other."""
    starts = counts.cumsum(0) - counts
    averaged = view_features.new_empty(len(counts), view_features.shape[-1])
    for number in counts.unique():
        rows = counts == number
        averaged[rows] = average_views(view_features[starts[rows, None] + torch.arange(number)])
    return averaged


def check_features(what: str, features: Tensor, shape: tuple[int, int]) -> None:
    """Raises DataError unless `features` are finite unit vectors of the expected shape."""
    if tuple(features.shape) != shape:
        raise DataError(
            f"the encoder gave features of shape {tuple(features.shape)} for {shape[0]:,} {what} "
            f"of dimension {shape[1]}; use an encoder whose weights fit its configuration"
        )
    norms = features.norm(dim=1)
    bad = ~((norms - 1).abs() <= NORM_TOLERANCE)  # NaN is bad as well
    if bad.any():
        raise DataError(
            f"the encoder gave NaN, infinite or unnormalised features for {int(bad.sum()):,} of "
            f"{len(features):,} {what}, the first is number {int(bad.nonzero()[0])}; "
            "check its weights"
        )

"""Tables from kept ranks: metrics, contrasts, paired intervals, averages over seeds.

What is measured is measured query by query. Means over seeds are taken of each query, then the
queries are put to the bootstrap, so that an interval speaks of other queries and the label of the
seeds says how many trainings the mean is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from daitir import metrics
from daitir.evaluation import AGAINST_A_BASELINE, PER_QUERY, RESULT_COLUMNS, metric_rows
from daitir.studies.engine.conditions import Contrast, Key, Shown, Study
from daitir.studies.engine.ranks import Ranks

MEASURES = PER_QUERY | {
    "mean_recall_at_10": lambda r: metrics.recall_values(r, k=10).mean(axis=1, keepdims=True)
}
"""Of ranks `(num_queries, num_rounds)`: values a round, or one column over all rounds."""


@threadpool_limits.wrap(limits=1)  # more threads change last bits, and what a half is rounded to
def study_table(study: Study, ranks: Ranks) -> pd.DataFrame:
    """The tidy rows of a study, with the columns of `daitir.evaluation.RESULT_COLUMNS`.

    Raises DataError where a rival has no ranks.
    """
    tables = [table for key in ranks.keys for table in _rows_of(study, ranks, key)]
    for (benchmark, method, seed, metric), values in ranks.values.items():
        rounds = _round_labels(ranks, benchmark, values.shape[1], None)
        known = metric == "parameters_added"
        labels = Key(benchmark, method), "mean of 1" if study.together else seed, rounds
        tables.append(metric_rows(*labels, metric, values, known=known))
    table = pd.concat(tables, ignore_index=True)
    table = table if study.digits is None else table.round(study.digits)
    return study.finish(table, ranks)


def _rows_of(study: Study, ranks: Ranks, key: Key) -> Iterator[pd.DataFrame]:
    shown = study.shown(key, ranks)
    if shown is None:
        return
    stacked, seeds = ranks.of(key), ranks.seeds(key)
    if study.together:
        yield from _measured(shown, ranks, key, slice(None), f"mean of {len(seeds)}")
        if (metric := study.alone(key)) and len(seeds) > 1:
            for seed, one in zip(seeds, stacked, strict=True):
                means = MEASURES[metric](one).mean(axis=0)
                rounds = _round_labels(ranks, key.benchmark, len(means), None)
                row = (*key, seed, rounds, metric, means, np.nan, np.nan, len(one))
                yield pd.DataFrame(dict(zip(RESULT_COLUMNS, row, strict=True)))
    else:
        for index, seed in enumerate(seeds):
            yield from _measured(shown, ranks, key, slice(index, index + 1), seed)


def _measured(
    shown: Shown, ranks: Ranks, key: Key, seeds: slice, label: int | str
) -> Iterator[pd.DataFrame]:
    """The rows of some seeds of a method, averaged over them."""
    stacked = ranks.of(key)[seeds]
    names = shown.metrics if isinstance(shown.metrics, dict) else {m: m for m in shown.metrics}
    baseline = None if shown.baseline is None else ranks.of(shown.baseline)[:, : stacked.shape[1]]
    for name, metric in names.items():
        known = False
        if metric in AGAINST_A_BASELINE:
            # A baseline of one seed is everyone's.
            pairs = zip(stacked, np.broadcast_to(baseline, stacked.shape), strict=True)
            values = np.mean([AGAINST_A_BASELINE[metric](*pair) for pair in pairs], axis=0)
            known = metrics.same_ranks(stacked, baseline)
        else:
            values = _averaged(metric, stacked)
        rounds = _round_labels(ranks, key.benchmark, values.shape[1], shown.round)
        yield metric_rows(key, label, rounds, name, values, known=known)
        for suffix, contrast in shown.contrasts.items():
            if name in contrast.metrics:
                # A method of the first dialogues alone is compared on those.
                rivals = {k: ranks.of(k)[:, : stacked.shape[1]] for k in contrast.weights}
                rivals[key] = stacked
                compared = _contrasted(contrast, rivals, metric)
                yield metric_rows(key, label, rounds, f"{name}_{suffix}", **compared)


def _contrasted(contrast: Contrast, stacked: Mapping[Key, np.ndarray], metric: str) -> dict:
    """The values, what is known and the bounds of a contrast between methods, of ranks by key."""
    averages = {rival: _averaged(metric, stacked[rival]) for rival in contrast.weights}
    values = sum(weight * averages[rival] for rival, weight in contrast.weights.items())
    weights = {rival: weight for rival, weight in contrast.weights.items() if weight}
    negative = sum(min(weight, 0) for weight in weights.values())
    positive = sum(max(weight, 0) for weight in weights.values())
    # Where methods that are compared rank alike nothing is chance, as of a method and itself.
    rivals = [stacked[rival] for rival in list(weights) or list(contrast.weights)[:1]]
    same = np.all([metrics.same_ranks(rivals[0], rival) for rival in rivals], axis=0)
    same &= negative + positive == 0
    known = same if values.shape[1] == len(same) else same.all()
    bounds = (negative, positive) if weights else metrics.DIFFERENCES
    return {"values": values, "known": known, "bounds": bounds}


def _averaged(metric: str, stacked: np.ndarray) -> np.ndarray:
    """(num_queries, num_rounds or 1), the mean over seeds of what is measured of each."""
    return np.mean([MEASURES[metric](one) for one in stacked], axis=0)


def _round_labels(ranks: Ranks, benchmark: str, number: int, label: int | None) -> list[int]:
    rounds = ranks.rounds[benchmark]
    if number == 1 and len(rounds) > 1:
        return [rounds[-1] if label is None else label]
    return list(rounds)

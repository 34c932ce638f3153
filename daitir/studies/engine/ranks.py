"""Kept ranks, of every query under every condition of a study, and the table that is made of them.

A file is a NumPy archive (`.npz`), without pickled objects; `book/extend.md` lists its columns.
Conditions with the same queries lie in one array, since ranks that resemble each other are
compressed best side by side.

What is measured is measured query by query. Means over seeds are taken of each query, then the
queries are put to the bootstrap, so that an interval speaks of other queries.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from daitir import metrics
from daitir.common.errors import DataError
from daitir.common.files import read_arrays, write_arrays
from daitir.evaluation import AGAINST_A_BASELINE, PER_QUERY, metric_rows
from daitir.studies.engine.conditions import Contrast, Key, Shown, Study

MEASURES = PER_QUERY | {
    "mean_recall_at_10": lambda r: metrics.recall_values(r, k=10).mean(axis=1, keepdims=True)
}
"""Of ranks `(num_queries, num_rounds)`: values a round, or one column over all rounds."""


@dataclass
class Ranks:
    """Ranks of a study and what else is measured of queries: arrays (num_queries, num_rounds)."""

    arrays: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)
    values: dict[tuple[str, str, int, str], np.ndarray] = field(default_factory=dict)
    rounds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: dict = field(default_factory=dict)

    @property
    def keys(self) -> list[Key]:
        """Benchmarks and methods, in order."""
        return list(dict.fromkeys(Key(*name[:2]) for name in self.arrays))

    def seeds(self, key: Key) -> list[int]:
        """The seeds of a method, in order."""
        return sorted(seed for *place, seed in self.arrays if Key(*place) == key)

    def of(self, key: Key) -> np.ndarray:
        """(num_seeds, num_queries, num_rounds) int64. Raises DataError where there are none."""
        arrays = [self.arrays[*key, seed] for seed in self.seeds(key)]
        if not arrays:
            raise DataError(f"no ranks of {key.method} on {key.benchmark}; run the study again")
        return np.stack(arrays).astype(np.int64)


def in_small(ranks: np.ndarray) -> np.ndarray:
    """Ranks in the smallest unsigned type that holds them."""
    return ranks.astype(np.min_scalar_type(int(ranks.max())))


def write_ranks(path: Path, ranks: Ranks) -> None:
    """Write ranks to an `.npz` file."""
    alike = defaultdict(list)
    for (benchmark, method, seed), array in sorted(ranks.arrays.items()):
        alike[f"{benchmark}/{len(array)}"].append((f"{method}/{seed}", array))
    columns = {"notes": np.array(json.dumps(ranks.notes))}
    for place, conditions in alike.items():
        names, arrays = zip(*conditions, strict=True)
        columns[f"conditions/{place}"] = np.array(names)
        columns[f"ranks/{place}"] = in_small(np.stack(arrays))
    for name, array in sorted(ranks.values.items()):
        columns["/".join(("values", *map(str, name)))] = array
    for benchmark, rounds in sorted(ranks.rounds.items()):
        columns[f"rounds/{benchmark}"] = np.array(rounds, dtype=np.uint8)
    write_arrays(path, columns)


def read_ranks(path: Path) -> Ranks:
    """Ranks that `write_ranks` wrote. Raises DataError, naming the file, where it is damaged."""
    ranks = Ranks()
    try:
        columns = read_arrays(path)
        ranks.notes = json.loads(str(columns["notes"]))
        for name, column in columns.items():
            kind, *place = name.split("/")
            if kind == "ranks":
                conditions = columns["/".join(("conditions", *place))].tolist()
                for condition, array in zip(conditions, column, strict=True):
                    method, _, seed = condition.rpartition("/")
                    ranks.arrays[place[0], method, int(seed)] = array
            elif kind == "values":
                benchmark, method, seed, metric = place
                ranks.values[benchmark, method, int(seed), metric] = column
            elif kind == "rounds":
                ranks.rounds[place[0]] = tuple(column.tolist())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; `daitir study` writes it") from error
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: no ranks ({line}); remove the file and run it again") from error
    return ranks


def study_table(study: Study, ranks: Ranks) -> pd.DataFrame:
    """The tidy rows of a study, with the columns of `daitir.evaluation.RESULT_COLUMNS`.

    Raises DataError where a rival has no ranks.
    """
    tables = [table for key in ranks.keys for table in _rows_of(study, ranks, key)]
    for (benchmark, method, seed, metric), values in ranks.values.items():
        label = "mean of 1" if study.together else seed
        rows = partial(_rows, ranks, Key(benchmark, method), label)
        tables.append(rows(metric, values, known=metric == "parameters_added"))
    # The last bits of a sum depend on the machine, and would decide what a half is rounded to.
    table = pd.concat(tables, ignore_index=True).round(12)
    table = table if study.digits is None else table.round(study.digits)
    table[["value", "ci_low", "ci_high"]] += 0.0  # no -0
    return study.finish(table, ranks)


def averaged(metric: str, stacked: np.ndarray) -> np.ndarray:
    """(num_queries, num_rounds or 1), the mean over seeds of what is measured of each."""
    return np.mean([MEASURES[metric](one) for one in stacked], axis=0)


def _rows_of(study: Study, ranks: Ranks, key: Key) -> Iterator[pd.DataFrame]:
    shown, seeds, stacked = study.shown(key, ranks), ranks.seeds(key), ranks.of(key)
    if shown is None:
        return
    if study.together:
        yield from _measured(shown, ranks, key, stacked, f"mean of {len(seeds)}")
    for seed, one in zip(seeds, stacked, strict=True):
        if not study.together:
            yield from _measured(shown, ranks, key, one[None], seed)
        elif key.benchmark == study.alone and len(seeds) > 1:
            rows = _rows(ranks, key, seed, "recall_at_10", MEASURES["recall_at_10"](one))
            yield rows.assign(ci_low=np.nan, ci_high=np.nan)


def _measured(
    shown: Shown, ranks: Ranks, key: Key, stacked: np.ndarray, label: int | str
) -> Iterator[pd.DataFrame]:
    """The rows of `stacked` ranks of a method, averaged over their seeds."""
    rows = partial(_rows, ranks, key, label, round=shown.round)
    names = shown.metrics if isinstance(shown.metrics, dict) else {m: m for m in shown.metrics}
    baseline = None
    if shown.baseline is not None:  # of one with more seeds than the method the first ones count
        baseline = ranks.of(shown.baseline)[: len(ranks.seeds(key)), : stacked.shape[1]]
    for name, metric in names.items():
        if metric in AGAINST_A_BASELINE:
            # A baseline of one seed is everyone's.
            pairs = zip(stacked, np.broadcast_to(baseline, stacked.shape), strict=True)
            values = np.mean([AGAINST_A_BASELINE[metric](*pair) for pair in pairs], axis=0)
            known = metric != "rank_drop" and metrics.same_ranks(stacked, baseline)
            yield rows(name, values, known=known)
        else:
            yield rows(name, averaged(metric, stacked))
        for suffix, contrast in shown.contrasts.items():
            if name in contrast.metrics:
                # A method of the first dialogues alone is compared on those.
                rivals = {k: ranks.of(k)[:, : stacked.shape[1]] for k in contrast.weights}
                compared = _contrasted(contrast, rivals | {key: stacked}, metric)
                yield rows(f"{name}_{suffix}", **compared)


def _contrasted(contrast: Contrast, stacked: Mapping[Key, np.ndarray], metric: str) -> dict:
    """The values, what is known and the bounds of a contrast between methods, of ranks by key."""
    weighted = contrast.weights.items()
    values = sum(weight * averaged(metric, stacked[rival]) for rival, weight in weighted)
    weights = {rival: weight for rival, weight in weighted if weight}
    negative = sum(min(weight, 0) for weight in weights.values())
    positive = sum(max(weight, 0) for weight in weights.values())
    # Where methods that are compared rank alike nothing is chance, as of a method and itself.
    rivals = [stacked[rival] for rival in list(weights) or list(contrast.weights)[:1]]
    same = np.all([metrics.same_ranks(rivals[0], rival) for rival in rivals], axis=0)
    same &= negative + positive == 0
    known = same if values.shape[1] == len(same) else same.all()
    bounds = (negative, positive) if weights else metrics.DIFFERENCES
    return {"values": values, "known": known, "bounds": bounds}


def _rows(
    ranks: Ranks,
    key: Key,
    label: int | str,
    metric: str,
    values: np.ndarray,
    *,
    round: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """The rows of `metric_rows`; one column over all rounds stands at `round`, else at the last."""
    rounds = list(ranks.rounds[key.benchmark])
    if values.shape[1] == 1 < len(rounds):
        rounds = [rounds[-1] if round is None else round]
    return metric_rows(key, label, rounds, metric, values, **options)

"""Kept ranks: of every query, under every condition of a study.

A file is a compressed NumPy archive (`.npz`) of one array a column, without pickled objects:
`ranks/BENCHMARK/METHOD/SEED`, 0-based ranks `(num_queries, num_rounds)` in the smallest unsigned
type; `values/BENCHMARK/METHOD/SEED/METRIC`, what is measured of queries and is no rank;
`rounds/BENCHMARK`, which rounds the columns are; and `notes`, how it came about, as JSON.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from daitir.common.errors import DataError
from daitir.common.files import atomic_write
from daitir.studies.engine.conditions import Key


@dataclass
class Ranks:
    """Ranks of a study as the file has them, their arrays (num_queries, num_rounds)."""

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
    columns: dict[str, np.ndarray] = {"notes": np.array(json.dumps(ranks.notes))}
    for name, array in sorted(ranks.arrays.items()):
        columns["/".join(("ranks", *map(str, name)))] = in_small(array)
    for name, array in sorted(ranks.values.items()):
        columns["/".join(("values", *map(str, name)))] = array
    for benchmark, rounds in sorted(ranks.rounds.items()):
        columns[f"rounds/{benchmark}"] = np.array(rounds, dtype=np.uint8)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **columns)


def read_ranks(path: Path) -> Ranks:
    """Ranks that `write_ranks` wrote. Raises DataError, naming the file, where it is damaged."""
    ranks = Ranks()
    try:
        with np.load(path, allow_pickle=False) as columns:
            ranks.notes = json.loads(str(columns["notes"]))
            for name in columns.files:
                kind, *place = name.split("/")
                if kind == "ranks":
                    benchmark, method, seed = place
                    ranks.arrays[benchmark, method, int(seed)] = columns[name]
                elif kind == "values":
                    benchmark, method, seed, metric = place
                    ranks.values[benchmark, method, int(seed), metric] = columns[name]
                elif kind == "rounds":
                    ranks.rounds[place[0]] = tuple(columns[name].tolist())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; `daitir study` writes it") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: no ranks ({line}); remove the file and run it again") from error
    return ranks

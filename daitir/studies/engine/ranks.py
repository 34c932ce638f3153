"""Kept ranks: of every query, under every condition of a study.

A file is a NumPy archive (`.npz`), without pickled objects; `book/extend.md` lists its columns.
Conditions with the same queries lie in one array, since ranks that resemble each other are
compressed best side by side.
"""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from daitir.common.errors import DataError
from daitir.common.files import atomic_write
from daitir.studies.engine.conditions import Key


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
    # np.savez_compressed would deflate, which takes 1.8 times the space.
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in columns.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # without the time, so equal ranks, equal files
            entry.compress_type = zipfile.ZIP_LZMA
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def read_ranks(path: Path) -> Ranks:
    """Ranks that `write_ranks` wrote. Raises DataError, naming the file, where it is damaged."""
    ranks = Ranks()
    try:
        with np.load(path, allow_pickle=False) as columns:
            ranks.notes = json.loads(str(columns["notes"]))
            for name in columns.files:
                kind, *place = name.split("/")
                if kind == "ranks":
                    conditions = columns["/".join(("conditions", *place))].tolist()
                    for condition, array in zip(conditions, columns[name], strict=True):
                        method, _, seed = condition.rpartition("/")
                        ranks.arrays[place[0], method, int(seed)] = array
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

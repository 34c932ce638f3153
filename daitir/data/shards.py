"""Kept features on the disk: a folder of shards, each of which says what its rows are of.

A shard is a safetensors file, `pictures-*.safetensors` or `texts-*.safetensors`:

| part | holds |
|---|---|
| tensor `features` | (rows, dim) float32, unit vectors |
| tensor `stamps` | (rows, 4) int64, what the pictures' files were like; (rows, 0) of texts |
| metadata `names` | JSON list, what each row is of: a file's path, or the SHA-256 of a text |
| metadata `spec`, `digest` | the encoder's spec, and its digest, which names all of it |
| metadata `format` | `SHARD_FORMAT` |
| metadata `checksum` | CRC-32 of `names` (UTF-8), stamps and features, one after the other |

A stamp is a file's size in bytes, its mtime and ctime in nanoseconds, and a checksum of some of its
bytes. Nothing but a shard says what it holds: a folder may lose some, or get those of another run.
"""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from daitir.common.errors import DataError
from daitir.common.files import atomic_write

if TYPE_CHECKING:
    from daitir.models.encoders import Encoder

SHARD_FORMAT = "daitir-features-2"
PICTURES, TEXTS = "pictures", "texts"
STAMP_SIZES = {PICTURES: 4, TEXTS: 0}
KEEP_SECONDS = 30.0  # of work that a killed run may lose; a shard is written in far less


@dataclass(frozen=True)
class Shard:
    """What a file of features holds; `features` are None where they were not asked for."""

    path: Path
    spec: str
    digest: str
    names: list[str]
    stamps: np.ndarray
    dim: int
    features: Tensor | None = None


def read_shard(path: Path, *, whole: bool = True) -> Shard:
    """A shard, without its features unless `whole`, which are then compared with the checksum."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("no file")
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != SHARD_FORMAT:
                raise ValueError("no features as this version keeps them")
            names, (rows, dim) = json.loads(about["names"]), file.get_slice("features").get_shape()
            stamps = file.get_tensor("stamps").numpy()
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("its names are no list of names")
            if not len(names) == rows == len(stamps) or stamps.dtype != np.int64:
                raise ValueError(f"{len(names):,} names of {rows:,} rows")
            features = file.get_tensor("features") if whole else None
        if whole and about["checksum"] != _checksum(about["names"], stamps, features):
            raise ValueError("another checksum")
        return Shard(path, about["spec"], about["digest"], names, stamps, dim, features)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        again = f"({' '.join(str(error).split())}); remove it, and what it held is embedded again"
        raise DataError(f"{path}: damaged {again}") from error


class KeptFeatures:
    """The features of one kind, PICTURES or TEXTS, that a folder keeps; `model` adds more.

    Rows are numbered in the order of the shards; `starts` holds the number of each shard's first
    row, and of all rows. Names are known by their hashes: those of a million files would take a
    third of a gigabyte.
    """

    def __init__(self, folder: Path, kind: str, model: Encoder | None = None):
        self.folder, self.kind, self.model = folder, kind, model
        self.refresh()

    def refresh(self) -> None:
        """Look what the folder holds now; a shard of no use or another model is a DataError."""
        self.shards, sizes, hashes = [], [0], [np.empty(0, np.int64)]
        stamps = [np.empty((0, STAMP_SIZES[self.kind]), np.int64)]
        for path in sorted(self.folder.glob(f"{self.kind}-*.safetensors")):
            shard = read_shard(path, whole=False)
            model = self.model or (self.shards[0] if self.shards else shard)
            if (shard.digest, shard.dim) != (model.digest, model.dim):
                raise DataError(
                    f"{path}: holds features of another model ({shard.spec}), not of {model.spec} "
                    "as it is now; name another folder or remove the file"
                )
            if shard.stamps.shape[1:] != (STAMP_SIZES[self.kind],):
                raise DataError(f"{path}: holds no features of {self.kind}; remove it")
            hashes.append(_hashes(shard.names))
            stamps.append(shard.stamps)
            sizes.append(len(shard.names))
            self.shards.append(replace(shard, names=[], stamps=stamps[0]))
        self.starts = np.cumsum(sizes)
        self._hashes, self._stamps = np.concatenate(hashes), np.concatenate(stamps)
        self._order = np.argsort(self._hashes, kind="stable")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def find(
        self, names: Sequence[str], stamps: np.ndarray, check: Callable[[int], int] | None = None
    ) -> np.ndarray:
        """(n,) the row of each name, -1 where no row is kept of the file as it is.

        A file is as it was where size and times are the same. A copy has another ctime: there
        `check` of its place in `names` must give the fourth number of its stamp.
        """
        wanted = _hashes(names)
        ordered = self._hashes[self._order]
        first, end = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
        rows, known = np.full(len(names), -1), np.flatnonzero(first < end)
        rows[known] = self._order[first[known]]
        is_same = (self._stamps[rows[known], :3] == stamps[known]).all(axis=1)
        for i in known[~is_same].tolist():  # a file that was changed may have several rows
            stamp, rows[i] = stamps[i].tolist(), -1
            for row in self._order[first[i] : end[i]].tolist():
                *before, sample = self._stamps[row].tolist()
                if before == stamp or (before[:2] == stamp[:2] and sample == check(i)):
                    rows[i] = row
                    break
        return rows

    def load(self, rows: np.ndarray) -> Tensor:
        """(n, dim) the features of rows. Raises DataError where a shard is damaged or changed."""
        features = torch.empty(len(rows), self.shards[0].dim if self.shards else 0)
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], self.starts)
        for number, shard in enumerate(self.shards):
            ours = order[ends[number] : ends[number + 1]]
            if not len(ours):
                continue
            read = read_shard(shard.path)
            known = self._hashes[self.starts[number] : self.starts[number + 1]]
            is_known = np.array_equal(_hashes(read.names[: len(known)]), known)
            if not is_known or read.digest != shard.digest:  # it may have become longer
                raise DataError(f"{shard.path}: was changed meanwhile; run the command again")
            features[torch.from_numpy(ours)] = read.features[rows[ours] - self.starts[number]]
        return features

    def keep(
        self,
        names: Sequence[str],
        stamps: Sequence[Sequence[int]] | None,
        batches: Iterable[Tensor],
        *,
        size: int,
        done: Callable[[int], object],
    ) -> None:
        """Write (batch, dim) features of the model, as they come, to shards of `size` rows or more.

        The shard that grows is written every KEEP_SECONDS, and at the end, whatever ends it.
        Pictures need the `stamps` of the rows that have come; `done` gets the length of each batch.
        Raises DataError for features that are not finite.
        """
        first = end = written = 0  # rows: of the growing shard, known so far, on the disk
        waiting: list[Tensor] = []
        key, began = secrets.token_hex(8), time.monotonic()

        def write() -> None:
            nonlocal written, began
            text, features = json.dumps(names[first:end]), torch.cat(waiting)
            rows = np.array([()] * (end - first) if stamps is None else stamps[first:end], np.int64)
            about = {"spec": self.model.spec, "digest": self.model.digest, "names": text}
            about |= {"format": SHARD_FORMAT, "checksum": _checksum(text, rows, features)}
            tensors = {"features": features, "stamps": torch.from_numpy(rows)}
            with atomic_write(self.folder / f"{self.kind}-{key}.safetensors") as temporary:
                save_file(tensors, temporary, metadata=about)
            written, began = end, time.monotonic()

        try:
            for batch in batches:
                wrong = (~batch.isfinite().all(dim=1)).nonzero()
                if len(wrong):
                    first_one = names[end + int(wrong[0])] if self.kind == PICTURES else "a text"
                    raise DataError(
                        f"{self.model.spec}: NaN or infinite features of {first_one}, and of "
                        f"{len(wrong) - 1:,} others in its batch; check the weights"
                    )
                waiting.append(batch)
                end += len(batch)
                done(len(batch))
                if end - first >= size or time.monotonic() - began >= KEEP_SECONDS:
                    write()
                if end - first >= size:
                    first, waiting, key = end, [], secrets.token_hex(8)
        finally:
            if end > written:
                write()
        self.refresh()


def _hashes(names: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, names), np.int64, len(names))


def _checksum(names: str, stamps: np.ndarray, features: Tensor) -> str:
    checksum = zlib.crc32(np.ascontiguousarray(stamps), zlib.crc32(names.encode()))
    return f"{zlib.crc32(features.contiguous().numpy(), checksum):08x}"

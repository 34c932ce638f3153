"""Features of picture files, kept in a folder: computed once, never mixed with another model's.

The folder holds shards `*.safetensors` and `manifest.json`, which names the model and, for each
shard, its files with their sizes and times. A file that was changed since is embedded again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from daitir.dialogues import read_json
from daitir.encoders import Encoder, listed
from daitir.errors import DataError
from daitir.files import atomic_write, locked

if TYPE_CHECKING:
    from accelerate import PartialState

MANIFEST = "manifest.json"
SHARD_SIZE = 1024
MAX_SHARDS = 100  # of one run: the manifest is written again after each

File = tuple[str, int, int]  # name, size in bytes, time of change in nanoseconds


class CachedEncoder:
    """An encoder that keeps the features of picture files below a folder; else the same encoder.

    Attributes:
        encoder: the encoder whose features these are.
        root: the folder that the names of files are relative to.
        folder: where the features are kept.
        num_embedded: files that were embedded so far, the rest having been there.
    """

    def __init__(
        self,
        encoder: Encoder,
        root: str | Path,
        folder: str | Path,
        *,
        batch_size: int = 64,
        workers: int = 0,
        shard_size: int = SHARD_SIZE,
    ):
        """`workers` threads decode; after `shard_size` files features are on the disk.

        Raises DataError where the folder holds features of another model.
        """
        self.encoder, self.root, self.folder = encoder, Path(root), Path(folder)
        self.batch_size, self.workers, self.shard_size = batch_size, workers, shard_size
        self.num_embedded = 0
        self._shards()  # another model's are refused before work begins

    def __getattr__(self, name: str):
        return getattr(self.encoder, name)

    def encode_images(
        self, images: Sequence, *, batch_size: int | None = None, progress: bool = False
    ) -> Tensor:
        """As `Encoder.encode_images`; features of paths below `root` are kept.

        Raises DataError too where the disk is full or a shard is damaged.
        """
        images = list(listed(images))
        if not all(isinstance(image, Path) and image.is_relative_to(self.root) for image in images):
            return self.encoder.encode_images(
                images, batch_size=batch_size or self.batch_size, progress=progress
            )
        self.embed(images, batch_size=batch_size, progress=progress)
        return self._load([_stamped(self.root, path) for path in images])

    def embed(
        self,
        paths: Sequence[Path],
        *,
        batch_size: int | None = None,
        group: PartialState | None = None,
        progress: bool = False,
    ) -> int:
        """Embed the picture files below `root` that are new or changed; how many those were.

        Args:
            group: processes that call this alike; each embeds its share of the shards, and waits
                for the others. What is kept is what one process would keep.
            progress: show a bar, of the main process alone.

        Raises DataError as `encode_images` does.
        """
        batch_size = batch_size or self.batch_size
        index, number = (group.process_index, group.num_processes) if group else (0, 1)
        unique = list(dict.fromkeys(_stamped(self.root, path) for path in paths))
        there = self._rows()
        absent = [file for file in unique if file not in there]
        # Shards of whole batches: whoever embeds one sees the same batches.
        size = max(self.shard_size, -(-len(absent) // MAX_SHARDS))
        size = -(-size // batch_size) * batch_size
        shards = [absent[start : start + size] for start in range(0, len(absent), size)]
        share = [file for shard in shards[index::number] for file in shard]
        if group:  # nobody adds a shard before all have seen what is absent
            group.wait_for_everyone()
        total = len(share) + (len(unique) - len(absent) if number == 1 else 0)
        bar = tqdm(
            total=total, initial=total - len(share), desc="embedding", unit="picture",
            disable=not progress or index > 0,
        )  # fmt: skip
        with bar:
            self._embed(share, size, batch_size, bar)
        if group:
            group.wait_for_everyone()
        return len(absent)

    def _embed(self, files: Sequence[File], size: int, batch_size: int, bar: tqdm) -> None:
        batches = self.encoder.image_batches(
            (self.root / name for name, _, _ in files), batch_size=batch_size, workers=self.workers
        )
        waiting: list[Tensor] = []
        done = num_waiting = 0
        for batch in batches:
            waiting.append(batch)
            num_waiting += len(batch)
            bar.update(len(batch))
            if num_waiting >= size or done + num_waiting == len(files):
                self._add(files[done : done + num_waiting], torch.cat(waiting))
                done += num_waiting
                self.num_embedded += num_waiting
                waiting, num_waiting = [], 0

    def _add(self, files: Sequence[File], features: Tensor) -> None:
        name = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16] + ".safetensors"
        with atomic_write(self.folder / name) as temporary:
            save_file({"features": features}, temporary, metadata={"model": self.encoder.digest})
        with locked(self.folder):  # another process may have added shards
            manifest = {
                "model": {
                    "spec": self.encoder.spec,
                    "digest": self.encoder.digest,
                    "dim": self.encoder.dim,
                },
                # Sorted, so that it does not tell who was first.
                "shards": dict(sorted((self._shards() | {name: list(files)}).items())),
            }
            with atomic_write(self.folder / MANIFEST) as temporary:
                temporary.write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")

    def _shards(self) -> dict[str, list[list]]:
        """The files of each shard that is on the disk."""
        model, shards = _read_manifest(self.folder)
        if model is not None and model["digest"] != self.encoder.digest:
            raise DataError(
                f"{self.folder}: holds features of another model ({model['spec']}), not of "
                f"{self.encoder.spec} as it is now; name another folder or remove this one"
            )
        return {name: files for name, files in shards.items() if (self.folder / name).is_file()}

    def _rows(self) -> dict[File, tuple[str, int]]:
        """Shard and row of each file."""
        shards = self._shards().items()
        return {tuple(file): (name, i) for name, files in shards for i, file in enumerate(files)}

    def _load(self, files: Sequence[File]) -> Tensor:
        rows = self._rows()
        places = [rows[file] for file in files]
        features = torch.empty(len(files), self.encoder.dim)
        for name in dict.fromkeys(name for name, _ in places):
            ours = [i for i, place in enumerate(places) if place[0] == name]
            path = self.folder / name
            try:
                shard = load_file(path)["features"]
                features[ours] = shard[[places[i][1] for i in ours]]
            except (SafetensorError, KeyError, IndexError, RuntimeError) as error:
                raise DataError(
                    f"{path}: damaged ({error}); remove it, and its pictures are embedded again"
                ) from error
        return features


def features_folder(root: str | Path, encoder: Encoder) -> Path:
    """Where the features of a folder of own data by an encoder lie: `features/` and its spec.

    Where that folder holds those of another model of the same spec, as when its configuration was
    changed, they lie beside it, in a folder whose name has the encoder's digest too.
    """
    name = re.sub(r"[^\w.-]+", "-", encoder.spec).strip("-.")
    folder = Path(root) / "features" / name
    kept, _ = _read_manifest(folder)
    if kept is None or kept["digest"] == encoder.digest:
        return folder
    return folder.with_name(f"{name}-{encoder.digest[:12]}")


def _read_manifest(folder: Path) -> tuple[dict | None, dict[str, list[list]]]:
    """What a folder's manifest says of the model, None where there is none, and of its shards."""
    path = folder / MANIFEST
    if not path.exists():
        return None, {}
    manifest = read_json(path)
    try:
        model, shards = dict(manifest["model"]), dict(manifest["shards"])
        _ = model["spec"], model["digest"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no manifest of features; remove the folder") from error
    return model, shards


def _stamped(root: Path, path: Path) -> File:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: no such image file") from error
    return path.relative_to(root).as_posix(), found.st_size, found.st_mtime_ns

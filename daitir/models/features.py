"""Features of picture files and of texts, kept in a folder: computed once, of one model.

The folder holds shards (`daitir.data.shards`). A file that was changed since is embedded again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.data.shards import PICTURES, TEXTS, KeptFeatures
from daitir.models.encoder import Encoder, listed

if TYPE_CHECKING:
    from accelerate import PartialState

logger = logging.getLogger(__name__)

SHARD_SIZE = 1024  # rows, or more
MAX_SHARDS = 100  # of one run
MAX_TEXTS = 1 << 18  # kept in a folder: half a gigabyte of 512 numbers each
SAMPLE_BYTES = 1 << 14


class CachedEncoder:
    """An encoder that keeps the features of texts and of picture files; else the same encoder.

    Names of files are relative to `root`, and `folder` keeps the features. `num_embedded` is the
    number of files that were embedded so far, the rest having been there.
    """

    def __init__(
        self,
        encoder: Encoder,
        root: str | Path,
        folder: str | Path,
        *,
        batch_size: int = 64,
        workers: int = 0,
    ):
        """Raises DataError where the folder holds damaged features, or those of another model."""
        self.encoder, self.root, self.folder = encoder, Path(root), Path(folder)
        self.batch_size, self.workers, self.num_embedded = batch_size, workers, 0
        self._pictures = KeptFeatures(self.folder, PICTURES, encoder)
        self._texts = KeptFeatures(self.folder, TEXTS, encoder)

    def __getattr__(self, name: str):
        return getattr(self.encoder, name)

    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int = 256, progress: bool = False
    ) -> Tensor:
        """As `Encoder.encode_texts`; the features are kept, of MAX_TEXTS texts at most."""
        if isinstance(texts, str) or not texts:
            return self.encoder.encode_texts(texts, batch_size=batch_size)
        # In the encoder's order, so that batches are its own: texts of like length together.
        unique = sorted(dict.fromkeys(texts), key=len)
        contents = (text.encode("utf-8", "surrogatepass") for text in unique)
        names = [hashlib.sha256(content).hexdigest() for content in contents]
        stamps = np.empty((len(names), 0), np.int64)
        absent = np.flatnonzero(self._texts.find(names, stamps) < 0).tolist()
        if len(self._texts) + len(absent) > MAX_TEXTS:
            told = "%s: keeps the features of %d texts, and of %d at most; %d are encoded each time"
            logger.warning(told, self.folder, len(self._texts), MAX_TEXTS, len(absent))
            return self.encoder.encode_texts(texts, batch_size=batch_size, progress=progress)
        if absent:
            new, number = [unique[i] for i in absent], len(absent)
            chunks = (new[start : start + batch_size] for start in range(0, number, batch_size))
            batches = (self.encoder.encode_texts(c, batch_size=batch_size) for c in chunks)
            with tqdm(total=number, desc="encoding texts", disable=not progress) as bar:
                kept = [names[i] for i in absent]
                self._texts.keep(kept, None, batches, size=number, done=bar.update)
        rows = dict(zip(unique, self._texts.find(names, stamps).tolist(), strict=True))
        return self._texts.load(np.array([rows[text] for text in texts]))

    def encode_images(
        self, images: Sequence, *, batch_size: int | None = None, progress: bool = False
    ) -> Tensor:
        """As `Encoder.encode_images`; features of paths below `root` are kept."""
        images = [Path(image) if isinstance(image, str) else image for image in listed(images)]
        files, batch_size = self._files(images), batch_size or self.batch_size
        if files is None:
            return self.encoder.encode_images(images, batch_size=batch_size, progress=progress)
        self._embed(files, batch_size, None, progress=progress)
        return self._pictures.load(self._pictures.find(*files))

    def embed(
        self, paths: Iterable[Path], *, group: PartialState | None = None, progress: bool = False
    ) -> int:
        """Embed the picture files below `root` that are new or changed; returns their number.

        The processes of `group` call this alike; each embeds its share of the shards, and waits for
        the others. Raises DataError for other paths, damaged shards and a full disk.
        """
        files = self._files(paths)
        if files is None:
            raise DataError(f"{self.root}: features are kept of the pictures below it alone")
        return self._embed(files, self.batch_size, group, progress=progress)

    def _embed(
        self, files: _Files, batch_size: int, group: PartialState | None, *, progress: bool
    ) -> int:
        index, number = (group.process_index, group.num_processes) if group else (0, 1)
        self._pictures.refresh()
        rows = self._pictures.find(*files)
        # A picture that is asked for twice is embedded once.
        absent = list({files.names[i]: i for i in np.flatnonzero(rows < 0).tolist()}.values())
        # Shards of whole batches: whoever embeds one sees the same batches.
        size = max(SHARD_SIZE, -(-len(absent) // MAX_SHARDS))
        size = -(-size // batch_size) * batch_size
        shards = [absent[start : start + size] for start in range(0, len(absent), size)]
        share = [i for shard in shards[index::number] for i in shard]
        num_there = len(set(files.names)) - len(absent) if number == 1 else 0
        if group:  # nobody adds a shard before all have seen what is absent
            group.wait_for_everyone()
        stamps: list[tuple[int, ...]] = []

        def stamped() -> Iterator[Path]:
            for i in share:  # a file's stamp is noted before the file is read
                stamps.append((*files.stamps[i].tolist(), files.sample(i)))
                yield self.root / files.names[i]

        def count(number: int) -> None:
            bar.update(number)
            self.num_embedded += number

        shown = {"desc": "embedding", "unit": "picture", "disable": not progress or index > 0}
        with tqdm(total=len(share) + num_there, initial=num_there, **shown) as bar:
            if share:
                options = {"batch_size": batch_size, "workers": self.workers}
                batches = self.encoder.image_batches(stamped(), **options)
                names = [files.names[i] for i in share]
                self._pictures.keep(names, stamps, batches, size=size, done=count)
        if group:
            group.wait_for_everyone()
            self._pictures.refresh()
        return len(absent)

    def _files(self, paths: Iterable) -> _Files | None:
        """The picture files of paths, None where one is no path, or not below `root`."""
        root = "" if self.root == Path() else self.root.as_posix().rstrip("/") + "/"
        names = []
        for path in paths:
            is_below = isinstance(path, Path) and path.as_posix().startswith(root)
            if not is_below or (not root and path.is_absolute()):
                return None
            names.append(path.as_posix()[len(root) :])
        stamps = np.fromiter((_stamp(root + name) for name in names), (np.int64, 3), len(names))
        sample = cache(lambda i: _sample(root + names[i], int(stamps[i, 0])))
        return _Files(names, stamps, sample)


class _Files(NamedTuple):
    """Picture files as they are now: names below the root, and stamps as a shard keeps them."""

    names: list[str]
    stamps: np.ndarray
    sample: Callable[[int], int]


def _sample(path: str, size: int) -> int:
    """A checksum of a file's beginning, middle and end, SAMPLE_BYTES each; 0 where unreadable.

    It tells a copy from a file that a tool changed in place, with its size and time kept.
    """
    checksum = 0
    with suppress(OSError), open(path, "rb") as file:
        for start in (0, (size - SAMPLE_BYTES) // 2, size - SAMPLE_BYTES):
            file.seek(max(0, start))
            checksum = zlib.crc32(file.read(SAMPLE_BYTES), checksum)
    return checksum


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no such image file") from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def features_folder(root: str | Path, spec: str, digest: str) -> Path:
    """Where the features of a folder of own data by an encoder lie: a folder for each identity.

    >>> features_folder("my_pictures", "open_clip:ViT-B-32@weights.safetensors", 40 * "a").name
    'open_clip-ViT-B-32-weights.safetensors-aaaaaaaaaaaa'
    """
    name = re.sub(r"[^\w.-]+", "-", spec).strip("-.")
    return Path(root) / "features" / f"{name}-{digest[:12]}"


def users_features_folder(root: str | Path, digest: str) -> Path:
    """Where those of other folders lie: in the user's `$XDG_CACHE_HOME`, or `~/.cache`."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    key = hashlib.sha256(os.fsencode(Path(root).resolve()) + digest.encode()).hexdigest()
    return users / "daitir" / "features" / key[:16]

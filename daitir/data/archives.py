"""Zip files that were fetched: opened with care, unpacked so that a broken run goes on."""

from __future__ import annotations

import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, open_regular
from daitir.common.safe_folder import SafeFolder
from daitir.data.downloads import check_space

# What a damaged or encrypted zip file raises, of any way of packing.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, struct.error,
           ValueError)  # fmt: skip


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file to read from. Raises DataError where it, or what is read of it, is damaged."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except DataError:
        raise
    except (OSError, *_DAMAGE) as error:
        if getattr(error, "errno", None) is not None:  # of the disk; bz2 raises one without
            raise
        raise DataError(f"{path}: no sound zip file ({error}); remove it") from error


def unpack(path: Path, folder: Path, *, progress: bool = False) -> None:
    """Unpack the files of a zip file into a folder; those that are there stay.

    Raises DataError where it is damaged, names a file outside the folder, or the disk has not the
    room.
    """
    with opened_zip(path) as archive:
        safe = SafeFolder(folder)
        places = {
            entry: safe.join(entry.filename) for entry in archive.infolist() if not entry.is_dir()
        }
        todo = [
            (entry, place)
            for entry, place in places.items()
            if not (place.is_file() and place.stat().st_size == entry.file_size)
        ]
        check_space(folder, sum(entry.file_size for entry, _ in todo))
        for entry, place in tqdm(todo, desc="unpacking", unit="picture", disable=not progress):
            with (
                atomic_write(place, sync=False) as temporary,
                archive.open(entry) as packed,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(packed, file)

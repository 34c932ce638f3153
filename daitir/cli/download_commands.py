"""The command that fetches the papers' data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, check_output
from daitir.common.terminal import say

MARKER = "dataset.json"  # tells whose data a folder holds

if TYPE_CHECKING:
    from daitir.data.datasets import Dataset
    from daitir.data.downloads import RemoteFile


def data(arguments: argparse.Namespace) -> None:
    """Fetch one of the papers' data sets, or take it from a folder, and make own data of it."""
    from daitir.data.datasets import DATASETS, find_files, prepare
    from daitir.data.downloads import fetch

    dataset = DATASETS[arguments.name]
    out = arguments.out or Path("runs/data") / dataset.name
    if arguments.source and arguments.mirror:
        raise DataError("--from and --mirror both say where it comes from; leave one of them out")
    if arguments.images and dataset.name == "coco-unlabeled":
        raise DataError("--images is for dialogues; coco-unlabeled is pictures itself")
    if not arguments.dry_run:
        _check_folder(out, dataset)
    say(dataset.title, f"  {dataset.page}", f"  licence: {dataset.licence}")
    if arguments.source:
        files = find_files(dataset, arguments.source, progress=True)
        for path in files.values():
            say(f"  {path}")
    else:
        folder = out / "downloads"
        _announce(dataset, folder, arguments.mirror, must_reach=not arguments.dry_run)
        if not arguments.dry_run:
            files = {
                file.name: fetch(file, folder, mirror=arguments.mirror, progress=True)
                for file in dataset.files
            }
    if arguments.dry_run:
        return
    with atomic_write(out / MARKER) as temporary:
        temporary.write_text(json.dumps({"dataset": dataset.name}) + "\n", encoding="utf-8")
    told = prepare(dataset, files, out, images=arguments.images, progress=True)
    say(*told)
    say(f"written to {out}")


def _check_folder(folder: Path, dataset: Dataset) -> None:
    """Raises DataError where a folder holds data of another origin, which would be lost."""
    check_output(folder / MARKER, is_ours=lambda path: dataset.name in path.read_text("utf-8"))
    ours = (folder / MARKER).exists() or (folder / "downloads").exists()
    for name in () if ours else ("*dialogues*", "*/dialogues.json", "gallery.json", "images"):
        for other in folder.glob(name):
            raise DataError(f"{other}: is of another origin; name another --out than {folder}")


def _announce(dataset: Dataset, folder: Path, mirror: str | None, *, must_reach: bool) -> None:
    """Print what will be fetched, how large it is and how it is checked.

    Raises DataError where a server has not what is expected, where it cannot be reached although
    it must, and where the disk has not the room.
    """
    from daitir.data.downloads import check_space, gigabytes

    todo, least = 0, ""
    for file in dataset.files:
        url, path = file.at(mirror), folder / file.name
        part = path.with_name(f"{file.name}.part")
        if path.exists():
            size, here = path.stat().st_size, "; is here"
        else:
            size = _size(file, url, must_reach)
            least = least if size else "at least "
            got = part.stat().st_size if part.exists() else 0
            # A zip file is at least as large unpacked.
            todo += max((size or 0) - got, 0) + (size or 0) * dataset.unpacked
            here = f"; {gigabytes(got)} are here" if got else ""
        known = f"{file.checksum} ({file.origin})" if file.checksum else (
            "no checksum is published; its SHA-256 is kept for later"
        )  # fmt: skip
        say(f"  {file.name}: {gigabytes(size) if size else 'size unknown'}{here}; {known}")
        say(f"    {url}")
    free = check_space(folder, todo)
    needed = f"{least}{gigabytes(todo)}"
    say(f"  needs {needed}, {gigabytes(free)} are free at {folder.parent}")


def _size(file: RemoteFile, url: str, must_reach: bool) -> int | None:
    from daitir.data.downloads import remote_size

    try:
        size = remote_size(url)
    except DataError:
        if must_reach:
            raise
        return file.size
    if None not in (size, file.size) and size != file.size:
        raise DataError(f"{url}: has {size:,} bytes, not {file.size:,}; it is another file")
    return size or file.size

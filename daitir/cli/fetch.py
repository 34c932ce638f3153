"""`daitir fetch`: the papers' data become a folder of own data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from daitir.cli.options import command
from daitir.common.errors import DataError
from daitir.common.files import check_output, write_json
from daitir.common.terminal import say

DATASET_MARKER = "dataset.json"  # tells whose data a folder holds

if TYPE_CHECKING:
    from daitir.data.datasets import Dataset


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must begin with http:// or https://, not {text!r}")
    return text


@command(
    "daitir fetch coco-unlabeled",
    "daitir fetch chatir --images runs/data/coco-unlabeled/images",
    options={
        "name {visdial,chatir,coco-unlabeled}": "which",
        "--out DIR": "gets it (default: runs/data/ and its name)",
        "--from DIR": "take it from a folder that has it, at any depth, packed or not; nothing is "
        "fetched",
        "--images DIR": "COCO's pictures that the dialogues are about: unlabeled2017/, and for "
        "training those of 2014 or 2017; images/ becomes a link to it",
        "--mirror URL": {
            "help": "fetch the files of the same names from below this address", "type": _address,
        },
        "--dry-run": "only say what would be fetched, and from where",
    },
)  # fmt: skip
def fetch(arguments: argparse.Namespace) -> None:
    """Fetch the papers' data into a folder of own data."""
    from daitir.data.datasets import DATASETS, find_files, prepare
    from daitir.data.downloads import fetch

    dataset, source = DATASETS[arguments.name], getattr(arguments, "from")
    out = arguments.out or Path("runs/data") / dataset.name
    if source and arguments.mirror:
        raise DataError("--from and --mirror both say where it comes from; leave one of them out")
    if arguments.images and dataset.name == "coco-unlabeled":
        raise DataError("--images is for dialogues; coco-unlabeled is pictures itself")
    if not arguments.dry_run:
        _check_folder(out, dataset)
    say(dataset.title, f"  {dataset.page}", f"  licence: {dataset.licence}")
    if source:
        files = find_files(dataset, source)
        say(*(f"  {path}" for path in files.values()))
    else:
        folder = out / "downloads"
        _announce(dataset, folder, arguments.mirror, must_reach=not arguments.dry_run)
    if arguments.dry_run:
        return
    if not source:
        options = {"mirror": arguments.mirror, "progress": True}
        files = {file.name: fetch(file, folder, **options) for file in dataset.files}
    write_json(out / DATASET_MARKER, {"dataset": dataset.name}, indent=None)
    say(*prepare(dataset, files, out, images=arguments.images, progress=True))
    say(f"written to {out}")


def _check_folder(folder: Path, dataset: Dataset) -> None:
    """Raises DataError where a folder holds data of another origin, which would be lost."""
    check_output(
        folder / DATASET_MARKER, is_ours=lambda path: dataset.name in path.read_text("utf-8")
    )
    is_ours = (folder / DATASET_MARKER).exists() or (folder / "downloads").exists()
    for name in () if is_ours else ("*dialogues*", "*/dialogues.json", "gallery.json", "images"):
        for other in folder.glob(name):
            raise DataError(f"{other}: is of another origin; name another --out than {folder}")


def _announce(dataset: Dataset, folder: Path, mirror: str | None, *, must_reach: bool) -> None:
    """Print what will be fetched, how large it is and how it is checked.

    Raises DataError where a server has not what is expected, or cannot be reached although it
    must, and where the disk has not the room.
    """
    from daitir.data.downloads import check_space, gigabytes, remote_size

    needed, sizes = 0, []
    for file in dataset.files:
        url, path = file.at(mirror), folder / file.name
        part = path.with_name(f"{file.name}.part")
        if path.exists():
            size, here = path.stat().st_size, "; is here"
        else:
            size = remote_size(file, url, must_reach=must_reach)
            got = part.stat().st_size if part.exists() else 0
            # A zip file is at least as large unpacked.
            needed += max((size or 0) - got, 0) + (size or 0) * dataset.unpacked
            here = f"; {gigabytes(got)} are here" if got else ""
        sizes.append(size)
        unknown = "no checksum is published; its SHA-256 is kept for later"
        known = f"{file.checksum} ({file.origin})" if file.checksum else unknown
        say(f"  {file.name}: {gigabytes(size) if size else 'size unknown'}{here}; {known}")
        say(f"    {url}")
    free, least = check_space(folder, needed), "" if all(sizes) else "at least "
    say(f"  needs {least}{gigabytes(needed)}, {gigabytes(free)} are free at {folder.parent}")

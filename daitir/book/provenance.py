"""Stamps that tell whether a notebook's outputs still belong to its code, and their renewal.

`python -m daitir.book.provenance run` executes the notebooks whose stamp is stale and
`python -m daitir.book.provenance check` names them. Of the pictures of an executed chapter only
those change that look otherwise.
"""

import argparse
import base64
import hashlib
import io
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
import numpy as np
from nbformat import NotebookNode
from PIL import Image

from daitir.book.chapters import made_with
from daitir.book.dependencies import ROOT, decisive_files
from daitir.common.errors import DataError
from daitir.common.files import atomic_write, check_output

PNG, WIDGET = "image/png", "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT = 1800  # seconds; the gpu profile trains inside cells

log = logging.getLogger(__name__)


def current_profile() -> str:
    """The name of the profile; a file by its full path, since chapters run in their own folder."""
    name = os.environ.get("DAITIR_PROFILE") or "classroom"
    return str(Path(name).resolve()) if name.endswith(".toml") else name


def notebook_digest(path: Path, *, profile: str | None = None) -> str:
    """The hash of all that decides a notebook's outputs: cells, what they name, and the profile.

    Raises DataError unless `path` is a notebook with Python in its code cells.
    """
    profile = profile or current_profile()
    cells = [cell.source for cell in _read(path).cells if cell.cell_type == "code"]
    try:
        files = decisive_files(cells, profile)
    except SyntaxError as error:
        raise DataError(f"{path}: a code cell is not Python: {error.text!r}; mend it") from error
    facts = {
        "cells": cells,
        "files": {file.relative_to(ROOT).as_posix(): _hash_of(file) for file in files},
        "profile": _hash_of(Path(profile)) if Path(profile).is_file() else profile,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def is_stale(path: Path, *, profile: str | None = None) -> bool:
    """Whether the stamp of a notebook is missing or older than what decides it."""
    return _stamp(path) != notebook_digest(path, profile=profile)


def _stamp(path: Path) -> str | None:
    return _read(path).metadata.get("daitir", {}).get("digest") if path.is_file() else None


def execute(path: Path, *, profile: str) -> NotebookNode:
    """The notebook `path`, executed by this Python; the file stays as it is.

    Raises DataError, naming the notebook and the cell, where one fails.
    """
    import nbclient
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = _read(path)
    before = [[data[PNG] for data in png_outputs(cell)] for cell in notebook.cells]
    started: list[int] = []
    client = nbclient.NotebookClient(
        notebook,
        # Without folders to search, "python3" is this interpreter, whatever is installed beside.
        km=AsyncKernelManager(
            kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
        ),
        timeout=CELL_TIMEOUT,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        on_cell_start=lambda cell, cell_index: started.append(cell_index),
    )
    environment = {**os.environ, "DAITIR_PROFILE": profile, "TQDM_DISABLE": "1"}
    try:
        client.execute(env=environment, cleanup_kc=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        first_line = notebook.cells[started[-1]].source.strip().splitlines()[0]
        reason = getattr(error, "evalue", None) or str(error)
        kind = getattr(error, "ename", None) or type(error).__name__
        raise DataError(
            f"{path}: cell {started[-1] + 1} ({first_line!r}) failed and the notebook was left "
            f"as it was: {kind}: {' '.join(reason.split())}"
        ) from error
    # Only what highlighting needs is kept of the kernel's description, so that another patch
    # release of Python makes no difference.
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    # A widget is dead without its kernel, and most are progress bars that ignore TQDM_DISABLE.
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if WIDGET not in out.get("data", {})]
    settle_pictures(notebook.cells, before)
    return notebook


def run(
    paths: Sequence[Path], *, profile: str, force: bool = False, out: Path | None = None
) -> int:
    """Execute the notebooks that are stale, or all with `force`, and give their number.

    The outputs replace the notebook, or go to `out` under the names of folder and file, so that a
    run that was interrupted goes on where it stopped.
    """
    count = 0
    for number, path in enumerate(paths, 1):
        target = out / path.parent.name / path.name if out else path
        if out:
            check_output(target, inputs=[path])
        progress = f"[{number}/{len(paths)}] {path.name}"
        # The digest comes first: what changes while the cells run must leave the stamp stale.
        digest, begin = notebook_digest(path, profile=profile), time.monotonic()
        if not force and _stamp(target) == digest:
            log.info("%s is up to date", progress)
            continue
        log.info("%s runs under the %s profile ...", progress, profile)
        notebook = execute(path, profile=profile)
        seconds = round(time.monotonic() - begin, 1)
        notebook.metadata["daitir"] = {
            "digest": digest, "profile": profile, "seconds": seconds, "versions": made_with()
        }  # fmt: skip
        with atomic_write(target) as temporary:
            nbformat.write(notebook, temporary)
        log.info("%s took %s s", progress, seconds)
        count += 1
    return count


def png_outputs(cell: NotebookNode) -> list[dict]:
    """The data of a cell's outputs that show a PNG."""
    shown = [output.get("data", {}) for output in cell.get("outputs", [])]
    return [data for data in shown if PNG in data]


def settle_pictures(cells: Sequence[NotebookNode], before: Sequence[Sequence[str]]) -> None:
    """Give pictures of executed cells few colours, and their old bytes where they look the same.

    `before` are the pictures that each cell showed before, in base64.
    """
    for cell, old_pictures in zip(cells, before, strict=True):
        for place, data in enumerate(png_outputs(cell)):
            new = _with_few_colours(data[PNG])
            old = old_pictures[place] if place < len(old_pictures) else new
            alike = _changed_share(_image(old), _image(new), by_more_than=10) <= 0.006
            data[PNG] = old if alike else new


def _with_few_colours(png: str) -> str:
    """A picture with at most 256 colours, dithered where one would see it otherwise."""
    image = _image(png)
    few = image.quantize(256, dither=Image.Dither.NONE)
    if _changed_share(image, few.convert("RGB"), by_more_than=8) >= 0.005:
        few = image.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _changed_share(a: Image.Image, b: Image.Image, *, by_more_than: int) -> float:
    """The share of pixels that differ in a channel by more than that; 1 for two sizes."""
    if a.size != b.size:
        return 1.0
    differences = np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16))
    return float((differences.max(axis=-1) > by_more_than).mean())


def _image(png: str) -> Image.Image:
    """A picture as it looks on a white page."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def all_notebooks() -> list[Path]:
    """The chapters, and their appendices, which bear the same names in another folder."""
    return [p for kind in ("notebooks", "appendix") for p in sorted((ROOT / kind).glob("*.ipynb"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m daitir.book.provenance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="execute the notebooks whose stamp is stale")
    runner.add_argument("--all", action="store_true", help="execute the others too")
    runner.add_argument("--out", metavar="DIR", type=Path, help="write the executed ones there")
    checker = commands.add_parser("check", help="fail if a notebook's stamp is stale")
    for command in (runner, checker):
        command.add_argument("notebooks", nargs="*", type=Path, help="default: every one")
    options = parser.parse_args(arguments)
    paths = options.notebooks or all_notebooks()
    profile = current_profile()
    try:
        if options.command == "run":
            run(paths, profile=profile, force=options.all, out=options.out)
            return 0
        stale = [os.path.relpath(path) for path in paths if is_stale(path, profile=profile)]
    except DataError as error:
        log.error("%s", error)
        return 1
    for path in stale:
        log.error("%s is stale; run `make book`", path)
    return 1 if stale else 0


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:
        raise DataError(f"{path}: not a Jupyter notebook; open it in JupyterLab") from error


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    sys.exit(main())

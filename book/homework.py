"""The student edition of the chapters, and marks for what comes back.

    python book/homework.py student            # chapters without solutions, in _build/student
    python book/homework.py grade FILE.ipynb   # which exercises pass, in bounds of time and memory

A hand-in runs as you, with your rights and your network: the bounds stop accidents, not attacks.
"""

import argparse
import ast
import asyncio
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from daitir.book.exercises import PASSED

ROOT = Path(__file__).resolve().parents[1]
CHECKS = "daitir.book.exercises"
NOT_FOR_STUDENTS = ("*.py", "_ext", "__pycache__", "teaching.md")  # scripts, and answer notes
FILE_BYTES = 2**30  # of a file that a hand-in writes


class Exercise(NamedTuple):
    """What a chapter asks for: its title, its check, and the function that a student writes."""

    title: str
    check: str
    function: str


class Bounds(NamedTuple):
    """Seconds of the whole notebook, of a cell and of a check; gigabytes of its memory."""

    whole: float = 1800
    cell: float = 300
    check: float = 30
    memory: float = 6


# --- chapters -------------------------------------------------------------------------------


def signs_of_solution(cell: NotebookNode) -> int:
    """How many of the two signs a code cell has: the tag, and the name `*_solution`."""
    is_named = cell.cell_type == "code" and "_solution" in cell.source
    return is_named + ("hide-cell" in cell.metadata.get("tags", []))


def without_solutions(chapter: NotebookNode) -> NotebookNode:
    """A copy without its solutions, and without the stamp, which belongs to all cells."""
    cells = [cell for cell in chapter.cells if signs_of_solution(cell) < 2]
    rest = {name: value for name, value in chapter.metadata.items() if name != "daitir"}
    return nbformat.from_dict({**chapter, "cells": cells, "metadata": rest})


def exercises_of(chapter: NotebookNode) -> list[Exercise]:
    """The exercises that a chapter has checks for, by its solutions."""
    found, title, modules = [], "", {}
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            title = (re.findall(r"^### (.+)", cell.source, re.M) or [title])[-1]
            continue
        for line in re.findall(rf"^from {CHECKS} import .*", cell.source, re.M):
            names = ast.parse(line).body[0].names
            modules |= {name.asname or name.name: name.name for name in names}
        if signs_of_solution(cell) == 2:
            call = r"^(\w+)\.(\w+)\((\w+)_solution\)$"
            ((module, check, function),) = re.findall(call, cell.source, re.M)
            found.append(Exercise(title, f"{CHECKS}.{modules[module]}.{check}", function))
    return found


def lay_out(root: Path, folder: Path) -> Path:
    """Copy into a folder what chapters link to and read; give the folder for notebooks in it."""
    skipped = shutil.ignore_patterns(*NOT_FOR_STUDENTS)
    for name in ("book", "results", "appendix"):
        shutil.copytree(root / name, folder / name, ignore=skipped, dirs_exist_ok=True)
    (folder / "notebooks").mkdir(exist_ok=True)
    return folder / "notebooks"


def write_student_edition(root: Path, folder: Path) -> int:
    """Write each chapter without its solutions, other outputs kept; give their number.

    Raises ValueError for a cell with one sign of a solution, which may be one all the same.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out = lay_out(root, folder)
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    for path in paths:
        chapter = without_solutions(nbformat.read(path, 4))
        for cell in filter(signs_of_solution, chapter.cells):
            raise ValueError(f"{path.name}: tag and name differ; is it a solution?\n{cell.source}")
        nbformat.write(chapter, out / path.name)
    return len(paths)


# --- hand-ins -------------------------------------------------------------------------------


def title_of(notebook: NotebookNode) -> str:
    return notebook.cells[0].source.partition("\n")[0].strip() if notebook.cells else ""


def chapter_of(hand_in: NotebookNode, root: Path) -> NotebookNode:
    """The chapter with the title of a hand-in, whatever the file is called."""
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        chapter = nbformat.read(path, 4)
        if title_of(chapter) == title_of(hand_in):
            return chapter
    raise ValueError(f"no chapter begins as it does, with {title_of(hand_in)!r}")


def with_checks(
    hand_in: NotebookNode, exercises: list[Exercise]
) -> tuple[NotebookNode, dict[Exercise, NotebookNode]]:
    """A copy to run, with a check of our own after each function, and these checks.

    The student's line of the check may still be a comment, and solutions do not run. A function
    that is not there has no check.
    """
    copy, checks = without_solutions(hand_in), {}
    for exercise in exercises:
        starts = re.compile(rf"^(def {exercise.function}\b|{exercise.function} *=)", re.M)
        places = [
            number
            for number, cell in enumerate(copy.cells)
            if cell.cell_type == "code" and starts.search(cell.source)
        ]
        if places:
            module = exercise.check.rpartition(".")[0]
            code = f"import {module}\n{exercise.check}({exercise.function})"
            checks[exercise] = new_code_cell(code)
            copy.cells.insert(places[-1] + 1, checks[exercise])
    # What takes long to load counts for no check.
    modules = sorted({exercise.check.rpartition(".")[0] for exercise in exercises})
    copy.cells.insert(0, new_code_cell("\n".join(f"import {module}" for module in modules)))
    return copy, checks


class Client(NotebookClient):
    """Keeps no printed text: nothing here reads it, and it could fill our own memory."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] != "stream":
            return super().process_message(msg, cell, cell_index)


def execute(notebook: NotebookNode, checks: list[NotebookNode], root: Path, bounds: Bounds) -> str:
    """Run a notebook in a process and a folder of its own; say what stopped it, if anything did."""

    def limit() -> None:
        size = int(bounds.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    async def run(folder: Path) -> None:
        client = Client(
            notebook,
            # Without folders to search, "python3" is this interpreter, whatever the file names.
            km=AsyncKernelManager(
                kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
            ),
            timeout_func=lambda cell: (
                bounds.check if any(cell is check for check in checks) else bounds.cell
            ),
            interrupt_on_timeout=True,
            allow_errors=True,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(lay_out(root, folder))}},
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )
        client.log.disabled = True  # it tells of each timeout, and so do we
        homes = dict.fromkeys(("HOME", "IPYTHONDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"), str(folder))
        environment = {**os.environ, **homes, "TQDM_DISABLE": "1"}
        await asyncio.wait_for(
            client.async_execute(env=environment, preexec_fn=limit, cleanup_kc=True), bounds.whole
        )

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        begin = time.monotonic()
        try:
            asyncio.run(run(Path(folder)))
        except (RuntimeError, TimeoutError):  # nbclient's, the former where the process is gone
            if time.monotonic() - begin >= bounds.whole:
                return f"the notebook was stopped after {bounds.whole:g} seconds"
            return "the notebook's process ended before, by `exit` or for want of memory"
    return ""


def verdict(check: NotebookNode | None, stopped: str, bounds: Bounds) -> tuple[str, str]:
    """`passed`, `failed` or `unfilled`, and the sentence that says why."""
    if check is None:
        return "unfilled", "its function is not in the notebook"
    for output in check.outputs:
        if output.get("data", {}).get("text/plain") == repr(PASSED):
            return "passed", ""
        if output.output_type == "error":
            known = {
                "KeyboardInterrupt": f"it was stopped after {bounds.check:g} seconds",
                "NameError": "the cell of its function stops with an error",
            }
            state = "unfilled" if output.ename == "NotFilledIn" else "failed"
            return state, known.get(output.ename, output.evalue)
    return "failed", stopped or "the check gave no answer"


def grade(hand_in: NotebookNode, root: Path, bounds: Bounds) -> dict[Exercise, tuple[str, str]]:
    """The verdict on each exercise of the chapter that was handed in."""
    exercises = exercises_of(chapter_of(hand_in, root))
    notebook, checks = with_checks(hand_in, exercises)
    stopped = execute(notebook, list(checks.values()), root, bounds)
    return {e: verdict(checks.get(e), stopped, bounds) for e in exercises}


def report(verdicts: dict[Exercise, tuple[str, str]]) -> str:
    lines = [
        f"{state:9} {exercise.title}" + (f": {sentence}" if sentence else "")
        for exercise, (state, sentence) in verdicts.items()
    ]
    num_passed = sum(state == "passed" for state, _ in verdicts.values())
    lines.append(f"{num_passed} of {len(verdicts)} passed")
    # What comes from a hand-in must not steer the terminal.
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)


def main(arguments: list[str] | None = None, *, root: Path = ROOT) -> int:
    """0 if all is well, 1 if an exercise is not passed, 2 if a file cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("student", help="write the chapters without their solutions")
    grader = commands.add_parser("grade", help="run a hand-in and tell which exercises pass")
    grader.add_argument("file", type=Path)
    for name, default in Bounds()._asdict().items():
        unit = "gigabytes" if name == "memory" else "seconds"
        grader.add_argument(f"--{name}", type=float, default=default, metavar=unit.upper())
    options = parser.parse_args(arguments)
    try:
        if options.command == "student":
            folder = root / "_build" / "student"
            print(f"{write_student_edition(root, folder)} chapters in {folder}")
            return 0
        bounds = Bounds(options.whole, options.cell, options.check, options.memory)
        verdicts = grade(nbformat.read(options.file, 4), root, bounds)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        name = options.file if options.command == "grade" else "the chapters"
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    print(report(verdicts))
    return int(any(state != "passed" for state, _ in verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())

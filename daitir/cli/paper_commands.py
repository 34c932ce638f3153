"""The commands of the papers' setting: what it costs, and the way from nothing to its table."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from daitir.cli.parsers.options import add_command, add_device
from daitir.common.errors import DataError, naming
from daitir.common.files import atomic_write, begins_with, check_output, check_results
from daitir.common.terminal import say


def add_plan(subparsers) -> None:
    """Add the command `plan`."""
    parser = add_command(
        subparsers,
        "plan",
        help="Work out what the papers' setting costs: GPU-hours, memory, disk and money.",
        example="daitir plan --utilisation 0.2 0.3 0.4 --price 'RTX 4090=0.5'",
    )
    parser.set_defaults(run=plan)
    add = parser.add_argument
    add("--utilisation", type=float, nargs=3, default=(0.20, 0.35, 0.50),
        metavar=("FEW", "EXPECTED", "MANY"),
        help="shares of a card's peak that are reached, assumed (default: %(default)s)")
    add("--price", nargs="+", action="extend", metavar="NAME=DOLLARS",
        help="of an hour of one card, by its name")
    add("--out", type=Path, default=Path("results/paper_plan.csv"), metavar="FILE.csv",
        help="(default: %(default)s)")


def add_reproduce(subparsers) -> None:
    """Add the command `reproduce`."""
    parser = add_command(
        subparsers,
        "reproduce",
        help="Run the papers' setting, from downloads to their figures beside ours; an "
        "interrupted run continues.",
        example="daitir reproduce --coco /datasets/coco --dry-run",
    )
    parser.set_defaults(run=reproduce)
    add = parser.add_argument
    add("--work", type=Path, default=Path("runs/paper"), metavar="DIR",
        help="gets data, views, weights and results (default: %(default)s)")
    add("--coco", type=Path, metavar="DIR",
        help="COCO's pictures, those of 2014 among them, for training (default: train nothing)")
    add("--published", type=Path, default=Path("book/published.csv"), metavar="FILE.csv",
        help="(default: %(default)s)")
    add("--launch", metavar="COMMAND",
        help="what starts the commands that several processes share, for example 'accelerate "
        "launch --multi_gpu -m daitir.cli'")
    add("--dry-run", action="store_true", help="only print the commands")
    add_device(parser, "models run", default="cuda")


def _program(launch: str) -> list[str]:
    """The words of `--launch`. Raises DataError unless the first is a program."""
    try:
        words = shlex.split(launch)
    except ValueError as error:
        raise DataError(f"--launch: {launch!r} is no command ({error})") from error
    if shutil.which(words[0]) is None:
        raise DataError(f"--launch: there is no program {words[0]!r}")
    return words


def plan(arguments: argparse.Namespace) -> None:
    """Write what the papers' setting costs."""
    from dataclasses import asdict

    from daitir.common.versions import versions
    from daitir.evaluation import write_results
    from daitir.studies import plan as plans

    check_results(arguments.out)
    few, expected, many = arguments.utilisation
    if not 0 < few <= expected <= many <= 1:
        raise DataError(
            "--utilisation: must be three shares of the peak, few, expected, many, that do not "
            f"fall and are at most 1, not {few:g} {expected:g} {many:g}"
        )
    with naming("--price"):
        cards = plans.cards_at(arguments.price or ())
    setting = plans.Setting()
    table = plans.plan_table(plans.stages(setting), cards, arguments.utilisation)
    notes = {
        "utilisation": arguments.utilisation,
        "utilisation_is": "assumed; nothing here was measured on a GPU",
        "setting": asdict(setting),
        "cards": [asdict(card) for card in cards],
        "models": {name: asdict(cost) for name, cost in plans.MODELS.items()},
        "versions": versions(),
    }
    write_results(arguments.out, table, notes)
    for pipeline in plans.PIPELINES:
        say(f"{pipeline}:")
        say(*plans.totals(table, pipeline=pipeline).round(1).to_string().split("\n"))
    say(f"written to {arguments.out}")


def reproduce(arguments: argparse.Namespace) -> None:
    """Run the papers' setting step by step, and print the published figures beside ours."""
    from daitir.cli.data_commands import check_device
    from daitir.studies.paper import PaperProfile, paper_steps, published_beside_ours, run_steps

    work = arguments.work
    steps = paper_steps(PaperProfile(), work, coco=arguments.coco, device=arguments.device)
    if arguments.dry_run:
        say(*(f"daitir {shlex.join(step.arguments)}" for step in steps))
        return
    if not arguments.published.is_file():
        raise DataError(f"--published {arguments.published}: no such file")
    if arguments.coco is not None and not arguments.coco.is_dir():
        raise DataError(f"--coco {arguments.coco}: no such folder")
    check_output(
        work / "published.csv",
        inputs=[arguments.published],
        is_ours=lambda path: begins_with(path, "figure,round,published,ours,"),
    )
    check_device(arguments.device)
    alone = [sys.executable, "-m", "daitir.cli"]
    shared = _program(arguments.launch) if arguments.launch else alone

    def run(step) -> int:
        say(f"daitir {shlex.join(step.arguments)}")
        return subprocess.run([*(shared if step.is_shared else alone), *step.arguments]).returncode

    run_steps(steps, work, run)
    import pandas as pd

    table = published_beside_ours(work, pd.read_csv(arguments.published, keep_default_na=False))
    with atomic_write(work / "published.csv") as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    say(*table.to_string(index=False).split("\n"))
    say(f"written to {work / 'published.csv'}")

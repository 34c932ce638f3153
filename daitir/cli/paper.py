"""`daitir paper`: what the papers' setting costs, and the way from nothing to its table."""

import argparse
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from daitir.cli import inputs
from daitir.cli.options import WHERE, about, command
from daitir.common.errors import DataError, naming
from daitir.common.files import begins_with, check_output, check_results
from daitir.common.terminal import say


def add_paper(commands) -> None:
    examples = "daitir paper plan", "daitir paper run --coco /datasets/coco --dry-run"
    summary = "plan | run: what the papers' setting costs, and run it"
    parser = commands.add_parser("paper", **about(summary, *examples))
    group = parser.add_subparsers(required=True, metavar="plan|run")
    plan(group)
    run(group)


@command(
    "daitir paper plan --utilisation 0.2 0.3 0.4",
    options={
        "--utilisation": {
            "help": "shares of a card's peak that are reached, assumed", "type": float, "nargs": 3,
            "default": (0.20, 0.35, 0.50), "metavar": ("FEW", "EXPECTED", "MANY"),
        },
        "--out FILE.csv": ("", Path("results/paper_plan.csv")),
    },
)  # fmt: skip
def plan(arguments: argparse.Namespace) -> None:
    """Work out what the papers' setting costs: GPU-hours, memory, disk and money."""
    from daitir.common.versions import versions
    from daitir.evaluation import write_results
    from daitir.studies import plan as plans

    check_results(arguments.out)
    setting = plans.Setting()
    with naming("--utilisation"):
        table = plans.plan_table(plans.stages(setting), utilisation=arguments.utilisation)
    notes = {
        "utilisation": arguments.utilisation,
        "utilisation_is": "assumed; nothing here was measured on a GPU",
        "setting": asdict(setting),
        "cards": [asdict(card) for card in plans.CARDS],
        "models": {name: asdict(cost) for name, cost in plans.MODELS.items()},
        "versions": versions(),
    }
    write_results(arguments.out, table, notes)
    for pipeline in plans.PIPELINES:
        say(f"{pipeline}:")
        say(*plans.totals(table, pipeline=pipeline).round(1).to_string().split("\n"))
    say(f"written to {arguments.out}")


@command(
    "daitir paper run --coco /datasets/coco --dry-run",
    options={
        "--work DIR": ("gets data, views, weights, results", Path("runs/paper")),
        "--coco DIR": "COCO's pictures, those of 2014 among them, for training (default: train "
        "nothing)",
        "--published FILE.csv": ("", Path("book/published.csv")),
        "--launch COMMAND": "what starts the commands that several processes share, for example "
        "'accelerate launch --multi_gpu -m daitir.cli'",
        "--dry-run": "only print the commands",
        "--device NAME": (WHERE, "cuda"),
    },
)
def run(arguments: argparse.Namespace) -> None:
    """Run the papers' setting, from downloads to their figures beside ours."""
    import pandas as pd

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
    inputs.check_device(arguments.device)
    from daitir.evaluation import write_rows  # late: it loads torch

    alone = [sys.executable, "-m", "daitir.cli"]
    shared = _program(arguments.launch) if arguments.launch else alone

    def run_step(step) -> int:
        say(f"daitir {shlex.join(step.arguments)}")
        return subprocess.run([*(shared if step.is_shared else alone), *step.arguments]).returncode

    run_steps(steps, work, run_step)
    table = published_beside_ours(work, pd.read_csv(arguments.published, keep_default_na=False))
    write_rows(work / "published.csv", table)
    say(*table.to_string(index=False).split("\n"))
    say(f"written to {work / 'published.csv'}")


def _program(launch: str) -> list[str]:
    """The words of `--launch`. Raises DataError unless the first is a program."""
    try:
        words = shlex.split(launch)
    except ValueError as error:
        raise DataError(f"--launch: {launch!r} is no command ({error})") from error
    if shutil.which(words[0]) is None:
        raise DataError(f"--launch: there is no program {words[0]!r}")
    return words

"""`daitir study`: measure a profile into ranks, tables and notes; make tables of kept ranks."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from daitir.cli import inputs
from daitir.cli.options import add_command, named
from daitir.common.errors import DataError
from daitir.common.files import check_output, check_results
from daitir.common.terminal import say
from daitir.studies.profiles import check_models
from daitir.studies.registry import STUDIES, get_study


def add_study(commands) -> None:
    parser = add_command(
        commands, study, "daitir study list", "daitir study benchmark", "daitir study tables"
    )
    parser.option(
        "name NAME",
        f"{', '.join(STUDIES)}; or list, which tells what each measures and about how many minutes "
        "it takes; or tables, which makes all tables again from kept ranks, without a model",
        choices=("list", "tables", *STUDIES),
    )
    parser.profile("sizes and models")
    work = "keeps what is done and what is trained, in a folder for each profile; studies share it"
    ranked = "gets ranks/ with the ranks of each query, and a table with notes"
    parser.option("--work DIR", work, default=Path("runs/studies"))
    parser.cache()
    parser.option("--results DIR", ranked, default=Path("results"))
    parser.option(
        "--after NAME=SPEC",
        "for geometry and attention, the trained encoders; a name given several times is one "
        "training with several seeds, for example dmcl=finetuned:runs/mine/0 (default: "
        "finetune_text and dmcl, with the seeds that the profile has)",
        nargs="+", action="extend", type=partial(named, what="SPEC"),
    )  # fmt: skip
    parser.machine()


def study(arguments: argparse.Namespace) -> None:
    """Measure into results/: `daitir study list` tells what, and how long."""
    name, results = arguments.name, arguments.results
    if name == "list":
        say("minutes on two cores under the profile classroom, and what is measured:")
        studies = map(get_study, STUDIES)
        say(*(f"{study.name:<20}{study.minutes:>5}  {study.question}" for study in studies))
        return
    profile = inputs.chosen_profile(arguments.profile)
    if name == "tables":
        from daitir.studies.engine.run import study_tables

        say(*(f"written to {path}" for path in study_tables(profile.name, results)))
        return
    measured, work = get_study(name), arguments.work / profile.name
    check_results(results / f"{measured.table(profile.name)}.csv")
    check_output(results / "ranks" / f"{measured.table(profile.name)}.npz")
    check_output(work / "log.csv")
    check_output(arguments.cache / "view.webp")
    inputs.check_device(arguments.device)
    check_models(profile, "lm", "diffusion", "clip")
    from daitir.studies.engine.conditions import Study
    from daitir.studies.engine.run import run_instrument, run_study

    options = {
        "work_dir": work,
        "cache": arguments.cache,
        "results_dir": results,
        "device": arguments.device,
        "num_workers": arguments.workers,
        "progress": True,
    }
    if not isinstance(measured, Study):
        others: dict[str, list[str]] = {}
        for other, spec in arguments.after or ():  # a name that stands twice has two seeds
            others.setdefault(other, []).append(spec)
        path = run_instrument(measured, profile, others or None, **options)
    elif arguments.after:
        raise DataError("--after: for geometry and attention, which compare encoders")
    else:
        path = run_study(measured, profile, **options)
    say(f"written to {path}")

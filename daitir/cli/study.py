"""`daitir study`: measure a profile into ranks, tables and notes; make tables of kept ranks."""

from __future__ import annotations

import argparse
from pathlib import Path

from daitir.cli import inputs
from daitir.cli.options import CACHE, MACHINE, command, profile_of
from daitir.common.files import check_output, check_results
from daitir.common.terminal import say
from daitir.studies.profiles import check_models
from daitir.studies.registry import STUDIES, get_study


@command(
    "daitir study list",
    "daitir study benchmark",
    "daitir study tables",
    options={
        "name NAME": {
            "help": f"{', '.join(STUDIES)}; or list, which tells what each measures and about how "
            "many minutes it takes; or tables, which makes all tables again from kept ranks, "
            "without a model",
            "choices": ("list", "tables", *STUDIES),
        },
        **profile_of("sizes and models"),
        "--work DIR": ("keeps what is done and what is trained, in a folder for each profile; "
        "studies share it", Path("runs/studies")),
        **CACHE,
        "--results DIR": ("gets ranks/ with the ranks of each query, and a table with notes",
        Path("results")),
        **MACHINE,
    },
)  # fmt: skip
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
    run = run_study if isinstance(measured, Study) else run_instrument
    say(f"written to {run(measured, profile, **options)}")

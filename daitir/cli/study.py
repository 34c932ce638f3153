"""`daitir study`: measure a profile and write a table among the results.

A study is a function of a profile. What else it needs it names by its parameters: models
(`reformulator`, `generator`, `encoder`, `recogniser`), which are the profile's, folders, and the
machine.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from daitir.cli import inputs
from daitir.cli.options import add_command, named
from daitir.common.files import check_output, check_results
from daitir.common.terminal import say
from daitir.studies.profiles import check_models


@dataclass(frozen=True)
class Study:
    """What one `daitir study NAME` measures.

    Attributes:
        name: of the study, and of its table behind that of the profile.
        function: `module:function` of `daitir.studies`.
        measures: what, in half a line.
        work: the folder in runs/ that keeps what is done; None where it keeps nothing.
        minutes: that it took under the classroom profile on two cores, by the notes beside its
            table; None where they do not tell.
        draws: whether it draws views, which `--cache` keeps.
        compares: whether encoders to compare may be named.
    """

    name: str
    function: str
    measures: str
    work: str | None
    minutes: int | None = None
    draws: bool = False
    compares: bool = False

    def table(self, profile_name: str) -> str:
        """The name of the table; the benchmark's is that of the profile alone."""
        suffix = "" if self.name == "benchmark" else f"_{self.name}"
        return f"{profile_name}{suffix}.csv"


STUDIES = (
    Study("benchmark", "benchmark:run_benchmark",
          "every method on every source of dialogues", "benchmark", 16),
    Study("ablations", "ablations:run_ablations",
          "ADaFuSE, trained with one part changed", "ablations", 10),
    Study("choices", "choices:run_choices",
          "numbers of views, guidance and steps", None, 3, draws=True),
    Study("robustness", "robustness:run_robustness",
          "what ADaFuSE was not trained for, from typing errors to another encoder", "robustness",
          165, draws=True),
    Study("memory", "memory:run_memory",
          "fusions that remember the views of earlier rounds", "memory", 24),
    Study("encoders", "encoder_benchmark:run_encoder_benchmark",
          "the fine-tuned encoders; trains those that are missing", "encoders", draws=True),
    Study("encoder_ablations", "encoder_ablations:run_encoder_ablations",
          "encoders, shortly trained with one part of DMCL changed", "encoder_ablations", 80,
          draws=True),
    Study("encoder_choices", "encoder_choices:run_encoder_choices",
          "numbers of views, guidance and steps under the encoders of `encoders`", "encoders", 33,
          draws=True),
    Study("encoder_checkpoints", "encoder_checkpoints:run_encoder_checkpoints",
          "views of less trained diffusion models under them", "encoders", 8, draws=True),
    Study("encoder_memory", "encoder_memory:run_encoder_memory",
          "ADaFuSE under them, trained on the views of all rounds so far", "encoders", draws=True),
    Study("geometry", "cue_geometry:run_geometry",
          "what becomes of single cues under encoders, before and after training", "geometry", 2,
          compares=True),
    Study("attention", "cue_attention:run_attention",
          "where encoders look in drawn views, before and after training", "attention", 6,
          draws=True, compares=True),
)  # fmt: skip


def add_study(commands) -> None:
    parser = add_command(
        commands,
        list_studies,
        "daitir study list",
        "daitir study benchmark",
        name="study",
        summary="Measure into results/: `daitir study list` tells what, and how long",
    )
    names = parser.add_subparsers(required=True, metavar="NAME")
    add_command(names, list_studies, "daitir study list", name="list")
    for study in STUDIES:
        _add_name(names, study)


def _add_name(names, study: Study) -> None:
    measure, summary = partial(run_study, study), f"Measure {study.measures}"
    parser = add_command(
        names, measure, f"daitir study {study.name}", name=study.name, summary=summary
    )
    parser.profile("sizes and models")
    if study.work:
        parser.option("--work DIR", "keeps what is done", default=Path("runs") / study.work)
    if study.draws:
        parser.cache()
    table = study.table("PROFILE")
    parser.option("--results DIR", f"gets {table} and .json", default=Path("results"))
    if study.compares:
        parser.option(
            "--after NAME=SPEC",
            "the trained encoders; a name given several times is one training with several seeds, "
            "for example dmcl=finetuned:runs/encoders/classroom/encoders/dmcl/1 (default: "
            "finetune_text and dmcl, with the seeds that the profile has)",
            nargs="+", action="extend", type=partial(named, what="SPEC"),
        )  # fmt: skip
    parser.machine()


def list_studies(arguments: argparse.Namespace) -> None:
    """Tell what each study measures, and about how many minutes it takes."""
    say("minutes under the classroom profile on two cores; ? where no note tells")
    for study in STUDIES:
        say(f"{study.name:<20} {study.minutes or '?':>4}  {study.measures}")


def run_study(study: Study, arguments: argparse.Namespace) -> None:
    """Check what can be checked at once, load the models that the study names, and run it."""
    profile = inputs.chosen_profile(arguments.profile)
    check_results(arguments.results / study.table(profile.name))
    given = {
        "results_dir": arguments.results,
        "device": arguments.device,
        "num_workers": arguments.workers,
        "progress": True,
    }
    if study.work:
        given["work_dir"] = arguments.work / profile.name
        check_output(given["work_dir"] / "log.csv")
    if study.draws:
        given["cache"] = arguments.cache
        check_output(arguments.cache / "view.webp")
    if study.compares:
        given["others"] = _by_name(arguments.after) if arguments.after else None
    inputs.check_device(arguments.device)
    module, _, function = study.function.partition(":")
    measure = getattr(import_module(f"daitir.studies.{module}"), function)
    wanted = inspect.signature(measure).parameters
    kinds = {"reformulator": "lm", "generator": "diffusion", "encoder": "clip"}
    check_models(profile, *(kind for name, kind in kinds.items() if name in wanted))
    for name, load in _loaders().items():
        if name in wanted:
            given[name] = load(profile, device=arguments.device)
    path = measure(profile, **{name: value for name, value in given.items() if name in wanted})
    say(f"written to {path}")


def _by_name(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The specs of each name, in their order: a name that stands twice has two seeds.

    >>> _by_name([("dmcl", "a"), ("text", "b"), ("dmcl", "c")])
    {'dmcl': ['a', 'c'], 'text': ['b']}
    """
    specs: dict[str, list[str]] = {}
    for name, spec in pairs:
        specs.setdefault(name, []).append(spec)
    return specs


def _loaders() -> Mapping[str, Callable]:
    """What loads the model of a parameter for a profile and a device."""
    from daitir.models.encoders import load_encoder
    from daitir.models.recogniser import load_recogniser
    from daitir.models.reformulation import load_reformulator
    from daitir.models.views import load_view_generator

    return {
        "reformulator": lambda profile, device: load_reformulator(
            profile.reformulator, device=device
        ),
        "generator": lambda profile, device: load_view_generator(profile.generator, device=device),
        "encoder": lambda profile, device: load_encoder(profile.encoder, device=device),
        # Every profile reads the embedded world with the package's own.
        "recogniser": lambda profile, device: load_recogniser(device=device),
    }

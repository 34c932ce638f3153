"""The commands that measure a profile and write a table among the results.

A study is a function of a profile. What else it needs it names by its parameters: models
(`reformulator`, `generator`, `encoder`, `recogniser`), which are the profile's, folders, and the
machine.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from daitir.cli.data_commands import check_device, chosen_profile
from daitir.common.files import check_output, check_results
from daitir.common.terminal import say
from daitir.studies.profiles import check_models


@dataclass(frozen=True)
class Study:
    """A command that measures.

    Attributes:
        name: of the command, and of the table behind that of the profile.
        function: `module:function` of the package.
        help: what is measured.
        folders: the options that name folders, with their defaults: `--work` keeps what is done,
            `--cache` what is drawn.
        compares: whether encoders to compare may be named.
    """

    name: str
    function: str
    help: str
    folders: Mapping[str, str]
    compares: bool = False

    def table(self, profile_name: str) -> str:
        """The name of the table; the benchmark's is that of the profile alone."""
        suffix = "" if self.name == "benchmark" else f"_{self.name}"
        return f"{profile_name}{suffix}.csv"


STUDIES = (
    Study(
        "benchmark",
        "benchmark:run_benchmark",
        "Measure every method on every source of dialogues; an interrupted run continues.",
        {"--work": "runs/benchmark"},
    ),
    Study(
        "encoders",
        "encoder_benchmark:run_encoder_benchmark",
        "Measure the fine-tuned encoders; an interrupted run continues.",
        {"--work": "runs/encoders", "--cache": "runs/views"},
    ),
    Study(
        "encoder_ablations",
        "encoder_ablations:run_encoder_ablations",
        "Fine-tune with one part of DMCL changed, shortly, and measure; an interrupted run "
        "continues.",
        {"--work": "runs/encoder_ablations", "--cache": "runs/views"},
    ),
    Study(
        "encoder_choices",
        "encoder_choices:run_encoder_choices",
        "Measure numbers of views, guidance and steps with the fine-tuned encoders.",
        {"--work": "runs/encoders", "--cache": "runs/views"},
    ),
    Study(
        "encoder_checkpoints",
        "encoder_checkpoints:run_encoder_checkpoints",
        "Train less trained diffusion models and measure them with the fine-tuned encoders; an "
        "interrupted run continues.",
        {"--work": "runs/encoders", "--cache": "runs/views"},
    ),
    Study(
        "encoder_memory",
        "encoder_memory:run_encoder_memory",
        "Train ADaFuSE on the views of all rounds so far with the fine-tuned encoders and measure "
        "it; an interrupted run continues.",
        {"--work": "runs/encoders", "--cache": "runs/views"},
    ),
    Study(
        "choices",
        "choices:run_choices",
        "Measure numbers of views, guidance and steps; an interrupted run continues.",
        {"--cache": "runs/views"},
    ),
    Study(
        "ablations",
        "ablations:run_ablations",
        "Train and measure ADaFuSE with one part changed; an interrupted run continues.",
        {"--work": "runs/ablations"},
    ),
    Study(
        "robustness",
        "robustness:run_robustness",
        "Measure what ADaFuSE was not trained for, from typing errors to another encoder; an "
        "interrupted run continues.",
        {"--work": "runs/robustness", "--cache": "runs/views"},
    ),
    Study(
        "memory",
        "memory:run_memory",
        "Train and measure fusions that remember the views of earlier rounds; an interrupted run "
        "continues.",
        {"--work": "runs/memory"},
    ),
    Study(
        "geometry",
        "cue_geometry:run_geometry",
        "Measure what becomes of single cues under the profile's encoder and trained ones; an "
        "interrupted run continues.",
        {"--work": "runs/geometry"},
        compares=True,
    ),
    Study(
        "attention",
        "cue_attention:run_attention",
        "Measure where the profile's encoder and trained ones look in drawn views; an interrupted "
        "run continues.",
        {"--work": "runs/attention", "--cache": "runs/views"},
        compares=True,
    ),
)


def run_study(study: Study, arguments: argparse.Namespace) -> None:
    """Check what can be checked at once, load the models that the study names, and run it."""
    profile = chosen_profile(arguments)
    check_results(arguments.results / study.table(profile.name))
    given = {
        "results_dir": arguments.results,
        "device": arguments.device,
        "num_workers": arguments.workers,
        "progress": True,
    }
    if "--work" in study.folders:
        given["work_dir"] = arguments.work / profile.name
        check_output(given["work_dir"] / "log.csv")
    if "--cache" in study.folders:
        given["cache"] = arguments.cache
        check_output(arguments.cache / "view.webp")
    if study.compares:
        given["others"] = _by_name(arguments.after) if arguments.after else None
    check_device(arguments.device)
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
    found: dict[str, list[str]] = {}
    for name, spec in pairs:
        found.setdefault(name, []).append(spec)
    return found


def _loaders() -> dict[str, Callable]:
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

"""What is read: the words of the dialogues of a condition, by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from daitir.scenes import dialogue, rewrites, short_caption
from daitir.studies.engine.conditions import Condition
from daitir.studies.perturbations import PERTURBATIONS, refine_arrived
from daitir.studies.queries import SEED, SETS

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

LONG_DIALOGUES = 20  # questions


def _refined(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return bench.query_set(condition.queries).captions[: condition.number]


def _exact(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return [rewrites(turns, seed=index) for index, turns in enumerate(bench.talks(condition))]


def _said(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return [[turn.text for turn in turns] for turns in bench.talks(condition)]


def _perturbed(bench: Bench, condition: Condition, argument: str, *, kind: str) -> list[list[str]]:
    perturb = PERTURBATIONS[kind]
    share = {"share": int(argument) / 100} if argument else {}
    said = _said(bench, condition, "")
    arrived = [perturb(rounds, seed, **share) for seed, rounds in enumerate(said)]
    return refine_arrived(bench.reformulator, arrived, progress=bench.progress)


def _longer(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    talks = [
        dialogue(SETS[condition.queries].source, scene, seed=SEED, num_questions=LONG_DIALOGUES)
        for scene in bench.targets(condition)
    ]
    said = [[turn.text for turn in turns] for turns in talks]
    return bench.reformulator.refine(said, progress=bench.progress).captions


def _short(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    scenes = bench.targets(condition)
    return [[short_caption(s, random.Random(f"short/{SEED}/{i}"))] for i, s in enumerate(scenes)]


WORDS: dict[str, Callable[[Bench, Condition, str], list[list[str]]]] = {
    "refined": _refined,
    "exact": _exact,
    "said": _said,
    "longer": _longer,
    "short_caption": _short,
    **{kind: partial(_perturbed, kind=kind) for kind in PERTURBATIONS},
}
"""`refined` captions, `exact` ones of the facts themselves, what was `said`; other dialogues."""

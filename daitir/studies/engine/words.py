"""What is read: the words of the dialogues of a condition, by name.

A perturbation is what may happen to a dialogue on the way to the system: a function of what was
said, round by round, and a seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from daitir.models.reformulation import Reformulator
from daitir.scenes import dialogue, rewrites, short_caption
from daitir.studies.engine.conditions import Condition
from daitir.studies.queries import SEED, SETS

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

LONG_DIALOGUES = 20  # questions
Said = list[str | None]  # None where nothing of a round arrived


def typos(said: Sequence[str], seed: int | str, *, share: float) -> Said:
    """A share of the words of three letters and more with letters swapped, lost or doubled.

    >>> typos(["a red sailboat"], 0, share=1)
    ['a rde saliboat']
    """
    rng = random.Random(f"typos/{seed}")

    def mistyped(match: re.Match) -> str:
        word = match[0]
        if rng.random() >= share:
            return word
        kind = rng.choice(("lost", "doubled", "swapped"))
        differ = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
        if kind == "swapped" and differ:
            i = rng.choice(differ)
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        i = rng.randrange(len(word))
        return word[:i] + ("" if kind == "lost" else 2 * word[i]) + word[i + 1 :]

    return [re.sub(r"[^\W\d_]{3,}", mistyped, text) for text in said]


def dropped_rounds(said: Sequence[str], seed: int | str, *, share: float) -> Said:
    """Each question with its answer is lost with probability `share`; the caption never is."""
    rng = random.Random(f"dropped/{seed}")
    return [said[0], *(None if rng.random() < share else text for text in said[1:])]


def shuffled_rounds(said: Sequence[str], seed: int | str) -> Said:
    """The questions with their answers in another order; the caption stays the first."""
    rest = list(said[1:])
    random.Random(f"shuffled/{seed}").shuffle(rest)
    return [said[0], *rest]


def refine_arrived(
    reformulator: Reformulator, dialogues: Sequence[Said], *, progress: bool = False
) -> list[list[str]]:
    """`captions[dialogue][round]`, refined from what arrived: a lost round changes nothing."""
    arrived = [[text for text in said if text is not None] for said in dialogues]
    refined = reformulator.refine(arrived, progress=progress).captions
    counts = [np.cumsum([text is not None for text in said]) for said in dialogues]
    return [[row[n - 1] for n in ns] for row, ns in zip(refined, counts, strict=True)]


def _refined(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    if SETS[condition.queries].shipped:
        return bench.query_set(condition.queries).captions[: condition.number]
    said = _said(bench, condition)
    return bench.reformulator.refine(said, progress=bench.progress).captions


def _exact(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return [rewrites(turns, seed=index) for index, turns in enumerate(bench.talks(condition))]


def _said(bench: Bench, condition: Condition, argument: str = "") -> list[list[str]]:
    return [[turn.text for turn in turns] for turns in bench.talks(condition)]


def _perturbed(
    bench: Bench, condition: Condition, argument: str, *, perturb: Callable[..., Said]
) -> list[list[str]]:
    """Captions refined from perturbed dialogues; the argument is a share in percent."""
    share = {"share": int(argument) / 100} if argument else {}
    said = _said(bench, condition)
    arrived = [perturb(rounds, seed, **share) for seed, rounds in enumerate(said)]
    return refine_arrived(bench.reformulator, arrived, progress=bench.progress)


def _longer(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    ask = partial(dialogue, SETS[condition.queries].source, seed=SEED, num_questions=LONG_DIALOGUES)
    said = [[turn.text for turn in ask(scene)] for scene in bench.targets(condition)]
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
    "typos": partial(_perturbed, perturb=typos),
    "dropped_rounds": partial(_perturbed, perturb=dropped_rounds),
    "shuffled_rounds": partial(_perturbed, perturb=shuffled_rounds),
}
"""`refined` captions, `exact` ones of the facts themselves, what was `said`; other dialogues."""

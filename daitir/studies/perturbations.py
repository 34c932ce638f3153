"""Perturbations: what may happen to a dialogue or to its views on the way to the system.

A perturbation of a dialogue is a function of what was said, round by round, and a seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from daitir.models.reformulation import Reformulator

Said = list[str | None]  # None where nothing of a round arrived


def typos(said: Sequence[str], seed: int | str, *, share: float) -> Said:
    """A share of the words of three letters and more with letters swapped, lost or doubled.

    Of a word one letter is lost or doubled, or two neighbours that differ change places, one as
    likely as the other. Raises ValueError for a share outside [0, 1].

    >>> typos(["a red sailboat"], 0, share=1)
    ['a rde saliboat']
    """
    _check_share(share)
    rng = random.Random(f"typos/{seed}")

    def mistyped(found: re.Match) -> str:
        word = found[0]
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
    """Each question with its answer is lost with probability `share`; the caption never is.

    Raises ValueError for a share outside [0, 1].
    """
    _check_share(share)
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
    """`captions[dialogue][round]`, refined from what arrived: a lost round changes nothing.

    Raises ValueError where a first round is lost, and DataError as `Reformulator.refine` does.
    """
    if any(said[0] is None for said in dialogues):
        raise ValueError("the first round of a dialogue is lost; there is nothing to begin with")
    arrived = [[text for text in said if text is not None] for said in dialogues]
    refined = reformulator.refine(arrived, progress=progress).captions
    counts = [np.cumsum([text is not None for text in said]) for said in dialogues]
    return [[row[n - 1] for n in ns] for row, ns in zip(refined, counts, strict=True)]


def last_views(view_features: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """At every round the latest view that is there, and where there is none yet.

    `view_features` `(num_queries, num_rounds, dim)`, rounds from 0 on, `missing` `(num_queries,
    num_rounds)` bool. Gives features of the same shape, those of round 0 where there is none, and
    a bool `(num_queries, num_rounds)`.
    """
    rounds = torch.arange(missing.shape[1]).expand_as(missing)
    latest = torch.where(missing, -1, rounds).cummax(dim=1).values
    queries = torch.arange(len(missing))[:, None]
    return view_features[queries, latest.clamp(min=0)], latest < 0


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share is a probability, not {share}")


PERTURBATIONS: dict[str, Callable[..., Said]] = {
    "typos": typos,
    "dropped_rounds": dropped_rounds,
    "shuffled_rounds": shuffled_rounds,
}
"""Of what was said, a seed and, for the first two, a share."""

"""Controlled views: what an ideal generator would draw of a query, with a knob for mistakes.

It draws what is stated, invents the rest from the world's prior, and contradicts a chosen share
of what is stated. It reads facts, not words, and is never to be mixed up with drawn views.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from daitir.scenes.dialogues import wrong
from daitir.scenes.scene import Fact, Scene, complete


class ControlledView(NamedTuple):
    """The scene that a view shows, and the stated facts that it was made to break."""

    scene: Scene
    broken: tuple[Fact, ...]


def controlled_view(
    facts: Iterable[Fact], *, broken_share: float, seed: int | str = 0
) -> ControlledView:
    """A view of the stated facts in which each is broken with probability `broken_share`.

    With one seed, whatever is broken at a smaller share is broken at a larger one too, so that
    dose–response curves compare like with like.

    Raises ValueError for a share outside [0, 1].
    """
    if not 0 <= broken_share <= 1:
        raise ValueError(f"broken_share is a probability, not {broken_share}")
    drawn, broken = [], []
    for fact in facts:
        rng = random.Random(f"broken/{seed}/{tuple(fact)}")
        if rng.random() < broken_share:
            broken.append(fact)
            fact = wrong(fact, rng)
        drawn.append(fact)
    left_out = {f.subject for f in drawn if (f.attribute, f.value) == ("present", False)}
    drawn = [f for f in drawn if f.subject not in left_out or f.attribute == "present"]
    drawn = [f for f in drawn if f.value not in left_out]
    scene = complete(drawn, random.Random(f"view/{seed}"))
    return ControlledView(scene, tuple(broken))

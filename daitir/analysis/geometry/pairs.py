"""Pairs of a view and the same view with one cue undone, sorted by what the cue is.

The reading of a view is drawn again, whole and with one cue changed, so that the two pictures
differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from daitir.analysis.hallucination import cues, interventions, one_of_each
from daitir.common.errors import DataError
from daitir.scenes import Fact, Scene, implied, parse

PAIR_KINDS = ("hallucinated", "supported", "lucky")
CUES = ("place", "time", "weather", "object", "colour", "size", "column", "row")


class CuePair(NamedTuple):
    """One cue of one view, undone: a hallucinated one made true, another made false.

    *Hallucinated* is what is false of the target and not stated, *supported* what is stated, and
    *lucky* what is true of the target and not stated. An `object` is undone by taking it out.
    """

    view: int  # its number
    cue: str  # one of `CUES`
    kind: str  # one of `PAIR_KINDS`
    fact: Fact  # what the view shows and the changed scene does not
    scene: Scene  # the view with the cue undone


def cue_pairs(
    captions: Sequence[str], readings: Sequence[Scene], targets: Sequence[Scene]
) -> tuple[list[Scene], list[CuePair]]:
    """The views, one object of each category, and every pair of theirs.

    A change that puts something in undoes no cue of the view and is left out; so are stated facts
    that are false of the target. Raises DataError where there is no pair.
    """
    views, pairs = [], []
    for number, (caption, seen, target) in enumerate(zip(captions, readings, targets, strict=True)):
        stated = parse(caption).facts
        view, _ = one_of_each(seen, {f[:2]: f.value for f in (*implied(stated), *stated)})
        views.append(view)
        kinds = cues(stated, seen, target).kinds
        for action, name, scene in interventions(view, target, seed=f"0/{number}")[0]:
            now = scene.own_facts
            gone = [f for f in view.own_facts if f.attribute != "count" and f not in now]
            if not gone:
                continue  # something was put in
            fact = next((f for f in gone if f.attribute == "present"), gone[0])
            kind = kinds[fact]
            if action == "repair":
                kind = "stated and false" if kind == "supported" else "hallucinated"
            if kind in PAIR_KINDS:
                cue = "object" if fact.attribute == "present" else name
                pairs.append(CuePair(number, cue, kind, fact, scene))
    if not pairs:
        raise DataError(f"none of the {len(views)} views shows a cue that can be undone")
    return views, pairs

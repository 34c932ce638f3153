"""What a view shows beside what was said and what is true: the taxonomy of its cues.

The recogniser reads a view as a `Scene`. Each of its facts is a *cue*, and there are two witnesses
to ask about it, the text of the query and the target:

| kind | the text | the target |
|---|---|---|
| supported | states it | |
| contradicted | states otherwise | |
| lucky | is silent | it is true of it |
| invented | is silent | it is false of it |

A fact is *omitted* where the text states it and the view, which lacks the object, shows nothing of
it. CHAIR counts invented objects of captions, GenEval supported facts of drawings; here both
directions are counted, and silence is told from contradiction.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from daitir.scenes import Fact, Scene, SceneObject, counterfactual, holds, implied, parse, world
from daitir.scenes.dialogues import wrong

CUE_KINDS = ("supported", "contradicted", "lucky", "invented")


@dataclass(frozen=True)
class Cues:
    """The cues of one view."""

    kinds: Mapping[Fact, str]  # of `CUE_KINDS`
    extra: tuple[Fact, ...]  # presence of a second object of a category: always invented
    omitted: tuple[Fact, ...]  # stated facts about what the view does not show

    @property
    def judged(self) -> list[tuple[Fact, str]]:
        """Every fact with its kind, those of `extra` and, as `"omitted"`, those omitted too."""
        others = [(fact, "invented") for fact in self.extra]
        return [*self.kinds.items(), *others, *((fact, "omitted") for fact in self.omitted)]

    def count(self, kind: str) -> int:
        """How many cues are of a kind of `CUE_KINDS`, or `"omitted"`."""
        return [of for _, of in self.judged].count(kind)


def cues(stated: Iterable[Fact], seen: Scene, target: Scene) -> Cues:
    """The cues of a view.

    `stated` are the facts of the query's text, such as `parse(caption).facts`; of two values of one
    attribute the last counts. `seen` is what the recogniser reads off the view.

    >>> dog = SceneObject("dog", None, "small", "left", "back")
    >>> beach, city = Scene("beach", "day", "clear", (dog,)), Scene("city", "day", "clear", (dog,))
    >>> kinds = cues([Fact("scene", "place", "city")], beach, city).kinds
    >>> kinds[Fact("scene", "place", "beach")], kinds[Fact("dog", "present", True)]
    ('contradicted', 'lucky')
    """
    said = implied(stated := tuple(stated))
    latest = {fact[:2]: fact.value for fact in (*said, *stated)}
    view, extra = one_of_each(seen, latest)
    facts = [fact for fact in view.own_facts if fact.attribute != "count"]
    facts.append(Fact("scene", "count", len(seen.objects)))
    kinds = {fact: _kind(fact, latest, target) for fact in facts}
    shown = {fact[:2] for fact in kinds}
    omitted = []
    for fact in sorted(said, key=str):
        if fact.attribute in world.RELATIONS:
            if view.object(fact.subject) and view.object(str(fact.value)):
                kinds[fact] = "supported" if holds(fact, view) else "contradicted"
            else:
                omitted.append(fact)
        elif latest[fact[:2]] == fact.value and fact[:2] not in shown and not holds(fact, view):
            omitted.append(fact)
    return Cues(kinds, extra, tuple(omitted))


def cue_table(
    captions: Sequence[Sequence[str]], readings: Sequence[Sequence[Scene]], targets: Sequence[Scene]
) -> pd.DataFrame:
    """How many cues of each kind every view has, by attribute.

    `captions[dialogue][view]` were drawn, `readings[dialogue][view]` are read off the views, and
    `targets` are the true scenes. The columns are `dialogue`, `view`, `attribute` (that of the
    fact, or `relation`), `kind` (of `CUE_KINDS`, or `omitted`) and `number`, which is not 0.
    """
    rows = []
    dialogues = zip(captions, readings, targets, strict=True)
    for dialogue, (texts, scenes, target) in enumerate(dialogues):
        for view, (text, seen) in enumerate(zip(texts, scenes, strict=True)):
            counts = Counter(
                ("relation" if fact.attribute in world.RELATIONS else fact.attribute, kind)
                for fact, kind in cues(parse(text).facts, seen, target).judged
            )
            rows += [(dialogue, view, *key, number) for key, number in sorted(counts.items())]
    return pd.DataFrame(rows, columns=["dialogue", "view", "attribute", "kind", "number"])


def one_of_each(
    seen: Scene, stated: Mapping[tuple[str, str], object]
) -> tuple[Scene, tuple[Fact, ...]]:
    """The view with one object of each category, and the others as facts.

    Of several that object counts which fits `stated`, values by (subject, attribute), best; the
    first of equals.
    """

    def fit(item: SceneObject) -> int:
        return sum(
            stated.get((item.category, name)) == getattr(item, name)
            for name in ("colour", "size", "column", "row")
        )

    best: dict[str, SceneObject] = {}
    for item in seen.objects:
        if item.category not in best or fit(item) > fit(best[item.category]):
            best[item.category] = item
    others = [item for item in seen.objects if item is not best[item.category]]
    extra = tuple(Fact(item.category, "present", True) for item in others)
    return replace(seen, objects=tuple(best.values())), extra


class Intervention(NamedTuple):
    """A view with one cue changed and everything else as it was."""

    action: str  # `repair`, a cue false of the target made true, or `break`, a true one made false
    cue: str  # an attribute, `missing object`, or `false object`, which a repair takes out
    scene: Scene


def interventions(view: Scene, target: Scene, *, seed: str) -> tuple[list[Intervention], int]:
    """Every single repair of a view, and for every true cue of it one way to break it.

    The view is as `one_of_each` gives it. `seed` chooses the false values and the object that is
    put in. An attribute of an object that the target lacks is repaired with the object, not by
    itself. The second value is how many could not be made since the cell was taken.
    """
    rng = random.Random(f"interventions/{seed}")
    changes: list[tuple[str, str, Fact | SceneObject]] = []
    for fact in view.own_facts:
        true, owner = holds(fact, target), target.object(fact.subject)
        if fact.attribute == "count":
            continue
        if fact.attribute == "present":
            names = ("break", "missing object") if true else ("repair", "false object")
            changes.append((*names, fact._replace(value=False)))
        elif true:
            changes.append(("break", fact.attribute, wrong(fact, rng)))
        elif fact.subject == "scene" or owner:
            value = getattr(owner or target, fact.attribute)
            changes.append(("repair", fact.attribute, fact._replace(value=value)))
    for item in target.objects:
        if not view.object(item.category):
            changes.append(("repair", "missing object", item))
    others = [n for n in world.CATEGORIES if not view.object(n) and not target.object(n)]
    weights = [world.OBJECT_WEIGHTS[target.place][name] for name in others]
    added = Fact(rng.choices(others, weights)[0], "present", True)
    changes.append(("break", "false object", added))

    made, taken = [], {(item.column, item.row) for item in view.objects}
    for action, cue, change in changes:
        if isinstance(change, Fact):
            with suppress(ValueError):  # the cell is taken, or no cell is free
                made.append(Intervention(action, cue, counterfactual(view, change)))
        elif (change.column, change.row) not in taken:
            scene = replace(view, objects=(*view.objects, change))
            made.append(Intervention(action, cue, scene))
    return made, len(changes) - len(made)


def _kind(fact: Fact, latest: Mapping[tuple[str, str], object], target: Scene) -> str:
    stated = latest.get((fact.subject, fact.attribute))
    if fact.attribute == "present" and stated is None:
        group = world.CATEGORIES[fact.subject].group
        if latest.get((group, "present")) is False:
            return "contradicted"
    if stated is not None:
        return "supported" if stated == fact.value else "contradicted"
    return "lucky" if holds(fact, target) else "invented"

"""Scenes: what a picture shows, as data. Sampling, splits, facts and counterfactuals."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from daitir.scenes import world

SCENE_SPLITS = ("train", "val", "test", "heldout")


class Fact(NamedTuple):
    """One thing that can be said of a scene, true or false.

    `subject` is `"scene"`, a category or a group of categories; `attribute` one of `place`,
    `time`, `weather`, `count`, `present`, `colour`, `size`, `column`, `row`, or one of
    `world.RELATIONS`, whose value is another category.
    """

    subject: str
    attribute: str
    value: str | int | bool


@dataclass(frozen=True)
class SceneObject:
    """One object: its category, colour (None where the category has none), size and cell.

    `jitter` is the offset in 64ths of the picture's width, a nuisance that no fact mentions.
    """

    category: str
    colour: str | None
    size: str
    column: str
    row: str
    jitter: tuple[int, int] = (0, 0)

    @property
    def cell(self) -> tuple[str, str]:
        """Its column and row."""
        return self.column, self.row


@dataclass(frozen=True)
class Scene:
    """A place, a time, a weather and objects of different categories in different cells."""

    place: str
    time: str
    weather: str
    objects: tuple[SceneObject, ...]

    def object(self, category: str) -> SceneObject | None:
        """The object of a category, or None where the scene has none."""
        return next((item for item in self.objects if item.category == category), None)

    @property
    def count(self) -> int:
        """The number of its objects."""
        return len(self.objects)

    @property
    def own_facts(self) -> tuple[Fact, ...]:
        """The affirmative facts of the scene and of each object; what relates two is left out."""
        names = ("place", "time", "weather", "count")
        facts = [Fact("scene", name, getattr(self, name)) for name in names]
        for item in self.objects:
            facts.append(Fact(item.category, "present", True))
            looks = [(n, getattr(item, n)) for n in ("colour", "size", "column", "row")]
            facts += [Fact(item.category, n, value) for n, value in looks if value is not None]
        return tuple(facts)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Every affirmative fact: the scene's, each object's, then the relations."""
        return self.own_facts + tuple(
            Fact(a.category, relation, b.category)
            for a, b in itertools.permutations(self.objects, 2)
            for relation in world.RELATIONS
            if related(a.cell, relation, b.cell)
        )


def related(a: tuple[str, str], relation: str, b: tuple[str, str]) -> bool:
    """Whether the cell `a` stands in one of `world.RELATIONS` to `b`; in front: in one column."""
    if relation == "in front of":
        return a[0] == b[0] and (a[1], b[1]) == ("front", "back")
    left, right = (a, b) if relation == "left of" else (b, a)
    return world.COLUMNS.index(left[0]) < world.COLUMNS.index(right[0])


def holds(fact: Fact, scene: Scene) -> bool:
    """Whether a fact is true of a scene; a fact about an absent object is false.

    >>> scene = Scene("beach", "day", "clear", (SceneObject("dog", None, "small", "left", "back"),))
    >>> holds(Fact("people", "present", False), scene), holds(Fact("dog", "row", "front"), scene)
    (True, False)
    """
    subject, attribute, value = fact
    if subject == "scene":
        return getattr(scene, attribute) == value
    if attribute == "present":
        members = world.MEMBERS.get(subject, (subject,))
        return any(scene.object(name) for name in members) == value
    item = scene.object(subject)
    if attribute in world.RELATIONS:
        other = scene.object(str(value))
        return bool(item and other) and related(item.cell, attribute, other.cell)
    return item is not None and getattr(item, attribute) == value


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to, by its facts alone: `heldout`, else by a hash of them."""
    pairs = [((o.colour, o.category), (o.category, scene.place)) for o in scene.objects]
    if not world.HELD_OUT_PAIRS.isdisjoint(itertools.chain(*pairs)):
        return "heldout"
    plain = [(o.category, o.colour, o.size, o.column, o.row) for o in scene.objects]
    key = repr((scene.place, scene.time, scene.weather, sorted(plain, key=str)))
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 100
    return "train" if bucket < 60 else "val" if bucket < 80 else "test"


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """The scene number `index` of a split: the same for any order, process count or machine.

    Raises ValueError for an unknown split.
    """
    if split not in SCENE_SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SCENE_SPLITS)}")
    rng = random.Random(f"scene/{seed}/{split}/{index}")
    while True:
        scene = complete((), rng, allow_held_out=split == "heldout")
        if split_of(scene) == split:
            return scene


def sample_scenes(seed: int, split: str, num_scenes: int, *, start: int = 0) -> list[Scene]:
    """Scenes `start` to `start + num_scenes - 1` of a split."""
    return [sample_scene(seed, split, start + index) for index in range(num_scenes)]


class Told(NamedTuple):
    """What facts say of the scene, of objects that are there, and what else they tell, in order."""

    scene: dict[str, str | int]
    objects: dict[str, dict]
    relations: list[Fact]
    groups: list[str]  # of which something is there
    absent: list[str]  # categories and groups


def sort_facts(facts: Iterable[Fact]) -> Told:
    """Facts by what they are about; a later value replaces an earlier one."""
    told = Told({}, {}, [], [], [])
    for fact in facts:
        subject, attribute, value = fact
        if subject == "scene":
            told.scene[attribute] = value
        elif attribute == "present" and not value:
            told.absent.append(subject)
        elif subject in world.GROUPS:
            told.groups.append(subject)
        elif attribute in world.RELATIONS:
            told.relations.append(fact)
            told.objects.setdefault(subject, {})
            told.objects.setdefault(str(value), {})
        else:
            told.objects.setdefault(subject, {})[attribute] = value
    return told


def complete(facts: Iterable[Fact], rng: random.Random, *, allow_held_out: bool = False) -> Scene:
    """A scene drawn from the world's prior, given some facts: the rest is made up plausibly.

    Facts that cannot hold together (a relation in a circle, more objects than cells) hold as far as
    they can. `allow_held_out` lets the rest contain combinations that training never shows.
    """
    told, held_out = sort_facts(facts), frozenset() if allow_held_out else world.HELD_OUT_PAIRS
    absent = {member for name in told.absent for member in world.MEMBERS.get(name, (name,))}
    categories = list(told.objects)[: len(world.CELLS)]

    place = told.scene.get("place") or _sample_place(categories, rng, held_out)
    time = told.scene.get("time") or rng.choices(world.TIMES, world.TIME_WEIGHTS[place])[0]
    weathers = world.WEATHER_WEIGHTS[place]
    weather = told.scene.get("weather") or rng.choices(world.WEATHERS, weathers)[0]
    for group in told.groups:
        members = [name for name in world.MEMBERS[group] if name not in absent]
        if members and not set(members) & set(categories):
            categories += _sample_categories(place, members, 1, rng, held_out)
    counts, weights = zip(*world.COUNT_WEIGHTS.items(), strict=True)
    missing = (told.scene.get("count") or rng.choices(counts, weights)[0]) - len(categories)
    others = [n for n in world.CATEGORIES if n not in absent and n not in categories]
    categories += _sample_categories(place, others, missing, rng, held_out)
    categories = categories[: len(world.CELLS)]
    objects = []
    for category, cell in zip(categories, _sample_cells(categories, told, rng), strict=True):
        attributes = told.objects.get(category, {})
        colour = attributes.get("colour") or _sample_colour(category, rng, held_out)
        size = attributes.get("size") or rng.choices(world.SIZES)[0]
        jitter = (rng.randint(-1, 1), rng.randint(-1, 1))
        objects.append(SceneObject(category, colour, size, *cell, jitter))
    return Scene(place, time, weather, tuple(objects))


def _sample_place(categories: list[str], rng: random.Random, held_out: frozenset) -> str:
    def weight(name: str, place: str) -> float:
        # Stated objects may leave no place that training has shown.
        return 1e-6 if (name, place) in held_out else world.OBJECT_WEIGHTS[place][name]

    weights = [math.prod(weight(name, place) for name in categories) for place in world.PLACES]
    return rng.choices(world.PLACES, weights)[0]


def _sample_categories(
    place: str, options: list[str], number: int, rng: random.Random, held_out: frozenset
) -> list[str]:
    options, chosen = [name for name in options if (name, place) not in held_out], []
    for _ in range(min(number, len(options))):
        chosen += rng.choices(options, [world.OBJECT_WEIGHTS[place][name] for name in options])
        options.remove(chosen[-1])
    return chosen


def _sample_colour(category: str, rng: random.Random, held_out: frozenset) -> str | None:
    if not world.CATEGORIES[category].has_colour:
        return None
    weights = [
        0.0 if (colour, category) in held_out else weight
        for colour, weight in zip(world.COLOURS, world.COLOUR_WEIGHTS[category], strict=True)
    ]
    return rng.choices(world.COLOURS, weights)[0]


def _sample_cells(
    categories: list[str], told: Told, rng: random.Random
) -> Sequence[tuple[str, str]]:
    """A cell for each object, uniform among the placements that break the fewest statements."""
    if not told.relations and not any({"column", "row"} & o.keys() for o in told.objects.values()):
        return rng.sample(world.CELLS, len(categories))
    relations = [r for r in told.relations if r.subject in categories and r.value in categories]

    def faults(placement: tuple[tuple[str, str], ...]) -> tuple[int, int]:
        cell_of, misplaced = dict(zip(categories, placement, strict=True)), 0
        for name, (column, row) in cell_of.items():
            stated = told.objects.get(name, {})
            misplaced += stated.get("column", column) != column or stated.get("row", row) != row
        return misplaced, sum(not related(cell_of[a], r, cell_of[b]) for a, r, b in relations)

    placements = {p: faults(p) for p in itertools.permutations(world.CELLS, len(categories))}
    fewest = min(placements.values())
    return rng.choice([placement for placement, count in placements.items() if count == fewest])


def counterfactual(scene: Scene, fact: Fact) -> Scene:
    """The same scene with one fact made true and nothing else changed.

    Place, time and weather repaint the background only; colour, size, column and row change one
    object; `present` removes one, or adds one in the first free cell.

    Raises ValueError where the fact holds already, the object is absent, the cell is taken, the
    value is unknown, or the fact is of another kind.
    """
    subject, attribute, value = fact
    if holds(fact, scene):
        raise ValueError(f"{fact} holds in the scene already")
    options = {**world.OPTIONS, "present": (True, False)}
    if value not in options.get(attribute, ()):
        raise ValueError(f"{fact} is no change that one object or the background can make")
    if subject == "scene":
        return replace(scene, **{attribute: value})
    item = scene.object(subject)
    others = tuple(other for other in scene.objects if other is not item)
    taken = {other.cell for other in others}
    if attribute == "present":
        added = (_added(subject, taken, scene),) if value else ()
        return replace(scene, objects=others + added)
    if item is None:
        raise ValueError(f"the scene has no {subject} whose {attribute} could change")
    if attribute == "colour" and item.colour is None:
        raise ValueError(f"a {subject} has no colour to change")
    changed = replace(item, **{attribute: value})
    if changed.cell in taken:
        raise ValueError(f"the cell for {fact} is taken by another object")
    return replace(scene, objects=tuple(changed if o is item else o for o in scene.objects))


def _added(category: str, taken: Collection[tuple[str, str]], scene: Scene) -> SceneObject:
    if category not in world.CATEGORIES:
        raise ValueError(f"unknown category {category!r}")
    free = [cell for cell in world.CELLS if cell not in taken]
    if not free:
        raise ValueError("the scene has no free cell for another object")
    rng = random.Random(f"added/{category}/{scene!r}")
    colour = _sample_colour(category, rng, world.HELD_OUT_PAIRS)
    return SceneObject(category, colour, "small", *free[0])


def wrong(fact: Fact, rng: random.Random) -> Fact:
    """The fact with another value: what a mistaken answerer or a careless drawing makes of it."""
    subject, attribute, value = fact
    if attribute == "present":
        return Fact(subject, attribute, not value)
    if attribute in world.RELATIONS:
        return Fact(str(value), attribute, subject)
    options = world.OPTIONS.get(attribute, range(1, world.MAX_OBJECTS + 1))  # else a count
    return Fact(subject, attribute, rng.choice([o for o in options if o != value]))


class ControlledView(NamedTuple):
    """The scene that a view shows, and the stated facts that it was made to break."""

    scene: Scene
    broken: tuple[Fact, ...]


def foreseen(
    target: Scene, stated: Collection[Fact], *, share: float, seed: int | str = 0
) -> list[Fact]:
    """Facts of a scene that nobody stated, each with probability `share`.

    What a generator would know beyond the words. Of an object that is neither stated nor foreseen
    nothing is. With one seed, whatever is foreseen at a smaller share is at a larger one too.
    """
    said, known = {fact[:2] for fact in stated}, []
    there = {"scene", *sort_facts(stated).objects}
    for fact in target.own_facts:
        is_new = fact[:2] not in said and (fact.subject in there or fact.attribute == "present")
        if is_new and random.Random(f"foreseen/{seed}/{tuple(fact)}").random() < share:
            known.append(fact)
            there.add(fact.subject)
    return known


def controlled_view(
    facts: Iterable[Fact],
    *,
    broken_share: float,
    seed: int | str = 0,
    foreseen: Iterable[Fact] = (),
) -> ControlledView:
    """A view of the stated facts in which each is broken with probability `broken_share`.

    This is what an ideal generator would draw of a query, with a knob for mistakes; it invents the
    rest, but for what is `foreseen`. With one seed, whatever is broken at a smaller share is broken
    at a larger one too, so that dose–response curves compare like with like.
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
    drawn += foreseen
    left_out = {f.subject for f in drawn if (f.attribute, f.value) == ("present", False)}
    drawn = [f for f in drawn if f.subject not in left_out or f.attribute == "present"]
    drawn = [f for f in drawn if f.value not in left_out]
    return ControlledView(complete(drawn, random.Random(f"view/{seed}")), tuple(broken))

"""Scenes: what a picture shows, as data. Sampling, splits, facts and counterfactuals."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from daitir.scenes import world

SCENE_SPLITS = ("train", "val", "test", "heldout")
_SPLIT_SHARES = {"train": 60, "val": 20, "test": 20}


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

    def value_of(self, attribute: str) -> str | int:
        """Its place, time or weather, or the count of its objects."""
        return len(self.objects) if attribute == "count" else getattr(self, attribute)

    @property
    def own_facts(self) -> tuple[Fact, ...]:
        """The affirmative facts of the scene and of each object; what relates two is left out."""
        names = ("place", "time", "weather", "count")
        facts = [Fact("scene", name, self.value_of(name)) for name in names]
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
            if related(a, relation, b)
        )


def related(a: SceneObject, relation: str, b: SceneObject) -> bool:
    """Whether `a` stands in a relation of `world.RELATIONS` to `b`; in front: in one column."""
    if relation != "in front of":
        left, right = (a, b) if relation == "left of" else (b, a)
        return world.COLUMNS.index(left.column) < world.COLUMNS.index(right.column)
    return a.column == b.column and (a.row, b.row) == ("front", "back")


def holds(fact: Fact, scene: Scene) -> bool:
    """Whether a fact is true of a scene; a fact about an absent object is false.

    >>> scene = Scene("beach", "day", "clear", (SceneObject("dog", None, "small", "left", "back"),))
    >>> holds(Fact("people", "present", False), scene), holds(Fact("dog", "row", "front"), scene)
    (True, False)
    """
    subject, attribute, value = fact
    if subject == "scene":
        return scene.value_of(attribute) == value
    if attribute == "present":
        members = world.MEMBERS.get(subject, (subject,))
        return any(scene.object(name) for name in members) == value
    item = scene.object(subject)
    if item is None:
        return False
    if attribute in world.RELATIONS:
        other = scene.object(str(value))
        return other is not None and related(item, attribute, other)
    return getattr(item, attribute) == value


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to, by its facts alone: `heldout`, else by a hash of them."""
    for item in scene.objects:
        if (item.colour, item.category) in world.HELD_OUT_COLOURS:
            return "heldout"
        if (item.category, scene.place) in world.HELD_OUT_PLACES:
            return "heldout"
    plain = [(o.category, o.colour, o.size, o.column, o.row) for o in scene.objects]
    key = repr((scene.place, scene.time, scene.weather, sorted(plain, key=str)))
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 100
    for split, share in _SPLIT_SHARES.items():
        if bucket < share:
            return split
        bucket -= share
    raise AssertionError("the shares of the splits sum to 100")


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """The scene number `index` of a split: the same for any order, process count or machine.

    Raises ValueError for an unknown split or a negative index.
    """
    if split not in SCENE_SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SCENE_SPLITS)}")
    if index < 0:
        raise ValueError(f"a scene's index is 0 or more, not {index}")
    rng = random.Random(f"scene/{seed}/{split}/{index}")
    while True:
        scene = complete((), rng, allow_held_out=split == "heldout")
        if split_of(scene) == split:
            return scene


def sample_scenes(seed: int, split: str, num_scenes: int, *, start: int = 0) -> list[Scene]:
    """Scenes `start` to `start + num_scenes - 1` of a split."""
    return [sample_scene(seed, split, start + index) for index in range(num_scenes)]


def complete(facts: Iterable[Fact], rng: random.Random, *, allow_held_out: bool = False) -> Scene:
    """A scene drawn from the world's prior, given some facts: the rest is made up plausibly.

    Facts that cannot hold together (a relation in a circle, more objects than cells) hold as far as
    they can. `allow_held_out` lets the rest contain combinations that training never shows.
    """
    known: dict[str, dict[str, str | int | bool]] = {"scene": {}}
    absent: set[str] = set()
    relations: list[Fact] = []
    wanted_groups: list[str] = []
    for fact in facts:
        subject, attribute, value = fact
        if attribute == "present" and subject in world.GROUPS:
            if value:
                wanted_groups.append(subject)
            else:
                absent.update(world.MEMBERS[subject])
        elif attribute == "present" and not value:
            absent.add(subject)
        elif attribute in world.RELATIONS:
            relations.append(fact)
            known.setdefault(subject, {})
            known.setdefault(str(value), {})
        else:
            known.setdefault(subject, {})[attribute] = value
    stated = known.pop("scene")
    categories = list(known)[: len(world.CELLS)]

    place = stated.get("place") or _sample_place(categories, rng, allow_held_out)
    time = stated.get("time") or rng.choices(world.TIMES, world.TIME_WEIGHTS[place])[0]
    weather = stated.get("weather") or rng.choices(world.WEATHERS, world.WEATHER_WEIGHTS[place])[0]
    for group in wanted_groups:
        members = [name for name in world.MEMBERS[group] if name not in absent]
        if members and not set(members) & set(categories):
            categories += _sample_categories(place, members, 1, rng, allow_held_out)
    counts, weights = zip(*world.COUNT_WEIGHTS.items(), strict=True)
    count = stated.get("count") or rng.choices(counts, weights)[0]
    others = [n for n in world.CATEGORIES if n not in absent and n not in categories]
    categories += _sample_categories(
        place, others, int(count) - len(categories), rng, allow_held_out
    )
    categories = categories[: len(world.CELLS)]
    if relations or any("column" in k or "row" in k for k in known.values()):
        cells = _sample_cells(categories, known, relations, rng)
    else:
        cells = tuple(rng.sample(world.CELLS, len(categories)))
    objects = []
    for category, (column, row) in zip(categories, cells, strict=True):
        attributes = known.get(category, {})
        colour = attributes.get("colour") or _sample_colour(category, rng, allow_held_out)
        size = attributes.get("size") or rng.choices(world.SIZES, world.SIZE_WEIGHTS)[0]
        jitter = (rng.randint(-1, 1), rng.randint(-1, 1))
        objects.append(SceneObject(category, colour, size, column, row, jitter))
    return Scene(place, time, weather, tuple(objects))


def _sample_place(categories: list[str], rng: random.Random, allow_held_out: bool) -> str:
    def weight(name: str, place: str) -> float:
        if allow_held_out or (name, place) not in world.HELD_OUT_PLACES:
            return world.OBJECT_WEIGHTS[place][name]
        return 1e-6  # stated objects may leave no place that training has shown

    weights = [math.prod(weight(name, place) for name in categories) for place in world.PLACES]
    return rng.choices(world.PLACES, weights)[0]


def _sample_categories(
    place: str, options: list[str], number: int, rng: random.Random, allow_held_out: bool
) -> list[str]:
    if not allow_held_out:
        options = [name for name in options if (name, place) not in world.HELD_OUT_PLACES]
    options, chosen = list(options), []
    for _ in range(min(number, len(options))):
        weights = [world.OBJECT_WEIGHTS[place][name] for name in options]
        name = rng.choices(options, weights)[0]
        options.remove(name)
        chosen.append(name)
    return chosen


def _sample_colour(category: str, rng: random.Random, allow_held_out: bool) -> str | None:
    if not world.CATEGORIES[category].has_colour:
        return None
    weights = [
        0.0 if not allow_held_out and (colour, category) in world.HELD_OUT_COLOURS else weight
        for colour, weight in zip(world.COLOURS, world.COLOUR_WEIGHTS[category], strict=True)
    ]
    return rng.choices(world.COLOURS, weights)[0]


def _sample_cells(
    categories: list[str], known: dict[str, dict], relations: list[Fact], rng: random.Random
) -> tuple[tuple[str, str], ...]:
    """A cell for each object, uniform among the placements that break the fewest statements."""
    relations = [r for r in relations if r.subject in categories and r.value in categories]
    stated = [known.get(name, {}) for name in categories]

    def misplaced(placement: tuple[tuple[str, str], ...]) -> int:
        return sum(
            facts.get("column", column) != column or facts.get("row", row) != row
            for facts, (column, row) in zip(stated, placement, strict=True)
        )

    def broken(placement: tuple[tuple[str, str], ...]) -> int:
        where = {
            name: SceneObject(name, None, "small", *cell)
            for name, cell in zip(categories, placement, strict=True)
        }
        return sum(not related(where[s], r, where[str(o)]) for s, r, o in relations)

    placements = list(itertools.permutations(world.CELLS, len(categories)))
    for faults in (misplaced, broken):
        counts = list(map(faults, placements))
        fewest = min(counts)
        placements = [p for p, count in zip(placements, counts, strict=True) if count == fewest]
    return rng.choice(placements)


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
    if attribute == "present" and value:
        return _with_object(scene, subject)
    if attribute == "present":
        others = tuple(o for o in scene.objects if o.category != subject)
        return replace(scene, objects=others)
    item = scene.object(subject)
    if item is None:
        raise ValueError(f"the scene has no {subject} whose {attribute} could change")
    if attribute == "colour" and item.colour is None:
        raise ValueError(f"a {subject} has no colour to change")
    changed = replace(item, **{attribute: value})
    others = tuple(other for other in scene.objects if other is not item)
    if any((other.column, other.row) == (changed.column, changed.row) for other in others):
        raise ValueError(f"the cell for {fact} is taken by another object")
    return replace(
        scene, objects=tuple(changed if other is item else other for other in scene.objects)
    )


def _with_object(scene: Scene, category: str) -> Scene:
    if category not in world.CATEGORIES:
        raise ValueError(f"unknown category {category!r}")
    taken = {(other.column, other.row) for other in scene.objects}
    free = [cell for cell in world.CELLS if cell not in taken]
    if not free:
        raise ValueError("the scene has no free cell for another object")
    rng = random.Random(f"added/{category}/{scene!r}")
    added = SceneObject(category, _sample_colour(category, rng, False), "small", *free[0])
    return replace(scene, objects=(*scene.objects, added))


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


def controlled_view(
    facts: Iterable[Fact], *, broken_share: float, seed: int | str = 0
) -> ControlledView:
    """A view of the stated facts in which each is broken with probability `broken_share`.

    This is what an ideal generator would draw of a query, with a knob for mistakes: it reads facts,
    not words, and invents the rest. With one seed, whatever is broken at a smaller share is broken
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
    left_out = {f.subject for f in drawn if (f.attribute, f.value) == ("present", False)}
    drawn = [f for f in drawn if f.subject not in left_out or f.attribute == "present"]
    drawn = [f for f in drawn if f.value not in left_out]
    scene = complete(drawn, random.Random(f"view/{seed}"))
    return ControlledView(scene, tuple(broken))

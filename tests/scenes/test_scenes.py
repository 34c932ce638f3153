"""The embedded world: deterministic, true to its own facts, and as rich as the book says."""

import csv
import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitir.scenes import (
    SCENE_SPLITS,
    Fact,
    Scene,
    SceneObject,
    controlled_view,
    counterfactual,
    foreseen,
    holds,
    render,
    render_scenes,
    sample_scene,
    sample_scenes,
    short_caption,
    split_of,
    world,
)
from daitir.scenes.scene import complete

indices = st.integers(0, 10**6)
splits = st.sampled_from(SCENE_SPLITS)
IMAGE_MEAN = 65.76  # of scene 3 of the test split, drawn with the locked versions


def plain(scene):
    """A scene without jitter, as a hashable set of facts."""
    return frozenset(scene.facts)


def test_the_world_is_as_rich_as_promised():
    assert len(world.CATEGORIES) >= 40
    assert len(world.PLACES) >= 6 and len(world.TIMES) == 3 and len(world.WEATHERS) == 3
    assert len(world.COLOURS) >= 6 and 2 <= len(world.SIZES) <= 3
    coloured = [name for name, category in world.CATEGORIES.items() if category.has_colour]
    assert set(coloured) == set(world.COLOUR_WEIGHTS)
    sizes = Counter(len(scene.objects) for scene in sample_scenes(0, "train", 500))
    assert set(sizes) == {1, 2, 3, 4}


@given(st.integers(0, 99), splits, indices)
@settings(max_examples=60, deadline=None)
def test_scenes_are_deterministic_well_formed_and_of_their_split(seed, split, index):
    scene = sample_scene(seed, split, index)
    assert scene == sample_scene(seed, split, index)
    assert split_of(scene) == split
    assert len({item.category for item in scene.objects}) == len(scene.objects)
    assert len({(item.column, item.row) for item in scene.objects}) == len(scene.objects)
    assert all(holds(fact, scene) for fact in scene.facts)
    for item in scene.objects:
        assert (item.colour is not None) == world.CATEGORIES[item.category].has_colour


def test_a_scene_and_its_picture_are_the_same_on_every_machine():
    scene = sample_scene(0, "test", 3)
    assert [(item.category, item.colour) for item in scene.objects] == [
        ("kite", "purple"),
        ("dog", None),
        ("tulip", "yellow"),
    ]
    image = render(scene).image.astype(int)
    # Rasterisers may differ by a shade in an edge pixel, not by a picture.
    assert abs(image.mean() - IMAGE_MEAN) < 0.5


def test_the_book_prints_the_co_occurrence_table():
    path = Path(__file__).parents[2] / "book" / "world.csv"
    with path.open(newline="", encoding="utf-8") as file:
        printed = list(csv.reader(file))
    rows = [["category", "group", "favourite colours", *world.PLACES]]
    for name, category in world.CATEGORIES.items():
        weights = [
            "held out" if (name, place) in world.HELD_OUT_PAIRS else f"{of_place[name]:g}"
            for place, of_place in world.OBJECT_WEIGHTS.items()
        ]
        rows.append([name, category.group, category.favourites or "–", *weights])
    assert printed == rows, "write the table to book/world.csv again"


@pytest.mark.slow
def test_workers_do_not_change_the_pictures():
    scenes = sample_scenes(1, "val", 12)
    one, two = render_scenes(scenes), render_scenes(scenes, num_workers=2)
    assert np.array_equal(one, two)
    assert np.array_equal(one[5], render(scenes[5]).image)


@pytest.mark.slow
def test_no_facts_stand_in_two_splits():
    seen = {}
    for split in SCENE_SPLITS:
        for scene in sample_scenes(0, split, 400):
            assert seen.setdefault(plain(scene), split) == split


def test_held_out_combinations_are_only_in_heldout():
    def held_out(scene):
        return any(
            (o.colour, o.category) in world.HELD_OUT_PAIRS
            or (o.category, scene.place) in world.HELD_OUT_PAIRS
            for o in scene.objects
        )

    for split in SCENE_SPLITS:
        found = [held_out(scene) for scene in sample_scenes(2, split, 300)]
        assert all(found) if split == "heldout" else not any(found)


@pytest.mark.slow
def test_objects_follow_the_co_occurrence_table():
    scenes = sample_scenes(3, "train", 4000)
    by_place = {place: Counter() for place in world.PLACES}
    for scene in scenes:
        by_place[scene.place].update(item.category for item in scene.objects)
    for place, counts in by_place.items():
        allowed = [n for n in world.CATEGORIES if (n, place) not in world.HELD_OUT_PAIRS]
        typical = [counts[n] for n in allowed if n in world.TYPICAL[place].split()]
        rare = [counts[n] for n in allowed if n in world.RARE[place].split()]
        neither = [
            counts[n]
            for n in allowed
            if n not in world.TYPICAL[place].split() + world.RARE[place].split()
        ]
        # The weights are 8 : 1 : 0.1; sampling without replacement flattens them a little.
        assert np.mean(typical) > 3.5 * np.mean(neither) > 3.5 * 2.5 * np.mean(rare)
    deserts = [scene.weather for scene in scenes if scene.place == "desert"]
    assert deserts.count("clear") > 0.8 * len(deserts)


@pytest.mark.slow
@given(splits, indices, st.sampled_from([64, 96, 128]))
@settings(max_examples=25, deadline=None)
def test_masks_are_disjoint_and_mark_what_the_object_changes(split, index, size):
    scene = sample_scene(0, split, index)
    image, masks = render(scene, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert masks.shape == (len(scene.objects), size, size) and masks.dtype == bool
    assert masks.sum(axis=0).max() <= 1
    for item, mask in zip(scene.objects, masks, strict=True):
        gone = counterfactual(scene, Fact(item.category, "present", False))
        changed = (render(gone, size).image != image).any(axis=-1)
        inside = changed[mask].mean() if mask.any() else 1.0
        assert inside > 0.5, "most of what the mask holds vanishes with the object"
        rows, columns = np.nonzero(changed)
        box = _box(scene, item, size)
        assert rows.min() >= box[0] and rows.max() <= box[1]
        assert columns.min() >= box[2] and columns.max() <= box[3]


def _box(scene, item, size):
    """Generous bounds of where an object may draw, (top, bottom, left, right) in pixels."""
    centre = {"left": 12, "middle": 32, "right": 52}[item.column]
    bottom = {"back": 38, "front": 62}[item.row]
    side = {"small": 15, "large": 23}[item.size]
    bounds = (bottom - side - 2, bottom + 2, centre - side / 2 - 2, centre + side / 2 + 2)
    return [value * size / 64 for value in bounds]


@pytest.mark.slow
@given(splits, indices, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_counterfactual_changes_one_thing_and_only_pixels_that_it_touches(split, index, rng):
    scene = sample_scene(0, split, index)
    item = rng.choice(scene.objects)
    size = "small" if item.size == "large" else "large"
    for fact in (Fact(item.category, "size", size), Fact("scene", "time", "night")):
        if holds(fact, scene):
            continue
        changed = counterfactual(scene, fact)
        assert holds(fact, changed)
        assert len(set(scene.facts) ^ set(changed.facts)) == 2, "one fact out, one fact in"
    bigger = counterfactual(scene, Fact(item.category, "size", size))
    difference = (render(bigger).image != render(scene).image).any(axis=-1)
    larger = bigger.object(item.category) if size == "large" else item
    top, bottom, left, right = _box(scene, larger, 64)
    rows, columns = np.nonzero(difference)
    assert top <= rows.min() and rows.max() <= bottom
    assert left <= columns.min() and columns.max() <= right


SCENE = Scene(
    "beach",
    "day",
    "clear",
    (
        SceneObject("dog", None, "small", "left", "front"),
        SceneObject("kite", "red", "large", "left", "back"),
        SceneObject("car", "blue", "large", "right", "front"),
    ),
)


def test_relations():
    assert holds(Fact("dog", "left of", "car"), SCENE)
    assert holds(Fact("dog", "in front of", "kite"), SCENE)
    assert holds(Fact("car", "right of", "kite"), SCENE)
    assert not holds(Fact("dog", "right of", "kite"), SCENE)
    assert not holds(Fact("kite", "in front of", "dog"), SCENE)
    assert not holds(Fact("car", "left of", "dog"), SCENE)
    assert not holds(Fact("dog", "left of", "cow"), SCENE)


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (Fact("scene", "place", "beach"), "holds in the scene already"),
        (Fact("cow", "size", "large"), "has no cow"),
        (Fact("dog", "colour", "red"), "has no colour"),
        (Fact("dog", "column", "right"), "taken"),
        (Fact("car", "colour", "pink"), "no change"),
        (Fact("dog", "left of", "cow"), "no change"),
        (Fact("unicorn", "present", True), "unknown category"),
    ],
)
def test_impossible_counterfactuals_are_refused(fact, message):
    with pytest.raises(ValueError, match=message):
        counterfactual(SCENE, fact)


def test_added_and_removed_objects():
    added = counterfactual(SCENE, Fact("cow", "present", True))
    assert added.object("cow") and len(added.objects) == 4
    removed = counterfactual(added, Fact("cow", "present", False))
    assert removed == SCENE


@given(splits, indices, st.integers(0, 2**20), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_ideal_generator_draws_every_true_fact_that_it_is_told(split, index, seed, rng):
    scene = sample_scene(0, split, index)
    told = [fact for fact in scene.facts if rng.random() < 0.5]
    absent = rng.choice([n for n in world.CATEGORIES if scene.object(n) is None])
    told.append(Fact(absent, "present", False))
    drawn, broken = controlled_view(told, broken_share=0.0, seed=seed)
    assert broken == () and all(holds(fact, drawn) for fact in told)


def test_broken_facts_are_broken_and_grow_with_the_share():
    scene = sample_scene(0, "test", 3)
    told = [fact for fact in scene.facts if fact.attribute != "count"]
    shares = []
    for seed in range(200):
        few, many = (controlled_view(told, broken_share=s, seed=seed) for s in (0.1, 0.3))
        assert set(few.broken) <= set(many.broken)
        shares.append(len(many.broken) / len(told))
        for fact in many.broken:
            if fact.attribute == "present":
                assert not holds(fact, many.scene)
    assert abs(np.mean(shares) - 0.3) < 0.03
    with pytest.raises(ValueError, match="probability"):
        controlled_view(told, broken_share=1.5)


@given(indices, splits)
def test_a_generator_that_foresees_all_shows_the_target(index, split):
    scene = sample_scene(0, split, index)
    said = scene.own_facts[::5]
    known = {share: foreseen(scene, said, share=share, seed=index) for share in (0, 0.4, 1)}
    assert known[0] == [] and set(known[0.4]) <= set(known[1])
    assert {*said, *known[1]} == set(scene.own_facts)
    assert all(holds(fact, scene) for fact in known[0.4])
    there = {"scene", *(fact.subject for fact in said)}
    there |= {fact.subject for fact in known[0.4] if fact.attribute == "present"}
    assert {fact.subject for fact in known[0.4]} <= there
    drawn = controlled_view(said, broken_share=0, seed=index, foreseen=known[1]).scene
    assert set(drawn.own_facts) == set(scene.own_facts)


def test_what_is_said_wrongly_is_not_put_right_by_foresight():
    scene = sample_scene(0, "test", 3)
    said = [fact for fact in scene.own_facts if fact.attribute == "place"]
    known = foreseen(scene, said, share=1)
    drawn, broken = controlled_view(said, broken_share=1, foreseen=known)
    assert broken == tuple(said) and not holds(said[0], drawn)
    assert all(holds(fact, drawn) for fact in known)


def test_the_generator_copes_with_contradictions():
    told = [
        Fact("dog", "left of", "cat"),
        Fact("cat", "left of", "dog"),
        Fact("dog", "column", "left"),
        Fact("dog", "row", "front"),
        Fact("cow", "column", "left"),
        Fact("cow", "row", "front"),
        Fact("scene", "count", 1),
    ]
    scene = complete(told, random.Random(0))
    assert {"dog", "cat", "cow"} <= {item.category for item in scene.objects}


def test_captions_are_varied_short_and_hold_no_negation():
    captions = [
        short_caption(scene, random.Random(i))
        for i, scene in enumerate(sample_scenes(0, "train", 600))
    ]
    assert len(set(captions)) > 500
    lengths = [len(caption.split()) for caption in captions]
    assert np.median(lengths) <= 14
    assert not any(" no " in f" {caption} " for caption in captions)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split"):
        sample_scene(0, "dev", 0)


def test_the_order_of_drawing_does_not_matter():
    wanted = [7, 3, 5]
    shuffled = {index: sample_scene(0, "val", index) for index in wanted}
    for index, scene in enumerate(sample_scenes(0, "val", 8)):
        assert shuffled.get(index, scene) == scene
    pairs = itertools.combinations(shuffled.values(), 2)
    assert all(a != b for a, b in pairs)

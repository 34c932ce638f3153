"""Cues of views, by hand and by property: what is said and what is true decide their kind."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitir.analysis.hallucination import CUE_KINDS, cue_table, cues, interventions, one_of_each
from daitir.scenes import (
    Fact,
    Scene,
    SceneObject,
    complete,
    counterfactual,
    describe,
    dialogue,
    holds,
    implied,
    merge_facts,
    parse,
    sample_scene,
    world,
)

DOG = SceneObject("dog", None, "small", "left", "back")
CAR = SceneObject("car", "red", "large", "right", "front")
SCENE = Scene("beach", "day", "clear", (DOG, CAR))
PRESENT = Fact("dog", "present", True)


def kind(fact, stated=(), seen=SCENE, target=SCENE):
    return cues(stated, seen, target).kinds[fact]


@pytest.mark.parametrize(
    ("stated", "target", "expected"),
    [
        ([Fact("dog", "size", "small")], Scene("city", "day", "clear", ()), "supported"),
        ([Fact("dog", "size", "large")], SCENE, "contradicted"),
        ([Fact("dog", "size", "small"), Fact("dog", "size", "large")], SCENE, "contradicted"),
        ([PRESENT], SCENE, "lucky"),
        ([PRESENT], replace(SCENE, objects=(replace(DOG, size="large"), CAR)), "invented"),
        ([], Scene("beach", "day", "clear", (CAR,)), "invented"),
    ],
)
def test_a_cue_is_judged_by_the_words_and_then_by_the_truth(stated, target, expected):
    assert kind(Fact("dog", "size", "small"), stated, target=target) == expected


@pytest.mark.parametrize("subject", ["dog", "animals"])
def test_what_was_denied_contradicts(subject):
    assert kind(PRESENT, [Fact(subject, "present", False)]) == "contradicted"


def test_a_group_is_satisfied_by_any_member_and_omitted_without():
    stated = [Fact("animals", "present", True), Fact("people", "present", True)]
    found = cues(stated, SCENE, SCENE)
    assert found.omitted == (Fact("people", "present", True),)


def test_an_object_that_is_not_drawn_omits_all_that_was_said_of_it():
    stated = [Fact("cat", "size", "small"), Fact("dog", "left of", "cat")]
    found = cues(stated, SCENE, SCENE)
    assert set(found.omitted) == implied(stated) - {PRESENT}
    assert found.count("omitted") == 3


@pytest.mark.parametrize(("relation", "expected"), [("left of", "supported"),
                                                    ("right of", "contradicted")])  # fmt: skip
def test_relations_count_where_both_are_drawn(relation, expected):
    fact = Fact("dog", relation, "car")
    assert kind(fact, [fact]) == expected


def test_a_second_dog_is_invented_and_the_fitting_one_is_judged():
    seen = replace(SCENE, objects=(replace(DOG, size="large", row="front"), DOG, CAR))
    found = cues([Fact("dog", "size", "small")], seen, SCENE)
    assert found.extra == (PRESENT,)
    assert found.kinds[Fact("dog", "size", "small")] == "supported"
    assert found.kinds[Fact("scene", "count", 3)] == "invented"
    assert found.count("invented") == 2


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 400), st.integers(1, 11), st.integers(0, 400))
def test_kinds_agree_with_what_they_mean(index, rounds, other):
    target = sample_scene(0, "val", index)
    stated = merge_facts(dialogue("unreliable", target)[:rounds])
    seen = complete(stated, random.Random(other))
    found = cues(stated, seen, target)
    known = {fact[:2]: fact.value for fact in stated}
    for fact, name in found.kinds.items():
        assert name in CUE_KINDS and holds(fact, seen) or fact.attribute in world.RELATIONS
        if name == "supported" and fact.attribute not in (*world.RELATIONS, "present"):
            assert known[fact[:2]] == fact.value
        if name in ("lucky", "invented"):
            assert fact[:2] not in known and holds(fact, target) == (name == "lucky")
    assert not any(holds(fact, seen) for fact in found.omitted)
    assert sum(map(found.count, CUE_KINDS)) == len(found.kinds) + len(found.extra)


@given(st.integers(0, 400))
def test_the_target_drawn_from_all_its_facts_has_supported_cues_only(index):
    target = sample_scene(0, "val", index)
    found = cues(target.facts, target, target)
    assert set(found.kinds.values()) == {"supported"} and not found.omitted
    assert set(found.kinds) == set(target.facts)
    night = "day" if target.time == "night" else "night"
    changed = counterfactual(target, Fact("scene", "time", night))
    assert cues(target.facts, changed, target).count("contradicted") == 1
    assert cues((), target, target).count("lucky") == len(target.own_facts)


def test_the_table_counts_what_cues_finds():
    targets = [sample_scene(0, "val", n) for n in range(3)]
    views = [[sample_scene(1, "val", 10 * n + t) for t in range(2)] for n in range(3)]
    texts = [[describe(target.own_facts[: 3 * t]) or "a picture" for t in (1, 2)]
             for target in targets]  # fmt: skip
    table = cue_table(texts, views, targets)
    assert (table["number"] > 0).all() and not table.duplicated(["dialogue", "view", "attribute",
                                                                 "kind"]).any()  # fmt: skip
    counts = table.groupby(["dialogue", "view", "kind"])["number"].sum()
    for n, target in enumerate(targets):
        for t in range(2):
            found = cues(parse(texts[n][t]).facts, views[n][t], target)
            for name in (*CUE_KINDS, "omitted"):
                assert counts.get((n, t, name), 0) == found.count(name)
    with pytest.raises(ValueError, match="shorter|longer"):
        cue_table(texts[:2], views, targets)


def test_one_repair_and_its_breaks_by_hand():
    target = replace(SCENE, place="city", objects=(replace(DOG, size="large"), CAR))
    found, taken = interventions(SCENE, target, seed="0")
    repairs = [(i.cue, i.scene) for i in found if i.action == "repair"]
    bigger = replace(SCENE, objects=(replace(DOG, size="large"), CAR))
    assert sorted(repairs, key=str) == sorted(
        [("place", replace(SCENE, place="city")), ("size", bigger)], key=str
    )
    broken = [i.cue for i in found if i.action == "break"]
    assert sorted(broken) == sorted(
        ["time", "weather", "missing object", "missing object", "column", "column", "row", "row",
         "colour", "size", "false object"]
    )  # fmt: skip
    assert taken == 0


def _false(scene, target):
    """The facts of a scene, presence and absence of objects with it, that its target denies."""
    categories = {item.category for item in (*scene.objects, *target.objects)}
    present = [Fact(name, "present", scene.object(name) is not None) for name in categories]
    own = [f for f in scene.own_facts if f.attribute not in ("present", "count")]
    return {fact for fact in (*present, *own) if not holds(fact, target)}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_an_intervention_changes_one_cue(first, second):
    view, target = sample_scene(0, "val", first), sample_scene(0, "val", second)
    found, taken = interventions(view, target, seed=str(first))
    assert taken >= 0
    for action, cue, scene in found:
        background = ("place", "time", "weather")
        moved = [name for name in background if getattr(scene, name) != getattr(view, name)]
        changed = set(scene.objects) ^ set(view.objects)
        assert moved == ([cue] if cue in background else [])
        assert len(changed) == (0 if moved else 1 if cue.endswith("object") else 2)
        wrong_before, wrong_now = _false(view, target), _false(scene, target)
        if action == "break":
            assert wrong_now - wrong_before
        else:
            assert wrong_before - wrong_now and not wrong_now - wrong_before


def test_interventions_on_the_target_itself_only_break_and_are_reproducible():
    scenes = [sample_scene(0, "val", index) for index in range(30)]
    for scene in scenes:
        found, _ = interventions(scene, scene, seed="3")
        assert {i.action for i in found} == {"break"}
        assert interventions(scene, scene, seed="3")[0] == found


def test_interventions_that_have_no_cell_are_counted():
    there = replace(CAR, column=DOG.column, row=DOG.row)
    view, target = replace(SCENE, objects=(DOG,)), replace(SCENE, objects=(there,))
    found, taken = interventions(view, target, seed="0")
    assert taken == 1 and ("repair", "missing object") not in [i[:2] for i in found]


def test_the_object_that_fits_the_words_stands_for_its_category():
    red, blue = CAR, replace(CAR, colour="blue", column="left")
    seen = replace(SCENE, objects=(red, blue))
    view, extra = one_of_each(seen, {("car", "colour"): "blue"})
    assert view.objects == (blue,) and extra == (Fact("car", "present", True),)
    assert one_of_each(seen, {})[0].objects == (red,)

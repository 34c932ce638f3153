"""Dialogues about scenes: true where they should be, five sources, a planner that helps."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daitir.scenes import (
    NUM_QUESTIONS,
    SOURCES,
    Fact,
    Question,
    Turn,
    answer,
    best_question,
    describe,
    dialogue,
    holds,
    merge_facts,
    rewrites,
    sample_scene,
    sample_scenes,
    world,
)
from daitir.scenes.language import NOUNS, TABLES

truthful = st.sampled_from([s for s in SOURCES if s != "unreliable"])
indices = st.integers(0, 10**5)


def test_every_value_has_words():
    values = {"noun": world.CATEGORIES, "relation": world.RELATIONS, "group": world.GROUPS}
    values |= {name: options for name, options in world.OPTIONS.items() if name != "colour"}
    assert {name: set(table) for name, table in TABLES.items()} == {
        name: set(options) for name, options in values.items()
    }


def test_no_two_values_share_a_phrase():
    tables = [table for name, table in TABLES.items() if name not in ("relation", "group")]
    values = [forms for table in tables for forms in table.values()]
    phrases = [phrase for forms in values for phrase in set(forms)]
    assert len(phrases) == len(set(phrases))


@given(truthful, indices)
@settings(max_examples=60, deadline=None)
def test_truthful_sources_say_only_what_is_true(source, index):
    scene = sample_scene(0, "train", index)
    turns = dialogue(source, scene)
    assert len(turns) == NUM_QUESTIONS + 1
    assert turns == dialogue(source, scene)
    for turn in turns:
        assert turn.text.strip() and "\n" not in turn.text
        assert all(holds(fact, scene) for fact in turn.facts)
    assert "?" not in turns[0].text and all("? " in turn.text for turn in turns[1:])


def _shares(source, number=200):
    scenes = sample_scenes(0, "val", number)
    return scenes, [dialogue(source, scene) for scene in scenes]


def test_unreliable_answers_are_wrong_or_missing_as_often_as_documented():
    scenes, talks = _shares("unreliable")
    answers = [
        (turn, scene)
        for turns, scene in zip(talks, scenes, strict=True)
        for turn in turns[1:]
        if turn.facts
    ]
    wrong = np.mean([any(not holds(f, scene) for f in turn.facts) for turn, scene in answers])
    assert 0.15 < wrong < 0.32
    assert any("can't tell" in turn.text for turns in talks for turn in turns)


def test_degenerate_repeats_and_verbose_rambles():
    def distinct(talks):
        return np.mean([len({t.text.split("?")[0] for t in turns[1:]}) for turns in talks])

    def words(talks):
        return np.mean([len(turn.text.split()) for turns in talks for turn in turns])

    by_source = {source: _shares(source, 80)[1] for source in SOURCES}
    assert distinct(by_source["degenerate"]) < 0.7 * distinct(by_source["human"])
    assert words(by_source["terse"]) < 0.75 * words(by_source["human"])
    assert words(by_source["verbose"]) > 2.5 * words(by_source["human"])
    known = {s: np.mean([len(merge_facts(t)) for t in talks]) for s, talks in by_source.items()}
    assert known["degenerate"] < 0.85 * known["human"]


def test_negations_occur_as_people_use_them():
    _, talks = _shares("human")
    denied = [any(f.value is False for t in turns for f in t.facts) for turns in talks]
    assert np.mean(denied) > 0.5


def test_there_are_hundreds_of_surface_forms():
    _, talks = _shares("human")
    texts = Counter(turn.text for turns in talks for turn in turns)
    assert len(texts) > 500


@given(truthful, indices)
@settings(max_examples=40, deadline=None)
def test_rewrites_say_each_known_fact_once(source, index):
    turns = dialogue(source, sample_scene(0, "train", index))
    refined = rewrites(turns)
    assert len(refined) == len(turns)
    for number, text in enumerate(refined):
        for fact in merge_facts(turns[: number + 1]):
            if fact.attribute == "colour":
                assert fact.value in text
            elif fact.attribute == "place":
                assert any(phrase in text for phrase in TABLES["place"][fact.value])
            elif fact.subject in NOUNS:
                assert any(noun in text for noun in NOUNS[fact.subject])


def test_merging_keeps_the_last_word_and_drops_contradictions():
    turns = [
        Turn("", (Fact("dog", "present", True), Fact("scene", "place", "beach"))),
        Turn("", (Fact("scene", "place", "city"), Fact("animals", "present", False))),
        Turn("", (Fact("people", "present", False),)),
    ]
    assert merge_facts(turns) == (
        Fact("dog", "present", True),
        Fact("scene", "place", "city"),
        Fact("people", "present", False),
    )


def test_answers():
    scene = sample_scene(0, "test", 3)  # a kite, a dog and a tulip in the park
    assert answer(Question("animals", "present"), scene) == (Fact("dog", "present", True),)
    assert answer(Question("people", "present"), scene) == (Fact("people", "present", False),)
    assert answer(Question("cow", "colour"), scene) == (Fact("cow", "present", False),)
    known = [Fact(name, "present", True) for name in ("kite", "dog", "tulip")]
    assert answer(Question("scene", "other"), scene, known) == (Fact("scene", "count", 3),)
    assert len(answer(Question("kite", "position"), scene)) == 2


@pytest.mark.slow
def test_the_planner_finds_the_target_faster_than_people_do():
    scenes = sample_scenes(0, "val", 600)

    def left_after(questions, choose):
        remaining = []
        for target in scenes[:25]:
            candidates, known, asked = scenes, [], []
            for _ in range(questions):
                question = choose(candidates, asked, known)
                asked.append(question)
                facts = answer(question, target, known)
                candidates = [s for s in candidates if all(holds(f, s) for f in facts)]
                known += facts
            assert target in candidates
            remaining.append(len(candidates))
        return np.mean(remaining)

    rng = random.Random(0)
    options = [Question("scene", a) for a in ("place", "time", "weather", "count")]
    options += [Question(name, "present") for name in world.CATEGORIES]

    def at_random(candidates, asked, known):
        return rng.choice([question for question in options if question not in asked])

    assert left_after(4, best_question) < 0.2 * left_after(4, at_random)
    with pytest.raises(ValueError, match="no candidates"):
        best_question([], [])


def test_describe_without_chance_is_plain_and_fixed():
    facts = [
        Fact("car", "colour", "red"),
        Fact("dog", "left of", "car"),
        Fact("scene", "time", "night"),
        Fact("scene", "count", 2),
        Fact("people", "present", False),
    ]
    start = "a red car and a dog at night, the dog to the left of the car"
    assert describe(facts) == f"{start}, two things in all, no people"
    assert describe([]) == ""


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="unknown source"):
        dialogue("chatty", sample_scene(0, "train", 0))

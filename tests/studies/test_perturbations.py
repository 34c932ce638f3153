"""Perturbations do what they say."""

import pytest
import torch

from daitir.models.reformulation import load_reformulator
from daitir.scenes import SOURCES, dialogue, sample_scenes
from daitir.studies.engine.inputs import (
    dropped_rounds,
    last_views,
    refine_arrived,
    shuffled_rounds,
    typos,
)

SAID = ["a red sailboat by the pier", "is it day? yes", "where is it? at the beach", "any dog? no"]


@pytest.mark.parametrize("seed", range(5))
def test_typos_change_the_share_of_words_that_they_should(seed):
    assert typos(SAID, seed, share=0) == SAID
    words = ["sailboat"] * 2000
    found = typos([" ".join(words)], seed, share=0.3)[0].split()
    changed = [word for word in found if word != "sailboat"]
    assert len(found) == 2000 and 0.25 < len(changed) / 2000 < 0.35
    assert {len(word) for word in changed} == {7, 8, 9}
    assert all(sorted(word) == sorted("sailboat") for word in changed if len(word) == 8)


def test_short_words_and_marks_stay_and_every_long_word_differs():
    found = typos(SAID, 3, share=1)
    for text, other in zip(SAID, found, strict=True):
        for word, typed in zip(text.split(), other.split(), strict=True):
            letters = word.strip("?")
            assert (word == typed) == (len(letters) < 3)
            assert word.endswith("?") == typed.endswith("?")


def test_dropped_rounds_keep_the_caption_and_shuffled_ones_keep_every_word():
    long = ["caption", *map(str, range(1000))]
    found = dropped_rounds(long, 1, share=0.3)
    assert found[0] == "caption" and 0.25 < sum(text is None for text in found) / 1000 < 0.35
    assert all(a == b for a, b in zip(long, found, strict=True) if b is not None)
    mixed = shuffled_rounds(long, 1)
    assert mixed[0] == "caption" and mixed != long and sorted(mixed) == sorted(long)


@pytest.fixture(scope="module")
def reformulator():
    return load_reformulator("mini")


def test_a_lost_round_leaves_the_last_caption(reformulator):
    lost = [SAID[0], None, SAID[2], None]
    first, second = reformulator.refine([[SAID[0], SAID[2]]]).captions[0]
    assert refine_arrived(reformulator, [lost]) == [[first, first, second, second]]


def test_the_last_view_agrees_with_a_loop():
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(20, 6, 3, generator=generator)
    missing = torch.rand(20, 6, generator=generator) < 0.6
    found, none = last_views(views, missing)
    for i in range(20):
        there = None
        for t in range(6):
            there = views[i, t] if not missing[i, t] else there
            assert none[i, t] == (there is None)
            if there is not None:
                assert found[i, t].equal(there)
    assert none.any() and not none.all()


@pytest.mark.parametrize("source", SOURCES)
def test_a_longer_dialogue_begins_as_the_shorter_one(source):
    for scene in sample_scenes(0, "test", 5):
        long = dialogue(source, scene, num_questions=20)
        assert len(long) == 21 and long[:11] == dialogue(source, scene)

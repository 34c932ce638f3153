"""The training sets of a profile: drawn views, and rendered counterfactuals of them."""

import pytest
import torch

from daitir.recipes.triples import FinetuneData
from daitir.scenes import parse, render_scenes, sample_scenes
from daitir.studies.profiles import PROFILES
from daitir.studies.training_sets import as_read, with_resampled_views

CAPTIONS = [["a red dog at the beach", "a cat"], ["a city at night", "a tree"], ["a cow", "a bus"]]


@pytest.fixture
def data():
    """Three dialogues with two views each, at the size of the mini encoder."""
    pictures = render_scenes(sample_scenes(0, "train", 12), size=64)
    rounds = torch.tensor([[0, 3], [1, 2], [4, 9]])
    return FinetuneData(CAPTIONS, rounds, pictures[:6].reshape(3, 2, 64, 64, 3), pictures[6:])


def test_resampled_views_keep_what_is_stated(data):
    found = with_resampled_views(data)
    assert found.views.shape == (3, 4, 64, 64, 3) and found.rounds.shape == (3, 4)
    assert (found.views[:, :2] == data.views).all() and (found.rounds[:, 2:] == data.rounds).all()
    assert found.texts[0] == CAPTIONS[0] * 2
    # What the picture shows is what its own caption states, and not what the others do.
    from daitir.models.recogniser import load_recogniser

    read = load_recogniser().read(found.views[:, 2:].reshape(-1, 64, 64, 3))
    told = [caption for row in CAPTIONS for caption in row]
    for caption, reading in zip(told, read, strict=True):
        subjects = {f.subject for f in parse(caption).facts if f.attribute == "present"}
        assert all(reading.object(subject) for subject in subjects), caption


def test_the_recipe_says_whether_views_are_resampled(data):
    profile = PROFILES["classroom"]
    plain, ours = (profile.encoders[name] for name in ("dmcl", "dmcl_resampled"))
    assert as_read(data, profile, "train", plain) is data
    assert (as_read(data, profile, "train", ours).views == with_resampled_views(data).views).all()

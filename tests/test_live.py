"""Live search as a function and in its widget; the pipeline that draws is untrained."""

import pytest
import torch
from test_view_generation import tiny_pipeline

from daitir.encoders import load_encoder
from daitir.errors import DataError
from daitir.live import LiveSearch, live_widget
from daitir.reformulation import load_reformulator
from daitir.scenes import answer, ask, best_question, parse, render_scenes, reply, sample_scenes
from daitir.views import ViewGenerator

GALLERY = sample_scenes(0, "val", 30)


@pytest.fixture(scope="module")
def images():
    return render_scenes(GALLERY)


@pytest.fixture(scope="module")
def models():
    generator = ViewGenerator("tiny", tiny_pipeline(), steps=2)
    return load_encoder("mini"), load_reformulator(), generator


@pytest.fixture
def search(images, models):
    return LiveSearch(models[0].encode_images(images), *models)


def test_each_round_ranks_the_whole_gallery(search):
    first = search.say("a dog at the beach")
    second = search.say("is it day or night? at night")
    assert search.rounds == [first, second] and "dog" in first.caption
    assert torch.equal(second.ranking.sort().values, torch.arange(30))
    assert first.view.size == (8, 8) and "night" in second.caption


def test_the_same_words_give_the_same_round(search, images, models):
    again = LiveSearch(search.image_features, *models)
    first, second = search.say("a red car"), again.say("a red car")
    assert torch.equal(first.ranking, second.ranking)
    assert first.view.tobytes() == second.view.tobytes()


@pytest.mark.parametrize("words", ["", "  "])
def test_silence_is_refused(search, words):
    with pytest.raises(DataError, match="nothing was said"):
        search.say(words)


def test_other_languages_and_pictures_of_words_pass(search):
    assert search.say("un chien 🐶 à la plage").ranking.shape == (30,)


def test_the_widget_asks_shows_and_goes_on(search, images):
    asked = []

    def next_question(search):
        known = parse(search.rounds[-1].caption).facts
        candidates = [GALLERY[i] for i in search.rounds[-1].ranking[:10].tolist()]
        asked.append(best_question(candidates, asked, known))
        return ask(asked[-1])

    widget = live_widget(search, images, ask=next_question, num_shown=5)
    question, field, _, view, best = widget.children
    field.value = "a car in the city"
    assert question.value == ask(asked[0]) and field.value == ""
    assert len(view.children) == 1 and len(best.children) == 5
    field.value = reply(asked[0], answer(asked[0], GALLERY[0]))
    assert [r.said for r in search.rounds][1].startswith(ask(asked[0]))
    assert len(asked) == 2

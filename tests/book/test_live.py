"""Live search as a function and in its widget; the pipeline that draws is untrained."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_models import tiny_pipeline
from own_data import make_own_data

from daitir.book.live import LiveSearch, live_widget
from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.reformulation import load_reformulator
from daitir.models.views import ViewGenerator
from daitir.scenes import answer, ask, best_question, parse, render_scenes, reply, sample_scenes

pytestmark = pytest.mark.slow

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


def test_without_other_models_the_words_search_alone(images, models):
    encoder = models[0]
    search = LiveSearch(encoder.encode_images(images), encoder)
    search.say("a dog at the beach")
    found = search.say("at night")
    assert found.caption == "a dog at the beach, at night" and found.view is None
    scores = search.image_features @ encoder.encode_texts([found.caption], batch_size=1)[0]
    assert torch.equal(found.scores, scores) and found.ranking[0] == scores.argmax()
    search.undo()
    assert [r.said for r in search.rounds] == ["a dog at the beach"]


def _search(monkeypatch, folder, lines, *options):
    """Run the command with these lines typed in, then the end of the input."""
    typed = iter(lines)

    def read(prompt=""):
        print(prompt)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    return main(["search", str(folder), "--encoder", "mini", *options])


def test_the_command_searches_any_folder_of_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_own_data(tmp_path, num_pictures=9, num_dialogues=2)
    lines = ["red circles", "", "有人吗 " * 60, "/undo", "and blue", "/new", "stripes"]
    assert _search(monkeypatch, tmp_path / "images", lines, "--top", "3") == 0
    printed = capsys.readouterr().out
    kept = list((tmp_path / "cache" / "daitir" / "features").glob("*/*.safetensors"))
    assert printed.startswith(f"features are kept in {kept[0].parent}\n9 pictures. Describe one")
    assert len(kept) == 1 and kept[0].name.startswith("pictures-")  # what is said is not kept
    assert printed.count("(too long: the encoder reads") == 1
    assert printed.count("round 0>") == 2  # at first, and after /new
    assert printed.count("   1  0.") + printed.count("   1  -0.") == 4
    assert not (tmp_path / "images" / "features").exists()
    first = printed.split("   1  ")[1].splitlines()[0].split("  ")[1]
    assert (tmp_path / "images" / first).is_file()


def test_letters_that_a_terminal_does_not_know_end_nothing(tmp_path):
    make_own_data(tmp_path, num_pictures=2, num_dialogues=1)
    path = next((tmp_path / "images").rglob("*.jpg"))
    path.rename(path.with_name("кот 🐈.jpg"))
    run = subprocess.run(
        [sys.executable, "-m", "daitir.cli", "search", str(tmp_path), "--encoder", "mini"],
        input=b"caf\xe9\na cat\n", capture_output=True, timeout=300,
        cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(b"(this cannot be read as text; say it again)") == 1
    assert rb"\u043a\u043e\u0442 \U0001f408.jpg" in run.stdout


def test_a_search_with_all_models_and_bad_folders(tmp_path, capsys, monkeypatch):
    make_own_data(tmp_path, num_pictures=4, num_dialogues=1)
    options = ["--model", "mini", "--features", str(tmp_path / "kept")]
    assert _search(monkeypatch, tmp_path, ["a dog", "/quit", "never read"], *options) == 0
    printed = capsys.readouterr().out
    assert "searched for: " in printed and "round 2" not in printed
    bad = next((tmp_path / "images").rglob("*.jpg"))
    bad.write_bytes(b"")
    assert _search(monkeypatch, tmp_path, []) == 2
    assert "1 of 4 images are unreadable" in capsys.readouterr().err
    assert _search(monkeypatch, tmp_path, [], "--skip-unreadable") == 0
    assert "3 pictures." in capsys.readouterr().out
    assert _search(monkeypatch, tmp_path / "nowhere", []) == 2


@pytest.mark.parametrize("number", [5, 7, 10, 11, 33])
def test_equal_pictures_score_alike_and_stand_in_order(models, number):
    one = torch.nn.functional.normalize(torch.randn(models[0].dim), dim=0)
    found = LiveSearch(one.repeat(number, 1), models[0]).say("a red car")
    assert len(found.scores.unique()) == 1
    assert found.ranking.equal(torch.arange(number))

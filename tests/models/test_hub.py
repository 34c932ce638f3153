"""The hub of models: found out in a moment whether it can be reached, and the cache used if not."""

import logging
import socket

import pytest
from huggingface_hub import constants, errors

from daitir.common.errors import DataError
from daitir.models import hub
from daitir.models.encoders import load_encoder
from daitir.models.hub import reading
from daitir.models.reformulation import load_reformulator
from daitir.models.views import load_view_generator


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)


@pytest.fixture
def no_hub(online, monkeypatch):
    """A hub that refuses every connection."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        yield


def test_a_hub_that_answers_is_asked(online, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        with reading("a/b", "model", local="FOLDER"):
            assert not constants.HF_HUB_OFFLINE


def test_without_a_hub_only_the_cache_is_read(no_hub, caplog):
    with caplog.at_level(logging.WARNING), reading("a/b", "model", local="FOLDER"):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert "127.0.0.1" in caplog.text and "cannot be reached" in caplog.text
    with reading("a/b", "model"):
        assert not constants.HF_HUB_OFFLINE


def test_a_proxy_is_left_to_the_libraries(no_hub, monkeypatch):
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    with reading("a/b", "model", local="FOLDER"):
        assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    "load, spec",
    [
        (load_encoder, "hf:nobody/nothing"),
        (load_encoder, "open_clip:ViT-B-32@laion2b_s34b_b79k"),
        (load_view_generator, "nobody/nothing"),
        (load_reformulator, "nobody/nothing"),
    ],
)
def test_loaders_ask_a_missing_hub_once(no_hub, caplog, load, spec):
    with pytest.raises(DataError, match="without a network"):
        load(spec)
    assert caplog.text.count("cannot be reached") == 1 and "Retrying" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("HFValidationError", "nor can a model of the hub be named so"),
        ("GatedRepoError", "whom its owner admits"),
        ("RepositoryNotFoundError", "the hub has no model of this name"),
        ("RevisionNotFoundError", "no such revision"),
        ("LocalEntryNotFoundError", "cannot be reached"),
        ("OfflineModeIsEnabled", "cannot be reached"),
    ],
)
def test_what_the_hub_did_not_give_is_said_in_our_words(kind, words, caplog):
    error = OSError("We couldn't connect to the hub\nMore words")
    error.__cause__ = getattr(errors, kind).__new__(getattr(errors, kind))
    with caplog.at_level("INFO", logger="daitir"), pytest.raises(DataError) as caught:
        _fails(error, local="hf:FOLDER")
    told = str(caught.value)
    assert told.startswith("hf:a/b: no dual encoder: there is no such folder, ") and words in told
    assert told.endswith("name its folder, hf:FOLDER") and "connect" not in told
    assert "More words" in caplog.text


def _fails(error, **options):
    with reading("hf:a/b", "dual encoder", **options):
        raise error


def test_an_error_that_is_not_the_hubs_keeps_its_first_line():
    for error, words in ((ValueError("no safetensors\nmore"), "no safetensors"),
                         (KeyError(), "KeyError")):  # fmt: skip
        for options in ({}, {"local": "hf:FOLDER"}):
            with pytest.raises(DataError) as caught:
                _fails(error, **options)
            told = f"hf:a/b: no dual encoder: could not be loaded ({words})"
            assert str(caught.value) == told
    with pytest.raises(DataError, match="^one line$"):
        _fails(DataError("one line"))

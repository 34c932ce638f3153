"""Stamps: when one is stale, and what an execution leaves in the notebook."""

import logging

import nbformat
import pytest
from chapter_files import write_notebook

from daitir.book import provenance
from daitir.book.provenance import png_outputs
from daitir.common.errors import DataError


def stamp_by_hand(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["daitir"] = {"digest": provenance.notebook_digest(path)}
    nbformat.write(notebook, path)


def test_a_stamp_is_stale_without_and_with_another_digest(world):
    chapter = world / "chapter.ipynb"
    assert provenance.is_stale(chapter)
    stamp_by_hand(chapter)
    assert not provenance.is_stale(chapter)
    (world / "daitir" / "shared.py").write_text("# changed")
    assert provenance.is_stale(chapter)


def test_prose_and_outputs_leave_the_digest(world):
    chapter = world / "chapter.ipynb"
    before = provenance.notebook_digest(chapter)
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[0].source = "# Another title"
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="hello")]
    nbformat.write(notebook, chapter)
    assert provenance.notebook_digest(chapter) == before
    notebook.cells[1].source += "\nf()"
    nbformat.write(notebook, chapter)
    assert provenance.notebook_digest(chapter) != before


def test_the_profile_is_part_of_the_digest(world, monkeypatch):
    chapter = world / "chapter.ipynb"
    classroom = provenance.notebook_digest(chapter)
    assert classroom == provenance.notebook_digest(chapter, profile="classroom")
    monkeypatch.setenv("DAITIR_PROFILE", "gpu")
    assert classroom != provenance.notebook_digest(chapter)


def test_a_profile_of_one_s_own_counts_by_its_content(world, monkeypatch):
    profile, chapter = world / "mine.toml", world / "chapter.ipynb"
    profile.write_text("num_gallery = 10")
    first = provenance.notebook_digest(chapter, profile=str(profile))
    profile.write_text("num_gallery = 20")
    assert first != provenance.notebook_digest(chapter, profile=str(profile))
    monkeypatch.chdir(world)  # notebooks are executed in another folder
    monkeypatch.setenv("DAITIR_PROFILE", "mine.toml")
    assert provenance.current_profile() == str(profile)


def test_bad_notebooks_are_one_clear_line(world):
    (world / "broken.ipynb").write_text("{")
    (world / "list.ipynb").write_text("[]")
    write_notebook(world / "syntax.ipynb", "1 +")
    for name in ("missing.ipynb", "broken.ipynb", "list.ipynb", "syntax.ipynb"):
        with pytest.raises(DataError, match=name) as caught:
            provenance.notebook_digest(world / name)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_run_executes_once_and_writes_a_stable_file(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("DAITIR_PROFILE", raising=False)
    chapter = tmp_path / "chapter.ipynb"
    write_notebook(chapter, "import os\nprint(os.getcwd())", "os.environ['DAITIR_PROFILE']")
    with caplog.at_level(logging.INFO, logger="daitir.book.provenance"):
        assert provenance.run([chapter], profile="classroom") == 1
        first = chapter.read_text()
        assert provenance.run([chapter], profile="classroom") == 0
    assert "[1/1] chapter.ipynb took" in caplog.text
    assert "is up to date" in caplog.text
    assert chapter.read_text() == first
    assert first.startswith('{\n "cells": [')
    notebook = nbformat.reads(first, as_version=4)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[1].outputs[0].text.strip() == str(tmp_path)
    assert notebook.cells[2].outputs[0].data["text/plain"] == "'classroom'"
    assert "execution" not in notebook.cells[1].metadata
    assert set(notebook.metadata.daitir) == {"digest", "profile", "seconds", "versions"}

    # Another profile goes to its own folder; the notebook and its stamp stay.
    out = tmp_path / "gpu"
    assert provenance.run([chapter], profile="gpu", out=out) == 1
    assert "'gpu'" in (out / chapter.parent.name / "chapter.ipynb").read_text()
    assert chapter.read_text() == first
    assert provenance.run([chapter], profile="gpu", out=out) == 0


@pytest.mark.slow
def test_a_picture_that_looks_the_same_keeps_its_bytes(tmp_path):
    chapter = tmp_path / "chapter.ipynb"
    draw = "from PIL import Image\nImage.new('RGB', (30, 20), {})"
    write_notebook(chapter, draw.format("'red'"))
    notebook = provenance.execute(chapter, profile="classroom")
    nbformat.write(notebook, chapter)
    (first,) = png_outputs(notebook.cells[1])
    notebook.cells[1].source = draw.format("(250, 0, 0)")
    nbformat.write(notebook, chapter)
    (again,) = png_outputs(provenance.execute(chapter, profile="classroom").cells[1])
    assert again["image/png"] == first["image/png"]


@pytest.mark.slow
def test_progress_bars_and_widgets_leave_no_trace(tmp_path):
    chapter = tmp_path / "chapter.ipynb"
    bars = "from tqdm import tqdm\nfrom tqdm.notebook import tqdm as fancy\nimport ipywidgets"
    write_notebook(chapter, bars, "_ = [*tqdm([1]), *fancy([1])]\nipywidgets.IntSlider()")
    notebook = provenance.execute(chapter, profile="classroom")
    assert [cell.outputs for cell in notebook.cells[1:]] == [[], []]
    assert "widgets" not in notebook.metadata


@pytest.mark.slow
def test_a_failing_cell_leaves_the_notebook_as_it_was(tmp_path, caplog):
    chapter = tmp_path / "chapter.ipynb"
    write_notebook(chapter, "print('fine')", "x = 1\nraise ValueError('two\\nlines')")
    before = chapter.read_bytes()
    assert provenance.main(["run", str(chapter)]) == 1
    message = caplog.records[-1].message
    assert "chapter.ipynb: cell 3 ('x = 1') failed" in message
    assert message.endswith("ValueError: two lines")
    assert chapter.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["chapter.ipynb"]


def test_check_fails_on_a_stale_stamp(world, caplog):
    chapter = world / "chapter.ipynb"
    assert provenance.main(["check", str(chapter)]) == 1
    assert "chapter.ipynb is stale" in caplog.text
    stamp_by_hand(chapter)
    assert provenance.main(["check", str(chapter)]) == 0

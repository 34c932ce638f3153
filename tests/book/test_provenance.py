"""A stamp goes stale with everything that decides a notebook's outputs, and with nothing else."""

import json
import logging

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from daitir.book import provenance
from daitir.common.errors import DataError


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A small package beside a notebook: the notebook imports `top`, which imports `deep`."""
    package = tmp_path / "daitir"
    files = {
        "daitir/__init__.py": "",
        "daitir/top.py": "def f():\n    from .deep.inner import g\n    return g",
        "daitir/deep/__init__.py": "",
        "daitir/deep/inner.py": "from daitir import shared\ng = 1",
        "daitir/shared.py": "",
        "daitir/other.py": "",
        "daitir/cli/__init__.py": "",
        "daitir/models/assets/weights.bin": "1",
        "results/classroom.csv": "value\n1",
        "results/classroom.json": "{}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv("DAITIR_PROFILE", raising=False)
    write_notebook(tmp_path / "chapter.ipynb", "%matplotlib inline\nfrom daitir.top import f")
    return tmp_path


def write_notebook(path, *sources):
    cells = [new_markdown_cell("# Title"), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells), path)


def stamp_by_hand(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["daitir"] = {"digest": provenance.notebook_digest(path)}
    nbformat.write(notebook, path)


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("daitir/__init__.py", True),
        ("daitir/top.py", True),
        ("daitir/deep/__init__.py", True),
        ("daitir/deep/inner.py", True),
        ("daitir/shared.py", True),
        ("daitir/models/assets/weights.bin", True),
        ("daitir/models/assets/new.bin", True),
        ("results/classroom.csv", True),
        ("daitir/other.py", False),
        ("daitir/cli/__init__.py", False),
        ("results/classroom.json", False),
    ],
)
def test_stale_with_what_decides_the_outputs(world, name, stale):
    chapter = world / "chapter.ipynb"
    assert provenance.is_stale(chapter)
    stamp_by_hand(chapter)
    assert not provenance.is_stale(chapter)
    (world / name).write_text("# changed")
    assert provenance.is_stale(chapter) is stale


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


def test_imports_are_found_wherever_they_stand(world):
    def names(source):
        return {p.relative_to(world / "daitir").as_posix() for p in imported(source)}

    def imported(source):
        return provenance.module_files(provenance.imported_modules(source))

    assert names("import numpy, daitir.other as o") == {"__init__.py", "other.py"}
    assert names("from daitir import other, __version__") == {"__init__.py", "other.py"}
    assert names("from daitir.deep import inner") == {
        *("__init__.py", "shared.py", "deep/__init__.py", "deep/inner.py")
    }
    assert names("import daitirlike.other") == set()


def test_a_shell_line_depends_on_the_command_line(world):
    chapter = world / "chapter.ipynb"
    write_notebook(chapter, "%%bash\nls (", "if True:\n    !daitir evaluate --help")
    stamp_by_hand(chapter)
    (world / "daitir/cli/__init__.py").write_text("# changed")
    assert provenance.is_stale(chapter)


def test_bad_notebooks_are_one_clear_line(world):
    (world / "broken.ipynb").write_text("{")
    (world / "list.ipynb").write_text("[]")
    write_notebook(world / "syntax.ipynb", "1 +")
    for name in ("missing.ipynb", "broken.ipynb", "list.ipynb", "syntax.ipynb"):
        with pytest.raises(DataError, match=name) as caught:
            provenance.notebook_digest(world / name)
        assert "\n" not in str(caught.value)


def test_versions_name_what_made_a_result():
    made_with = provenance.versions()
    assert {"python", "torch", "open_clip_torch", "diffusers", "transformers", "numpy"} < set(
        made_with
    )
    assert made_with["device"] and made_with["cpu_count"] >= 1
    json.dumps(made_with)


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
    assert "'gpu'" in (out / "chapter.ipynb").read_text()
    assert chapter.read_text() == first
    assert provenance.run([chapter], profile="gpu", out=out) == 0


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

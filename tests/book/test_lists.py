"""The lists of figures and of stamps hold what the chapters and the results hold."""

import hashlib
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import build_status  # noqa: E402  # extensions of the book, which no package holds
import figures  # noqa: E402


@pytest.fixture
def chapter(tmp_path):
    """Two pictures under one heading, one of them in two formats."""
    cell, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    both = nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>\n", "image/png": ""})
    one = nbformat.v4.new_output("display_data", {"image/png": "aGk="})
    alt = {"mystnb": {"image": {"alt": "What it shows."}}}
    path = tmp_path / "07_some.ipynb"
    cells = [
        *(text("# Some\n\n```\n# no heading\n```"), text("## What now?"), text("## What now?")),
        *(cell("draw()", outputs=[both], metadata=alt), cell("draw()", outputs=[one])),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_figures_are_numbered_and_named_by_content(chapter):
    first, second = figures.figures_of(chapter)
    assert (first.number, second.number) == ("7.1", "7.2")
    assert (first.section, first.slug) == ("What now?", "what-now-1")
    assert (first.alt, second.alt) == ("What it shows.", "")
    assert first.image == hashlib.sha256(b"<svg/>").hexdigest() + ".svg"
    assert second.image == hashlib.sha256(b"hi").hexdigest() + ".png"


def test_every_picture_of_the_chapters_is_in_the_list():
    text = figures.as_markdown()
    pictures = [
        kind
        for path in figures.NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        for kind in [set(output.get("data", {})) & set(figures.KINDS)]
        if kind
    ]
    assert len(re.findall("<img ", text)) == len(pictures) > 50
    assert "alt text" not in text and not re.search(r"\)\. *$", text, re.M), "one has no alt text"


def test_every_chapter_and_every_table_with_notes_has_its_row():
    text = build_status.as_markdown()
    for path in figures.NOTEBOOKS:
        assert f"](../{path.parent.name}/{path.name})" in text
    for path in (ROOT / "results").glob("*.json"):
        assert f"| {path.stem} |" in text
    assert build_status.seconds_of({"seconds": {"a": 1.5, "b": 1000}}) == "1,002"
    assert build_status.seconds_of({}) == "–"

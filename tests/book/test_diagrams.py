"""The diagrams are what their script draws, can be read on white, and are told to who sees none."""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
spec = importlib.util.spec_from_file_location("draw_diagrams", BOOK / "draw_diagrams.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

IMAGE = re.compile(r"!\[([^\]]*)\]\(\.\./book/figures/(\w+)\.svg\)\n\n\*[A-Z][^\n]*\.\*")
FIGURE = re.compile(r"```\{figure\} figures/(\w+)\.svg\n(?::name: .*\n)?:alt: (.*)")


@pytest.mark.parametrize("draw", script.DIAGRAMS, ids=lambda draw: draw.__name__)
def test_the_committed_diagram_is_what_the_script_draws(draw):
    drawn = draw().svg()
    committed = script.FOLDER / f"{draw.__name__}.svg"
    assert committed.read_text("utf-8") == drawn, "python book/draw_diagrams.py"
    assert ElementTree.fromstring(drawn).get("viewBox") == f"0 0 360 {draw().height}"
    assert len(drawn) < 10_000


def luminance(colour):
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_and_lines_stand_out():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for fill, stroke in script.KINDS.values():
        assert contrast(script.INK, fill) >= 4.5
        assert contrast(stroke, script.WHITE) >= 3


def test_a_line_of_mathematics_ends_where_it_began():
    drawn = script.marked("*bold* `code` $z^T_j$ $softmax(d)$ end")
    text = ElementTree.fromstring(f"<text>{drawn}</text>")
    assert "".join(text.itertext()).replace("\u200b", "") == "bold code zTj softmax(d) end"
    assert sum(float(part.get("dy", 0)) for part in text) == 0
    assert [p.text for p in text if p.get("class", "").startswith("i")] == ["z", "T", "j", "d"]


def test_the_map_has_every_chapter_and_what_it_requires():
    def ancestors(name):
        for before in script.BUILDS_ON.get(name, []):
            yield from (before, *ancestors(before))

    assert set(script.BUILDS_ON) <= set(script.CHAPTERS)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        card = nbformat.read(path, as_version=4).cells[1].source
        line = card.partition("**Prerequisites**")[2].partition("\n")[0]
        required = set(re.findall(r"\(\d\d_(\w+)\.ipynb\)", line))
        name = path.stem[3:]
        assert name in script.CHAPTERS, name
        assert required <= set(ancestors(name)), name
        assert set(script.BUILDS_ON.get(name, [])) <= required, name


def test_every_diagram_is_shown_with_words():
    shown = {}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown" and "book/figures/" in cell.source:
                assert cell.source.count("book/figures/") == len(IMAGE.findall(cell.source)), path
                shown |= {name: alt for alt, name in IMAGE.findall(cell.source)}
    for path in BOOK.glob("*.md"):
        shown |= dict(FIGURE.findall(path.read_text("utf-8")))
    assert set(shown) == {draw.__name__ for draw in script.DIAGRAMS}
    assert min(map(len, shown.values())) > 100

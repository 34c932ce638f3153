"""The front page and README: their figure, their numbers, their links and their cards."""

import importlib.util
import json
import re
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import yaml
from docutils import nodes
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sphinx import addnodes
from test_leaderboard import CLAIMS, ROOT, page

import daitir


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hero = _load(ROOT / "book" / "draw_hero.py")
front = _load(ROOT / "book" / "_ext" / "front_page.py")
INDEX = (ROOT / "book" / "index.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
FINDINGS = [  # encoder, query, rival, noise, metric: in the order of the page
    ("zero_shot", "dar", "zero_shot+text", "new", "hits_at_10_gain"),
    ("zero_shot", "dar", "zero_shot+text", "kept", "hits_at_10_gain"),
    ("zero_shot", "adafuse", "zero_shot+dar", "new", "recall_at_10_gain"),
    ("zero_shot", "adafuse", "zero_shot+dar", "new", "hits_at_10_gain"),
    ("dmcl", "dar", "finetune_text+dar", "new", "recall_at_10_gain"),
]


@pytest.fixture(scope="module")
def table():
    return page.read_table()


def test_the_figure_is_drawn_from_the_table():
    made = hero.draw(pd.read_csv(hero.TABLE, keep_default_na=False))
    assert hero.FIGURE.read_text("utf-8") == made, "python book/draw_hero.py"
    for shown in (README, INDEX):
        assert hero.FIGURE.name in shown


def test_a_dot_is_hollow_where_its_interval_holds_zero():
    row = {"value": 1.04, "ci_low": -1.0, "ci_high": 3.0}
    assert 'class="paper"' in hero.draw_row(0, "", "#000", pd.Series(row))
    told = hero.draw_row(0, "", "#000", pd.Series(row | {"ci_low": 0.5}))
    assert 'class="paper"' not in told and ">+1.0<" in told


def test_each_finding_is_that_of_the_table_and_no_other_interval_is_told(table):
    wanted = []
    for encoder, query, rival, noise, metric in FINDINGS:
        names = {"encoder": encoder, "query": query, "rival": rival, "noise": noise}
        row = page.measured(table, names | {"metric": metric} | hero.PROTOCOL)
        wanted.append(page.with_interval(row, points=True, sign=True))
    assert re.findall(r"[+−]\d+\.\d \[[^\]]+\]", INDEX) == wanted


def test_the_words_of_the_findings_are_claims_that_a_test_holds_to_their_sign():
    for encoder, query, rival, noise, metric in FINDINGS:
        names = {"encoder": encoder, "query": query, "rival": rival, "noise": noise}
        names |= {"metric": metric} | hero.PROTOCOL
        same = CLAIMS
        for name, value in names.items():
            same = same[same[name] == value]
        assert len(same), names


def test_the_sealed_test_has_the_size_that_the_page_tells():
    profile = json.loads(page.TABLE.with_suffix(".json").read_text("utf-8"))["profile"]
    dialogues, gallery = profile["num_sealed_dialogues"], profile["num_sealed_gallery"]
    text = " ".join(INDEX.split())
    assert f"{dialogues} sealed human-like dialogues in a gallery of {gallery:,} pictures" in text


def test_every_chapter_has_its_card_in_the_order_of_the_book():
    carded = re.findall(r"^(notebooks/\w+): \S.*\.$", INDEX, re.M)
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
    files = [chapter["file"] for part in parts for chapter in part["chapters"]]
    assert carded == list(filter(front.CHAPTER.fullmatch, files))


def test_every_part_has_a_short_page_with_its_chapters():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
    found = [[entry["file"] for entry in part["chapters"]] for part in parts]
    found = [files for files in found if any(map(front.CHAPTER.fullmatch, files))]
    assert [first for first, *_ in found] == re.findall(r"book/part_\w+", str(found))
    for first, *chapters in found:
        text = (ROOT / f"{first}.md").read_text("utf-8")
        assert re.findall(r"^(notebooks/\w+): \S.*\.$", text, re.M) == chapters
        assert len(text.split()) <= 200
        assert f"({first.removeprefix('book/')}.md)" in INDEX


def test_the_citation_is_that_of_the_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    entry = dict(re.findall(r"^  (\w+) +?= \{+(.*?)\}+,?$", INDEX, re.M))
    assert entry["title"] == citation["title"] and entry["license"] == citation["license"]
    assert entry["version"] == citation["version"] == daitir.__version__
    assert entry["author"] == citation["authors"][0]["name"]


def test_readme_is_one_screen():
    outside = re.sub(r"^```python\n.*?^```$", "", README, flags=re.M | re.S)
    assert len(outside.splitlines()) <= 45


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A made-up chapter of 300 words with a number that a cell displays."""
    said = new_output("display_data", data={"text/markdown": "number " * 150})
    cells = [
        new_markdown_cell("# A <title>\n\n" + "word " * 130),
        new_markdown_cell("> **Run time** classroom about a minute · gpu not measured."),
        new_code_cell("say()", outputs=[said]),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "03_made_up.ipynb")
    monkeypatch.setattr(front, "ROOT", tmp_path)
    return "notebooks/03_made_up"


def test_a_card_is_made_of_the_notebook(chapter):
    found = front.Chapter(chapter)
    assert (found.number, found.title, found.reading) == (3, "A <title>", 2)
    assert found.running == "about a minute" and found.picture() is None
    directive = SimpleNamespace(content=[f"{chapter}: One & all."])
    directive.env = SimpleNamespace(note_dependency=lambda path: None)
    (made,) = front.Chapters.run(directive)
    assert "<strong>3 · A &lt;title&gt;</strong>" in made.astext() and "<img" not in made.astext()
    assert "One &amp; all." in made.astext() and "2 min to read · runs in about" in made.astext()


def test_a_picture_of_a_chapter_is_cut_to_size():
    name = "notebooks/01_interactive_retrieval"
    assert front.Chapter(name).picture().size == front.PICTURE_SIZE


def test_the_sidebar_numbers_chapters_and_nothing_else(chapter):
    toctree = addnodes.toctree(entries=[(None, chapter), (None, "book/world")])
    document = nodes.container("", toctree)
    front.number_chapters(None, document)
    assert toctree["entries"] == [("3 · A <title>", chapter), (None, "book/world")]


def _configured(monkeypatch, **addresses):
    for name in ("BOOK_REPOSITORY", "BOOK_ADDRESS", "BOOK_HUB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in addresses.items():
        monkeypatch.setenv(name, value)
    config = SimpleNamespace(html_theme_options={}, html_baseurl="", html_title="daitir")
    front.set_addresses(None, config)
    return config


def test_without_an_address_no_button_leads_elsewhere(monkeypatch):
    assert _configured(monkeypatch).html_theme_options == {"navbar_persistent": []}


def test_with_an_address_chapters_open_elsewhere(monkeypatch):
    config = _configured(monkeypatch, BOOK_REPOSITORY="https://host/o/r", BOOK_HUB="https://hub")
    options = config.html_theme_options
    assert options["repository_url"] == "https://host/o/r" and options["use_repository_button"]
    assert options["launch_buttons"]["binderhub_url"] == "https://hub"


def test_a_shared_link_has_a_picture_with_its_full_address(monkeypatch):
    config = _configured(monkeypatch, BOOK_ADDRESS="https://host/r/")
    context = {"title": "A &amp; <em>B</em>", "pathto": lambda name, resource=0: f"../{name}"}
    front.add_tags(SimpleNamespace(config=config), "book/x", "", context, None)
    assert 'property="og:image" content="https://host/r/_static/card.png"' in context["metatags"]
    assert 'property="og:title" content="A &amp; B"' in context["metatags"]


def test_the_card_has_the_size_that_its_tags_tell():
    width, height = (int.from_bytes(front.draw_card()[at : at + 4]) for at in (16, 20))
    assert (width, height) == front.CARD_SIZE

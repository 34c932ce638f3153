"""What is mended as pages are built: tables' heads, long lines of code, files that none loads."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("pages", ROOT / "book" / "_ext" / "pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)


def heads(frame):
    """The rows of the head, once mended; an unnamed cell is no head."""
    table = BeautifulSoup(pages.mend_tables(frame.to_html()), "html.parser")
    rows = [[cell.get_text() if cell.name == "th" else None for cell in row.find_all(["th", "td"])]
            for row in table.thead.find_all("tr")]  # fmt: skip
    assert {cell["scope"] for cell in table.thead.find_all("th")} == {"col"}
    assert {cell["scope"] for cell in table.tbody.find_all("th")} <= {"row"}
    assert [cell.get_text() for cell in table.tbody.find_all("td")] == [
        str(value) for value in frame.to_numpy().ravel()
    ]
    return rows


def test_the_names_of_the_index_stand_before_those_of_the_columns():
    frame = pd.DataFrame({"a": [1], "b": [2]})
    assert heads(frame) == [[None, "a", "b"]]
    assert heads(frame.rename_axis("round")) == [["round", "a", "b"]]
    pairs = frame.set_axis(pd.MultiIndex.from_tuples([(0, 1)], names=["round", "seed"]))
    assert heads(pairs) == [["round", "seed", "a", "b"]]


def test_a_head_that_names_both_stays_in_two_rows():
    frame = pd.DataFrame({"a": [1], "b": [2]}).rename_axis(index="round", columns="kind")
    assert heads(frame) == [["kind", "a", "b"], ["round", None, None]]


def test_what_stays_on_one_line_is_marked():
    text = "a drawing of a small kite at the back"
    html = pages.mend_tables(
        pd.DataFrame({"said": [text], "gain": ["+16.8 (+12.6 to +20.8)"]}).to_html()
    )
    cells = BeautifulSoup(html, "html.parser").tbody.find_all("td")
    assert [cell.get("class") for cell in cells] == [None, ["short"]]


def test_a_long_line_of_code_knows_its_indentation_and_keeps_its_text():
    code = "def f():\n    return <b>one</b> + two + three + four + five + six + seven\n"
    context = {"body": f"<pre><span></span>{code}</pre>"}
    pages.mend_page(None, "page", "page.html", context, None)
    assert context["body"].count('class="line"') == context["body"].count("--indent:4") == 1
    assert re.sub("<[^>]*>", "", context["body"]) == re.sub("<[^>]*>", "", code)


def test_of_mathjax_only_what_pages_load_is_kept(tmp_path):
    kept = ["tex-chtml.js", "input/tex/extensions/bbox.js", "output/chtml/fonts/woff-v2/a.woff"]
    names = [*(f"mathjax/{name}" for name in kept), "mathjax/tex-svg.js", "theme.css.map", "a.css"]
    for name in names:
        path = tmp_path / "_static" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    pages.drop_unused(SimpleNamespace(outdir=tmp_path), None)
    left = {path.relative_to(tmp_path / "_static").as_posix()
            for path in tmp_path.rglob("*") if path.is_file()}  # fmt: skip
    assert left == {*(f"mathjax/{name}" for name in kept), "a.css"}

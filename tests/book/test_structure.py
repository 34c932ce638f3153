"""Every chapter keeps the book's form; each rule is seen failing on a small made-up chapter."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from daitir.book.provenance import all_notebooks, is_stale

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = all_notebooks()
APPENDED = [path.stem for path in NOTEBOOKS if path.parent.name == "appendix"]
CARD_WORDS = ("You will learn", "Prerequisites", "Run time", "Hardware")
EXPERIMENT = ("### ★★★ ", "- **Vary** ", "- **Measure** ", "- **A surprise** ", "- **Takes** ")
HEADINGS = ("What this does not show", "Exercises", "Takeaways")
MYST_ONLY = re.compile(r"\{[a-z:]+\}?`|^:{3,}.*|^`{3,}\{.*", re.MULTILINE)  # roles and directives
HIDDEN = "jupyter.source_hidden, and the tag remove-input"
MAX_WORDS, MAX_FIGURES, MAX_TABLES = 2000, 6, 6  # of a chapter with an appendix, to its exercises
MAX_CELL_LINES, MAX_MEDIAN_LINES, MAX_SETUP_LINES, MAX_CODE_CELLS_IN_A_ROW = 30, 6, 8, 3


def problems(notebook: nbformat.NotebookNode, *, appendix: bool = False) -> list[str]:
    """Return all that keeps `notebook` from being a chapter or an appendix, one line each."""
    cells = [cell for cell in notebook.cells if cell.source.strip()]
    prose = [cell.source for cell in cells if _is_prose(cell)]
    code = [(n, cell) for n, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]
    said = [(n, cell) for n, cell in code if _is_prose(cell)]
    code = [(n, cell) for n, cell in code if cell.source.strip() and not _is_prose(cell)]
    found = [] if appendix else [
        *_opening_problems(cells),
        *(f"no heading '{h}'" for h in HEADINGS if not _has_heading(prose, h)),
        *_experiment_problems(prose),
    ]  # fmt: skip
    found += [
        *_order_problems(cells),
        *(f"shown as text in JupyterLab: {r}" for s in prose for r in MYST_ONLY.findall(s)),
        *(f"cell {n}: prose in code is hidden so: {HIDDEN}" for n, c in said if not _is_hidden(c)),
    ]
    lines = [len(cell.source.strip().splitlines()) for _, cell in code]
    if lines and lines[0] > MAX_SETUP_LINES:
        found.append(f"the set-up cell has {lines[0]} lines, more than {MAX_SETUP_LINES}")
    if lines and statistics.median(lines) > MAX_MEDIAN_LINES:
        found.append(f"the median code cell has more than {MAX_MEDIAN_LINES} lines")
    for number, cell in [*code, *said]:
        length = len(cell.source.strip().splitlines())
        if length > MAX_CELL_LINES:
            found.append(f"cell {number} has {length} lines, more than {MAX_CELL_LINES}")
        found += [f"cell {number} {problem}" for problem in _output_problems(cell)]
    return found


def _is_prose(cell):
    """Markdown, or code that displays it since there are numbers in it."""
    return cell.cell_type == "markdown" or "chapters.say(" in cell.source


def _is_hidden(cell):
    hidden = cell.metadata.get("jupyter", {}).get("source_hidden")
    return bool(hidden) and "remove-input" in cell.metadata.get("tags", [])


def _opening_problems(cells):
    first, second = ([cell.source for cell in cells] + ["", ""])[:2]
    if cells and cells[0].cell_type != "markdown" or not re.match(r"# \S", first):
        yield "the first cell is not a markdown cell that starts with a title"
    if not second.startswith("> **You will learn**"):
        yield "the second cell holds no card, a quote"
    yield from (f"the card lacks '{word}'" for word in CARD_WORDS if word not in second)


def _experiment_problems(prose):
    if not any(all(line in text for line in EXPERIMENT) for text in prose):
        yield f"no exercise is an experiment, with {', '.join(map(repr, EXPERIMENT))}"


def _order_problems(cells):
    in_a_row = 0
    for cell in cells:
        in_a_row = 0 if _is_prose(cell) else in_a_row + 1
        if in_a_row == MAX_CODE_CELLS_IN_A_ROW + 1:
            start = cell.source.strip().splitlines()[0]
            yield f"more than {MAX_CODE_CELLS_IN_A_ROW} code cells without prose, up to {start!r}"


def _output_problems(cell):
    if cell.execution_count is None:
        yield "was not executed"
    tags = cell.metadata.get("tags", [])
    if any(out.output_type == "error" for out in cell.outputs) and "raises-exception" not in tags:
        yield "holds an error"
    has_picture = any("image/png" in out.get("data", {}) for out in cell.outputs)
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    if has_picture and not alt.strip():
        yield "shows a picture without alt text (metadata mystnb.image.alt)"


def _has_heading(prose, heading):
    # What stands in a fence is not a heading.
    plain = (re.sub(r"^(```+|~~~+).*?^\1", "", text, flags=re.M | re.S) for text in prose)
    return any(re.search(rf"^#{{2,}} +{heading}\s*$", text, re.MULTILINE) for text in plain)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_keeps_the_form(path):
    is_appendix = path.parent.name == "appendix"
    assert problems(nbformat.read(path, as_version=4), appendix=is_appendix) == []


def lengths(notebook):
    """Words, figures and tables of a chapter up to its exercises."""
    words = figures = tables = 0
    for cell in notebook.cells:
        if _has_heading([cell.source], "Exercises") and cell.cell_type == "markdown":
            break
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        prose = [cell.source] if cell.cell_type == "markdown" else []
        prose += [data.get("text/markdown", "") for data in shown]
        words += len(re.sub(r"\]\([^)]*\)", "]", " ".join(prose)).split())
        figures += sum(bool({"image/png", "image/svg+xml"} & set(data)) for data in shown)
        figures += sum(len(re.findall(r"!\[", text)) for text in prose)
        tables += sum("<table" in data.get("text/html", "") for data in shown)
    return words, figures, tables


@pytest.mark.parametrize("name", APPENDED)
def test_a_chapter_with_an_appendix_is_short(name):
    words, figures, tables = lengths(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4))
    assert words <= MAX_WORDS and figures <= MAX_FIGURES and tables <= MAX_TABLES


@pytest.mark.parametrize("name", APPENDED)
def test_a_chapter_and_its_appendix_lead_to_each_other(name):
    for here, there in (("notebooks", "appendix"), ("appendix", "notebooks")):
        cells = nbformat.read(ROOT / here / f"{name}.ipynb", 4).cells
        assert any(f"](../{there}/{name}.ipynb" in cell.source for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stamp_is_fresh(path):
    assert not is_stale(path, profile="classroom"), f"{path.name} is stale; run `make book`"


def test_no_directive_is_shown_as_text():
    # A fence of backticks whose title holds backticks is no fence, and the build does not say so.
    broken = re.compile(r"^\W*```+\{[^`\n]*`.*$", re.MULTILINE)
    pages = [*(ROOT / "book").glob("*.md"), *NOTEBOOKS]
    assert [line for page in pages for line in broken.findall(page.read_text("utf-8"))] == []


# --- the checker itself ---------------------------------------------------------------------


SAID = {"jupyter": {"source_hidden": True}, "tags": ["remove-input"]}


@pytest.fixture
def chapter():
    """A made-up chapter without a fault."""
    picture = new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"})
    alt = {"mystnb": {"image": {"alt": "Two curves that rise."}}}
    return new_notebook(
        cells=[
            new_markdown_cell("# A title\n\nOne claim."),
            new_markdown_cell("> " + "\n>\n> ".join(f"**{word}**" for word in CARD_WORDS)),
            new_code_cell("import daitir", execution_count=1),
            new_markdown_cell("Prose."),
            new_code_cell("draw()", execution_count=2, outputs=[picture], metadata=alt),
            new_code_cell("1 + 1", execution_count=3),
            new_code_cell("chapters.say('One.')", execution_count=4, metadata=SAID),
            *(new_markdown_cell(f"## {heading}") for heading in HEADINGS),
            new_markdown_cell("\n".join(EXPERIMENT)),
        ]
    )


def test_a_good_chapter_has_no_problem(chapter):
    assert problems(chapter) == []


def _set(number, **values):
    def change(notebook):
        notebook.cells[number].update(values)

    return change


def _add_code_cells(notebook):
    notebook.cells[5:5] = [new_code_cell("0", execution_count=9) for _ in range(2)]


ERROR = new_output("error", ename="ValueError", evalue="", traceback=[])
FAULTS = {
    "no title": (_set(0, source="A title"), "title"),
    "title in code": (_set(0, cell_type="code", outputs=[], execution_count=1), "title"),
    "only a subtitle": (_set(0, source="## A title"), "title"),
    "no card": (_set(1, source="\n".join(CARD_WORDS)), "holds no card"),
    "no run time": (
        _set(1, source="> **You will learn** Prerequisites Hardware"),
        "lacks 'Run time'",
    ),
    "long set-up": (_set(2, source="x\n" * 9), "set-up cell has 9 lines"),
    "long cell": (_set(5, source="x\n" * 31), "cell 6 has 31 lines"),
    "long median": (lambda nb: [_set(n, source="x\n" * 7)(nb) for n in (2, 4)], "median"),
    "many code cells": (_add_code_cells, "more than 3 code cells"),
    "not executed": (_set(5, execution_count=None), "cell 6 was not executed"),
    "an error": (_set(5, outputs=[ERROR]), "cell 6 holds an error"),
    "no alt text": (_set(4, metadata=nbformat.from_dict({})), "cell 5 shows a picture"),
    "prose in code in sight": (_set(6, metadata=nbformat.from_dict({})), "prose in code is hidden"),
    "long prose": (_set(6, source="chapters.say(" + "\n" * 31 + ")"), "cell 7 has 32 lines"),
    "prose not executed": (_set(6, execution_count=None), "cell 7 was not executed"),
    "no exercises": (_set(8, source="Exercises"), "no heading 'Exercises'"),
    "no experiment": (_set(10, source="### ★★★ Easy"), "is an experiment"),
    "a role": (_set(3, source="It is {glue:text}`value:.1f`."), "shown as text"),
    "half a role": (_set(3, source="It is {doc`value`."), "shown as text"),
    "a directive": (_set(3, source="Say:\n:::{note}\nIt is.\n:::"), "shown as text"),
    "a directive in code": (_set(6, source='chapters.say("```{note}`")'), "shown as text"),
    "heading in a fence": (_set(9, source="```\n## Takeaways\n```"), "no heading 'Takeaways'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_rule_fails(chapter, fault):
    change, expected = FAULTS[fault]
    change(chapter)
    assert [problem for problem in problems(chapter) if expected in problem]


def test_an_expected_error_passes(chapter):
    tags = nbformat.from_dict({"tags": ["raises-exception"]})
    _set(5, outputs=[ERROR], metadata=tags)(chapter)
    assert problems(chapter) == []


def test_an_empty_notebook_is_no_chapter():
    assert len(problems(new_notebook())) > len(HEADINGS)

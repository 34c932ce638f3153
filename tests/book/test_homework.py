"""The student edition holds no solution, and a hand-in is graded in bounds, on a tiny chapter."""

import importlib.util
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

BOOK = Path(__file__).resolve().parents[2] / "book"
spec = importlib.util.spec_from_file_location("homework", BOOK / "homework.py")
homework = importlib.util.module_from_spec(spec)
spec.loader.exec_module(homework)

NAMES = ("chance_loss", "half_width", "best_of", "centred", "unit_vectors", "several_views")
STUB = "def {0}(*given): ...  # your code\n\n\n# checks.{0}({0})"
SOLUTION = "def {0}_solution(*given):\n    return 1\n\n\nchecks.{0}({0}_solution)"
TAGS = {"tags": ["hide-cell"], "jupyter": {"source_hidden": True}}
SHOWN = new_output("stream", text="kept\n")


def asked(*names):
    """The cells of exercises, each a title, a stub and a solution."""
    for name in names:
        yield new_markdown_cell(f"### ★ {name}\n\nWrite it.")
        yield new_code_cell(STUB.format(name))
        yield new_code_cell(SOLUTION.format(name), metadata=TAGS, outputs=[SHOWN])


def chapter_with(*cells):
    start = "from daitir.book.exercises import foundations as checks"
    return new_notebook(
        cells=[
            new_markdown_cell("# A title\n\nOne claim."),
            new_code_cell(start, outputs=[SHOWN], execution_count=1),
            *cells,
        ],
        metadata={"daitir": {"digest": "0"}},
    )


@pytest.fixture
def root(tmp_path):
    """A book with one chapter, in the folders of the real one."""
    for name in ("notebooks", "appendix", "book", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "appendix" / "01_title.ipynb").write_text("{}")
    (tmp_path / "book" / "teaching.md").write_text("answers")
    (tmp_path / "book" / "notation.md").write_text("symbols")
    (tmp_path / "results" / "table.csv").write_text("1")
    nbformat.write(chapter_with(*asked(*NAMES)), tmp_path / "notebooks" / "01_title.ipynb")
    return tmp_path


def chapter_in(root):
    return nbformat.read(root / "notebooks" / "01_title.ipynb", 4)


def answered(root, **answers):
    """A hand-in: the student edition with some stubs replaced."""
    hand_in = homework.without_solutions(chapter_in(root))
    for cell in hand_in.cells:
        for name, answer in answers.items():
            if cell.source == STUB.format(name):
                cell.source = answer
    return hand_in


# --- the student edition --------------------------------------------------------------------


def test_a_student_gets_stubs_and_outputs_but_no_solution(root, capsys):
    assert homework.main(["student"], root=root) == 0
    assert capsys.readouterr().out.startswith("1 chapters in ")
    folder = root / "_build" / "student"
    written = nbformat.read(folder / "notebooks" / "01_title.ipynb", 4)
    nbformat.validate(written)
    before = chapter_in(root).cells
    assert written.cells == [cell for cell in before if "_solution" not in cell.source]
    assert written.cells[1].outputs == [SHOWN] and "daitir" not in written.metadata
    assert {str(path.relative_to(folder)) for path in folder.glob("*/*.[cm]*")} == {
        "book/notation.md",
        "results/table.csv",
    }
    assert (folder / "appendix" / "01_title.ipynb").is_file()


@pytest.mark.parametrize(
    "cell",
    [
        new_code_cell(SOLUTION.format("centred")),
        new_code_cell("def centred_answer(): ...", metadata=TAGS),
    ],
)
def test_what_may_be_a_solution_is_not_given_away(root, cell, capsys):
    nbformat.write(chapter_with(cell), root / "notebooks" / "02_other.ipynb")
    assert homework.main(["student"], root=root) == 2
    assert "02_other.ipynb: tag and name differ" in capsys.readouterr().err
    assert not (root / "_build" / "student" / "notebooks" / "02_other.ipynb").exists()


@pytest.mark.slow
def test_every_chapter_of_the_book_has_an_edition(tmp_path):
    homework.write_student_edition(BOOK.parent, tmp_path)
    pairs = [(p, tmp_path / "notebooks" / p.name) for p in BOOK.parent.glob("notebooks/*.ipynb")]
    exercises = [homework.exercises_of(nbformat.read(path, 4)) for path, _ in pairs]
    assert min(map(len, exercises)) >= 3
    for (_, written), wanted in zip(pairs, exercises, strict=True):
        text = written.read_text("utf-8")
        assert "_solution" not in text
        assert all(f"def {exercise.function}(" in text for exercise in wanted)


# --- hand-ins -------------------------------------------------------------------------------


def test_exercises_are_read_from_the_solutions_of_a_chapter(root):
    found = homework.exercises_of(chapter_in(root))
    assert found[0] == ("★ chance_loss", "daitir.book.exercises.foundations.chance_loss", NAMES[0])
    assert [exercise.function for exercise in found] == list(NAMES)


def test_a_check_of_ours_follows_the_last_definition(root):
    hand_in = answered(root, centred="centred = 1")
    hand_in.cells.append(new_code_cell("def half_width(*given):\n    return 2"))
    hand_in.cells = [cell for cell in hand_in.cells if "def best_of" not in cell.source]
    exercises = homework.exercises_of(chapter_in(root))
    notebook, checks = homework.with_checks(hand_in, exercises)
    sources = [cell.source for cell in notebook.cells]
    called = "import daitir.book.exercises.foundations\ndaitir.book.exercises.foundations.{0}({0})"
    assert sources[-2:] == [hand_in.cells[-1].source, called.format("half_width")]
    assert sources[sources.index("centred = 1") + 1] == called.format("centred")
    assert {exercise.function for exercise in checks} == {*NAMES} - {"best_of"}
    assert len(hand_in.cells) < len(notebook.cells)


def error(name, value):
    return new_output("error", ename=name, evalue=value, traceback=[])


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (new_output("execute_result", data={"text/plain": "'Passed.'"}), ("passed", "")),
        (error("NotFilledIn", "not yet"), ("unfilled", "not yet")),
        (error("WrongAnswer", "mind the logarithm"), ("failed", "mind the logarithm")),
        (error("KeyboardInterrupt", ""), ("failed", "it was stopped after 30 seconds")),
        (
            error("NameError", "name 'f' is not defined"),
            ("failed", "the cell of its function stops with an error"),
        ),
        (new_output("stream", text="'Passed.'"), ("failed", "the check gave no answer")),
    ],
)
def test_what_a_check_said_is_a_verdict(output, expected):
    cell = new_code_cell("", outputs=[output])
    assert homework.verdict(cell, "", homework.Bounds()) == expected


def test_a_function_that_is_gone_is_unfilled_and_one_that_was_not_reached_failed():
    bounds = homework.Bounds()
    assert homework.verdict(None, "", bounds)[0] == "unfilled"
    assert homework.verdict(new_code_cell(""), "stopped", bounds) == ("failed", "stopped")


def test_a_report_has_a_line_for_each_and_no_control_characters():
    one, two = (homework.Exercise(title, "c", "f") for title in ("★ One", "★★ Two"))
    text = homework.report({one: ("passed", ""), two: ("failed", "\x1b[2Jno\nway")})
    assert text.splitlines() == [
        "passed    ★ One",
        "failed    ★★ Two:  [2Jno way",
        "1 of 2 passed",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("no notebook", "not"),
        (nbformat.writes(new_notebook()), "no chapter begins as it does, with ''"),
    ],
)
def test_what_is_no_hand_in_is_refused(root, text, complaint, capsys):
    path = root / "mine.ipynb"
    if text is not None:
        path.write_text(text)
    assert homework.main(["grade", str(path)], root=root) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="others do not bound a process's memory")
def test_a_hand_in_is_graded_for_real(root, capsys):
    hand_in = answered(
        root,
        chance_loss="import numpy as np\n\n\ndef chance_loss(size):\n    return np.log(size)",
        half_width="def half_width(deviation, number):\n    return deviation / number",
        centred="def centred(features):\n    while True:\n        pass",
        unit_vectors="def unit_vectors(features):\n    return np.ones(2**29)",
    )
    last = next(n for n, cell in enumerate(hand_in.cells) if "several_views" in cell.source)
    hand_in.cells.insert(last, new_code_cell("open('left', 'w').close()\nimport os; os._exit(1)"))
    nbformat.write(hand_in, root / "mine.ipynb")
    options = ["--check", "10", "--memory", "3"]
    assert homework.main(["grade", str(root / "mine.ipynb"), *options], root=root) == 1
    lines = capsys.readouterr().out.splitlines()
    starts = [
        "passed    ★ chance_loss",
        "failed    ★ half_width: the deviation of a mean shrinks with the root of the number",
        "unfilled  ★ best_of: not filled in yet",
        "failed    ★ centred: it was stopped after 10 seconds",
        "failed    ★ unit_vectors: the function stops at `return np.ones(2**29)`: MemoryError",
        "failed    ★ several_views: the notebook's process ended before",
        "1 of 6 passed",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    assert not list(root.rglob("left"))


@pytest.mark.slow
def test_a_notebook_that_cannot_be_interrupted_is_stopped(root):
    stubborn = """
while True:
    try:
        while True:
            pass
    except KeyboardInterrupt:
        pass
"""
    notebook = new_notebook(cells=[new_code_cell(stubborn)])
    bounds = homework.Bounds(whole=8, cell=1)
    stopped = homework.execute(notebook, [], root, bounds)
    assert stopped == "the notebook was stopped after 8 seconds"

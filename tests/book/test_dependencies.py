"""What decides a chapter's outputs is what its cells name, and nothing else."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from daitir.book.dependencies import decisive_files
from daitir.book.provenance import all_notebooks

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"models/__init__.py", "models/clip.py", "models/assets/clip/weights.bin"}


@pytest.fixture
def named(world):
    """The files that cells name, below the package, without its own module, which always counts."""

    def files(*cells, profile="classroom"):
        found = {file.relative_to(world).as_posix() for file in decisive_files(cells, profile)}
        found.remove("daitir/__init__.py")
        return {name.removeprefix("daitir/") for name in found}

    return files


@pytest.mark.parametrize(
    ("cell", "files"),
    [
        ("import numpy, daitir.other as o", {"other.py"}),
        ("from daitir import other, __version__", {"other.py"}),
        (
            "def late():\n    from daitir.deep import inner",
            {"shared.py", "deep/__init__.py", "deep/inner.py", "deep/sizes/small.toml"},
        ),
        ("import daitirlike.other", set()),
        ("%matplotlib inline\n!ls other", set()),
        ("%%time\nfrom daitir import other", {"other.py"}),
        ("%%bash\nls (", set()),
        ("if True:\n    !daitir evaluate --help", {"cli/__init__.py"}),
        ("%%bash\ndaitir (", {"cli/__init__.py"}),
        ("registry = {'other': 'daitir.other:thing'}", {"other.py"}),
        ("if TYPE_CHECKING:\n    from daitir import other\nelse:\n    import daitir.shared as s",
         {"shared.py"}),
    ],
)  # fmt: skip
def test_code_counts_that_is_imported(named, cell, files):
    assert named(cell) == files


def test_of_a_lazy_name_only_the_module_behind_it_counts(named):
    assert named("from daitir import thing") == {"other.py"}
    assert named("from daitir import load") == MODELS
    for whole in ("import daitir", "import daitir as d", "import daitir.other",
                  "from daitir import *"):  # fmt: skip
        assert named(whole) == {"other.py", *MODELS}, whole


def test_a_module_whose_name_is_computed_could_be_any(named, world):
    everything = named("import_module(f'daitir.{name}')")
    assert named("import_module('.other', 'daitir')") == everything
    assert named("import_module('daitir.other')") == {"other.py"}
    assert named("import_module('numpy')") == set()
    assert {file.relative_to(world / "daitir").as_posix() for file in world.rglob("*.py")} == {
        "__init__.py",
        *(name for name in everything if name.endswith(".py")),
    }


def test_of_the_models_only_the_folders_count_that_code_names(named):
    assert named("from daitir.models import clip") == MODELS
    every = {f"models/assets/{name}/weights.bin" for name in ("clip", "lit", "lm")}
    assert every < named("from daitir.models import all")
    assert every < named("from daitir.models import ASSETS as A\nA / 'clip'")
    assert every < named("from daitir import models\nmodels.ASSETS / name")
    assert every - named("from daitir import models\nmodels.ASSETS / 'lm'") == {
        "models/assets/lit/weights.bin"
    }


@pytest.mark.parametrize(
    ("cell", "tables"),
    [
        ("read('../results/quality.csv')", {"results/quality.csv"}),
        ("read(f'../results/{profile.name}.csv')", {"results/classroom.csv"}),
        ("read(f'../results/{profile.name}_memory.csv')", {"results/classroom_memory.csv"}),
        ("read(f'../results/{profile.name}.json')", {"results/classroom.json"}),
        ("read('../book/published.csv')", {"book/published.csv"}),
        ("read(f'../results/{name}_memory.csv')", {"results/classroom_memory.csv"}),
        ("read(path + '_memory.csv')", {"results/classroom_memory.csv"}),
        ("read(Path('..') / 'results/benchmarks')", {"results/benchmarks/embed.csv"}),
        ("read(f'{folder}/results/quality.csv')", {"results/quality.csv"}),
        ("'the results of a memory', 'csv', 'log.csv', f'{a}{b}'", set()),
    ],
)
def test_tables_count_that_a_string_could_name(named, cell, tables):
    assert named(cell) == tables


@pytest.mark.parametrize(
    "cell",
    ["read('..' + '/results/' + name)", "[*Path('../results').iterdir()]", "'results'",
     "Path(f'../results/{name}')"],
)  # fmt: skip
def test_where_a_table_cannot_be_told_all_count(named, world, cell):
    files = [file for file in (world / "results").rglob("*.*") if file.is_file()]
    assert named(cell) == {file.relative_to(world).as_posix() for file in files}


def test_the_profile_in_the_name_of_a_table_is_that_of_the_run(named):
    cell = "read(f'../results/{profile.name}.csv')"
    assert named(cell, profile="gpu") == set()
    assert len(named(cell, profile="mine/profile.toml")) == 4  # its name stands in the file


def test_modules_count_with_the_tables_that_they_name(named, world):
    (world / "daitir/other.py").write_text("TABLE, NOTES = 'results/quality.csv', 'quality.json'")
    assert named("from daitir import thing") == {"other.py", "results/quality.csv"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", all_notebooks(), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_chapter_names_its_profile_and_no_more_than_it_needs(path):
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    code = "\n".join(re.sub(r"^(\s*)[%!].*", "", cell, flags=re.M) for cell in cells)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assign) and "profile" in map(ast.unparse, node.targets):
            assert ast.unparse(node.value) == "get_profile()"
    files = [file.relative_to(ROOT).as_posix() for file in decisive_files(cells, "classroom")]
    assert "daitir/book/provenance.py" not in files and "daitir/cli/command.py" not in files
    tables = [name for name in files if name.startswith("results/")]
    assert len(tables) < len(list((ROOT / "results").rglob("*.*"))) / 2

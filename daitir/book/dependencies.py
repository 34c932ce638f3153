"""What decides the outputs of a chapter: the code, the models and the tables that it names.

Code is every module that the cells import, with all that it imports itself, late imports too; a
name that `daitir` exports lazily stands for the module behind it. Files beside this code count
too, but among the models that come with the package only the folders that the code names, as in
`ASSETS / "clip"`. Tables are those files of `results/` and `book/` that a string in the cells
could name. Where this cannot be decided, more counts, not less.
"""

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
# Stand for all names that daitir exports, and for all its modules.
EXPORTS, EVERY_MODULE = "daitir.*", "daitir.**"
_CALL_IN_A_SHELL = re.compile(r"^\s*!.*\bdaitir\b|\A%%(?!time|capture)[\s\S]*\bdaitir\b", re.M)
_MODULE_NAME = re.compile(r"daitir(\.\w+)+(:\w+)?")


def decisive_files(cells: Collection[str], profile: str) -> list[Path]:
    """The files of code, models and tables that decide the outputs of a notebook, sorted.

    `{profile.name}` in the names of tables stands for `profile`. Raises SyntaxError for a cell
    that is not Python.
    """
    trees = [_parsed(_python_of(cell)) for cell in cells]
    names = {"daitir"}.union(*map(imported_modules, trees))
    if any(_CALL_IN_A_SHELL.search(cell) for cell in cells):
        names.add(f"{PACKAGE.name}.cli.command")
    code = module_trees(names)
    models = _named_models([*trees, *code.values()])
    return sorted({*code, *_files_beside(code), *models, *_named_tables(trees, code, profile)})


@cache
def imported_modules(tree: ast.AST, *, package: str = "") -> set[str]:
    """The dotted daitir names that code imports, wherever the statement stands.

    A name may be a function: `from daitir.metrics import recall_at_k` gives both `daitir.metrics`
    and its attribute. A string that could be the name of a module, for a late import, counts as
    one; what only type checkers import does not. Relative imports start from `package`. `EXPORTS`
    is among the names where code gets hold of the package itself, `EVERY_MODULE` where it computes
    the name of a module that no string tells.

    >>> sorted(imported_modules(ast.parse("def f():\\n    from daitir import metrics")))
    ['daitir', 'daitir.metrics']
    """
    names, told, computes_a_name = set(), set(), False
    for node in _running_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name)
                bound = alias.name if alias.name == "daitir" else alias.asname or alias.name
                if re.match(r"daitir(\.|$)", bound):
                    names.add(EXPORTS)  # the statement gives the package itself
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*(base if node.level else []), *filter(None, [node.module])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and _name_of(node.func) in ("import_module", "__import__"):
            told_name = node.args[0].value if isinstance(node.args[0], ast.Constant) else "."
            computes_a_name |= told_name.startswith(".")
        elif isinstance(node, ast.Constant) and _MODULE_NAME.fullmatch(str(node.value)):
            told.add(node.value.replace(":", "."))
    names = {name for name in names if name.split(".")[0] == "daitir"}
    return names | (told or ({EVERY_MODULE} if computes_a_name else set()))


def module_trees(names: Iterable[str]) -> dict[Path, ast.Module]:
    """The files of the daitir modules `names` and of all that they import, with their code."""
    trees: dict[Path, ast.Module] = {}
    exports, root = _lazy_exports(_parsed((PACKAGE / "__init__.py").read_text("utf-8")))
    pending = list(names)
    while pending:
        name = pending.pop()
        if name == EXPORTS:
            pending += exports
        parts = exports.get(name, name).split(".")[1:]
        places = [PACKAGE.joinpath(*parts[:number]) for number in range(len(parts) + 1)]
        files = [file for place in places for file in (place / "__init__.py", f"{place}.py")]
        for path in map(Path, PACKAGE.rglob("*.py") if name == EVERY_MODULE else files):
            if path in trees or not path.is_file():
                continue
            is_root = path == PACKAGE / "__init__.py"
            trees[path] = root if is_root else _parsed(path.read_text("utf-8"))
            home = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
            pending += imported_modules(trees[path], package=home)
    return trees


# Chapters share most of their modules.
_parsed = cache(ast.parse)


@cache
def _lazy_exports(root: ast.Module) -> tuple[dict[str, str], ast.Module]:
    """The package's map of lazy names, and its module without the code that reads the map."""
    exports: dict[str, str] = {}
    rest = []
    for node in root.body:
        if isinstance(node, ast.Assign) and _name_of(node.targets[0]) == "_NAMES":
            for module, names in ast.literal_eval(node.value).items():
                exports |= {f"daitir.{name}": f"{module}.{name}" for name in names}
        elif not (isinstance(node, ast.FunctionDef) and node.name == "__getattr__"):
            rest.append(node)
    return exports, ast.Module(rest, [])


def _files_beside(code: Collection[Path]) -> Iterator[Path]:
    """Files that are no code, below a folder whose code counts; the shipped models aside."""
    homes = {file.parent for file in code}
    for path in PACKAGE.rglob("*"):
        if path.suffix in (".py", ".pyc") or not path.is_file():
            continue
        home = next(folder for folder in path.parents if any(folder.glob("*.py")))
        if home in homes and PACKAGE / "models" / "assets" not in path.parents:
            yield path


def _named_models(trees: Iterable[ast.AST]) -> Iterator[Path]:
    """The files in those folders of the shipped models that code names."""
    assets = PACKAGE / "models" / "assets"
    for tree in trees:
        names, num_uses = [], 0
        for node in ast.walk(tree):
            if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
                names += [node.right.value] if _name_of(node.left) == "ASSETS" else []
            elif isinstance(node, ast.alias):
                num_uses += node.name == "ASSETS" and node.asname is not None
            else:
                num_uses += _name_of(node) == "ASSETS" and isinstance(node.ctx, ast.Load)
        # Where their common folder is used in another way, all of it counts.
        folders = [assets / name for name in names] if num_uses == len(names) else [assets]
        yield from (path for folder in folders for path in folder.rglob("*") if path.is_file())


def _named_tables(
    cells: Iterable[ast.AST], code: Mapping[Path, ast.AST], profile: str
) -> Iterator[Path]:
    """The files of `results/`, and the tables of `book/`, that a string could name.

    A string with a suffix names the files whose path could end so. A string without one that begins
    with the folder names those whose path could begin so. `{profile.name}` stands for the profile,
    other braces for anything. Modules know no way to `results/`: only strings that name it count
    there.
    """
    strings = {string for tree in cells for string in _strings(tree, profile)}
    for tree in code.values():
        strings.update(string for string in _strings(tree, profile) if "results/" in string)
    patterns = set()
    for string in strings:
        # What stands before the folder depends on where the code runs.
        path = re.sub(r"^.*?(?=results(/|$)|book/)", "", string)
        if re.search(r"\.\w+$", path):
            patterns.add(f"*{path}")
        elif re.match("results(/|$)|book/", path):
            patterns.add(f"{path}*")
    for path in [*(ROOT / "results").rglob("*.*"), *(ROOT / "book").glob("*.csv")]:
        name = path.relative_to(ROOT).as_posix()
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            yield path


@cache
def _strings(tree: ast.AST, profile: str) -> list[str]:
    """All strings of code, with the contents of braces replaced."""
    is_name = profile.isidentifier()  # and no path of a profile's file

    def text_of(part: ast.AST) -> str:
        if isinstance(part, ast.Constant):
            return part.value
        return profile if is_name and ast.unparse(part.value) == "profile.name" else "*"

    strings, pending = [], [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.JoinedStr):
            pending += [hole.value for hole in node.values if isinstance(hole, ast.FormattedValue)]
            strings.append("".join(map(text_of, node.values)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
        else:
            pending += ast.iter_child_nodes(node)
    return strings


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All of the code but what stands under `if TYPE_CHECKING:`."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and _name_of(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)


def _name_of(node: ast.AST) -> str | None:
    """`name` of the expressions `name` and `module.name`."""
    return getattr(node, "id", getattr(node, "attr", None))


def _python_of(cell: str) -> str:
    """A cell without its magics and shell lines."""
    python = "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in cell.splitlines())
    try:
        ast.parse(python)
    except SyntaxError:
        if cell.startswith("%%"):
            return ""  # another language
        raise
    return python

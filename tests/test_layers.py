"""The house of the package: its layers, and how large it may be. All of it is declared here."""

import ast
from collections import defaultdict
from pathlib import Path

from daitir.book.dependencies import EVERY_MODULE, imported_modules

PACKAGE = Path(__file__).resolve().parents[1] / "daitir"
# The lowest first. A module imports only what stands in its own layer or in one before it.
LAYERS = (
    ("common",),
    ("metrics", "objectives", "fusion", "retrieval", "evaluation"),
    ("data",),
    ("scenes",),
    ("models",),
    ("recipes",),
    ("analysis",),
    ("studies",),
    ("book",),
    ("cli",),
)
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}
# The goal is 15,000 lines and 2,000 for what came later; whoever takes some out lowers the number.
MAX_LINES, MAX_FILE_LINES, MAX_ENTRIES = 20_867, 400, 16

PATHS = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TEXTS = {module: path.read_text("utf-8") for module, path in PATHS.items()}


def imports_of(text, modules):
    """Which of the modules some code imports, late imports and names in strings too.

    `from daitir.models import views` imports the module, not its package. Everybody may ask
    `daitir` for its version; EVERY_MODULE stands for a name that is computed.
    """
    names = imported_modules(ast.parse(text)) - {"daitir", "daitir.__version__"}
    attributes = names - modules - {EVERY_MODULE}
    packages_of_modules = {name.rpartition(".")[0] for name in names & modules}
    return names - attributes - packages_of_modules | {n.rpartition(".")[0] for n in attributes}


def upward(imports, layer_of):
    """Each import of a higher layer, as `importer → imported`."""
    found = []
    for module, others in imports.items():
        for other in sorted(others):
            numbers = [layer_of[(name.split(".") + [""])[1]] for name in (module, other)]
            if numbers[0] < numbers[1]:
                found.append(f"{module} → {other}")
    return found


def circles(imports):
    """The groups of modules each of which leads to every other."""
    reached = {}
    for module in imports:
        pending, reached[module] = [module], set()
        while pending:
            new = imports.get(pending.pop(), set()) - reached[module]
            reached[module] |= new
            pending += new
    groups = {
        frozenset(other for other in reached[module] if module in reached.get(other, ()))
        for module in imports
    }
    return [" ⇄ ".join(sorted(group)) for group in groups if len(group) > 1]


def repeated_constants(texts):
    """Names in capitals that several modules define, with these modules.

    Variables of types do not count, nor what the registry of studies asks each of its modules for.
    """
    places = defaultdict(list)
    for module, text in texts.items():
        for node in ast.parse(text).body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [name.id for target in targets if target for name in ast.walk(target)
                     if isinstance(name, ast.Name)]  # fmt: skip
            allowed = {"T", "STUDY", "INSTRUMENT"}
            names = {name for name in names if name.isupper() and not name.startswith("_")}
            for name in names - allowed:
                places[name].append(module.removeprefix("daitir."))
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if where[1:]]


def none_of(problems):
    assert not problems, "\n".join([f"{len(problems)}:", *problems])


# The package's own module only tells where its names are.
IMPORTS = {
    module: imports_of(text, set(PATHS)) for module, text in TEXTS.items() if module != "daitir"
}


def test_no_module_imports_from_a_higher_layer():
    # A computed name could be any, and what the package exports is for others.
    none_of(upward(IMPORTS, {**LAYER_OF, "**": len(LAYERS) - 1, "": len(LAYERS)}))


def test_no_modules_import_each_other_in_a_circle():
    none_of(circles(IMPORTS))


def test_every_entry_stands_in_one_layer_and_they_are_few():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(entries) <= MAX_ENTRIES, sorted(entries)
    assert {name.removesuffix(".py") for name in entries} - {"__init__", "py.typed"} == set(
        LAYER_OF
    )


def test_no_file_and_not_the_whole_is_too_long():
    lines = {module: len(text.splitlines()) for module, text in TEXTS.items()}
    long = [f"{module}: {number}" for module, number in lines.items() if number > MAX_FILE_LINES]
    total = sum(lines.values())
    none_of(long + ([f"all: {total:,}, at most {MAX_LINES:,}"] if total > MAX_LINES else []))


def test_no_constant_is_defined_twice():
    none_of(repeated_constants(TEXTS))


# --- the rules themselves -------------------------------------------------------------------


def test_imports_are_seen_wherever_they_stand():
    modules = {"daitir", "daitir.models", "daitir.models.views", "daitir.cli.command"}
    for code, found in (
        ("from daitir.models import views", {"daitir.models.views"}),
        ("from daitir.models import views, ASSETS", {"daitir.models", "daitir.models.views"}),
        ("def f():\n    from daitir.models import ASSETS", {"daitir.models"}),
        ("if TYPE_CHECKING:\n    import daitir.models", set()),
        ("FUNCTION = 'daitir.cli.command:main'", {"daitir.cli.command"}),
        ("from daitir import load_encoder", {"daitir"}),
        ("import daitir", {"daitir"}),
        ("from daitir import __version__", set()),
        ("import_module(f'daitir.{name}')", {EVERY_MODULE}),
    ):
        assert imports_of(code, modules) == found, code


def test_each_rule_fails():
    layers = {"low": 0, "high": 1, "": 2}
    imports = {"daitir.low": {"daitir.high.a", "daitir"}, "daitir.high.a": {"daitir.low"}}
    assert upward(imports, layers) == ["daitir.low → daitir", "daitir.low → daitir.high.a"]
    assert circles(imports) == ["daitir.high.a ⇄ daitir.low"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    texts = {"daitir.a": "A, B = 1, 2\n_C = 3", "daitir.b": "B: int = 3\n_C = 1\ndef f(): A = 1"}
    assert repeated_constants(texts) == ["B: a, b"]

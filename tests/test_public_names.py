"""The names that `import daitir` offers: listed three times alike, told in one form, and fast."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import daitir

SOURCE = ast.parse(Path(daitir.__file__).read_text("utf-8"))


def test_the_map_the_list_and_the_typed_imports_agree():
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == daitir._MODULES
    assert sorted(daitir.__all__) == sorted(daitir._MODULES) and len(daitir.__all__) == 25
    assert set(daitir.__all__) <= set(dir(daitir))


@pytest.mark.parametrize("name", daitir.__all__)
def test_a_name_is_what_its_module_defines_and_says_what_it_takes_and_gives(name):
    thing = getattr(daitir, name)
    assert thing.__module__ == daitir._MODULES[name] and thing.__name__ == name
    text = inspect.getdoc(thing)
    assert text.splitlines()[0].endswith(".") and len(text.splitlines()[0]) < 100
    if not inspect.isclass(thing):
        assert "\nArgs:\n" in text
        gives = inspect.signature(thing).return_annotation  # as text, or as it is
        assert "\nReturns:\n" in text or gives in ("None", None)
    elif not issubclass(thing, Exception):
        assert "\nArgs:\n" in text or "\nAttributes:\n" in text


def test_another_name_is_refused_as_in_any_module():
    assert not hasattr(daitir, "load_everything")
    with pytest.raises(ImportError, match="cannot import name 'load_everything'"):
        from daitir import load_everything  # noqa: F401


def test_the_import_loads_nothing_until_a_name_is_used():
    code = (
        "import sys, daitir; dir(daitir); start = set(sys.modules)\n"
        "assert not {'torch', 'numpy', 'pandas'} & start\n"
        "assert [name for name in start if name.startswith('daitir')] == ['daitir']\n"
        "from daitir import DataError, metrics\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_learn_that_the_package_is_typed():
    assert (Path(daitir.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_the_page_shows_every_name_and_its_example_runs(capsys):
    page = (Path(daitir.__file__).parents[1] / "book" / "api.md").read_text("utf-8")
    shown = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", page, re.M)
    assert sorted(shown) == sorted(daitir.__all__)
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(example, {})
    assert capsys.readouterr().out == "[0.75]\n"

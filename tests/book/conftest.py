"""A small package with models and tables, beside a notebook."""

import pytest
from chapter_files import write_notebook

from daitir.book import dependencies, provenance

LAZY = """
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daitir.other import thing
_NAMES = {"daitir.other": ["thing"], "daitir.models": ["load"]}


def __getattr__(name):
    (module,) = (module for module, names in _NAMES.items() if name in names)
    return getattr(import_module(module), name)
"""
FILES = {
    "daitir/__init__.py": LAZY,
    "daitir/top.py": "def f():\n    from .deep.inner import g\n    return g",
    "daitir/deep/__init__.py": "",
    "daitir/deep/inner.py": "from daitir import shared\ng = 1",
    "daitir/deep/sizes/small.toml": "",
    "daitir/shared.py": "",
    "daitir/other.py": "thing = 1",
    "daitir/cli/__init__.py": "",
    "daitir/models/__init__.py": "ASSETS = 'assets'\ndef load(): from . import clip",
    "daitir/models/clip.py": "from daitir.models import ASSETS\nFOLDER = ASSETS / 'clip'",
    "daitir/models/all.py": "from daitir.models import ASSETS\nNAMES = list(ASSETS.iterdir())",
    "daitir/models/assets/clip/weights.bin": "1",
    "daitir/models/assets/lm/weights.bin": "1",
    "daitir/models/assets/lit/weights.bin": "1",
    "results/classroom.csv": "",
    "results/classroom.json": "",
    "results/classroom_memory.csv": "",
    "results/quality.csv": "",
    "results/benchmarks/embed.csv": "",
    "book/published.csv": "",
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The folder; its `chapter.ipynb` imports `daitir.top`, which imports `daitir.deep.inner`."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(dependencies, "PACKAGE", tmp_path / "daitir")
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv("DAITIR_PROFILE", raising=False)
    write_notebook(tmp_path / "chapter.ipynb", "%matplotlib inline\nfrom daitir.top import f")
    return tmp_path

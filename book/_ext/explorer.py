"""Builds the explorer into the book: a page of its own beside the others.

A process of its own does it, so that the models that it loads are gone when the book is built.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build_explorer(app, exception):
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir) / "explorer"
    command = [sys.executable, ROOT / "explorer" / "build.py", out]
    subprocess.run(command, check=True, cwd=ROOT)


def setup(app):
    app.connect("build-finished", build_explorer)
    return {"version": "1", "parallel_read_safe": True}

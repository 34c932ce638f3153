"""The directive `build-status`: what made the chapters and the tables, from their own stamps."""

import json
from collections import Counter

import nbformat
from docutils import nodes
from figures import NOTEBOOKS, number_of, title_of
from leaderboard import ROOT
from sphinx.util.docutils import SphinxDirective

NOTES = sorted((ROOT / "results").rglob("*.json"))
MACHINE = ("device", "cpu_count", "commit")  # the rest of `versions` are packages


def table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def stamps() -> list[tuple[str, dict]]:
    """The stamp of each chapter, under a link to it."""
    return [
        (f"[{number_of(path)}. {title_of(path)}](../{path.parent.name}/{path.name})",
         nbformat.read(path, as_version=4).metadata["daitir"]) for path in NOTEBOOKS
    ]  # fmt: skip


def notes() -> list[tuple[str, dict]]:
    """What stands beside each table, under the table's name."""
    found = [(path, json.loads(path.read_text("utf-8"))) for path in NOTES]
    return [(f"{path.relative_to(ROOT / 'results').with_suffix('')}", note) for path, note in found]


def seconds_of(note: dict) -> str:
    """Its seconds, the sum where parts were timed, or a dash where nothing was."""
    seconds = note.get("seconds")
    if isinstance(seconds, dict):
        seconds = sum(seconds.values())
    return "–" if seconds is None else f"{seconds:,.0f}"


def machine(versions: dict) -> str:
    return f"{versions['device']}, {versions['cpu_count']} cores"


def as_markdown() -> str:
    chapters, tables = stamps(), notes()
    counts = Counter(
        (name, version)
        for _, found in [*chapters, *tables]
        for name, version in found["versions"].items()
        if name not in MACHINE
    )
    return "\n\n".join([
        "## Chapters",
        table(("chapter", "seconds", "machine", "profile"),
              [(name, f"{s['seconds']:,.0f}", machine(s["versions"]), s["profile"])
               for name, s in chapters]),
        "## Tables",
        table(("table", "seconds", "machine", "commit"),
              [(name, seconds_of(n), machine(n["versions"]), f"`{n['versions']['commit']}`")
               for name, n in tables]),
        "## Versions",
        table(("package", "version", "made with it"),
              [(name, version, count) for (name, version), count in sorted(counts.items())]),
    ]) + "\n"  # fmt: skip


class BuildStatus(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        for path in (*NOTEBOOKS, *NOTES):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(as_markdown(), allow_section_headings=True)


def setup(app):
    app.add_directive("build-status", BuildStatus)
    return {"version": "1", "parallel_read_safe": True}

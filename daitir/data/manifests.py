"""Manifests of derived files: the format, and reading and writing it.

A folder of views holds `manifest.json`, and rewrites `NAME.json` have `NAME.manifest.json` beside
them. `book/derived_files.md` describes both. What ties a view or a caption to a dialogue is the
digest of its *source round* (`round_digests`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from daitir.common.errors import DataError
from daitir.common.files import read_json, write_json

if TYPE_CHECKING:
    from daitir.data.dialogues import Dialogue

MANIFEST = "manifest.json"
VIEWS_FORMAT = "daitir.views/1"
REWRITES_FORMAT = "daitir.rewrites/1"


class View(NamedTuple):
    """One view of a manifest; numbers count from 0."""

    dialogue: int
    round: int
    file: str  # its name in the folder
    source: str  # the digest of the round that its text is of
    index: int = 0  # among the views of the round
    raw_source: str | None = None  # of the round that the text was refined from, where it was
    prompt: str | None = None  # what it was drawn from, as the two below
    negative_prompt: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Views:
    """The manifest of a folder of views."""

    settings: Mapping[str, Any]  # all that decides what a view looks like beside prompt and seed
    source: Mapping[str, Any]  # `file`, the name of the file of dialogues; `text`, the convention
    views: Mapping[str, View]  # by the name of the file


@dataclass(frozen=True)
class Rewrites:
    """The manifest of a file of rewrites."""

    settings: Mapping[str, Any]  # the model, its prompt, and how it writes
    source: Mapping[str, Any]  # `file`, the name of the file of raw dialogues
    captions: str  # the digest of the dialogues that were written (`content_digest`)
    rounds: Sequence[Sequence[str]]  # `rounds[dialogue][round]`, the digests of the raw rounds
    counts: Mapping[str, int] = field(default_factory=dict)  # rounds, retried, faults, truncated
    faults: Sequence[Sequence] = ()  # (dialogue, round, kind) of outputs of no use


def round_digests(dialogue: Dialogue) -> list[str]:
    """The digest of every round: of the picture's name and of all that was said up to it."""
    digest = hashlib.sha256()
    digests = []
    for text in (dialogue.image, *dialogue.rounds):
        content = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b," % (len(content), content))
        digests.append(digest.hexdigest()[:32])
    return digests[1:]


def content_digest(dialogues: Sequence[Dialogue]) -> str:
    """The SHA-256 of the digests of the dialogues' last rounds, one a line."""
    lines = "".join(f"{round_digests(dialogue)[-1]}\n" for dialogue in dialogues)
    return hashlib.sha256(lines.encode()).hexdigest()


def read_views(folder: Path) -> Views | None:
    """The manifest of a folder of views, None without one, DataError where it is of no use."""
    return _read(folder / MANIFEST, VIEWS_FORMAT, _views)


def _views(content: Mapping) -> Views:
    views = {}
    for entry in content["views"]:
        view = View(**_known(View._fields, entry))
        if not all(isinstance(n, int) for n in (view.dialogue, view.round, view.index)):
            raise TypeError(f"{view.file}: dialogue, round and index are numbers")
        views[view.file] = view
    return Views(dict(content["settings"]), dict(content["source"]), views)


def write_views(folder: Path, manifest: Views) -> None:
    """Write the manifest of a folder of views, in the order of dialogues and rounds."""
    views = sorted(manifest.views.values(), key=lambda v: (v.dialogue, v.round, v.index))
    rows = [{name: v for name, v in view._asdict().items() if v is not None} for view in views]
    content = {"format": VIEWS_FORMAT} | vars(manifest) | {"views": rows}
    write_json(folder / MANIFEST, content, indent=None)


def rewrites_manifest(path: Path) -> Path:
    """Where the manifest of a file of rewrites lies: `refined.manifest.json` of `refined.json`."""
    return path.with_name(f"{path.stem}.{MANIFEST}")


def read_rewrites(path: Path) -> Rewrites | None:
    """The manifest of a file of rewrites, None where it has none; raises as `read_views` does."""
    return _read(rewrites_manifest(path), REWRITES_FORMAT, _rewrites)


def _rewrites(content: Mapping) -> Rewrites:
    manifest = Rewrites(**_known(Rewrites.__dataclass_fields__, content))
    if not all(isinstance(row, list) and row for row in manifest.rounds):
        raise TypeError("rounds without digests")
    return manifest


def write_rewrites(path: Path, manifest: Rewrites) -> None:
    """Write the manifest of a file of rewrites beside it."""
    content = {"format": REWRITES_FORMAT} | vars(manifest)
    write_json(rewrites_manifest(path), content, indent=None)


def is_manifest(path: Path, format: str) -> bool:
    """Whether a file is a sound manifest of a format."""
    try:
        return _read(path, format, dict) is not None
    except DataError:
        return False


def _known(names: Iterable[str], content: Mapping) -> dict:
    return {name: content[name] for name in names if name in content}


def _read(path: Path, format: str, build: Callable[[dict], Any]) -> Any:
    """What `build` makes of a manifest; None where there is none, or one that is not of daitir."""
    content = read_json(path) if path.is_file() else None
    told = str(content.get("format")) if isinstance(content, dict) else ""
    if not told.startswith(format.partition("/")[0] + "/"):
        return None
    if told != format:
        raise DataError(f"{path}: of the format {told}, which this version does not know")
    try:
        return build(content)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: a damaged manifest ({error!r}); remove it") from error

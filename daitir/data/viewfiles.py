"""Folders of views: which file is which view, and whether it is of the dialogue that it goes with.

A view is named `{dialogue}_{round}` (DAR's released folder) or, where a round has several,
`{dialogue}_{round}_{k}`, all numbers from 0, with the suffix of a picture; a name without k is
view 0.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from daitir.common.errors import DataError
from daitir.common.files import LOCK, check_is_folder
from daitir.data.dialogues import Dialogue, first_change
from daitir.data.gallery import IMAGE_SUFFIXES, examples, open_image
from daitir.data.manifests import MANIFEST, View, Views, read_views, round_digests, write_views

logger = logging.getLogger(__name__)

IMAGE_DESCRIPTION = 0x010E  # the tag of EXIF that holds what a view was drawn from
_DRAWN_FROM = attrgetter("source", "prompt", "negative_prompt", "seed")
_VIEW_NAME = re.compile(r"([0-9]+)_([0-9]+)(?:_([0-9]+))?")


class ViewFiles(NamedTuple):
    """What a folder holds."""

    views: list[list[list[Path]]]  # `views[dialogue][round]`, in the order of their numbers
    missing: list[tuple[int, int]]  # (dialogue, round) without a view
    strays: list[Path]  # files that are no view of these dialogues
    doubles: list[tuple[Path, Path]]  # pairs that are one view, the second left out of `views`


def list_views(folder: str | Path, dialogues: Sequence[Dialogue]) -> ViewFiles:
    """What a folder of views holds for dialogues."""
    folder = Path(folder)
    check_is_folder(folder, "views")
    views: list[list[list[Path]]] = [[[] for _ in dialogue.rounds] for dialogue in dialogues]
    files: dict[tuple[int, int, int], Path] = {}
    strays, doubles = [], []
    for path in sorted(folder.iterdir()):
        place = _place(path)
        if place is None or place[0] >= len(views) or place[1] >= len(views[place[0]]):
            if path.name not in (MANIFEST, LOCK):
                strays.append(path)
        elif files.setdefault(place, path) != path:
            doubles.append((files[place], path))
    for i, t, k in sorted(files):
        views[i][t].append(files[i, t, k])
    missing = [(i, t) for i, row in enumerate(views) for t, drawn in enumerate(row) if not drawn]
    return ViewFiles(views, missing, strays, doubles)


def _place(path: Path) -> tuple[int, int, int] | None:
    """Dialogue, round and number of a view by its name, None of other files."""
    match = _VIEW_NAME.fullmatch(path.stem)
    is_view = match and path.suffix.lower() in IMAGE_SUFFIXES
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if is_view else None


def find_views(
    folder: str | Path, dialogues: Sequence[Dialogue], *, missing: str = "error"
) -> list[list[list[Path]]]:
    """The files of the views of every round, as `views[dialogue][round]`.

    With `missing="text"` a round may have none, and a warning counts them. Raises DataError where
    views are missing otherwise, or all are, where two files are one view, and as `check_views`.
    """
    if missing not in ("error", "text"):
        raise ValueError(f"missing must be 'error' or 'text', found {missing!r}")
    listed = list_views(folder, dialogues)
    for first, second in listed.doubles:
        raise DataError(f"{folder}: {first.name} and {second.name} are one view; keep one")
    if number := len(listed.strays):
        logger.info("%s: %d files are no view of these dialogues, left out", folder, number)
    if absent := listed.missing:
        total = sum(map(len, listed.views))
        summary = (
            f"{len(absent):,} of {total:,} views are missing, in {len(dict(absent)):,} of "
            f"{len(dialogues):,} dialogues: {examples(f'{d}_{t}' for d, t in absent)}"
        )
        if missing == "error" or len(absent) == total:
            raise DataError(f"{folder}: {summary}")
        logger.warning("%s: text alone stands for them, %s", folder, summary)
    check_views(folder, dialogues, listed.views)
    return listed.views


def check_views(
    folder: str | Path,
    dialogues: Sequence[Dialogue],
    views: Sequence[Sequence[Sequence[Path]]],
    *,
    also: Sequence[Dialogue] = (),
) -> None:
    """Raises DataError for the first of `view_faults`; views without a manifest are counted."""
    if fault := next(view_faults(folder, dialogues, views, also=also), ""):
        again = "draw them again (`daitir generate --overwrite`)"
        raise DataError(f"{folder}: {fault}; {again}, or name the dialogues that they are of")
    if not (Path(folder) / MANIFEST).is_file():
        number = sum(len(files) for rounds in views for files in rounds)
        told = f"what its {number:,} views are of; they are taken as they are numbered"
        logger.warning("%s: no manifest says %s", folder, told)


def view_faults(
    folder: str | Path,
    dialogues: Sequence[Dialogue],
    views: Sequence[Sequence[Sequence[Path]]],
    *,
    also: Sequence[Dialogue] = (),
    decode: bool = False,
) -> Iterator[str]:
    """What tells that a view, of `views[dialogue][round]`, is not of what its name says.

    Views fit by the rule of `book/derived_files.md`; `also` are other texts that they may be of.
    With `decode` what a file says of itself is compared with the manifest as well.
    """
    manifest = read_views(Path(folder))
    for i, rounds in enumerate(views if manifest else ()):
        talks = (dialogues[i], *also[i : i + 1])
        texts = [[*zip_longest(round_digests(d), d.refined_from or ())] for d in talks]
        for t, path in ((t, path) for t, files in enumerate(rounds) for path in files):
            view = manifest.views.get(path.name)
            if view is None:
                yield f"{path.name} is not in its {MANIFEST}"
            elif (view.dialogue, view.round) != (i, t):
                where = f"dialogue {view.dialogue}, round {view.round}"
                yield f"{path.name} is of {where} by its {MANIFEST}"
            elif not any(_fits(view, *text[t]) for text in texts if t < len(text)):
                yield f"{path.name} is of another text or picture than dialogue {i}, round {t}"
            elif decode and not _is_as_told(path, view, manifest.settings):
                yield f"{path.name} is another drawing than its {MANIFEST} says"


def _fits(view: View, digest: str, raw_digest: str | None) -> bool:
    if digest == view.source:
        return None in (raw_digest, view.raw_source) or raw_digest == view.raw_source
    return digest == view.raw_source or raw_digest == view.source


def _is_as_told(path: Path, view: View, settings: Mapping) -> bool:
    """Whether a view that daitir drew says of itself, in its metadata, what its manifest says."""
    try:
        with open_image(path) as image:  # a pipe among the views would never end
            facts = {"negative_prompt": ""} | json.loads(image.getexif()[IMAGE_DESCRIPTION])
    except Exception:  # somebody else's view, or a damaged file, which raises nearly anything
        facts = {}
    if not {"prompt", "digest"} <= facts.keys():
        return "model" not in settings or view.prompt is None
    names = ("prompt", "seed", "negative_prompt")
    expected = {name: getattr(view, name) for name in names} | {"digest": settings.get("model")}
    expected |= {name: settings.get(name) for name in ("steps", "guidance")}
    return all(facts.get(name) == value for name, value in expected.items())


def views_of(dialogues: Sequence[Dialogue], facts: Iterable[Mapping]) -> dict[str, View]:
    """The entries of a manifest, one view a round; `facts` are the other attributes of each."""
    views, rows = {}, iter(facts)
    for i, dialogue in enumerate(dialogues):
        raw = dialogue.refined_from or [None] * len(dialogue.rounds)
        for t, (source, raw_source) in enumerate(zip(round_digests(dialogue), raw, strict=True)):
            view = View(i, t, source=source, raw_source=raw_source, **next(rows))
            views[view.file] = view
    return views


def check_redraw(folder: Path, manifest: Views, *, overwrite: bool = False) -> None:
    """Raises DataError unless the views in a folder, if any, were drawn as `manifest` tells.

    With `overwrite` it is enough that daitir drew them.
    """
    old = read_views(folder)
    another = "name another --out"
    for path in _drawn(folder):
        if not old or path.name not in old.views:
            raise DataError(
                f"{folder}: holds views of another origin ({path.name} is one); {another}"
            )
    if old and not overwrite and (change := _first_difference(old, manifest)):
        raise DataError(f"{folder}: {change}; --overwrite removes the views there, or {another}")


def begin_views(folder: Path, manifest: Views, *, overwrite: bool = False) -> None:
    """Make a folder ready for views that `check_redraw` allowed: the manifest comes first."""
    if overwrite:
        remove_views(folder)
    if old := read_views(folder):
        manifest = replace(manifest, views={**old.views, **manifest.views})
    write_views(folder, manifest)


def remove_views(folder: Path) -> None:
    """Remove the views of a folder's manifest, and then the manifest."""
    old = read_views(folder)
    for path in _drawn(folder):
        if old and path.name in old.views:
            path.unlink()
    (folder / MANIFEST).unlink(missing_ok=True)


def _drawn(folder: Path) -> list[Path]:
    """The files that have the name of a view, of whatever dialogue."""
    return [path for path in sorted(folder.glob("*")) if _place(path)]


def _first_difference(old: Views, new: Views) -> str:
    """The first setting or view in which two manifests differ; empty where none does."""
    if change := first_change(old.settings, new.settings):
        return change
    for name, view in new.views.items():
        there = old.views.get(name, view)
        if _DRAWN_FROM(there) != _DRAWN_FROM(view):
            return first_change(old.source, {"text": new.source.get("text")}) or (
                f"{name} is there with another text, picture or seed of dialogue {view.dialogue}, "
                f"round {view.round}"
            )
    return ""

"""Whether derived files, views and rewrites, belong to the dialogues that they are used with."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, read_dialogues
from daitir.data.manifests import (
    MANIFEST,
    Rewrites,
    View,
    Views,
    content_digest,
    read_rewrites,
    read_views,
    rewrites_manifest,
    round_digests,
    write_views,
)
from daitir.data.viewfiles import is_view_name

logger = logging.getLogger(__name__)

NOT_COMPARED = ("spec", "size")  # a folder may move; the size is decided by the model
IMAGE_DESCRIPTION = 0x010E  # the tag of EXIF
AGAIN = "draw them again (`daitir generate --overwrite`), or name the dialogues that they are of"


def with_sources(path: Path, dialogues: list[Dialogue]) -> list[Dialogue]:
    """The dialogues of a file with what each round was refined from, where its manifest tells.

    Raises DataError where the file is not as the manifest says that it was written.
    """
    manifest = read_rewrites(Path(path))
    if manifest is None:
        return dialogues
    lengths = [len(dialogue.rounds) for dialogue in dialogues]
    if manifest.captions != content_digest(dialogues) or lengths != list(map(len, manifest.rounds)):
        name = rewrites_manifest(Path(path)).name
        raise DataError(
            f"{path}: was changed since it was refined; refine it again (`--overwrite`), or remove "
            f"{name}, and it counts as written by hand"
        )
    pairs = zip(dialogues, manifest.rounds, strict=True)
    return [replace(dialogue, refined_from=tuple(rounds)) for dialogue, rounds in pairs]


def read_source(path: Path, raw: Path | None = None, **options) -> list[Dialogue]:
    """Dialogues of a file, each with the digests of what it was refined from where that is known.

    Args:
        raw: the raw dialogues that the file has the rewrites of; None where it has none, or only
            its manifest knows.
        options: of `read_dialogues`.

    Raises DataError where the rewrites are not those of the raw dialogues, and as `read_dialogues`
    does.
    """
    dialogues = read_dialogues(path, **options)
    if raw is None or raw == path:
        return dialogues
    return refined_from(path, dialogues, raw, read_dialogues(raw, allow_duplicate_targets=True))


def refined_from(
    path: Path, refined: Sequence[Dialogue], raw_path: Path, raw: Sequence[Dialogue]
) -> list[Dialogue]:
    """The rewrites of a file with the digests of the raw rounds. Raises as `read_source` does."""
    again = "remove it, or make it again by `daitir refine --overwrite`"
    about = [[(d.image, len(d.rounds)) for d in dialogues] for dialogues in (refined, raw)]
    if about[0] != about[1]:
        raise DataError(f"{path}: its dialogues are not those of {raw_path}; {again}")
    found = []
    for i, (caption, said) in enumerate(zip(refined, raw, strict=True)):
        digests = tuple(round_digests(said))
        known = caption.refined_from or digests
        for t, (one, other) in enumerate(zip(known, digests, strict=True)):
            if one != other:
                raise DataError(
                    f"{path}: dialogue {i}, round {t} was refined from other words than "
                    f"{raw_path} has; {again}"
                )
        found.append(replace(caption, refined_from=digests))
    return found


def views_of(dialogues: Sequence[Dialogue], facts: Iterable[Mapping]) -> dict[str, View]:
    """The entries of a manifest, one view a round.

    Args:
        facts: the other attributes of `View` for every round, dialogue after dialogue.
    """
    found, rows = {}, iter(facts)
    for i, dialogue in enumerate(dialogues):
        raw = dialogue.refined_from or [None] * len(dialogue.rounds)
        for t, (source, raw_source) in enumerate(zip(round_digests(dialogue), raw, strict=True)):
            view = View(i, t, source=source, raw_source=raw_source, **next(rows))
            found[view.file] = view
    return found


def check_views(
    folder: str | Path,
    dialogues: Sequence[Dialogue],
    views: Sequence[Sequence[Sequence[Path]] | None],
    *,
    also: Sequence[Dialogue] = (),
) -> None:
    """Raises DataError, naming the first mismatch, where views are of other dialogues.

    Views of somebody else, in a folder without a manifest, are used as they are; a warning counts
    them.

    Args:
        views: `views[dialogue][round]`, their files, as `daitir.data.viewfiles` finds them; None
        for a
            dialogue that is left out.
        also: other texts of the same dialogues that the views may be of, such as rewrites.
    """
    for fault in view_faults(folder, dialogues, views, also=also):
        raise DataError(f"{folder}: {fault}; {AGAIN}")
    number = sum(len(files) for rounds in views for files in rounds or ())
    if not (Path(folder) / MANIFEST).is_file():
        logger.warning(
            "%s: no manifest says what its %s views are of; they are taken as they are numbered",
            folder, f"{number:,}",
        )  # fmt: skip


def view_faults(
    folder: str | Path,
    dialogues: Sequence[Dialogue],
    views: Sequence[Sequence[Sequence[Path]] | None],
    *,
    also: Sequence[Dialogue] = (),
    decode: bool = False,
) -> Iterator[str]:
    """What tells that a view is not of the dialogue and round that its name says.

    A view may be of the round itself, of its rewrite while the raw dialogue is searched for, or of
    the raw round while its rewrite is. With `decode` what a file says of itself is compared with
    the manifest as well; the other arguments are those of `check_views`.
    """
    manifest = read_views(Path(folder))
    if manifest is None:
        yield from _told_faults(dialogues, views)
        return
    for i, rounds in enumerate(views):
        texts = [[*zip_longest(round_digests(talk), talk.refined_from or ())]
                 for talk in (dialogues[i], *also[i : i + 1])]  # fmt: skip
        for t, path in ((t, path) for t, files in enumerate(rounds or ()) for path in files):
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


def told_by(path: Path) -> dict | None:
    """What a view that daitir drew says of itself in its metadata; None for any other picture."""
    from daitir.data.gallery import open_image  # late: most commands read no view

    try:
        with open_image(path) as image:  # a pipe among the views would never end
            facts = json.loads(image.getexif().get(IMAGE_DESCRIPTION, ""))
    except Exception:  # a damaged file raises nearly anything, and whoever decodes it tells
        return None
    return facts if isinstance(facts, dict) and {"prompt", "digest"} <= facts.keys() else None


def _is_as_told(path: Path, view: View, settings: Mapping) -> bool:
    facts = told_by(path)
    if facts is None:  # somebody else's views say nothing of themselves
        return "model" not in settings or view.prompt is None
    expected = {
        "prompt": view.prompt, "seed": view.seed, "negative_prompt": view.negative_prompt,
        "steps": settings.get("steps"), "guidance": settings.get("guidance"),
        "digest": settings.get("model"),
    }  # fmt: skip
    facts = {"negative_prompt": ""} | facts
    return all(facts.get(name) == value for name, value in expected.items())


def _told_faults(
    dialogues: Sequence[Dialogue], views: Sequence[Sequence[Sequence[Path]]]
) -> Iterator[str]:
    """What views that an earlier daitir drew without a manifest say of themselves."""
    files = [
        (i, t, path)
        for i, rounds in enumerate(views)
        for t, paths in enumerate(rounds or ())
        for path in paths
    ]
    if not files or told_by(files[0][2]) is None:
        return
    known: dict[str, set[tuple[int, int]]] = {}
    for i, dialogue in enumerate(dialogues):
        joined = hashlib.sha256()
        for t, text in enumerate(dialogue.rounds):
            joined.update(f"{', ' * (t > 0)}{text}".encode("utf-8", "surrogatepass"))
            for digest in (joined.hexdigest(), _digest_of(text)):
                known.setdefault(digest, set()).add((i, t))
    first, settings = "", None
    for i, t, path in files:
        facts = told_by(path) or {}
        drawn = {name: facts.get(name) for name in ("steps", "guidance", "digest")}
        first, settings = (first or path.name), settings or drawn
        for name, value in drawn.items():
            if value != settings[name]:
                yield f"{path.name} was drawn with {name} {value}, {first} with {settings[name]}"
                break
        places = known.get(_digest_of(str(facts.get("prompt"))))
        if places and (i, t) not in places:
            other = min(places)
            yield f"{path.name} was drawn for the text of dialogue {other[0]}, round {other[1]}"


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_refined(path: Path, manifest: Rewrites) -> None:
    """Raises DataError unless a file has the rewrites that a manifest is about to be written for.

    What is compared are settings, raw rounds, and whether the captions are as they were written.
    """
    kept = read_rewrites(path)
    read_dialogues(path, allow_duplicate_targets=True)
    fault = "has no manifest" if kept is None else difference_of(kept.settings, manifest.settings)
    if not fault:
        places = zip_longest(kept.rounds, manifest.rounds, fillvalue=())
        fault = next(
            (
                f"holds rewrites of another dialogue {i}, round {t}"
                for i, rows in enumerate(places)
                for t, (there, now) in enumerate(zip_longest(*rows))
                if there != now
            ),
            "",
        )
    if fault:
        raise DataError(f"{path}: {fault}; --overwrite refines anew, or name another --out")


def check_redraw(folder: Path, manifest: Views, *, overwrite: bool = False) -> None:
    """Raises DataError unless views may be drawn into a folder.

    They may where it holds none, where those that it holds were drawn with the same settings from
    the same rounds, so that a run goes on or is extended, and, with `overwrite`, where daitir drew
    them.
    """
    kept = read_views(folder)
    others = [path for path in _named_as_views(folder)
              if not (kept and path.name in kept.views) and not (not kept and told_by(path))]
    if others:
        raise DataError(
            f"{folder}: holds views of another origin ({others[0].name} is one); name another --out"
        )
    if overwrite:
        return
    fault = ""
    if kept is not None:
        fault = _difference(kept, manifest)
    elif number := len(_named_as_views(folder)):
        fault = f"holds {number:,} views of an earlier daitir, and no {MANIFEST}"
    if fault:
        raise DataError(
            f"{folder}: {fault}; --overwrite removes the views there, or name another --out"
        )


def begin_views(folder: Path, manifest: Views, *, overwrite: bool = False) -> None:
    """Make a folder ready for views that `check_redraw` allowed: the manifest comes first.

    With `overwrite` the views that are there are removed before, so that none of them is ever
    listed as one of the new ones.
    """
    if overwrite:
        remove_views(folder)
    kept = read_views(folder)
    if kept is not None:
        manifest = replace(manifest, views={**kept.views, **manifest.views})
    write_views(folder, manifest)


def remove_views(folder: Path) -> None:
    """Remove the views that daitir drew into a folder, and then their manifest."""
    kept = read_views(folder)
    for path in _named_as_views(folder):
        if (path.name in kept.views) if kept else told_by(path):
            path.unlink()
    (folder / MANIFEST).unlink(missing_ok=True)


def difference_of(kept: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first setting that differs, as `steps is 8 there and 4 now`; empty where none does."""
    for name in new:
        if name not in NOT_COMPARED and kept.get(name) != new[name]:
            there, now = (str(value)[:40] for value in (kept.get(name), new[name]))
            return f"{name} is {there} there and {now} now"
    return ""


def _difference(kept: Views, new: Views) -> str:
    if told := difference_of(kept.settings, new.settings):
        return told
    for name, view in new.views.items():
        there = kept.views.get(name, view)
        for what in ("source", "prompt", "negative_prompt", "seed"):
            if getattr(there, what) != getattr(view, what):
                text = {"text": new.source.get("text")}
                what = "text or picture" if what == "source" else what
                return difference_of(kept.source, text) or (
                    f"{name} is there with another {what} of dialogue {view.dialogue}, round "
                    f"{view.round}"
                )
    return ""


def _named_as_views(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*")) if is_view_name(path)]

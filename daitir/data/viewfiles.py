"""The files of views: which file is which view of which round of which dialogue."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from daitir.common.errors import DataError
from daitir.common.files import LOCK, check_folder
from daitir.data.gallery import IMAGE_SUFFIXES, examples
from daitir.data.manifests import MANIFEST

logger = logging.getLogger(__name__)

_VIEW_NAME = re.compile(r"([0-9]+)_([0-9]+)(?:_([0-9]+))?")


class ViewFiles(NamedTuple):
    """What a folder holds.

    `views[dialogue][round]` are the files of a round's views, in the order of their numbers;
    `strays` are files that are no view of these dialogues, `doubles` pairs of files with one name
    but for the suffix or leading zeros, the second left out of `views`.
    """

    views: list[list[list[Path]]]
    strays: list[Path]
    doubles: list[tuple[Path, Path]]

    def missing(self) -> list[tuple[int, int]]:
        """The rounds without a view, as (dialogue, round)."""
        return [
            (dialogue, t)
            for dialogue, rounds in enumerate(self.views)
            for t, files in enumerate(rounds)
            if not files
        ]


def is_view_name(path: Path) -> bool:
    """Whether a file has the name of a view, of whatever dialogue."""
    return path.suffix.lower() in IMAGE_SUFFIXES and bool(_VIEW_NAME.fullmatch(path.stem))


def list_views(folder: str | Path, lengths: Sequence[int]) -> ViewFiles:
    """What a folder of views holds for dialogues of `lengths` rounds.

    A view is named `{dialogue}_{round}` (DAR's released folder) or, where a round has several,
    `{dialogue}_{round}_{k}`, all numbers from 0, with the suffix of a picture
    (`daitir.data.gallery.IMAGE_SUFFIXES`); a name without k is view 0. Raises DataError when the
    folder does not exist.
    """
    folder = Path(folder)
    check_folder(folder, "views")
    files: dict[tuple[int, int, int], Path] = {}
    strays, doubles = [], []
    for path in sorted(folder.iterdir()):
        if path.name in (MANIFEST, LOCK):
            continue
        match = _VIEW_NAME.fullmatch(path.stem)
        key = (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None
        if (
            key is None
            or path.suffix.lower() not in IMAGE_SUFFIXES
            or key[0] >= len(lengths)
            or key[1] >= lengths[key[0]]
        ):
            strays.append(path)
        elif key in files:
            doubles.append((files[key], path))
        else:
            files[key] = path
    views: list[list[list[Path]]] = [[[] for _ in range(length)] for length in lengths]
    for dialogue, t, k in sorted(files):
        views[dialogue][t].append(files[dialogue, t, k])
    return ViewFiles(views, strays, doubles)


def find_views(
    folder: str | Path, lengths: Sequence[int], *, missing: str = "error"
) -> list[list[list[Path]] | None]:
    """The files of the views of every round, as `views[dialogue][round]`, named as in `list_views`.

    `lengths` has the number of rounds of each dialogue; rounds may have different numbers of
    views. Files of other names, and views beyond `lengths`, are counted in the log.

    Where a round has no view: with `missing="error"` raises DataError with the number of such
    rounds and the first of them; with `missing="exclude"` the dialogue's entry is None and a
    warning counts those dialogues; with `missing="text"` the round's list is empty, for the caller
    to do with text alone, and a warning counts those rounds (never a stand-in view). Raises
    DataError too when the folder does not exist, when two files are one view, or when nothing is
    left: no dialogue with all its views, with `missing="text"` no view at all.
    """
    if missing not in ("error", "exclude", "text"):
        raise ValueError(f"missing must be 'error', 'exclude' or 'text', found {missing!r}")
    found = list_views(folder, lengths)
    if found.doubles:
        first, second = found.doubles[0]
        dialogue, t = first.stem.split("_")[:2]
        raise DataError(
            f"{folder}: {first.name} and {second.name} are both the view of dialogue "
            f"{int(dialogue)}, round {int(t)}; keep one"
        )
    if found.strays:
        number = len(found.strays)
        logger.info("%s: %d files are no view of these dialogues, left out", folder, number)
    absent = found.missing()
    gaps = {dialogue for dialogue, _ in absent}
    if absent:
        summary = (
            f"{len(absent):,} of {sum(lengths):,} views are missing, in {len(gaps):,} of "
            f"{len(lengths):,} dialogues: {examples(f'{d}_{t}' for d, t in absent)}"
        )
        nothing_left = len(absent) == sum(lengths) or (
            missing == "exclude" and len(gaps) == len(lengths)
        )
        if missing == "error" or nothing_left:
            raise DataError(f"{folder}: {summary}")
        if missing == "text":
            logger.warning("%s: text alone stands for them, %s", folder, summary)
            return list(found.views)
        logger.warning("%s: those dialogues are excluded, %s", folder, summary)
    return [None if d in gaps else rounds for d, rounds in enumerate(found.views)]

"""Views: finding the generated images that belong to each round of each dialogue."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from daitir.errors import DataError
from daitir.gallery import IMAGE_SUFFIXES, examples

logger = logging.getLogger(__name__)

_VIEW_NAME = re.compile(r"([0-9]+)_([0-9]+)")


def find_views(
    folder: str | Path, lengths: Sequence[int], *, missing: str = "error"
) -> list[list[Path] | None]:
    """The view files of every round, as `views[dialogue][round]`.

    A view is named `{dialogue}_{round}` with the suffix .jpg, .jpeg, .webp or .png, both numbers
    from 0 (DAR's released folder). `lengths` has the number of rounds of each dialogue. Files of
    other names, and views beyond `lengths`, are counted in the log.

    Where a dialogue lacks a view: with `missing="error"` raises DataError with the number of
    missing views and the first of them; with `missing="exclude"` the dialogue's entry is None and
    a warning counts those dialogues (never a stand-in view). Raises DataError too when the folder
    does not exist, when two files are the view of one round, or when no dialogue has all its views.
    """
    if missing not in ("error", "exclude"):
        raise ValueError(f"missing must be 'error' or 'exclude', found {missing!r}")
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of views")
    files: dict[tuple[int, int], Path] = {}
    strays = 0
    for path in sorted(folder.iterdir()):
        match = _VIEW_NAME.fullmatch(path.stem)
        key = (int(match[1]), int(match[2])) if match else None
        if (
            key is None
            or path.suffix.lower() not in IMAGE_SUFFIXES
            or key[0] >= len(lengths)
            or key[1] >= lengths[key[0]]
        ):
            strays += 1
        elif key in files:
            raise DataError(
                f"{folder}: {files[key].name} and {path.name} are both the view of dialogue "
                f"{key[0]}, round {key[1]}; keep one"
            )
        else:
            files[key] = path
    if strays:
        logger.info("%s: %d files are no view of these dialogues, left out", folder, strays)

    views: list[list[Path] | None] = []
    absent = []
    for dialogue, length in enumerate(lengths):
        gaps = [(dialogue, t) for t in range(length) if (dialogue, t) not in files]
        absent += gaps
        views.append(None if gaps else [files[dialogue, t] for t in range(length)])
    if absent:
        incomplete = sum(entry is None for entry in views)
        summary = (
            f"{len(absent):,} of {sum(lengths):,} views are missing, in {incomplete:,} of "
            f"{len(lengths):,} dialogues: {examples(f'{d}_{t}' for d, t in absent)}"
        )
        if missing == "error" or incomplete == len(lengths):
            raise DataError(f"{folder}: {summary}")
        logger.warning("%s: those dialogues are excluded, %s", folder, summary)
    return views

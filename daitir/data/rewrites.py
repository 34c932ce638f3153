"""Whether rewrites belong to the raw dialogues that they are used with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, read_dialogues
from daitir.data.manifests import Rewrites, read_rewrites, round_digests

NOT_COMPARED = ("spec", "size")  # a folder may move; the size is decided by the model


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
    traced = []
    for i, (captions, said) in enumerate(zip(refined, raw, strict=True)):
        digests = tuple(round_digests(said))
        known = captions.refined_from or digests
        for t, (one, other) in enumerate(zip(known, digests, strict=True)):
            if one != other:
                raise DataError(
                    f"{path}: dialogue {i}, round {t} was refined from other words than "
                    f"{raw_path} has; {again}"
                )
        traced.append(replace(captions, refined_from=digests))
    return traced


def check_refined(path: Path, manifest: Rewrites) -> None:
    """Raises DataError unless a file has the rewrites that a manifest is about to be written for.

    What is compared are settings, raw rounds, and whether the captions are as they were written.
    """
    kept = read_rewrites(path)
    read_dialogues(path, allow_duplicate_targets=True)
    fault = "has no manifest" if kept is None else first_change(kept.settings, manifest.settings)
    if not fault:
        pairs = enumerate(zip_longest(kept.rounds, manifest.rounds, fillvalue=()))
        changed = (
            (i, t)
            for i, rounds in pairs
            for t, (there, now) in enumerate(zip_longest(*rounds))
            if there != now
        )
        fault = next((f"holds rewrites of another dialogue {i}, round {t}" for i, t in changed), "")
    if fault:
        raise DataError(f"{path}: {fault}; --overwrite refines anew, or name another --out")


def first_change(kept: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first setting that differs, as `steps is 8 there and 4 now`; empty where none does.

    >>> first_change({"steps": 8}, {"steps": 4})
    'steps is 8 there and 4 now'
    """
    for name in new:
        if name not in NOT_COMPARED and kept.get(name) != new[name]:
            there, now = (str(value)[:40] for value in (kept.get(name), new[name]))
            return f"{name} is {there} there and {now} now"
    return ""

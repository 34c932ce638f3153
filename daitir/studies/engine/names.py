"""How conditions name what they are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from daitir.common.errors import DataError

T = TypeVar("T")


def split_name(name: str) -> tuple[str, str]:
    """A name and its argument: `guidance_4` is `guidance` with `4`, `placebo:kept` with `kept`.

    >>> split_name("guidance_4"), split_name("placebo:kept"), split_name("remembered_0.5:drawn")
    (('guidance', '4'), ('placebo', 'kept'), ('remembered', '0.5:drawn'))
    """
    match = re.fullmatch(r"([a-z_]+?)(?:_(\d.*)|:(.*))?", name)
    if match is None:
        raise DataError(f"{name!r} is no name with a number or a colon behind it")
    return match[1], match[2] or match[3] or ""


def named(entries: Mapping[str, T], name: str, what: str) -> T:
    """The entry of a name. Raises DataError for an unknown one, with those that there are."""
    if name not in entries:
        raise DataError(f"unknown {what} {name!r}; there are {', '.join(entries)}")
    return entries[name]

"""Names of pictures, as dialogues and galleries hold them."""

import ntpath
import posixpath
import unicodedata
from functools import cached_property

from daitir.common.errors import DataError


def image_name(name: object) -> str:
    """`name` in its normal form, as a relative path with forward slashes; else DataError."""
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"the image path must be a non-empty string, found {quoted(name)}")
    if "\\" in name or "\0" in name or not is_utf8(name):
        raise DataError(
            f"the image path {quoted(name)} holds a backslash or a character that no path may "
            "hold; write it with forward slashes"
        )
    normal = posixpath.normpath(name)
    if normal.startswith("/") or ntpath.splitdrive(normal)[0]:
        raise DataError(
            f"the image path {quoted(name)} is absolute; make it relative to the image folder"
        )
    if normal.strip() in ("", ".", "..") or normal.startswith("../"):
        raise DataError(f"the image path {quoted(name)} names no file in the image folder")
    return normal


class KnownNames(frozenset[str]):
    """Names of pictures, which tell of another name which of them it nearly is."""

    @cached_property
    def _by_likeness(self) -> dict[str, str]:
        return {_likeness(name): name for name in sorted(self)}

    def hint(self, name: str) -> str:
        """The end of a message about `name`, empty where no name is like it."""
        other = self._by_likeness.get(_likeness(name), name)
        alike = f"{ascii(other)} differs from it in capitals or Unicode form (NFC, NFD)"
        return "" if other == name else f"; {alike}, write both alike"


def _likeness(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair cannot."""
    return text.encode("utf-8", "ignore").decode("utf-8") == text


def quoted(value: object, limit: int = 60) -> str:
    """`value` on one line, as an error message quotes it."""
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"

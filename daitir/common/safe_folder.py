"""Joining a folder and names that come from a file, which must not lead out of it."""

from __future__ import annotations

import ntpath
import os
import posixpath
import re
import stat
from pathlib import Path

from daitir.common.errors import DataError
from daitir.common.files import reason_of

_HUB_REPOSITORY = re.compile(r"(?:models|datasets|spaces)--.")  # a folder of a hub's cache


class SafeFolder:
    """A folder, and the files in it that are named by names which come from a file.

    A link may lead to what lies in the folder. Where the folder lies in a snapshot of a hub's
    cache, whose files are all links, it may also lead to what lies in that snapshot and in the
    `blobs/` of its repository. A link that leads elsewhere is refused.

    Each folder on the way is resolved once, so that joining many names is quick; an object is
    for one pass over them, as links may change.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._places = _places(Path(os.path.realpath(folder)))
        self._is_inside: dict[str, bool] = {}  # of a folder on the way

    def join(self, name: str) -> Path:
        """`folder / name`.

        Raises DataError for absolute names, `..` and links that leave the folder, backslashes,
        drive letters, NUL, and the folder itself.

        >>> SafeFolder("images").join("unlabeled/0001.jpg").as_posix()
        'images/unlabeled/0001.jpg'
        >>> SafeFolder("images").join("../secret.jpg")
        Traceback (most recent call last):
        daitir.common.errors.DataError: '../secret.jpg' does not lie inside images; ...
        """
        normal = posixpath.normpath(name)
        # A backslash or a drive letter is harmless here but leaves the folder on another system.
        is_foreign = "\\" in name or "\0" in name or ntpath.splitdrive(name)[0]
        if is_foreign or normal in (".", "..") or normal.startswith(("/", "../")):
            raise DataError(
                f"{name!r} does not lie inside {self.folder}; use a relative name in it"
            )
        path, parent = self.folder / name, posixpath.dirname(name)
        try:
            if name == normal and not _is_link(path):
                if parent not in self._is_inside:
                    self._is_inside[parent] = self._leads_inside(self.folder / parent)
                is_inside = self._is_inside[parent]
            else:
                is_inside = self._leads_inside(path)
        except (OSError, ValueError) as error:  # the latter for names that no file can have
            reason = reason_of(error)
            raise DataError(f"{name!r} in {self.folder} cannot be read ({reason})") from error
        if not is_inside:
            raise DataError(
                f"{name!r} is or goes by a link, and does not lie inside {self.folder}; put a "
                "copy there instead, as `cp -RL` makes it"
            )
        return path

    def _leads_inside(self, path: Path) -> bool:
        target = Path(os.path.realpath(path))
        if target.is_symlink():  # links that lead to one another
            return False
        return any(target.is_relative_to(place) for place in self._places)


def _places(root: Path) -> tuple[Path, ...]:
    """Where the links of a folder may lead, the folder being resolved."""
    for place in (root, *root.parents):
        repository = place.parent.parent
        if place.parent.name == "snapshots" and _HUB_REPOSITORY.match(repository.name):
            return place, repository / "blobs"
    return (root,)


def _is_link(path: Path) -> bool:
    """Unlike `Path.is_symlink`, raises for a name that no file can have."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False

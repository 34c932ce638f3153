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
    """A folder, and the files in it whose names come from a file.

    A link may lead to what lies in the folder. Where the folder lies in a snapshot of a hub's
    cache, whose files are all links, it may also lead to what lies in that snapshot and in the
    `blobs/` of its repository. A link that leads elsewhere is refused.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        root = Path(os.path.realpath(folder))
        self._places: tuple[Path, ...] = (root,)
        for place in (root, *root.parents):
            repository = place.parent.parent
            if place.parent.name == "snapshots" and _HUB_REPOSITORY.match(repository.name):
                self._places = (place, repository / "blobs")
                break

    def join(self, name: str) -> Path:
        """`folder / name`. Raises DataError where that does not lie inside, on any system.

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
        path = self.folder / name
        try:
            target = os.path.realpath(path)
            is_circle = stat.S_ISLNK(os.lstat(target).st_mode)  # links that lead to one another
        except (FileNotFoundError, NotADirectoryError):
            is_circle = False
        except (OSError, ValueError) as error:  # the latter for names that no file can have
            reason = reason_of(error)
            raise DataError(f"{name!r} in {self.folder} cannot be read ({reason})") from error
        if is_circle or not any(Path(target).is_relative_to(place) for place in self._places):
            raise DataError(
                f"{name!r} is or goes by a link, and does not lie inside {self.folder}; put a "
                "copy there instead, as `cp -RL` makes it"
            )
        return path

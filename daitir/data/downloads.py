"""Fetching and unpacking large files: a broken run goes on, and what was fetched is checked.

Beside the files lie `SHA256SUMS`, checksums of those that have no published one, as the program
`sha256sum` writes and checks them; `NAME.part`, which is not whole yet; and `NAME.wrong`, which is
not what it should be.
"""

import hashlib
import http.client
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from daitir import __version__
from daitir.common.errors import DataError
from daitir.common.files import SafeFolder, atomic_write, disk_is_full, locked, open_regular

SUMS = "SHA256SUMS"
DOWNLOAD_TIMEOUT = 60.0  # seconds without a byte
TRIES, PAUSE = 5, 1.0  # attempts that bring nothing; seconds before the second, then twice as long
_CHUNK = 1 << 20
_SUM = re.compile(rb"([0-9a-fA-F]{64}) [ *](.+)")  # as sha256sum writes it
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # what a server says that may do better soon


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch; size and checksum are None where nobody tells."""

    name: str  # on the disk
    url: str
    size: int | None = None  # bytes
    checksum: str | None = None  # `md5:` or `sha256:` and the hexadecimal digits
    origin: str = ""  # who tells the checksum

    def at(self, mirror: str | None) -> str:
        """Its URL, or that of the same name below another one."""
        return self.url if mirror is None else f"{mirror.rstrip('/')}/{self.name}"


def remote_size(file: RemoteFile, url: str, *, must_reach: bool = True) -> int | None:
    """The bytes of a file, None where nobody tells; DataError where `url` has not this file."""
    size = None
    try:
        with urlopen(_request(url, method="HEAD"), timeout=DOWNLOAD_TIMEOUT) as response:
            told = response.headers.get("Content-Length", "")
            size = int(told) if told.isdigit() else None
    except (OSError, http.client.HTTPException) as error:
        is_there = isinstance(error, HTTPError) and error.code not in (404, 410)
        if must_reach and not is_there:  # some servers answer nothing but GET
            raise _refused(url, error) from error
    if None not in (size, file.size) and size != file.size:
        raise DataError(f"{url}: has {size:,} bytes, not {file.size:,}; it is another file")
    return size or file.size


def check_space(folder: Path, needed: int) -> int:
    """Raises DataError unless the disk of `folder` has `needed` bytes; returns how many it has."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        room = f"needs {gigabytes(needed)}, and {gigabytes(free)} are free"
        raise DataError(f"{folder}: {room}; free some space or name another folder")
    return free


def gigabytes(size: int) -> str:
    """A number of bytes for people, such as 20.1GB."""
    return tqdm.format_sizeof(size, "B", 1000)


def fetch(
    file: RemoteFile, folder: Path, *, mirror: str | None = None, progress: bool = False
) -> Path:
    """The path of a file below `folder`, fetched unless it is there, and checked in either case."""
    url, path = file.at(mirror), folder / file.name
    part = path.with_name(f"{file.name}.part")
    with locked(folder):  # one of two processes fetches, the other finds the file
        is_there = path.exists()
        if not is_there:
            _download(url, part, progress)
        verify(path if is_there else part, file, sums=folder / SUMS)
        if not is_there:
            part.rename(path)
    return path


def verify(path: Path, file: RemoteFile, *, sums: Path | None = None) -> None:
    """Raises DataError where `path` is not `file`, by its size and checksum.

    With `sums` the file is one of ours: its SHA-256 is kept there or compared with what is, where
    nobody tells a checksum, and a wrong file is set aside.
    """
    size = path.stat().st_size
    kind, _, published = (file.checksum or "sha256:").partition(":")
    known = _read_sums(sums) if sums and not published else {}
    wanted = published or known.get(file.name)
    if file.size not in (None, size):
        wrong = f"it has {size:,} bytes, not {file.size:,}"
    else:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.new(kind, usedforsecurity=False))
        actual = digest.hexdigest()
        if sums and not wanted:
            with atomic_write(sums) as temporary:
                lines = (known | {file.name: actual}).items()
                temporary.write_text("".join(f"{digest}  {name}\n" for name, digest in lines))
        if actual == (wanted or actual):
            return
        wrong = f"its {kind.upper()} is {actual}, not {wanted} ({file.origin or sums})"
    if not sums:
        raise DataError(f"{path}: is not {file.name} as published: {wrong}")
    aside = sums.parent / f"{file.name}.wrong"
    path.replace(aside)
    raise DataError(
        f"{sums.parent / file.name}: {wrong}; set aside as {aside.name}. The same command fetches "
        "it again, --mirror URL from elsewhere"
    )


def _download(url: str, part: Path, progress: bool) -> None:
    """Bring `part` to its full length, in as many attempts as bring something."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _receive(url, part, before, progress)
        except (OSError, http.client.HTTPException) as error:
            if disk_is_full(error):
                again = "free some space, then the same command goes on"
                raise DataError(f"{part}: the disk is full; {again}") from error
            code, reason = getattr(error, "code", None), _reason(error)
            if code == 416 and before:  # nothing is left, or ours is of another file
                if error.headers.get("Content-Range") == f"bytes */{before}":
                    return
                part.unlink()
            elif code and code not in _PASSING:
                raise _refused(url, error) from error
        now = part.stat().st_size if part.exists() else 0
        failures = 0 if now > before else failures + 1
        if failures == TRIES:
            raise DataError(
                f"{url}: broke off after {gigabytes(now)} ({reason}); what is there is kept, the "
                "same command goes on"
            )
        time.sleep(PAUSE * 2**failures)


def _receive(url: str, part: Path, start: int, progress: bool) -> None:
    """One transfer from byte `start` on, or from 0 where the server wants it so."""
    request = _request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urlopen(request, timeout=DOWNLOAD_TIMEOUT) as response:
        ranged = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        start = start if response.status == 206 and ranged else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        told = {"total": total, "initial": start, "desc": part.stem, "disable": not progress}
        with (
            part.open("ab" if start else "wb") as file,
            tqdm.wrapattr(file, "write", **told) as out,
        ):
            shutil.copyfileobj(response, out, _CHUNK)
    if total is not None and part.stat().st_size < total:
        raise ConnectionError("the connection closed")


def _request(url: str, method: str = "GET") -> Request:
    return Request(url, method=method, headers={"User-Agent": f"daitir/{__version__}"})


def _refused(url: str, error: Exception) -> DataError:
    what = "the server refuses it" if isinstance(error, HTTPError) else "cannot be reached"
    return DataError(
        f"{url}: {what} ({_reason(error)}); name another place with --mirror URL, or a folder that "
        "has it with --from DIR"
    )


def _reason(error: Exception) -> str:
    reason = str(getattr(error, "reason", None) or error) or type(error).__name__
    return f"{error.code} {reason}" if isinstance(error, HTTPError) else reason


def _read_sums(path: Path) -> dict[str, str]:
    """Digests by name. Raises DataError where the file is damaged."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    matches = [_SUM.fullmatch(line) for line in lines if line.strip()]
    if None in matches:
        advice = "remove SHA256SUMS, and the files are taken for what they are now"
        raise DataError(f"{path}: holds a line that is no checksum of a file; {advice}")
    return {os.fsdecode(match[2]): match[1].decode().lower() for match in matches}


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file to read from. Any exception that has no number of the system tells of damage."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except DataError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise DataError(f"{path}: no sound zip file ({error}); remove it") from error


def unpack(path: Path, folder: Path, *, progress: bool = False) -> None:
    """Unpack the files of a zip file into a folder; those that are there stay."""
    with opened_zip(path) as archive:
        safe, todo = SafeFolder(folder), []
        for entry in (entry for entry in archive.infolist() if not entry.is_dir()):
            place = safe.join(entry.filename)
            if not place.is_file() or place.stat().st_size != entry.file_size:
                todo.append((entry, place))
        check_space(folder, sum(entry.file_size for entry, _ in todo))
        for entry, place in tqdm(todo, desc="unpacking", unit="picture", disable=not progress):
            with atomic_write(place, sync=False) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(archive.open(entry), file)

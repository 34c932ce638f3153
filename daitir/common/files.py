"""Files: written whole or not at all, read with care, checked before anything long begins.

`SafeFolder` joins a folder and names that come from a file, which must not lead out of it.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import logging
import lzma
import ntpath
import os
import posixpath
import re
import secrets
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from daitir.common.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Limits that no real file comes near, so that a wrong or a hostile one is refused in a line.
MAX_BYTES = 2**28  # of a JSON file, unpacked; its text takes up to four times as much memory
MAX_VALUES = 10_000_000  # of a JSON file; its commas and brackets, a bound that is quick to count
LOCK = ".lock"  # in a folder that a run holds; one that was killed leaves it, unlocked
# The launchers that accelerate knows number the processes of a run in these variables.
_PROCESS_NUMBERS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
# A folder of a hub's cache: the repository, and one of its snapshots.
_SNAPSHOT = re.compile(r"(.*/(?:models|datasets|spaces)--[^/]+)/snapshots/[^/]+")
_claims: set[Path] = set()  # the folders that this process holds for a run


@contextmanager
def atomic_write(path: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, of the same suffix, that becomes `path` in the end.

    With `sync` the content is on the disk before it gets its name, so that a power cut leaves the
    old file or the new one; thousands of files that can be made again go without. Raises DataError
    where the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if disk_is_full(error):
            raise DataError(f"{path}: not written, the disk is full; free some space") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def disk_is_full(error: Exception) -> bool:
    """Whether an error of a writer says that no space is left."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)  # safetensors hides the number in its text


def write_json(path: str | os.PathLike, content: Any, *, indent: int | None = 1) -> None:
    """Write a value as a JSON file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """The content of a UTF-8 JSON file, a byte-order mark or not; unpacked where it ends in .gz."""
    content = read_regular(path, MAX_BYTES)
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise DataError(f"{path}: holds more than {MAX_VALUES:,} values; split it")
    return parse_json(path, content)


def parse_json(
    path: str | os.PathLike, content: bytes, hook: Callable[[dict], Any] | None = None
) -> Any:
    """The value that the bytes of the JSON file `path` hold; `hook` may replace each object."""
    try:
        return json.loads(content.decode("utf-8-sig"), object_hook=hook)
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 text (byte {error.start}); save the file as UTF-8"
    except json.JSONDecodeError as error:
        fault = f"not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
    except (RecursionError, MemoryError):
        fault = "the JSON is nested too deeply or too large to read"
    except ValueError as error:  # a number of thousands of digits
        fault = f"the JSON cannot be read ({error})"
    raise DataError(f"{path}: {fault}")


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file to be read; a pipe or a device, which may never end, is a DataError."""

    def opener(name: str, flags: int) -> int:  # at once, where a pipe would wait for its writer
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    try:
        file = open(path, "rb", opener=opener)  # noqa: SIM115, the caller closes it
    except (OSError, ValueError) as error:  # the latter for names that no file can have
        raise DataError(f"{path}: cannot be read ({reason_of(error)})") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(f"{path}: cannot be read (a pipe or a device, no regular file)")
    return file


def reason_of(error: Exception) -> object:
    """What went wrong, without the name of the file that an OSError repeats."""
    return getattr(error, "strerror", None) or error


def read_regular(path: str | os.PathLike, limit: int) -> bytes:
    """A regular file of at most `limit` bytes, unpacked where it ends in .gz; else DataError."""
    with open_regular(path) as file:
        source = gzip.GzipFile(fileobj=file) if Path(path).suffix == ".gz" else file
        try:
            content = source.read(limit + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: no sound gzip file ({error})") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({reason_of(error)})") from error
    if len(content) > limit:
        raise DataError(f"{path}: holds more than {limit:,} bytes, the most that is read; split it")
    return content


class SafeFolder:
    """A folder, and the files in it whose names come from a file.

    A link may lead to what lies in the folder or, where that lies in a snapshot of a hub's cache,
    in that snapshot and in the `blobs/` of its repository. Other links are refused.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder, root = Path(folder), Path(os.path.realpath(folder))
        match = _SNAPSHOT.match(root.as_posix())
        self._places = (Path(match[0]), Path(match[1], "blobs")) if match else (root,)

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
            where = f"inside {self.folder}; use a relative name in it"
            raise DataError(f"{name!r} does not lie {where}")
        path = self.folder / name
        try:
            target = Path(os.path.realpath(path))
            is_circle = stat.S_ISLNK(target.lstat().st_mode)  # links that lead to one another
        except (FileNotFoundError, NotADirectoryError):
            is_circle = False
        except (OSError, ValueError) as error:  # the latter for names that no file can have
            reason = reason_of(error)
            raise DataError(f"{name!r} in {self.folder} cannot be read ({reason})") from error
        if is_circle or not any(target.is_relative_to(place) for place in self._places):
            raise DataError(
                f"{name!r} is or goes by a link, and does not lie inside {self.folder}; put a "
                "copy there instead, as `cp -RL` makes it"
            )
        return path


def read_tensors(
    path: Path, *, then: str = "it is made again"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; `then` says what follows the removal of a damaged one."""
    from safetensors import SafetensorError, safe_open  # late: it loads torch

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it, and {then}") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a NumPy archive (`.npz`) without pickled objects; equal arrays give equal files."""
    import numpy as np  # late, as commands are to start at once

    # np.savez_compressed would deflate, which takes 1.8 times the space of ranks.
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # without the time
            entry.compress_type = zipfile.ZIP_LZMA
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive. Raises ValueError where it is damaged."""
    import numpy as np  # late, as above

    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (EOFError, zipfile.BadZipFile, lzma.LZMAError, TypeError) as error:
        raise ValueError(f"damaged: {error}") from error


def weights_digest(model: nn.Module) -> str:
    """A hash of the weights of a torch module, by their names and values, wherever they lie."""
    import torch  # late: commands that read no weights start without it

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def begins_with(path: Path, header: str) -> bool:
    """Whether a file begins with these words."""
    wanted = header.encode()
    with path.open("rb") as file:
        return file.read(len(wanted)) == wanted


def check_is_folder(path: Path, what: str) -> None:
    """Raises DataError, saying what it should hold, unless there is a folder at `path`."""
    if path.is_file():
        raise DataError(f"{path}: is a file; name the folder of {what} that it lies in")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of {what}")


def check_output(
    path: str | os.PathLike,
    *,
    inputs: Iterable[str | os.PathLike | None] = (),
    is_ours: Callable[[Path], bool] | None = None,
    overwrite: bool | None = None,
) -> None:
    """Raises DataError unless a file may be written at `path`, by `book/derived_files.md`.

    `inputs` are what the command reads. A file that `is_ours` does not take for the command's own
    is replaced with `overwrite` alone, which is None where the command has no such option.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "pipe or a device"
        raise DataError(f"{path}: is a {kind}, which is not replaced; name another file")
    for given in [Path(given) for given in inputs if given is not None]:
        if path.exists() and given.exists() and path.samefile(given):
            raise DataError(f"{path}: is read by this command too ({given}); name another file")
        if given.is_dir() and path.resolve().is_relative_to(given.resolve()):
            raise DataError(f"{path}: lies in {given}, which this command reads; name another file")
    if is_ours and path.exists() and not overwrite and not is_ours(path):
        other = "another file" if overwrite is None else "another file, or add --overwrite"
        raise DataError(f"{path}: exists, and this command did not write it; name {other}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def check_results(path: Path) -> None:
    """As `check_output` for a table and the notes beside it, which `write_results` writes."""
    notes = path.with_suffix(".json")
    if notes == path:
        raise DataError(f"{path}: its notes go into the .json beside it; name a .csv")
    for file in (path, notes):
        check_output(file, is_ours=has_notes)


def has_notes(path: Path) -> bool:
    """Whether the notes of a study lie beside a file, or are the file."""
    notes = path.with_suffix(".json")
    return notes.is_file() and b'"versions"' in notes.read_bytes()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for a run of this process, which may claim it again meanwhile.

    Of several processes that `accelerate` or `torchrun` started together only the first holds it.
    Raises DataError where another run does.
    """
    key = folder.resolve()
    if key in _claims or any(os.environ.get(name, "0") != "0" for name in _PROCESS_NUMBERS):
        yield
        return
    with locked(folder, wait=False):
        _claims.add(key)
        try:
            yield
        finally:
            _claims.remove(key)


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Let one process at a time change what `folder` holds; a process that dies lets go."""
    import fcntl  # late: Windows lacks it, and most commands lock nothing

    folder.mkdir(parents=True, exist_ok=True)
    path, is_ours = folder / LOCK, False
    while not is_ours:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise DataError(
                    f"{folder}: another run works in this folder; wait until it ends, or name "
                    "another folder"
                ) from error
            except OSError as error:  # some network file systems
                advice = "use it for one run at a time"
                logger.warning("%s: cannot be locked (%s); %s", folder, error, advice)
            # Whoever held it has removed the file by now; another may have made it again.
            with suppress(FileNotFoundError):
                is_ours = os.path.samestat(os.fstat(lock.fileno()), path.stat())
            if is_ours:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)

"""Writing files whole or not at all, and joining names that come from a file."""

import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from daitir.errors import DataError


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block succeeds.

    The temporary name keeps the suffix, since many writers choose the format by it. Folders that
    are missing are made. On any exception, an interrupt included, the temporary file is removed
    and an older `path` stays as it was. Raises DataError when the disk is full.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "ranks.csv"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("rank")
    >>> target.read_text(), sorted(p.name for p in target.parent.iterdir())
    ('rank', ['ranks.csv'])
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if disk_is_full(error):
            raise DataError(f"{path}: not written, the disk is full; free some space") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change what `folder` holds; a process that dies lets go."""
    import fcntl  # late: Windows lacks it, and most commands lock nothing

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_output(path: Path) -> None:
    """Raises DataError unless a file can be written at `path`, before anything long begins."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def check_folder(path: Path, what: str) -> None:
    """Raises DataError, saying what it should hold, unless there is a folder at `path`."""
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file; name the folder of {what} that it lies in")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of {what}")


def weights_digest(model) -> str:
    """A hash of the weights of a torch module, by their names and values, wherever they lie."""
    import torch  # late: commands that read no weights start without it

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def safe_join(folder: str | os.PathLike, name: str) -> Path:
    """Return `folder / name` for a name read from a file, only if it lies inside `folder`.

    Raises DataError for absolute names, `..` or symbolic links that leave the folder,
    backslashes, drive letters, NUL, and the folder itself.

    >>> safe_join("images", "unlabeled/0001.jpg").as_posix()
    'images/unlabeled/0001.jpg'
    >>> safe_join("images", "../secret.jpg")
    Traceback (most recent call last):
    daitir.errors.DataError: '../secret.jpg' does not lie inside images; use a relative name in it
    """
    refusal = DataError(f"{name!r} does not lie inside {folder}; use a relative name in it")
    # A backslash or a drive letter is harmless here but leaves the folder on another system.
    if "\\" in name or "\0" in name or PureWindowsPath(name).drive:
        raise refusal
    if PurePosixPath(name).is_absolute():
        raise refusal
    path = Path(folder) / name
    try:
        root, target = Path(folder).resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, an unencodable name
        raise refusal from error
    if target == root or not target.is_relative_to(root) or _is_loop(path):
        raise refusal
    return path


def _is_loop(path: Path) -> bool:
    """Whether links lead nowhere but back; from Python 3.13 on, resolving them does not tell."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def disk_is_full(error: Exception) -> bool:
    """Whether an error of a writer says that no space is left."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)  # safetensors hides the number in its text

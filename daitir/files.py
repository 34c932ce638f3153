"""Writing files whole or not at all, and joining names that come from a file."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from daitir.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
# How the launchers that accelerate knows number the processes of a run.
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_claims: set[Path] = set()  # the folders that this process holds for a run


@contextmanager
def atomic_write(path: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block succeeds.

    The temporary name keeps the suffix, since many writers choose the format by it. Folders that
    are missing are made. On any exception, an interrupt included, the temporary file is removed
    and an older `path` stays as it was. Raises DataError when the disk is full.

    With `sync` the content is on the disk before it gets its name, and the name before this
    returns, so that a power cut leaves the old file or the new one. That takes some milliseconds a
    file; thousands of files that can be made again (views, unpacked pictures) go without.

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
        if sync:
            _flush(temporary)
        os.replace(temporary, path)
        if sync and os.name != "nt":  # Windows opens no folders
            with suppress(OSError):  # some file systems do not flush them
                _flush(path.parent)
    except Exception as error:
        if disk_is_full(error):
            raise DataError(f"{path}: not written, the disk is full; free some space") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change what `folder` holds; a process that dies lets go."""
    with _lock(folder, wait=True):
        yield


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for a run of this process, which may claim it again meanwhile.

    A process that dies lets go. Of several that `accelerate` or `torchrun` started together the
    first alone holds it. Raises DataError where another process holds it.
    """
    key = folder.resolve()
    if key in _claims or any(os.environ.get(name, "0") != "0" for name in _RANKS):
        yield
        return
    with _lock(folder, wait=False):
        _claims.add(key)
        try:
            yield
        finally:
            _claims.remove(key)


@contextmanager
def _lock(folder: Path, *, wait: bool) -> Iterator[None]:
    import fcntl  # late: Windows lacks it, and most commands lock nothing

    folder.mkdir(parents=True, exist_ok=True)
    path, is_ours = folder / ".lock", False
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
                logger.warning(
                    "%s: cannot be locked (%s); use it for one run at a time", folder, error
                )
            # Whoever held it has removed the file by now; another may have made it again.
            with suppress(FileNotFoundError):
                is_ours = os.path.samestat(os.fstat(lock.fileno()), path.stat())
            if is_ours:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)


def read_tensors(
    path: Path, *, then: str = "it is made again"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises DataError where it is damaged; `then` is what follows when it is removed.
    """
    from safetensors import SafetensorError, safe_open  # late: it loads torch

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it, and {then}") from error


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

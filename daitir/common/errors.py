"""The one exception for data that a user can put right."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """A file, folder or name that cannot be used; the message is one line naming it and the fix."""


@contextmanager
def naming(option: object) -> Iterator[None]:
    """Within it every DataError begins with the option whose value is wrong.

    >>> with naming("--set"):
    ...     raise DataError("must be NAME=VALUE, not 'x'")
    Traceback (most recent call last):
    daitir.common.errors.DataError: --set: must be NAME=VALUE, not 'x'
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{option}: {error}") from error


@contextmanager
def reading_trained(what: str, *paths: Path, command: str) -> Iterator[None]:
    """Within it the files of a trained model, which `command` writes, are read, or a DataError."""
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file; `{command}` writes it")
    from safetensors import SafetensorError  # late: it loads torch

    try:
        yield
    except DataError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"{paths[0].parent}: no {what} ({line}); train it again") from error

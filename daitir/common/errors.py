"""The one exception for data that a user can put right."""

from collections.abc import Iterator
from contextlib import contextmanager


class DataError(ValueError):
    """A file, folder or name that cannot be used; the message is one line naming it and the fix."""


@contextmanager
def naming(option: object) -> Iterator[None]:
    """Within it every DataError begins with the option whose value is wrong.

    >>> with naming("--price"):
    ...     raise DataError("must be NAME=DOLLARS, not 'x'")
    Traceback (most recent call last):
    daitir.common.errors.DataError: --price: must be NAME=DOLLARS, not 'x'
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{option}: {error}") from error

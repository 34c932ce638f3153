"""The one exception for data that a user can put right."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class DataError(ValueError):
    """A file, folder or name that cannot be used; the message is one line naming it and the fix.

    >>> raise DataError("queries.json: no dialogues; write at least one")
    Traceback (most recent call last):
    daitir.errors.DataError: queries.json: no dialogues; write at least one
    """


def once(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """The values by their names. Raises DataError for a name that stands twice.

    >>> once([("steps", 1), ("seed", 2)])
    {'steps': 1, 'seed': 2}
    """
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise DataError(f"{name} is given twice; leave one of them out")
        found[name] = value
    return found


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Within it every DataError begins with the option whose value is wrong.

    >>> with naming("--price"):
    ...     raise DataError("must be NAME=DOLLARS, not 'x'")
    Traceback (most recent call last):
    daitir.errors.DataError: --price: must be NAME=DOLLARS, not 'x'
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{option}: {error}") from error

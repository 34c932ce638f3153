"""The one exception for data that a user can put right."""


class DataError(ValueError):
    """A file, folder or name that cannot be used; the message is one line naming it and the fix.

    >>> raise DataError("queries.json: no dialogues; write at least one")
    Traceback (most recent call last):
    daitir.errors.DataError: queries.json: no dialogues; write at least one
    """

"""What is printed: one line a message, and no name of a file that steers the terminal."""

import logging
import sys
import unicodedata

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # categories: controls, formats, line ends …
JOINERS = "\u200c\u200d"


def printable(text: object) -> str:
    r"""Text as it may be printed: what moves the cursor, breaks the line or is not seen is escaped.

    Letters of all scripts and emoji stay, with the joiners between them. A backslash stays, so that
    escaping twice changes nothing.

    >>> print(printable("a\x1b[2J\n\u202egpj.exe"))
    a\x1b[2J\n\u202egpj.exe
    >>> print(printable("Żółw 龜.jpg"))
    Żółw 龜.jpg
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        char if _is_seen(text, place) else char.encode("unicode_escape").decode("ascii")
        for place, char in enumerate(text)
    )


def _is_seen(text: str, place: int) -> bool:
    char = text[place]
    if char in JOINERS:
        beside = text[max(place - 1, 0) : place] + text[place + 1 : place + 2]
        return len(beside) == 2 and all(
            other > "\x9f" and unicodedata.category(other) not in HIDDEN for other in beside
        )
    return unicodedata.category(char) not in HIDDEN


def say(*lines: object) -> None:
    """Print lines, each escaped, at once. All that commands print goes through here."""
    for line in lines:
        print(printable(line), flush=True)


def complain(text: object) -> None:
    """Print one line on stderr, escaped, behind the name of the program."""
    print(f"daitir: {printable(text)}", file=sys.stderr)


class LineFormatter(logging.Formatter):
    """Makes one escaped line of every record of a log."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

"""Dialogues in the ChatIR JSON format: read, check, write, and turn into query texts."""

from __future__ import annotations

import gzip
import json
import logging
import ntpath
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_regular

logger = logging.getLogger(__name__)

# Limits that no real file comes near, so that a wrong or a hostile one is refused in a line. The
# largest of the field, VisDial's training set, has 1.4 million rounds in 70 MB, 11 a dialogue.
MAX_BYTES = 2**28  # of a JSON file, unpacked; its text takes up to four times as much memory
MAX_VALUES = 10_000_000  # of a JSON file; its commas and brackets, a bound that is quick to count
MAX_ROUNDS_IN_FILE = 2_000_000
MAX_ROUNDS = 500  # of a dialogue: a query may join all before it, which grows with the square
MAX_CHARACTERS = 2_000_000_000  # of the joined queries of all dialogues


@dataclass(frozen=True)
class Dialogue:
    """One user's dialogue about one target image.

    `image` is the target's name in the gallery; `rounds[0]` is the caption and every later
    round is `"question? answer"`. Format: ChatIR, the released dialogue files. `refined_from` are
    the digests of the raw rounds that the rounds were refined from (`daitir.data.manifests`), None
    where they were not, or nobody knows.
    """

    image: str
    rounds: tuple[str, ...]
    refined_from: tuple[str, ...] | None = field(default=None, compare=False, repr=False)


class Problem(NamedTuple):
    """One thing wrong in a dialogue file; `dialogue` is None where it concerns the whole file."""

    dialogue: int | None
    kind: str
    message: str

    def __str__(self) -> str:
        where = "" if self.dialogue is None else f"dialogue {self.dialogue}: "
        return where + self.message


def read_json(path: str | Path) -> Any:
    """The content of a UTF-8 JSON file, a byte-order mark or not; unpacked where it ends in .gz.

    Raises DataError when the file cannot be read, is not UTF-8, is not JSON, or is larger than
    MAX_BYTES or MAX_VALUES allow, which is found before much memory is taken.
    """
    content = read_regular(path, MAX_BYTES)
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise DataError(f"{path}: holds more than {MAX_VALUES:,} values; split it")
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from error
    except (RecursionError, MemoryError) as error:
        raise DataError(f"{path}: the JSON is nested too deeply or too large to read") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: the JSON cannot be read ({error})") from error


def image_name(name: object) -> str:
    """`name` in its normal form, as a relative path with forward slashes.

    Raises DataError when it is not a string, absolute, or leaves the image folder.

    >>> image_name("./unlabeled2017/000000185565.jpg")
    'unlabeled2017/000000185565.jpg'
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"the image path must be a non-empty string, found {_short(name)}")
    if "\\" in name or "\0" in name or not is_utf8(name):
        raise DataError(
            f"the image path {_short(name)} holds a backslash or a character that no path may "
            "hold; write it with forward slashes"
        )
    normal = posixpath.normpath(name)
    if not normal.strip():
        raise DataError(f"the image path {_short(name)} names no file")
    if normal.startswith("/") or ntpath.splitdrive(normal)[0]:
        raise DataError(
            f"the image path {_short(name)} is absolute; make it relative to the image folder"
        )
    if normal in (".", "..") or normal.startswith("../"):
        raise DataError(f"the image path {_short(name)} leaves the image folder")
    return normal


class NearMisses:
    """Tells of a name that is not among some names which of them it nearly is."""

    def __init__(self, names: Iterable[str]):
        self._names = {_likeness(name): name for name in names}

    def hint(self, name: str) -> str:
        """The end of a message about `name`, empty where no name is like it.

        >>> NearMisses(["a/Tom.JPG"]).hint("a/tom.jpg")
        "; 'a/Tom.JPG' differs from it in capitals only, write both alike"
        """
        found = self._names.get(_likeness(name))
        if found is None or found == name:
            return ""
        if unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", name):
            return (
                f"; {ascii(found)} differs from it in the Unicode form of its letters only (NFC "
                "and NFD), write both in one form"
            )
        return f"; {_short(found)} differs from it in capitals only, write both alike"


def _likeness(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def read_dialogues(
    path: str | Path,
    *,
    gallery: Sequence[str] | None = None,
    allow_duplicate_targets: bool = False,
) -> list[Dialogue]:
    """Read a ChatIR file: a JSON list of `{"img": path, "dialog": [caption, round, …]}`.

    Any number of rounds from 1 on, and a different one for each dialogue, is fine. Other keys
    are left out. Where `gallery` is given every target must be in it. The field's protocol has
    one dialogue per target: a second one is an error unless `allow_duplicate_targets`, and then
    their number is logged. Of rewrites with a manifest beside them the dialogues tell what they
    were refined from. Source: ChatIR's released files.

    Raises DataError where rewrites were changed since, else with the first problem and the number
    of problems; `lint_dialogues` returns all of them.
    """
    dialogues, problems = _parse(read_json(path), gallery, allow_duplicate_targets)
    if problems:
        more = f" ({len(problems):,} problems in all)" if len(problems) > 1 else ""
        raise DataError(f"{path}: {problems[0]}{more}")
    repeated = len(dialogues) - len({dialogue.image for dialogue in dialogues})
    if repeated:
        logger.warning(
            "%s: %d of %d dialogues share the target of an earlier one",
            path, repeated, len(dialogues),
        )
    from daitir.data.derived import with_sources  # late: it is about dialogues itself

    return with_sources(Path(path), dialogues)


def lint_dialogues(
    path: str | Path,
    *,
    gallery: Sequence[str] | None = None,
    allow_duplicate_targets: bool = False,
) -> list[Problem]:
    """Everything that is wrong in a dialogue file, in the file's order; empty when it is sound.

    The rules are those of `read_dialogues`. `Counter(problem.kind for problem in …)` counts them.
    """
    try:
        content = read_json(path)
    except DataError as error:
        return [Problem(None, "unreadable", str(error))]
    return _parse(content, gallery, allow_duplicate_targets)[1]


def write_dialogues(path: str | Path, dialogues: Sequence[Dialogue]) -> None:
    """Write dialogues as a ChatIR file, one dialogue a line; `read_dialogues` gives them back.

    A path that ends in .gz gets it packed; the same dialogues give the same bytes.

    Raises DataError, and writes nothing, when `read_dialogues` would refuse the result
    (duplicate targets aside).
    """
    entries = [{"img": d.image, "dialog": list(d.rounds)} for d in dialogues]
    problems = _parse(entries, None, True)[1]
    if problems:
        raise DataError(f"{path}: not written, {problems[0]}")
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    content = f"[\n{lines}\n]\n".encode()
    if Path(path).suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _joined(rounds: Sequence[str], t: int) -> str:
    return ", ".join(rounds[: t + 1])


def _current(rounds: Sequence[str], t: int) -> str:
    return rounds[t]


TEXT_CONVENTIONS: dict[str, Callable[[Sequence[str], int], str]] = {
    "current_rewrite": _current,
    "raw_dialogue": _joined,
    "all_rewrites": _joined,
}
"""How the text of the query at round t is made from a dialogue's strings.

| name | text at round t | used by | expects |
|---|---|---|---|
| `current_rewrite` | string t alone | ADaFuSE | each round rewritten into one cumulative caption |
| `raw_dialogue` | strings 0…t joined by `", "` | ChatIR, DMCL | the raw dialogue |
| `all_rewrites` | strings 0…t joined by `", "` | DAR's released evaluation | rewritten captions |

`raw_dialogue` and `all_rewrites` are one rule on two kinds of file. On rewritten captions it
repeats what each caption already says, and the newest words are the ones that a context length
cuts off. That DAR joins with ChatIR's separator is our assumption.
"""


def query_texts(dialogues: Sequence[Dialogue], *, convention: str) -> list[list[str]]:
    """The query text of every round, as `texts[dialogue][round]`, by one of `TEXT_CONVENTIONS`.

    Raises ValueError when the convention is unknown, and DataError where the joined texts would
    have more than MAX_CHARACTERS.

    >>> dialogue = Dialogue("a.png", ("a dog on a beach", "is it sunny? yes"))
    >>> query_texts([dialogue], convention="raw_dialogue")
    [['a dog on a beach', 'a dog on a beach, is it sunny? yes']]
    """
    if convention not in TEXT_CONVENTIONS:
        raise ValueError(
            f"unknown text convention {convention!r}; choose one of {', '.join(TEXT_CONVENTIONS)}"
        )
    text = TEXT_CONVENTIONS[convention]
    if text is _joined:
        number = sum(
            len(words) * (len(d.rounds) - t) for d in dialogues for t, words in enumerate(d.rounds)
        )
        if number > MAX_CHARACTERS:
            raise DataError(
                f"the texts of {len(dialogues):,} dialogues, all rounds joined, have {number:,} "
                f"characters, more than {MAX_CHARACTERS:,}; take fewer or shorter dialogues"
            )
    return [[text(d.rounds, t) for t in range(len(d.rounds))] for d in dialogues]


_ANSWERED = re.compile(r"\S\s*[?\uff1f\u061f]\s*\S")  # also full-width, and Arabic
MIXED_SHARE = 0.1


def recognise_convention(dialogues: Sequence[Dialogue]) -> tuple[str, str]:
    """The text convention that fits dialogues, and what it was recognised by.

    Rewrites that are known to be some are taken alone, `current_rewrite`. Where at least half of
    the rounds after the first are a question with its answer, dialogues are raw, `raw_dialogue`.
    Where none has a second round, every convention gives the same text.

    Raises DataError for anything else, since to guess wrong ranks another text: captions of unknown
    origin, questions in a language without a question mark, rounds that repeat the one before and
    are joined already, and mixed files, in which a tenth of the dialogues or more have no
    question in any later round.

    >>> recognise_convention([Dialogue("a.png", ("a dog", "is it big? no"))])
    ('raw_dialogue', 'recognised: questions and answers')
    """
    if dialogues and all(dialogue.refined_from is not None for dialogue in dialogues):
        return "current_rewrite", "recognised: rewrites"
    talks = [dialogue.rounds for dialogue in dialogues if len(dialogue.rounds) > 1]
    if not talks:
        return "raw_dialogue", "recognised: one round each"
    answered = [[bool(_ANSWERED.search(text)) for text in talk[1:]] for talk in talks]
    number, total = sum(map(sum, answered)), sum(map(len, answered))
    repeats = sum(
        len(text) > len(before) and text.startswith(before)
        for talk in talks
        for before, text in pairwise(talk)
    )
    silent = sum(not any(row) for row in answered)
    if 2 * number >= total and 2 * repeats < total and silent < MIXED_SHARE * len(talks):
        return "raw_dialogue", "recognised: questions and answers"
    raise DataError(
        f"cannot tell how texts are made of these dialogues: {number:,} of {total:,} later rounds "
        f"hold a question with its answer, and {silent:,} of {len(talks):,} dialogues none; name "
        "--text current_rewrite where each round is a whole caption, --text raw_dialogue where "
        "each adds to those before"
    )


def _parse(
    content: Any, gallery: Sequence[str] | None, allow_duplicate_targets: bool
) -> tuple[list[Dialogue], list[Problem]]:
    """The sound dialogues and the problems of a parsed file."""
    if not isinstance(content, list):
        message = f"must be a JSON list of dialogues, found {_short(content)}"
        return [], [Problem(None, "not_a_list", message)]
    if not content:
        return [], [Problem(None, "empty", "the list has no dialogues")]
    rounds = (entry.get("dialog") for entry in content if isinstance(entry, dict))
    number = sum(len(texts) for texts in rounds if isinstance(texts, list))
    if number > MAX_ROUNDS_IN_FILE:
        message = f"{number:,} rounds, more than {MAX_ROUNDS_IN_FILE:,}; split the file"
        return [], [Problem(None, "too_many_rounds", message)]
    known = None if gallery is None else set(gallery)
    near_misses = None  # made for the first name that is missing
    dialogues: list[Dialogue] = []
    problems: list[Problem] = []
    first_with: dict[str, int] = {}
    extra_keys: set[str] = set()
    for index, entry in enumerate(content):
        if not isinstance(entry, dict) or not {"img", "dialog"} <= entry.keys():
            message = f'must be an object with "img" and "dialog", found {_short(entry)}'
            problems.append(Problem(index, "not_a_dialogue", message))
            continue
        extra_keys |= entry.keys() - {"img", "dialog"}
        found = _round_problems(index, entry["dialog"])
        try:
            name = image_name(entry["img"])
        except DataError as error:
            found.append(Problem(index, "image_path", str(error)))
        else:
            if known is not None and name not in known:
                near_misses = near_misses or NearMisses(known)
                message = f"the image {_short(name)} is not in the gallery of {len(known):,} images"
                message += near_misses.hint(name)
                found.append(Problem(index, "not_in_gallery", message))
            earlier = first_with.setdefault(name, index)
            if earlier != index and not allow_duplicate_targets:
                message = (
                    f"same target as dialogue {earlier}, {_short(name)}; targets must differ "
                    "(`daitir evaluate --allow-duplicate-targets` accepts it)"
                )
                found.append(Problem(index, "duplicate_target", message))
        problems += found
        if not found:
            dialogues.append(Dialogue(name, tuple(entry["dialog"])))
    if extra_keys:
        logger.debug("left out the keys %s", ", ".join(map(_short, sorted(extra_keys))))
    return dialogues, problems


def _round_problems(index: int, rounds: object) -> list[Problem]:
    if not isinstance(rounds, list) or not rounds:
        message = f'"dialog" must be a non-empty list of strings, found {_short(rounds)}'
        return [Problem(index, "no_rounds", message)]
    if len(rounds) > MAX_ROUNDS:
        message = f"{len(rounds):,} rounds, more than {MAX_ROUNDS}; split the dialogue"
        return [Problem(index, "too_many_rounds", message)]
    problems = []
    for t, text in enumerate(rounds):
        if not isinstance(text, str):
            message = f"round {t} must be a string, found {_short(text)}"
            problems.append(Problem(index, "round_not_text", message))
        elif not text.strip():
            problems.append(Problem(index, "blank_round", f"round {t} is blank"))
        elif not is_utf8(text):
            message = f"round {t} holds half of a surrogate pair, which is no character"
            problems.append(Problem(index, "round_not_utf8", message))
    return problems


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _short(value: object, limit: int = 60) -> str:
    """`value` on one line, as an error message quotes it."""
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = ascii(value) if isinstance(value, str) and not is_utf8(value) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"

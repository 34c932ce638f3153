"""Dialogues in the ChatIR JSON format: read, check, write, and turn into query texts."""

import gzip
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_json
from daitir.data.manifests import (
    Rewrites,
    content_digest,
    read_rewrites,
    rewrites_manifest,
    round_digests,
)
from daitir.data.names import KnownNames, image_name, is_utf8, quoted
from daitir.data.negation import without_negation

logger = logging.getLogger(__name__)

# Limits as in `daitir.common.files`. The largest file of the field, VisDial's training set, has
# 1.4 million rounds in 70 MB, 11 a dialogue.
MAX_ROUNDS_IN_FILE = 2_000_000
MAX_ROUNDS_IN_DIALOGUE = 500  # a query may join all before it, which grows with the square
MAX_CHARACTERS = 2_000_000_000  # of the joined queries of all dialogues
NOT_COMPARED = ("spec", "size")  # a folder may move; the size is decided by the model
MIXED_SHARE = 0.1  # of dialogues without a question, from which on a file counts as mixed


@dataclass(frozen=True)
class Dialogue:
    """One user's dialogue about one target image.

    Attributes:
        image: the target's name in the gallery.
        rounds: the caption, then strings `"question? answer"`.
        refined_from: the digests (`daitir.data.manifests`) of the raw rounds that these were
            refined from, None where they were not, or nobody knows.
    """

    image: str
    rounds: tuple[str, ...]
    refined_from: tuple[str, ...] | None = field(default=None, compare=False, repr=False)


class Problem(NamedTuple):
    """One thing wrong in a file; `dialogue` is None where it is not about one."""

    dialogue: int | None
    kind: str
    message: str
    is_error: bool = True  # else `daitir lint` warns of it

    def __str__(self) -> str:
        where = "" if self.dialogue is None else f"dialogue {self.dialogue}: "
        return where + self.message


def read_dialogues(
    path: str | Path,
    *,
    gallery: Sequence[str] | None = None,
    allow_duplicate_targets: bool = False,
) -> list[Dialogue]:
    """Read a ChatIR file: a JSON list of `{"img": path, "dialog": [caption, round, …]}`.

    Dialogues may have any number of rounds from 1 on. Other keys are left out.

    Args:
        gallery: the names that targets must be among.
        allow_duplicate_targets: accept several dialogues about one target, which the field's
            protocol does not have; their number is logged.

    Returns:
        The dialogues, in the file's order; rewrites with a manifest tell what they are of.

    Raises:
        DataError: the first problem and the number of problems; or the file has rewrites that were
            changed since they were refined.

    Source: ChatIR's released files.
    """
    dialogues = checked(path, parse_dialogues(read_json(path), gallery, allow_duplicate_targets))
    if repeated := len(dialogues) - len({dialogue.image for dialogue in dialogues}):
        told = f"{repeated} of {len(dialogues)} dialogues share the target of an earlier one"
        logger.warning("%s: %s", path, told)
    return with_sources(Path(path), dialogues)


def checked(path: str | Path, parsed: tuple[list, list[Problem]]) -> list:
    """What was parsed of a file. Raises DataError for the first of its problems."""
    content, problems = parsed
    if problems:
        more = f" ({len(problems):,} problems in all)" if len(problems) > 1 else ""
        raise DataError(f"{path}: {problems[0]}{more}")
    return content


def with_sources(path: Path, dialogues: list[Dialogue]) -> list[Dialogue]:
    """The dialogues of a file with what each round was refined from, where its manifest tells.

    Raises DataError where the file is not as the manifest says that it was written.
    """
    if (manifest := read_rewrites(path)) is None:
        return dialogues
    lengths = [len(dialogue.rounds) for dialogue in dialogues]
    if manifest.captions != content_digest(dialogues) or lengths != list(map(len, manifest.rounds)):
        raise DataError(
            f"{path}: was changed since it was refined; refine it again (`--overwrite`), or remove "
            f"{rewrites_manifest(path).name}, and it counts as written by hand"
        )
    pairs = zip(dialogues, manifest.rounds, strict=True)
    return [replace(dialogue, refined_from=tuple(rounds)) for dialogue, rounds in pairs]


def write_dialogues(path: str | Path, dialogues: Sequence[Dialogue]) -> None:
    """Write dialogues as a ChatIR file, one dialogue a line; `read_dialogues` gives them back.

    Args:
        path: one that ends in .gz gets the file packed; the same dialogues give the same bytes.

    Raises:
        DataError: `read_dialogues` would refuse the result (duplicate targets aside); nothing is
            written.
    """
    entries = [{"img": d.image, "dialog": list(d.rounds)} for d in dialogues]
    if problems := parse_dialogues(entries, None, True)[1]:
        raise DataError(f"{path}: not written, {problems[0]}")
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    content = f"[\n{lines}\n]\n".encode()
    if Path(path).suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read_source(path: Path, raw: Path | None = None, **options) -> list[Dialogue]:
    """Dialogues of a file which, where `raw` is named, has the rewrites of those of `raw`.

    `options` are those of `read_dialogues`. Raises DataError where they are not its rewrites.
    """
    dialogues = read_dialogues(path, **options)
    if raw is None or raw == path:
        return dialogues
    return refined_from(path, dialogues, raw, read_dialogues(raw, allow_duplicate_targets=True))


def refined_from(
    path: Path, refined: Sequence[Dialogue], raw_path: Path, raw: Sequence[Dialogue]
) -> list[Dialogue]:
    """The rewrites of a file, each with the digests of its raw rounds; raises as `read_source`."""
    again = "remove it, or make it again by `daitir refine --overwrite`"
    about = [[(d.image, len(d.rounds)) for d in dialogues] for dialogues in (refined, raw)]
    if about[0] != about[1]:
        raise DataError(f"{path}: its dialogues are not those of {raw_path}; {again}")
    digests = [tuple(round_digests(said)) for said in raw]
    known = [d.refined_from or said for d, said in zip(refined, digests, strict=True)]
    if place := _first_other_round(known, digests):
        other = f"{place} was refined from other words than {raw_path} has"
        raise DataError(f"{path}: {other}; {again}")
    return [replace(d, refined_from=said) for d, said in zip(refined, digests, strict=True)]


def _first_other_round(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> str:
    """The first round with another digest, as `dialogue 0, round 3`; empty where none has."""
    for i, rounds in enumerate(zip_longest(old, new, fillvalue=())):
        for t, (there, now) in enumerate(zip_longest(*rounds)):
            if there != now:
                return f"dialogue {i}, round {t}"
    return ""


def check_refined(path: Path, manifest: Rewrites) -> None:
    """Raises DataError unless a file has the rewrites, unchanged, that `manifest` describes."""
    old = read_rewrites(path)
    read_dialogues(path, allow_duplicate_targets=True)
    fault = "has no manifest" if old is None else first_change(old.settings, manifest.settings)
    if not fault and (place := _first_other_round(old.rounds, manifest.rounds)):
        fault = f"holds rewrites of another {place}"
    if fault:
        raise DataError(f"{path}: {fault}; --overwrite refines anew, or name another --out")


def first_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first setting that differs, as `steps is 8 there and 4 now`; empty where none does."""
    for name in new:
        if name not in NOT_COMPARED and old.get(name) != new[name]:
            there, now = (str(value)[:40] for value in (old.get(name), new[name]))
            return f"{name} is {there} there and {now} now"
    return ""


# How the text at round t is made of a dialogue's strings: string t alone; strings 0…t joined by
# ", ", which is one rule on raw dialogues (ChatIR, DMCL) and on rewrites (DAR's released
# evaluation); string t without what it denies. That DAR joins with ", " is our assumption.
TEXT_CONVENTIONS = ("current_rewrite", "raw_dialogue", "all_rewrites", "affirmed_rewrite")


def query_texts(dialogues: Sequence[Dialogue], *, convention: str) -> list[list[str]]:
    """The query text of every round.

    Args:
        convention: one of `TEXT_CONVENTIONS`.

    Returns:
        `texts[dialogue][round]`.

    Raises:
        ValueError: the convention is unknown.
        DataError: the joined texts would have more than MAX_CHARACTERS.

    >>> dialogue = Dialogue("a.png", ("a dog on a beach", "is it sunny? yes"))
    >>> query_texts([dialogue], convention="raw_dialogue")
    [['a dog on a beach', 'a dog on a beach, is it sunny? yes']]
    """
    if convention not in TEXT_CONVENTIONS:
        known = ", ".join(TEXT_CONVENTIONS)
        raise ValueError(f"unknown text convention {convention!r}; choose one of {known}")
    if convention == "current_rewrite":
        return [list(d.rounds) for d in dialogues]
    if convention == "affirmed_rewrite":
        return [[without_negation(text).positive for text in d.rounds] for d in dialogues]
    number = sum(
        len(words) * (len(d.rounds) - t) for d in dialogues for t, words in enumerate(d.rounds)
    )
    if number > MAX_CHARACTERS:
        raise DataError(
            f"the texts of {len(dialogues):,} dialogues, all rounds joined, have {number:,} "
            f"characters, more than {MAX_CHARACTERS:,}; take fewer or shorter dialogues"
        )
    return [[", ".join(d.rounds[: t + 1]) for t in range(len(d.rounds))] for d in dialogues]


_ANSWERED = re.compile(r"\S\s*[?\uff1f\u061f]\s*\S")  # also full-width, and Arabic


def recognise_convention(
    dialogues: Sequence[Dialogue], *, path: Path | None = None, named: str | None = None
) -> tuple[str, str]:
    """The text convention that fits dialogues, and what it was recognised by.

    The rules are those of `book/derived_files.md`; a convention that is `named` is taken as it is.
    Raises DataError, naming `path`, where dialogues do not show their convention.

    >>> recognise_convention([Dialogue("a.png", ("a dog", "is it big? no"))])
    ('raw_dialogue', 'recognised: questions and answers')
    """
    if named is not None:
        return named, "named by --text"
    if dialogues and all(dialogue.refined_from is not None for dialogue in dialogues):
        return "current_rewrite", "recognised: rewrites"
    talks = [dialogue.rounds for dialogue in dialogues if len(dialogue.rounds) > 1]
    if not talks:  # every convention gives the same text
        return "raw_dialogue", "recognised: one round each"
    answered = [sum(bool(_ANSWERED.search(text)) for text in talk[1:]) for talk in talks]
    number, total, silent = sum(answered), sum(map(len, talks)) - len(talks), answered.count(0)
    pairs = (pair for talk in talks for pair in pairwise(talk))
    repeats = sum(text != before and text.startswith(before) for before, text in pairs)
    if 2 * number >= total and 2 * repeats < total and silent < MIXED_SHARE * len(talks):
        return "raw_dialogue", "recognised: questions and answers"
    where = f"{path}: " if path else ""
    raise DataError(
        f"{where}cannot tell how texts are made of these dialogues: {number:,} of {total:,} later "
        f"rounds hold a question with its answer, and {silent:,} of {len(talks):,} dialogues none; "
        "name --text current_rewrite where each round is a whole caption, --text raw_dialogue "
        "where each adds to those before"
    )


def parse_dialogues(
    content: Any, gallery: Sequence[str] | None = None, allow_duplicate_targets: bool = False
) -> tuple[list[Dialogue], list[Problem]]:
    """The dialogues with rounds of text, and the problems, of the content of a file."""
    if not isinstance(content, list) or not content:
        message = f"must be a JSON list of dialogues, not empty, found {quoted(content)}"
        return [], [Problem(None, "not_a_list", message)]
    rounds = (entry.get("dialog") for entry in content if isinstance(entry, dict))
    number = sum(len(texts) for texts in rounds if isinstance(texts, list))
    if number > MAX_ROUNDS_IN_FILE:
        message = f"{number:,} rounds, more than {MAX_ROUNDS_IN_FILE:,}; split the file"
        return [], [Problem(None, "too_many_rounds", message)]
    known = KnownNames(gallery or ())
    dialogues: list[Dialogue] = []
    problems: list[Problem] = []
    first_with: dict[str, int] = {}
    for index, entry in enumerate(content):
        if not isinstance(entry, dict) or not {"img", "dialog"} <= entry.keys():
            message = f'must be an object with "img" and "dialog", found {quoted(entry)}'
            problems.append(Problem(index, "not_a_dialogue", message))
            continue
        texts = entry["dialog"]
        faults = list(_round_faults(texts))
        try:
            name = image_name(entry["img"])
        except DataError as error:
            name = str(entry["img"])
            faults.append(("image_path", str(error)))
        else:
            if gallery is not None and name not in known:
                message = f"the image {quoted(name)} is not in the gallery of {len(known):,} images"
                faults.append(("not_in_gallery", message + known.hint(name)))
            earlier = first_with.setdefault(name, index)
            if earlier != index and not allow_duplicate_targets:
                accepted = "(`daitir evaluate --allow-duplicate-targets` accepts it)"
                message = f"same target as dialogue {earlier}, {quoted(name)}; targets must differ "
                faults.append(("duplicate_target", message + accepted, False))
        problems += [Problem(index, *fault) for fault in faults]
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            dialogues.append(Dialogue(name, tuple(texts)))
    return dialogues, problems


def _round_faults(rounds: object) -> Iterator[tuple[str, str]]:
    """Kind and message of what is wrong with the rounds of a dialogue."""
    if not isinstance(rounds, list) or not rounds:
        yield "no_rounds", f'"dialog" must be a non-empty list of strings, found {quoted(rounds)}'
    elif (number := len(rounds)) > MAX_ROUNDS_IN_DIALOGUE:
        most = f"more than {MAX_ROUNDS_IN_DIALOGUE}; split the dialogue"
        yield "too_many_rounds", f"{number:,} rounds, {most}"
    else:
        for t, text in enumerate(rounds):
            if not isinstance(text, str):
                yield "round_not_text", f"round {t} must be a string, found {quoted(text)}"
            elif not text.strip():
                yield "blank_round", f"round {t} is blank"
            elif not is_utf8(text):
                message = f"round {t} holds half of a surrogate pair, which is no character"
                yield "round_not_utf8", message

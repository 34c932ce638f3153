"""Everything that is wrong with a folder of one's own data, counted."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING

from ftfy.badness import BADNESS_RE
from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import SafeFolder, read_json
from daitir.data.captions import fault_of
from daitir.data.datafolder import find_data
from daitir.data.dialogues import (
    Dialogue,
    Problem,
    parse_dialogues,
    query_texts,
    recognise_convention,
    refined_from,
    with_sources,
)
from daitir.data.gallery import NO_IMAGE, NUM_EXAMPLES, parse_gallery, read_image, scan_images
from daitir.data.manifests import MANIFEST
from daitir.data.names import KnownNames
from daitir.data.viewfiles import list_views, view_faults

if TYPE_CHECKING:
    from daitir.models.encoders import Encoder

QUESTIONS_SHARE = 0.9  # of the rounds after the first; with fewer they need not be questions ...
HALF_SHARE = 0.4  # ... and with fewer than this their answers need not follow

_LEFTOVER = re.compile(
    # Labels of what a language model was shown or wrote, ...
    r"(?:(?<!\w)(?:answer|question|caption|assistant|user|human)|(?-i:(?<!\w)[QA]))\s*[:：]"
    # ... signs of its chat template, ...
    r"|<\|[^<>|]*\|>|</?s>|</?think>|\[/?INST\]|```"
    # ... and what a page of the web was written in.
    r"|&(?:amp|quot|apos|lt|gt|nbsp|#\d+|#x[0-9a-f]+);|</?(?:br|p|div|span|i|b)\s*/?>",
    re.I,
)
_ODD_WORDS = (
    ("lost_character", re.compile("\N{REPLACEMENT CHARACTER}"), ", lost in an encoding"),
    ("wrong_encoding", BADNESS_RE, ", UTF-8 read in another encoding"),
    ("control_character", re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
     ", which is no character to read"),
    ("leftover", _LEFTOVER, ""),
)  # fmt: skip
_QUESTION = re.compile("[?\N{FULLWIDTH QUESTION MARK}\N{ARABIC QUESTION MARK}]")
_ENDS = re.compile(r"[.!。！؟?？]\s*$")


@dataclass
class Finding:
    """One kind of thing that is wrong, or, as a warning, likely not meant."""

    where: str  # the file or folder
    kind: str  # that programs can go by, such as `missing_image`
    is_error: bool  # whether the other commands refuse the data because of it
    messages: list[str] = field(default_factory=list)  # one for each time that it was found

    @property
    def count(self) -> int:
        return len(self.messages)

    @property
    def examples(self) -> list[str]:
        return self.messages[:NUM_EXAMPLES]


@dataclass(frozen=True)
class Report:
    """What `lint_data` found: sizes by name, pictures by suffix, and what is wrong."""

    folder: str
    sizes: dict[str, float]
    suffixes: dict[str, int]
    findings: list[Finding]

    @property
    def num_errors(self) -> int:
        """How many things the other commands would refuse."""
        return sum(finding.count for finding in self.findings if finding.is_error)

    def as_dict(self) -> dict:
        """The report in the types of JSON."""
        findings = [{"count": finding.count} | asdict(finding) for finding in self.findings]
        return {"num_errors": self.num_errors} | asdict(self) | {"findings": findings}


def lint_data(
    folder: str | Path,
    *,
    decode: bool = True,
    encoder: Encoder | None = None,
    progress: bool = False,
) -> Report:
    """Look at every file of a folder of own data; DataError where it is none at all.

    Unless `decode` pictures are only looked for, which misses the truncated and the equal ones; an
    `encoder` counts the rounds that it does not read to the end.
    """
    linter = _Linter(Path(folder), decode)
    linter.look_at_names()
    for split in linter.data.dialogues:
        linter.look_at_split(split, encoder)
    linter.look_at_pictures(progress)
    findings = sorted(linter.findings.values(), key=lambda finding: not finding.is_error)
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in linter.names)
    return Report(str(folder), linter.sizes, dict(suffixes.most_common()), findings)


class _Linter:
    """What is known so far of a folder."""

    def __init__(self, folder: Path, decode: bool):
        self.data, self.decode = find_data(folder), decode
        self.findings: dict[tuple[str, str], Finding] = {}
        self.sizes: dict[str, float] = {}
        self.names: list[str] = []  # of all pictures below `images/`
        self.beside: list[str] = []  # names of the gallery that are not among them
        self.gallery: list[str] = []  # of the pictures to search
        self.first_split_of: dict[str, str] = {}  # by the name of the target

    def _add(self, is_error: bool, where: Path, kind: str, *messages: object) -> None:
        for message in messages:
            new = Finding(str(where), kind, is_error)
            self.findings.setdefault((str(where), kind), new).messages.append(str(message))

    error, warn = partialmethod(_add, True), partialmethod(_add, False)

    @contextmanager
    def trying(self, where: Path, kind: str, *, is_error: bool = True) -> Iterator[None]:
        """Within it a DataError is a finding."""
        try:
            yield
        except DataError as error:
            self._add(is_error, where, kind, error)

    def look_at_names(self) -> None:
        images, listed = self.data.images_dir, self.data.gallery_file
        with self.trying(images, "no_pictures"):
            self.names, left_out = scan_images(images)
            for kind, names in left_out.items():
                self.warn(images, kind.replace(" ", "_"), *(f"{name}: left out" for name in names))
            if not self.names:
                self.error(images, "no_pictures", NO_IMAGE)
        self.gallery = (listed and self._parsed(listed, parse_gallery)) or self.names
        known = KnownNames(self.names)
        self.beside = [name for name in self.gallery if name not in known]
        for name in self.beside:
            # A link that leaves the folder is there, and told among the pictures.
            if not os.path.lexists(images / name):
                message = f"{name}: no such file in images/{known.hint(name)}"
                self.error(listed, "missing_image", message)
        self.sizes |= {"pictures": len(self.names), "gallery": len(self.gallery)}

    def look_at_split(self, split: str, encoder: Encoder | None) -> None:
        path, rewrites = self.data.dialogue_file(split), self.data.rewrites_file(split)
        dialogues = self._parsed(path, parse_dialogues, gallery=self.gallery)
        self._add_problems(path, odd_rounds(dialogues, are_captions=False))
        ranked, texts, sound, convention = path, dialogues, [], "raw_dialogue"
        if rewrites.exists():
            ranked, convention = rewrites, "current_rewrite"
            texts = self._parsed(rewrites, parse_dialogues, allow_duplicate_targets=True)
            self._add_problems(rewrites, odd_rounds(texts, are_captions=True))
            with self.trying(rewrites, "refined_from_other_words"):
                sound = refined_from(rewrites, with_sources(rewrites, texts), path, dialogues)
        else:
            with self.trying(path, "unknown_text_convention", is_error=False):
                convention, _ = recognise_convention(dialogues)
        lengths = [len(dialogue.rounds) for dialogue in dialogues]
        sizes: dict[str, float] = {"dialogues": len(dialogues)}
        if dialogues:
            sizes |= {"rounds": sum(lengths), "shortest dialogue": min(lengths)}
            sizes["longest dialogue"] = max(lengths)
        if dialogues and encoder:
            limit = f"more than {encoder.context_length} tokens by {convention}"
            rows = enumerate(query_texts(texts, convention=convention))
            rounds = ((number, t, text) for number, row in rows for t, text in enumerate(row))
            cut = [(number, t) for number, t, text in rounds if encoder.count_truncated([text])]
            told = (f"dialogue {number}: round {t} is cut: {limit}" for number, t in cut)
            self.warn(ranked, "cut_round", *told)
            sizes["percent cut"] = round(100 * len(cut) / sum(lengths), 2)
        for number, dialogue in enumerate(dialogues):
            earlier = self.first_split_of.setdefault(dialogue.image, split)
            if earlier != split:
                message = f"dialogue {number}: {dialogue.image} is a target of {earlier} too"
                self.warn(path, "target_in_two_splits", message)
        folder = self.data.views_dir(split)
        if folder.is_dir():
            sizes["views"] = self._look_at_views(folder, dialogues, sound)
            if sizes["views"] and not (folder / MANIFEST).is_file():
                sizes["views without a manifest"] = sizes["views"]
        self.sizes |= {f"{split} {what}": number for what, number in sizes.items()}

    def _parsed(self, path: Path, parse: Callable, **options) -> list:
        """What is sound in a JSON file."""
        content: list = []
        with self.trying(path, "unreadable"):
            content, problems = parse(read_json(path), **options)
            self._add_problems(path, problems)
        return content

    def _add_problems(self, path: Path, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._add(problem.is_error, path, problem.kind, problem)

    def _look_at_views(
        self, folder: Path, dialogues: Sequence[Dialogue], refined: Sequence[Dialogue]
    ) -> int:
        """How many views a folder holds."""
        listed = list_views(folder, dialogues)
        self.warn(folder, "missing_view", *(f"{i}_{t}: no view" for i, t in listed.missing))
        strays = (f"{path.name}: no view of these dialogues" for path in listed.strays)
        self.warn(folder, "stray_file", *strays)
        doubles = (f"{file.name} and {other.name} are one view" for file, other in listed.doubles)
        self.error(folder, "one_view_twice", *doubles)
        with self.trying(folder, "unreadable"):
            faults = view_faults(folder, dialogues, listed.views, also=refined, decode=self.decode)
            self.error(folder, "view_of_another_text", *faults)
        files = [path for rounds in listed.views for views in rounds for path in views]
        safe = SafeFolder(folder)
        for path in files:
            self._digest(safe, path.name)
        return len(files)

    def look_at_pictures(self, progress: bool) -> None:
        safe, first_with = SafeFolder(self.data.images_dir), {}
        names, is_quiet = [*self.names, *self.beside], not progress or not self.decode
        for name in tqdm(names, desc="decoding", unit="picture", disable=is_quiet):
            digest = self._digest(safe, name)
            earlier = first_with.setdefault(digest, name) if digest else name
            if earlier != name:
                message = f"{earlier} and {name} are the same picture"
                self.warn(safe.folder, "equal_pictures", message)

    def _digest(self, safe: SafeFolder, name: str) -> bytes | None:
        """A hash of a picture's pixels; None where it cannot be read, or is only looked for."""
        with self.trying(safe.folder, "link_outside"):
            path = safe.join(name)
            if not path.is_file():
                if os.path.lexists(path):  # else it is missing, and told where it was named
                    what = "a folder, a pipe, a device or a link to nothing, and no picture"
                    self.error(safe.folder, "no_file", f"{name}: {what}")
            elif self.decode:
                with self.trying(safe.folder, "unreadable_image"):
                    image = read_image(path)
                    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
                    digest.update(image.tobytes())
                    return digest.digest()
        return None


def odd_rounds(dialogues: Sequence[Dialogue], *, are_captions: bool) -> Iterator[Problem]:
    """What is odd about the rounds of dialogues, or, with `are_captions`, of their rewrites.

    Rewrites need no questions. Blank rounds are errors, and left to `parse_dialogues`.
    """
    later = [text for dialogue in dialogues for text in dialogue.rounds[1:]]
    share = sum(bool(_QUESTION.search(text)) for text in later) / max(1, len(later))
    for number, dialogue in enumerate(dialogues):
        first_with: dict[str, int] = {}
        for t, text in enumerate(dialogue.rounds):
            if not text.strip():
                continue
            for kind, message in _odd_words(text, is_caption=are_captions or t == 0):
                yield Problem(number, kind, f"round {t} {message}: {text!r}", False)
            earlier = first_with.setdefault(" ".join(text.casefold().split()), t)
            if earlier != t:
                message = f"round {t} repeats round {earlier}: {text!r}"
                yield Problem(number, "repeated_round", message, False)
        for kind, t, message in () if are_captions else _odd_questions(dialogue.rounds, share):
            yield Problem(number, kind, f"round {t} {message}: {dialogue.rounds[t]!r}", False)


def _odd_words(text: str, *, is_caption: bool) -> Iterator[tuple[str, str]]:
    for kind, pattern, what in _ODD_WORDS:
        if match := pattern.search(text):
            yield kind, f"holds {match[0]!r}{what}"
    if is_caption and (fault := fault_of(text)):
        kind = "loop" if fault == "loop" else "fragment"
        yield kind, f"is a {kind}, no caption"
    elif not any(map(str.isalnum, text)):
        yield "fragment", "has no word"


def _odd_questions(rounds: Sequence[str], share: float) -> Iterator[tuple[str, int, str]]:
    """Kind, round and message; `share` of the rounds after the first are questions."""
    are_questions, have_questions = share >= QUESTIONS_SHARE, share >= HALF_SHARE
    is_answer = False  # whether a round was told to be the answer to the one before
    for t in range(1, len(rounds)):
        text, after = rounds[t], rounds[t + 1] if t + 1 < len(rounds) else None
        marks = list(_QUESTION.finditer(text))
        asks_after = after is not None and bool(_QUESTION.search(after))
        if marks and not text[marks[-1].end() :].strip():
            is_answer = have_questions and after is not None and not asks_after
            if is_answer:
                yield "split_question", t, f"is a question, and round {t + 1} may be its answer"
            elif are_questions:
                yield "no_answer", t, "is a question without an answer"
            continue
        if not marks and are_questions and not is_answer:
            if asks_after and not _ENDS.search(text):
                yield "split_question", t, f"may be the beginning of round {t + 1}"
            else:
                yield "no_question", t, "has no question"
        is_answer = False

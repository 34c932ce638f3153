"""What is likely not meant in the words of dialogues and captions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ftfy.badness import BADNESS_RE

from daitir.data.captions import fault_of
from daitir.data.dialogues import Dialogue, Problem, query_texts

if TYPE_CHECKING:
    from daitir.models.encoders import Encoder

LOST = "\N{REPLACEMENT CHARACTER}"  # what text read in the wrong encoding is left with
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
_CONTROL = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_QUESTION = re.compile("[?\N{FULLWIDTH QUESTION MARK}\N{ARABIC QUESTION MARK}]")
_ENDS = re.compile(r"[.!。！؟?？]\s*$")


def odd_rounds(dialogues: Sequence[Dialogue], *, are_captions: bool) -> Iterator[Problem]:
    """What is odd about the rounds of dialogues, or, with `are_captions`, of their rewrites.

    Of these no questions are expected. Blank rounds are errors, and left to `lint_dialogues`.
    """
    later = [text for dialogue in dialogues for text in dialogue.rounds[1:]]
    share = sum(bool(_QUESTION.search(text)) for text in later) / max(1, len(later))
    for number, dialogue in enumerate(dialogues):
        first_with: dict[str, int] = {}
        for t, text in enumerate(dialogue.rounds):
            if not text.strip():
                continue
            for kind, message in _odd_words(text, is_caption=are_captions or t == 0):
                yield Problem(number, kind, f"round {t} {message}: {text!r}")
            earlier = first_with.setdefault(" ".join(text.casefold().split()), t)
            if earlier != t:
                message = f"round {t} repeats round {earlier}: {text!r}"
                yield Problem(number, "repeated_round", message)
        if not are_captions:
            for kind, t, message in _odd_questions(dialogue.rounds, share):
                yield Problem(number, kind, f"round {t} {message}: {dialogue.rounds[t]!r}")


def _odd_words(text: str, *, is_caption: bool) -> Iterator[tuple[str, str]]:
    if LOST in text:
        yield "lost_character", f"holds {LOST!r}, lost in an encoding"
    if match := BADNESS_RE.search(text):
        yield "wrong_encoding", f"holds {match[0]!r}, UTF-8 read in another encoding"
    if match := _CONTROL.search(text):
        yield "control_character", f"holds {match[0]!r}, which is no character to read"
    if match := _LEFTOVER.search(text):
        yield "leftover", f"holds {match[0]!r}"
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


def cut_rounds(
    dialogues: Sequence[Dialogue], encoder: Encoder, *, convention: str
) -> Iterator[Problem]:
    """The rounds whose query text, by a text convention, is longer than an encoder reads."""
    for number, texts in enumerate(query_texts(dialogues, convention=convention)):
        for t, text in enumerate(texts):
            if encoder.count_truncated([text]):
                limit = f"more than {encoder.context_length} tokens by {convention}"
                yield Problem(number, "cut_round", f"round {t} is cut: {limit}")

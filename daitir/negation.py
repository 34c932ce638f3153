"""Prompts without negation: what is not there moves into a negative prompt.

Text-to-image models tend to draw what a prompt names, also behind a "no". Two thirds of DAR's
released prompts of the last round hold a negation (measured on the released file).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_CLAUSE = re.compile(r"(?<=[.,;!])\s+|\n+|\s+(?=but\b)", re.I)
_NEGATION = re.compile(
    r"\b(?:no one|no|not|without|never|nobody|nothing|none|neither|nor|cannot|\w+n['’]t)\b", re.I
)
# Where what a negation is about ends: "no people and a dog".
_NEXT = re.compile(
    r"\s+and\s+(?=(?:an?|the|there|it|its|his|her|their|with|in|on|at|no|one|two|three|\d+)\b)",
    re.I,
)
_BEFORE = re.compile(  # what leads to a negation, and says nothing without it
    r"(?:^|\s+)(?:there|it|they|he|she|i|we|you|is|are|was|were|has|have|had|having|do|does|did|"
    r"can|could|would|with|and|or|but|also|so|just|seems?)$", re.I
)  # fmt: skip
_QUESTION = re.compile(  # and what leads to the thing that is asked for
    r"^(?:is|are|was|were|do|does|did|can|could|has|have)\s+"
    r"(?:(?:there|it|this|that|they|he|she|you|the (?:photo|picture|image))\b\s*)?", re.I
)  # fmt: skip
_LEADING = re.compile(
    r"^(?:see|have|has|show|be|look|any|an?|the|some|much|many|really|quite|so)\s+", re.I
)
_TRAILING = re.compile(
    r"\s+(?:is|are|was|were|there|anywhere|around|visible|in sight|at all|either|"
    r"(?:in|on) (?:it|the (?:photo|picture|image|background|scene)))$", re.I
)  # fmt: skip
_UNSURE = re.compile(r"^(?:tell|know|see|say|sure|idea|clue|clear|certain|think|believe)\b", re.I)
_NO_THING = re.compile(
    r"^(?:really|that|them|at all|it|like it|any|visible|there|appear to be|seem to be|\d+)\b", re.I
)
# "No other people" says that there are some: a negative prompt would drive them out too.
_OTHERS = re.compile(r"\b(?:others?|else|another|more|besides|than)\b", re.I)


class Prompt(NamedTuple):
    """A text without its negations.

    `positive` is what is left, `negative` what was negated, joined by `", "`, and `num_dropped`
    the number of negations taken out. A text that only negates stays: `is_negation` tells.
    """

    positive: str
    negative: str
    num_dropped: int
    is_negation: bool = False


def without_negation(text: str) -> Prompt:
    """Take the negations out of an English caption or dialogue; a rule of words, not a parser.

    A question that is answered by no goes with its answer, and so does one whose answer tells
    nothing ("can't tell"). A text without negation is given back letter for letter.

    >>> without_negation("a small dog at the beach, no people and a red ball. There is no car")
    Prompt(positive='a small dog at the beach, a red ball', negative='people, car', num_dropped=2, is_negation=False)
    >>> without_negation("a bedroom, is there a cat? no, is the photo in colour? yes")
    Prompt(positive='a bedroom, is the photo in colour? yes', negative='cat', num_dropped=1, is_negation=False)
    """  # noqa: E501
    kept: list[str] = []
    absent: list[str] = []
    dropped = 0
    waiting = _CLAUSE.split(text)
    while waiting:
        clause = waiting.pop(0)
        question, mark, answer = clause.rpartition("?")
        found = _NEGATION.search(answer)
        if not found:
            kept.append(clause)
            continue
        dropped += 1
        about, *rest = _NEXT.split(answer[found.end() :], maxsplit=1)
        waiting[:0] = rest
        if mark and found.start() == len(answer) - len(answer.lstrip()):
            # "are there people? no": the question names what is absent, unless it asks what is.
            asked = _QUESTION.sub("", question.strip())
            is_open = asked == question.strip() and not asked.lower().startswith("any ")
            absent += [] if is_open or _UNSURE.match(about.strip()) else _things(asked)
            continue
        nobody = found[0].lower() in ("no one", "nobody")
        absent += ["people"] if nobody else _things(about)
        if not mark:
            before = answer[: found.start()].rstrip()
            while match := _BEFORE.search(before):
                before = before[: match.start()]
            if before.strip():
                kept.append(before)
    if not dropped:
        return Prompt(text, "", 0)
    clauses = [clause.strip().rstrip(",.;!").strip() for clause in kept]
    clauses = [re.sub(r"^(?:but|and)\s+", "", clause) for clause in clauses if clause]
    if not clauses:
        return Prompt(text, "", 0, True)
    return Prompt(", ".join(clauses), ", ".join(dict.fromkeys(absent)), dropped)


def _things(phrase: str) -> list[str]:
    """The things that a negated phrase names: "any people or cars in it" are two."""
    things = []
    for thing in re.split(r"\s+(?:or|nor)\s+", phrase.strip().rstrip(",.;!?").strip()):
        while (shorter := _TRAILING.sub("", _LEADING.sub("", thing))) != thing:
            thing = shorter
        vague = _UNSURE.match(thing) or _NO_THING.match(thing) or _OTHERS.search(thing)
        if thing and not vague:
            things.append(thing)
    return things

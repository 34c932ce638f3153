"""Dialogues about scenes: sources of different quality, and a planner that asks well.

A source plays the questioner and the answerer for one target scene. What is said in a round is
kept as facts beside the words, so that whatever is built from a dialogue can be checked.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from daitir.scenes import world
from daitir.scenes.language import Question, describe, mention, phrase, wordy
from daitir.scenes.scene import Fact, Scene, sort_facts, wrong

NUM_QUESTIONS = 10
WRONG_SHARE, UNKNOWN_SHARE = 0.2, 0.15  # of the answers of the unreliable source
REPEAT_SHARE = 0.7  # of the questions of the degenerate source


@dataclass(frozen=True)
class Turn:
    """One round: its words and the facts that they state, true or not."""

    text: str
    facts: tuple[Fact, ...]


# All chance comes from the generator, in the order of the rounds, so that a longer dialogue begins
# as the shorter one; the number is that of the questions.
Source = Callable[[Scene, random.Random, int], list[Turn]]


def dialogue(
    source: str, scene: Scene, *, seed: int = 0, num_questions: int = NUM_QUESTIONS
) -> list[Turn]:
    """A caption and questions with answers about a scene, as one of `SOURCES` would have them.

    Raises ValueError for an unknown source.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; choose one of {', '.join(SOURCES)}")
    rng = random.Random(f"dialogue/{source}/{seed}/{scene!r}")
    return SOURCES[source](scene, rng, num_questions)


def merge_facts(turns: Iterable[Turn]) -> tuple[Fact, ...]:
    """What is known after some turns, in the order in which it was first said.

    A later value of an attribute replaces an earlier one; an object once said to be there stays.
    """
    known: dict[tuple, Fact] = {}
    for fact in (fact for turn in turns for fact in turn.facts):
        relational = fact.attribute in world.RELATIONS
        known[(*fact[:2], fact.value) if relational else fact[:2]] = fact
    told = sort_facts(known.values())
    denied = [n for n in told.absent if told.objects.keys() & world.MEMBERS.get(n, (n,))]
    return tuple(f for f in known.values() if f.value is not False or f.subject not in denied)


def rewrites(turns: Sequence[Turn], *, seed: int = 0) -> list[str]:
    """Each round's dialogue so far, refined into one caption from its facts: no error, no loss.

    The reference that a language model's refinement is measured against. `seed` varies wording.
    """
    return [
        describe(merge_facts(turns[: number + 1]), random.Random(f"rewrite/{seed}/{number}"))
        for number in range(len(turns))
    ]


def answer(question: Question, scene: Scene, known: Sequence[Fact] = ()) -> tuple[Fact, ...]:
    """The true answer to a question, as facts; `known` decides what `other` still has to tell."""
    subject, attribute = question
    if attribute == "small talk":
        return ()
    if attribute == "other":
        told = {fact.subject for fact in known}
        untold = [item.category for item in scene.objects if item.category not in told]
        if untold:
            return (Fact(untold[0], "present", True),)
        return (Fact("scene", "count", scene.count),)
    if subject == "scene":
        return (Fact("scene", attribute, getattr(scene, attribute)),)
    members = world.MEMBERS.get(subject, (subject,))
    there = [item for item in scene.objects if item.category in members]
    if not there:
        return (Fact(subject, "present", False),)
    if attribute == "present":
        return tuple(Fact(item.category, "present", True) for item in there)
    names = ("column", "row") if attribute == "position" else (attribute,)
    return tuple(Fact(subject, name, getattr(there[0], name)) for name in names)


def best_question(
    candidates: Sequence[Scene], asked: Iterable[Question], known: Sequence[Fact] = ()
) -> Question:
    """The question whose answer splits the candidates most evenly (PlugIR's idea).

    That is the one with the highest entropy of answers over the candidates, the first of equals.
    Attributes are asked only of objects that are known to be there.
    """
    options = _questions(known)
    options += [Question(name, "present") for name in (*world.GROUPS, *world.CATEGORIES)]
    remaining = [question for question in options if question not in set(asked)]
    if not candidates or not remaining:
        raise ValueError("no candidates, or nothing left to ask")

    def entropy(question: Question) -> float:
        counts = Counter(answer(question, scene, known) for scene in candidates)
        shares = [count / len(candidates) for count in counts.values()]
        return -sum(share * math.log(share) for share in shares)

    return max(remaining, key=entropy)


def _questions(known: Iterable[Fact]) -> list[Question]:
    """What may be asked about the scene and the objects that are known to be there."""
    present = [f.subject for f in known if f.subject in world.CATEGORIES and f.value is not False]
    options = [Question("scene", name) for name in ("place", "time", "weather", "count", "other")]
    for name in dict.fromkeys(present):
        if world.CATEGORIES[name].has_colour:
            options.append(Question(name, "colour"))
        options += [Question(name, "position"), Question(name, "size")]
    return options


_INTEREST = {
    "place": 3.0, "time": 2.0, "weather": 1.5, "count": 1.0, "other": 2.5, "colour": 3.0,
    "position": 1.5, "size": 1.0,
}  # fmt: skip


def _sensible_question(
    known: Sequence[Fact], asked: Sequence[Question], rng: random.Random
) -> Question:
    settled = {(fact.subject, fact.attribute) for fact in known}
    settled |= {(name, "position") for name, attribute in settled if attribute == "column"}
    options = _questions(known)
    weights = [_INTEREST[question.attribute] for question in options]
    place = next((f.value for f in known if f[:2] == ("scene", "place")), None)
    guesses = world.OBJECT_WEIGHTS.get(place) or dict.fromkeys(world.CATEGORIES, 1.0)
    guess = rng.choices(list(guesses), list(guesses.values()))[0]
    options += [Question(name, "present") for name in (*world.GROUPS[:4], guess)]
    options.append(Question("scene", "small talk"))
    weights += [1.5, 1.2, 1.0, 0.6, 2.0, 2.0]
    done = settled.union(question for question in asked if question.attribute != "other")
    weights = [0.0 if q in done else w for q, w in zip(options, weights, strict=True)]
    return rng.choices(options, weights)[0]


def _caption(scene: Scene, style: str, rng: random.Random) -> Turn:
    shares = {"attribute": 0.35, "place": 0.7, "time": 0.25, "weather": 0.15, "relation": 0.25}
    facts = mention(scene, rng, num_objects=(3, 5, 2), **shares)
    if style == "terse":
        facts = [fact for fact in facts if fact.attribute in ("present", "place", "colour")]
        return Turn(describe(facts), tuple(facts))
    text = describe(facts, rng)
    return Turn(wordy(text, rng) if style == "verbose" else text, tuple(facts))


def _repeated_question(
    known: Sequence[Fact], asked: Sequence[Question], rng: random.Random
) -> Question:
    if asked and rng.random() < REPEAT_SHARE:
        return rng.choice(asked)
    return _sensible_question(known, asked, rng)


def _unreliable_answer(
    question: Question, scene: Scene, known: Sequence[Fact], rng: random.Random
) -> tuple[Fact, ...] | None:
    truth = answer(question, scene, known)
    if question.attribute == "small talk":
        return truth
    chance = rng.random()
    if chance < UNKNOWN_SHARE:
        return None
    if chance >= UNKNOWN_SHARE + WRONG_SHARE:
        return truth
    if question.attribute not in ("present", "other"):
        return tuple(wrong(fact, rng) for fact in truth)
    if question.attribute == "present" and truth[0].value is True:
        return (Fact(question.subject, "present", False),)
    options = world.MEMBERS.get(question.subject, (question.subject,))
    if question.attribute == "other":
        options = tuple(name for name in world.CATEGORIES if scene.object(name) is None)
    return (Fact(rng.choice(options), "present", True),)


def talk(
    scene: Scene,
    rng: random.Random,
    num_questions: int,
    *,
    style: str = "human",
    asks: Callable[..., Question] = _sensible_question,
    answers: Callable[..., tuple[Fact, ...] | None] | None = None,
) -> list[Turn]:
    """A dialogue whose words have a style, by a questioner and an answerer.

    Args:
        style: `human`, full sentences; `terse`, single words; `verbose`, sentences in filler.
        asks: chooses a question by what is known, what was asked, and chance.
        answers: answers it by the scene, what is known, and chance; None for "can't tell". Without
            it every answer is true.
    """
    turns = [_caption(scene, style, rng)]
    asked: list[Question] = []
    for _ in range(num_questions):
        known = merge_facts(turns)
        question = asks(known, asked, rng)
        asked.append(question)
        facts = answers(question, scene, known, rng) if answers else answer(question, scene, known)
        turns.append(Turn(phrase(question, facts, style, rng), facts or ()))
    return turns


SOURCES: dict[str, Source] = {
    "human": talk,
    "terse": partial(talk, style="terse"),
    "verbose": partial(talk, style="verbose"),
    "degenerate": partial(talk, asks=_repeated_question),
    "unreliable": partial(talk, answers=_unreliable_answer),
}
"""The source of each name.

`human`: full sentences, sensible questions; `terse`: single words; `verbose`: the same wrapped in
filler; `degenerate`: mostly repeats a question that it asked before; `unreliable`: as human, but a
fifth of the answers is wrong and some are "can't tell".
"""


def register_source(name: str, source: Source) -> None:
    """Let `dialogue` have another source, for example `partial(talk, style="terse")`."""
    SOURCES[name] = source

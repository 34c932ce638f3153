"""Dialogues about scenes: five sources of different quality, and a planner that asks well.

Each source plays the questioner and the answerer for one target scene. What is said in a round
is kept as facts beside the words, so that whatever is built from a dialogue can be checked.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from daitir.scenes import world
from daitir.scenes.language import (
    COLUMN_PHRASES,
    GROUP_WORDS,
    NOUNS,
    NUMBERS,
    PLACE_PHRASES,
    ROW_PHRASES,
    SIZE_WORDS,
    TIME_PHRASES,
    WEATHER_PHRASES,
    Wording,
    article,
    describe,
    mention,
)
from daitir.scenes.scene import Fact, Scene

SOURCES = ("human", "terse", "verbose", "degenerate", "unreliable")
NUM_QUESTIONS = 10

_WRONG_SHARE, _UNKNOWN_SHARE = 0.2, 0.15
_REPEAT_SHARE = 0.7


class Question(NamedTuple):
    """What is asked for. `attribute`: place, time, weather, count, colour, size, position, present;
    `other` asks for one more object; `small talk` for nothing that a picture could be found by."""

    subject: str
    attribute: str


@dataclass(frozen=True)
class Turn:
    """One round: its words and the facts that they state, true or not."""

    text: str
    facts: tuple[Fact, ...]


SMALL_TALK = (
    ("is it a photo?", "no, it is a drawing"),
    ("is the picture in colour?", "yes"),
    ("does it look nice?", "yes, quite nice"),
    ("is there any writing?", "no, none"),
    ("is it indoors?", "no, outside"),
    ("is it blurry?", "no"),
)


def dialogue(
    source: str, scene: Scene, *, seed: int = 0, num_questions: int = NUM_QUESTIONS
) -> list[Turn]:
    """A caption and questions with answers about a scene, as a source would have them.

    Args:
        source: one of `SOURCES`. `human`: full sentences, sensible questions; `terse`: single
            words; `verbose`: the same wrapped in filler; `degenerate`: mostly repeats a question
            that it asked before; `unreliable`: as human, but a fifth of the answers is wrong and
            some are "can't tell".
        scene: the target.
        seed: chooses among the many dialogues that a source could have about a scene.
        num_questions: how many are asked; a longer dialogue begins as the shorter one.

    Raises ValueError for an unknown source.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; choose one of {', '.join(SOURCES)}")
    rng = random.Random(f"dialogue/{source}/{seed}/{scene!r}")
    style = source if source in ("terse", "verbose") else "human"
    turns = [_opening(scene, style, rng)]
    asked: list[Question] = []
    for _ in range(num_questions):
        known = merge_facts(turns)
        if source == "degenerate" and asked and rng.random() < _REPEAT_SHARE:
            question = rng.choice(asked)
        else:
            question = _human_question(known, asked, rng)
        asked.append(question)
        facts: tuple[Fact, ...] | None = answer(question, scene, known)
        if source == "unreliable" and question.attribute != "small talk":
            chance = rng.random()
            if chance < _UNKNOWN_SHARE:
                facts = None
            elif chance < _UNKNOWN_SHARE + _WRONG_SHARE:
                facts = _mistaken(question, scene, facts, rng)
        words = phrase(question, facts, style, rng)
        turns.append(Turn(words, facts or ()))
    return turns


def merge_facts(turns: Iterable[Turn]) -> tuple[Fact, ...]:
    """What is known after some turns, in the order in which it was first said.

    A later value of an attribute replaces an earlier one; an object once said to be there stays.
    """
    known: dict[tuple, Fact] = {}
    for fact in (fact for turn in turns for fact in turn.facts):
        relational = fact.attribute in world.RELATIONS
        known[(*fact[:2], fact.value) if relational else fact[:2]] = fact
    mentioned = {f.subject for f in known.values() if (f.attribute, f.value) != ("present", False)}
    mentioned |= {str(f.value) for f in known.values() if f.attribute in world.RELATIONS}

    def contradicted(fact: Fact) -> bool:
        if (fact.attribute, fact.value) == ("present", False):
            return bool(mentioned & set(world.MEMBERS.get(fact.subject, (fact.subject,))))
        return False

    return tuple(fact for fact in known.values() if not contradicted(fact))


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
        return (Fact("scene", "count", len(scene.objects)),)
    if subject == "scene":
        truth = len(scene.objects) if attribute == "count" else getattr(scene, attribute)
        return (Fact("scene", attribute, truth),)
    if attribute == "present":
        members = world.MEMBERS.get(subject, (subject,))
        there = [item.category for item in scene.objects if item.category in members]
        return tuple(Fact(name, "present", True) for name in there) or (
            Fact(subject, "present", False),
        )
    item = scene.object(subject)
    if item is None:
        return (Fact(subject, "present", False),)
    names = ("column", "row") if attribute == "position" else (attribute,)
    return tuple(Fact(subject, name, getattr(item, name)) for name in names)


def wrong(fact: Fact, rng: random.Random) -> Fact:
    """The fact with another value: what a mistaken answerer or a careless drawing makes of it."""
    subject, attribute, value = fact
    if attribute == "present":
        return Fact(subject, attribute, not value)
    if attribute in world.RELATIONS:
        return Fact(str(value), attribute, subject)
    options = {
        "place": world.PLACES,
        "time": world.TIMES,
        "weather": world.WEATHERS,
        "count": tuple(range(1, world.MAX_OBJECTS + 1)),
        "colour": world.COLOURS,
        "size": world.SIZES,
        "column": world.COLUMNS,
        "row": world.ROWS,
    }[attribute]
    return Fact(subject, attribute, rng.choice([o for o in options if o != value]))


def _mistaken(
    question: Question, scene: Scene, truth: tuple[Fact, ...], rng: random.Random
) -> tuple[Fact, ...]:
    if question.attribute not in ("present", "other"):
        return tuple(wrong(fact, rng) for fact in truth)
    if question.attribute == "present" and truth[0].value is True:
        return (Fact(question.subject, "present", False),)
    options = world.MEMBERS.get(question.subject, (question.subject,))
    if question.attribute == "other":
        options = tuple(name for name in world.CATEGORIES if scene.object(name) is None)
    return (Fact(rng.choice(options), "present", True),)


def best_question(
    candidates: Sequence[Scene], asked: Iterable[Question], known: Sequence[Fact] = ()
) -> Question:
    """The question whose answer splits the candidates most evenly (PlugIR's idea).

    Args:
        candidates: the scenes that are still thought possible, such as the current top 100.
        asked: questions that were asked already and are not asked again.
        known: facts known so far; attributes are asked only of objects known to be there.

    Returns:
        The question with the highest entropy of answers over the candidates, the first of equals.
    """
    present = [f.subject for f in known if f.subject in world.CATEGORIES and f.value is not False]
    options = _questions(dict.fromkeys(present))
    options += [Question(name, "present") for name in (*world.GROUPS, *world.CATEGORIES)]
    remaining = [question for question in options if question not in set(asked)]
    if not candidates or not remaining:
        raise ValueError("no candidates, or nothing left to ask")

    def entropy(question: Question) -> float:
        counts = Counter(answer(question, scene, known) for scene in candidates)
        shares = [count / len(candidates) for count in counts.values()]
        return -sum(share * math.log(share) for share in shares)

    return max(remaining, key=entropy)


def _questions(present: Iterable[str]) -> list[Question]:
    options = [Question("scene", name) for name in ("place", "time", "weather", "count", "other")]
    for name in present:
        if world.CATEGORIES[name].has_colour:
            options.append(Question(name, "colour"))
        options += [Question(name, "position"), Question(name, "size")]
    return options


# ------------------------------------------------------------------ asking and answering in words

_INTEREST = {
    "place": 3.0, "time": 2.0, "weather": 1.5, "count": 1.0, "other": 2.5, "colour": 3.0,
    "position": 1.5, "size": 1.0,
}  # fmt: skip


def _human_question(
    known: Sequence[Fact], asked: Sequence[Question], rng: random.Random
) -> Question:
    settled = {(fact.subject, fact.attribute) for fact in known}
    settled |= {(name, "position") for name, attribute in settled if attribute == "column"}
    present = [f.subject for f in known if f.subject in world.CATEGORIES and f.value is not False]
    options = _questions(dict.fromkeys(present))
    weights = [_INTEREST[question.attribute] for question in options]
    place = next((f.value for f in known if f[:2] == ("scene", "place")), None)
    guesses = world.OBJECT_WEIGHTS.get(place) or dict.fromkeys(world.CATEGORIES, 1.0)
    guess = rng.choices(list(guesses), list(guesses.values()))[0]
    options += [Question(group, "present") for group in world.GROUPS[:4]]
    weights += [1.5, 1.2, 1.0, 0.6]
    options += [Question(guess, "present"), Question("scene", "small talk")]
    weights += [2.0, 2.0]
    for number, question in enumerate(options):
        if question in settled or (question in asked and question.attribute != "other"):
            weights[number] = 0.0
    return rng.choices(options, weights)[0]


def _opening(scene: Scene, style: str, rng: random.Random) -> Turn:
    facts = mention(
        scene,
        rng,
        num_objects=(3, 5, 2),
        attribute=0.35,
        place=0.7,
        time=0.25,
        weather=0.15,
        relation=0.25,
    )
    if style == "terse":
        facts = [fact for fact in facts if fact.attribute in ("present", "place", "colour")]
        return Turn(describe(facts), tuple(facts))
    text = describe(facts, rng)
    return Turn(_wordy(text, rng) if style == "verbose" else text, tuple(facts))


def phrase(
    question: Question, facts: tuple[Fact, ...] | None, style: str, rng: random.Random
) -> str:
    """A round in words: the question and its answer, `facts`, or None for "can't tell".

    `style` is `human`, `terse` or `verbose`; `rng` chooses among several wordings.
    """
    if question.attribute == "small talk":
        asked, reply = rng.choice(SMALL_TALK)
    else:
        say = Wording(None if style == "terse" else rng)
        asked = _asking(question, style, say)
        if facts is None:
            reply = rng.choice(["i can't tell", "can't really tell", "hard to say", "not sure"])
        else:
            reply = _replying(question, facts, style, say)
    if style == "verbose":
        return f"{rng.choice(_FILLER_BEFORE)} {asked} {_wordy(reply, rng)}"
    return f"{asked} {reply}"


def ask(question: Question) -> str:
    """The plainest words for a question.

    >>> ask(Question("dog", "colour"))
    'what colour is the dog?'
    """
    return _asking(question, "human", Wording())


def reply(question: Question, facts: tuple[Fact, ...]) -> str:
    """The plainest words for the answer, as `answer` gives it.

    >>> reply(Question("scene", "time"), (Fact("scene", "time", "night"),))
    'at night'
    """
    return _replying(question, facts, "human", Wording())


_FILLER_BEFORE = [
    "thanks, that helps a lot, so let me ask you one more thing:",
    "okay, i am beginning to imagine it, but please tell me:",
    "good, and if you look at the whole picture once more,",
    "i see what you mean, more or less; now i would like to know,",
]
_FILLER_START = [
    "well, let me have a closer look, i would say that the answer is",
    "as far as i can make out from here, and i have looked twice,",
    "that is a good question, i think what we have here is",
    "hmm, if i am not mistaken, and i rarely am,",
]
_FILLER_END = [
    "but then again these little pictures are not always easy to read",
    "if that is of any help to you",
    "and that is really all that i can say about it",
    "which is rather charming if you ask me",
]


def _wordy(text: str, rng: random.Random) -> str:
    return f"{rng.choice(_FILLER_START)} {text}, {rng.choice(_FILLER_END)}"


def _asking(question: Question, style: str, say: Wording) -> str:
    subject, attribute = question
    noun = NOUNS[subject][0] if subject in NOUNS else ""
    if style == "terse":
        named = noun or GROUP_WORDS.get(subject, [""])[0]
        return {
            "other": "what else?",
            "present": f"any {named}?",
            "count": "how many?",
        }.get(attribute, f"{named} {attribute}?".strip())
    if attribute == "present":
        if subject in world.GROUPS:
            word = say(GROUP_WORDS[subject])
            return say([f"are there any {word}?", f"are there {word}?", f"do you see any {word}?"])
        named = article(noun)
        return say([f"is there {named}?", f"do you see {named}?", f"is there {named} in it?"])
    return say(
        {
            "place": ["where is it?", "where was this taken?", "what place is it?"],
            "time": ["what time of day is it?", "is it day or night?", "when is it?"],
            "weather": ["what is the weather like?", "how is the weather?", "is it sunny?"],
            "count": ["how many things are there?", "how many objects do you see?"],
            "other": ["what else is there?", "is there anything else?", "what else do you see?"],
            "colour": [f"what colour is the {noun}?", f"which colour does the {noun} have?"],
            "size": [f"how big is the {noun}?", f"is the {noun} large or small?"],
            "position": [f"where is the {noun}?", f"where in the picture is the {noun}?"],
        }[attribute]
    )


_VALUE_FORMS = {
    "place": PLACE_PHRASES,
    "time": TIME_PHRASES,
    "weather": WEATHER_PHRASES,
    "size": SIZE_WORDS,
    "column": COLUMN_PHRASES,
    "row": ROW_PHRASES,
}


def _replying(question: Question, facts: tuple[Fact, ...], style: str, say: Wording) -> str:
    """The words of an answer; a wrong answer arrives here as wrong facts and reads the same."""
    terse = style == "terse"
    there = [f.subject for f in facts if f.attribute == "present" and f.value]
    if there:
        named = [name if terse else article(say(NOUNS[name])) for name in there]
        listed = " and ".join(named)
        if question.attribute == "present" and there == [question.subject]:
            return "yes" if terse else say(["yes", "yes, there is", "yes there is one"])
        if question.attribute == "present":
            return listed if terse else say([f"yes, {listed}", f"yes, i see {listed}"])
        return listed if terse else say([f"yes, {listed}", f"there is {listed}", listed])
    fact = facts[0]
    if fact.attribute == "present":
        return "no" if terse else say(["no", "no, there is not", "none that i can see", "no, none"])
    if fact.attribute == "count":
        if question.attribute == "other":
            return "nothing" if terse else f"nothing else, just {NUMBERS[fact.value]} in all"
        return NUMBERS[fact.value]
    words = [
        say(_VALUE_FORMS[f.attribute][f.value]) if f.attribute in _VALUE_FORMS else str(f.value)
        for f in facts
    ]
    if fact.subject == "scene" or terse:
        return " ".join(words)
    return say([" ".join(words), "it is " + " ".join(words)])



"""What is asked and answered, in words: plain, terse or wordy."""

from __future__ import annotations

import random
from typing import NamedTuple

from daitir.scenes import world
from daitir.scenes.language import GROUP_WORDS, NOUNS, NUMBERS, TABLES, Wording, article
from daitir.scenes.scene import Fact

SMALL_TALK = (
    ("is it a photo?", "no, it is a drawing"),
    ("is the picture in colour?", "yes"),
    ("does it look nice?", "yes, quite nice"),
    ("is there any writing?", "no, none"),
    ("is it indoors?", "no, outside"),
    ("is it blurry?", "no"),
)


class Question(NamedTuple):
    """What is asked for. `attribute`: place, time, weather, count, colour, size, position, present;
    `other` asks for one more object; `small talk` for nothing that a picture could be found by."""

    subject: str
    attribute: str


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
        return f"{rng.choice(_FILLER_BEFORE)} {asked} {wordy(reply, rng)}"
    return f"{asked} {reply}"


def ask(question: Question) -> str:
    """The plainest words for a question."""
    return _asking(question, "human", Wording())


def reply(question: Question, facts: tuple[Fact, ...]) -> str:
    """The plainest words for the answer, as `answer` gives it."""
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


def wordy(text: str, rng: random.Random) -> str:
    """The text wrapped in filler that says nothing."""
    return f"{rng.choice(_FILLER_START)} {text}, {rng.choice(_FILLER_END)}"


def _asking(question: Question, style: str, say: Wording) -> str:
    subject, attribute = question
    noun = NOUNS[subject][0] if subject in NOUNS else ""
    if style == "terse":
        named = noun or GROUP_WORDS.get(subject, [""])[0]
        plain = {"other": "what else?", "present": f"any {named}?", "count": "how many?"}
        return plain.get(attribute, f"{named} {attribute}?".strip())
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
    words = " ".join(
        say(TABLES[f.attribute][f.value]) if f.attribute in TABLES else str(f.value) for f in facts
    )
    return words if fact.subject == "scene" or terse else say([words, f"it is {words}"])

"""Words: a small grammar with synonyms that writes and reads captions, and talks of scenes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from daitir.scenes import world
from daitir.scenes.scene import Fact, Scene, holds, sort_facts

# The first form of each list is the plain one, which questions and answers use.
TABLES = {
    "noun": {name: (name, *kind.nouns.split(", ")) for name, kind in world.CATEGORIES.items()},
    "place": {
        "beach": ["at the beach", "on a beach", "on the sand by the sea", "at the seaside"],
        "city": ["in the city", "in a city street", "downtown", "on a road in town"],
        "forest": ["in the forest", "in the woods", "among fir trees", "in a forest"],
        "farm": ["on a farm", "at the farm", "in a field with a barn", "on farmland"],
        "mountains": ["in the mountains", "in the snow below the peaks", "in snowy mountains"],
        "desert": ["in the desert", "among sand dunes", "in a desert with cacti"],
        "park": ["in the park", "in a park", "on the lawn of a park", "by the path in the park"],
        "harbour": ["in the harbour", "at the harbour", "by the pier", "at the docks"],
    },
    "time": {
        "day": ["by day", "during the day", "in daylight", "in the daytime"],
        "sunset": ["at sunset", "in the evening light", "at dusk", "under a sunset sky"],
        "night": ["at night", "after dark", "in the dark", "under a night sky"],
    },
    "weather": {
        "clear": ["in clear weather", "under a clear sky", "clear sky", "in fine weather"],
        "cloudy": ["in cloudy weather", "under clouds", "cloudy sky", "overcast"],
        "rainy": ["in the rain", "in rainy weather", "rain falling", "on a rainy day"],
    },
    "size": {"small": ["small", "little", "tiny"], "large": ["large", "big", "huge"]},
    "column": {
        "left": ["on the left", "to the left", "at the left"],
        "middle": ["in the middle", "in the centre"],
        "right": ["on the right", "to the right", "at the right"],
    },
    "row": {
        "front": ["in front", "in the foreground", "up close"],
        "back": ["at the back", "in the background", "further away"],
    },
    "relation": {
        "left of": ["to the left of", "left of", "on the left side of"],
        "right of": ["to the right of", "right of", "on the right side of"],
        "in front of": ["in front of", "before"],
    },
    "group": {
        "people": ["people", "persons"], "animals": ["animals", "animals"],
        "vehicles": ["vehicles", "vehicles"], "plants": ["flowers or plants", "plants"],
        "things": ["things", "objects"],
    },
}  # fmt: skip
NOUNS, GROUP_WORDS = TABLES["noun"], TABLES["group"]
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_COUNTS = {n: f"{word} thing{'s' * (n != 1)} in all" for n, word in NUMBERS.items()}
_OPENINGS = ["", "", "", "", "a picture of ", "a drawing of ", "an image of ", "there is "]

# Chooses among forms of words; `random.choice` takes any.
Say = Callable[[Sequence[str]], str]
PLAIN: Say = itemgetter(0)


def article(words: str) -> str:
    """The words with their indefinite article."""
    return f"{'an' if words.startswith(('a', 'e', 'i', 'o', 'um')) else 'a'} {words}"


def describe(facts: Iterable[Fact], rng: random.Random | None = None) -> str:
    """One caption that says the given facts and nothing else.

    Objects come in the order in which they are first mentioned. Without `rng` the wording is plain
    and fixed.

    >>> describe([Fact("dog", "present", True), Fact("dog", "size", "small"),
    ...           Fact("scene", "place", "beach"), Fact("people", "present", False)])
    'a small dog at the beach, no people'
    """
    say, told = rng.choice if rng else PLAIN, sort_facts(facts)
    phrases = [_object_phrase(name, attributes, say) for name, attributes in told.objects.items()]
    phrases += [f"some {say(GROUP_WORDS[group])}" for group in told.groups]
    text = say(_OPENINGS) + _listing(phrases, say) if phrases else ""
    where = [say(TABLES[n][told.scene[n]]) for n in ("place", "time") if n in told.scene]
    text = " ".join(phrase for phrase in (text, *where) if phrase)
    rest = [
        f"the {say(NOUNS[a])} {say(TABLES['relation'][relation])} the {say(NOUNS[b])}"
        for a, relation, b in told.relations
    ]
    if "weather" in told.scene:
        rest.append(say(TABLES["weather"][told.scene["weather"]]))
    if "count" in told.scene:
        rest.append(_COUNTS[told.scene["count"]])
    rest += [f"no {say(GROUP_WORDS.get(name) or NOUNS[name])}" for name in told.absent]
    return ", ".join(phrase for phrase in (text, *rest) if phrase)


def _object_phrase(name: str, attributes: dict, say: Say) -> str:
    words = say(NOUNS[name])
    if "colour" in attributes:
        words = f"{attributes['colour']} {words}"
    if "size" in attributes:
        words = f"{say(TABLES['size'][attributes['size']])} {words}"
    where = [say(TABLES[n][attributes[n]]) for n in ("column", "row") if n in attributes]
    return " ".join([article(words), *where])


def _listing(phrases: list[str], say: Say) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + say([" and ", " and ", " with ", ", "]) + phrases[-1]


class Parsed(NamedTuple):
    """What a caption says: its facts in the order of the words, and what was not understood."""

    facts: tuple[Fact, ...]
    unread: tuple[str, ...]


def parse(caption: str) -> Parsed:
    """The facts that a caption of this grammar states: the inverse of `describe`.

    Any synonym is understood, and any order of the parts. Naming an object states that it is there.
    Words outside of the grammar, and attributes of nothing, are returned as unread.

    >>> parse("a small dog at the beach, no people").facts[-1]
    Fact(subject='people', attribute='present', value=False)
    >>> parse("a dog and a unicorn at the beach").unread
    ('unicorn',)
    """
    facts: list[Fact] = []
    unread: list[str] = []
    last_object, relation, negated = None, None, False
    waiting: list[tuple[str, str, str]] = []  # colours and sizes before their noun
    text, end = caption.lower(), 0
    for match in _PHRASE.finditer(text):
        unread.append(text[end : match.start()])
        end, words = match.end(), match[0]
        kind, value = _LEXICON[words]
        if kind in ("colour", "size"):
            waiting.append((words, kind, value))
            continue
        if kind == "noun":
            facts += [Fact(value, attribute, word) for _, attribute, word in waiting]
        else:
            unread += [lost for lost, _, _ in waiting]
        waiting = []
        if kind in ("noun", "group"):
            facts.append(Fact(value, "present", not negated))
            if kind == "noun" and relation:
                facts.append(Fact(*relation, value))
                relation = None
            last_object = value if kind == "noun" and not negated else None
            negated = False
        elif kind in ("column", "row", "relation") and last_object is None:
            unread.append(words)
        elif kind in ("column", "row"):
            facts.append(Fact(last_object, kind, value))
        elif kind == "relation":
            relation = (last_object, value)
        elif kind == "no":
            negated = True
        elif kind != "filler":
            facts.append(Fact("scene", kind, value))
    unread += [text[end:], *(lost for lost, _, _ in waiting)]
    stripped = (" ".join(words.strip(" ,.;:!?").split()) for words in unread)
    return Parsed(tuple(dict.fromkeys(facts)), tuple(filter(None, stripped)))


def implied(facts: Iterable[Fact]) -> set[Fact]:
    """What a caption of the facts says: the facts, and that all they are about is there."""
    said = set(facts)
    for subject, attribute, value in tuple(said):
        if subject != "scene" and attribute != "present":
            said.add(Fact(subject, "present", True))
            if attribute in world.RELATIONS:
                said.add(Fact(str(value), "present", True))
    return said


_LEXICON: dict[str, tuple[str, str | int]] = {
    form: (kind, value)
    for kind, table in TABLES.items()
    for value, forms in table.items()
    for form in forms
}
_LEXICON |= {colour: ("colour", colour) for colour in world.COLOURS}
_LEXICON |= {words: ("count", number) for number, words in _COUNTS.items()}
_LEXICON |= {opening.strip(): ("filler", "") for opening in _OPENINGS if opening}
_LEXICON |= dict.fromkeys(("a", "an", "the", "and", "with", "some"), ("filler", ""))
_LEXICON["no"] = ("no", "")
# Longest first, so that "to the left of" is not read as "to the left".
_PHRASE = re.compile(
    rf"\b(?:{'|'.join(map(re.escape, sorted(_LEXICON, key=len, reverse=True)))})\b"
)


def mention(
    scene: Scene, rng: random.Random, *, num_objects: Sequence[float], **shares: float
) -> list[Fact]:
    """Facts that somebody might mention of a scene, each kind with its probability.

    `num_objects` are weights of mentioning 1, 2, ... objects, as far as the scene has them. The
    other probabilities are `place`, `time`, `weather`; `attribute` for each colour of a mentioned
    object, half of it for size and position; `relation` for one relation between two of them.
    """
    most = min(len(num_objects), len(scene.objects))
    number = rng.choices(range(1, most + 1), num_objects[:most])[0] if most else 0
    chosen = rng.sample(scene.objects, number)
    facts = []
    for item in chosen:
        facts.append(Fact(item.category, "present", True))
        if item.colour is not None and rng.random() < shares["attribute"]:
            facts.append(Fact(item.category, "colour", item.colour))
        facts += [
            Fact(item.category, name, getattr(item, name))
            for name in ("size", "column", "row")
            if rng.random() < shares["attribute"] / 2
        ]
    if number > 1 and rng.random() < shares["relation"]:
        a, b = chosen[0].category, chosen[1].category
        possible = [Fact(x, r, y) for x, y in ((a, b), (b, a)) for r in world.RELATIONS]
        facts += [fact for fact in possible if holds(fact, scene)][:1]
    for name in ("place", "time", "weather"):
        if rng.random() < shares[name]:
            facts.append(Fact("scene", name, getattr(scene, name)))
    return facts


def short_caption(scene: Scene, rng: random.Random) -> str:
    """A caption as alt texts of the web are: short, incomplete, without negations."""
    shares = {"attribute": 0.4, "place": 0.6, "time": 0.35, "weather": 0.3, "relation": 0.2}
    return describe(mention(scene, rng, num_objects=(4, 4, 2, 1), **shares), rng)


class Question(NamedTuple):
    """What is asked for. `attribute`: place, time, weather, count, colour, size, position, present;
    `other` asks for one more object; `small talk` for nothing that a picture could be found by."""

    subject: str
    attribute: str


_QUESTIONS = {
    "place": ["where is it?", "where was this taken?", "what place is it?"],
    "time": ["what time of day is it?", "is it day or night?", "when is it?"],
    "weather": ["what is the weather like?", "how is the weather?", "is it sunny?"],
    "count": ["how many things are there?", "how many objects do you see?"],
    "other": ["what else is there?", "is there anything else?", "what else do you see?"],
    "colour": ["what colour is the {0}?", "which colour does the {0} have?"],
    "size": ["how big is the {0}?", "is the {0} large or small?"],
    "position": ["where is the {0}?", "where in the picture is the {0}?"],
    "present": ["is there {1}?", "do you see {1}?", "is there {1} in it?"],
    "group": ["are there any {0}?", "are there {0}?", "do you see any {0}?"],
}
_SMALL_TALK = [
    ("is it a photo?", "no, it is a drawing"),
    ("is the picture in colour?", "yes"),
    ("does it look nice?", "yes, quite nice"),
    ("is there any writing?", "no, none"),
    ("is it indoors?", "no, outside"),
    ("is it blurry?", "no"),
]
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


def phrase(
    question: Question, facts: tuple[Fact, ...] | None, style: str, rng: random.Random
) -> str:
    """A round in words: the question and its answer, `facts`, or None for "can't tell".

    `style` is `human`, `terse` or `verbose`; `rng` chooses among several wordings.
    """
    terse = style == "terse"
    say = PLAIN if terse else rng.choice
    if question.attribute == "small talk":
        asked, answered = rng.choice(_SMALL_TALK)
    else:
        asked = ask(question, say, terse=terse)
        if facts is None:
            answered = rng.choice(["i can't tell", "can't really tell", "hard to say", "not sure"])
        else:
            answered = reply(question, facts, say, terse=terse)
    if style == "verbose":
        return f"{rng.choice(_FILLER_BEFORE)} {asked} {wordy(answered, rng)}"
    return f"{asked} {answered}"


def ask(question: Question, say: Say = PLAIN, *, terse: bool = False) -> str:
    """The words for a question, the plainest without `say`."""
    subject, attribute = question
    is_group = subject in GROUP_WORDS
    words = say(GROUP_WORDS[subject]) if is_group else NOUNS.get(subject, [""])[0]
    if terse:
        short = {"other": "what else?", "present": f"any {words}?", "count": "how many?"}
        return short.get(attribute, f"{words} {attribute}?".strip())
    return say(_QUESTIONS["group" if is_group else attribute]).format(words, article(words))


def reply(
    question: Question, facts: tuple[Fact, ...], say: Say = PLAIN, *, terse: bool = False
) -> str:
    """The words for the answer, as `answer` gives it; a wrong answer reads like a right one."""
    asks_presence = question.attribute == "present"
    there = [f.subject for f in facts if f.attribute == "present" and f.value]
    if there:
        listed = " and ".join(name if terse else article(say(NOUNS[name])) for name in there)
        if asks_presence and there == [question.subject]:
            return say(["yes", "yes, there is", "yes there is one"])
        more = [f"yes, i see {listed}"] if asks_presence else [f"there is {listed}", listed]
        return listed if terse else say([f"yes, {listed}", *more])
    fact = facts[0]
    if fact.attribute == "present":
        return say(["no", "no, there is not", "none that i can see", "no, none"])
    if question.attribute == "other":
        return "nothing" if terse else f"nothing else, just {NUMBERS[fact.value]} in all"
    if fact.attribute == "count":
        return NUMBERS[fact.value]
    words = " ".join(
        say(TABLES[f.attribute][f.value]) if f.attribute in TABLES else str(f.value) for f in facts
    )
    return words if fact.subject == "scene" else say([words, f"it is {words}"])

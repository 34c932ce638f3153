"""Facts in words: a small grammar with synonyms that writes and reads captions."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from daitir.scenes import world
from daitir.scenes.scene import Fact, Scene, holds

# The first form of each list is the plain one, which questions and answers use.
NOUNS = {
    "farmer": ["farmer", "farmer with a fork"],
    "cyclist": ["cyclist", "person on a bicycle", "biker on a bike"],
    "skier": ["skier", "person on skis"],
    "dancer": ["dancer", "dancing person"],
    "surfer": ["surfer", "person surfing"],
    "dog": ["dog", "dog", "hound"],
    "cat": ["cat", "grey cat", "kitty"],
    "horse": ["horse", "brown horse", "pony"],
    "cow": ["cow", "cow", "spotted cow"],
    "sheep": ["sheep", "woolly sheep"],
    "pig": ["pig", "pink pig"],
    "duck": ["duck", "mallard"],
    "parrot": ["parrot", "colourful bird"],
    "camel": ["camel", "camel with humps"],
    "rabbit": ["rabbit", "bunny"],
    "crab": ["crab", "crab with claws"],
    "turtle": ["turtle", "tortoise"],
    "penguin": ["penguin", "penguin"],
    "elephant": ["elephant", "grey elephant"],
    "butterfly": ["butterfly", "butterfly"],
    "fish": ["fish", "fish"],
    "car": ["car", "automobile", "hatchback"],
    "bus": ["bus", "coach"],
    "tractor": ["tractor", "tractor"],
    "motorcycle": ["motorcycle", "motorbike"],
    "canoe": ["canoe", "rowing boat", "canoe with a paddle"],
    "sailboat": ["sailboat", "sailing boat", "yacht"],
    "helicopter": ["helicopter", "chopper"],
    "train": ["train", "steam engine", "locomotive"],
    "tulip": ["tulip", "tulip flower"],
    "sunflower": ["sunflower", "sunflower"],
    "mushroom": ["mushroom", "toadstool"],
    "umbrella": ["umbrella", "parasol"],
    "balloon": ["balloon", "balloon on a string"],
    "kite": ["kite", "kite"],
    "tent": ["tent", "camping tent"],
    "chair": ["chair", "seat"],
    "backpack": ["backpack", "rucksack"],
    "guitar": ["guitar", "electric guitar"],
    "lantern": ["lantern", "paper lantern"],
    "mailbox": ["mailbox", "letter box"],
    "football": ["football", "soccer ball"],
    "campfire": ["campfire", "fire"],
    "snowman": ["snowman", "snowman with a hat"],
}
PLACE_PHRASES = {
    "beach": ["at the beach", "on a beach", "on the sand by the sea", "at the seaside"],
    "city": ["in the city", "in a city street", "downtown", "on a road in town"],
    "forest": ["in the forest", "in the woods", "among fir trees", "in a forest"],
    "farm": ["on a farm", "at the farm", "in a field with a barn", "on farmland"],
    "mountains": ["in the mountains", "in the snow below the peaks", "in snowy mountains"],
    "desert": ["in the desert", "among sand dunes", "in a desert with cacti"],
    "park": ["in the park", "in a park", "on the lawn of a park", "by the path in the park"],
    "harbour": ["in the harbour", "at the harbour", "by the pier", "at the docks"],
}
TIME_PHRASES = {
    "day": ["by day", "during the day", "in daylight", "in the daytime"],
    "sunset": ["at sunset", "in the evening light", "at dusk", "under a sunset sky"],
    "night": ["at night", "after dark", "in the dark", "under a night sky"],
}
WEATHER_PHRASES = {
    "clear": ["in clear weather", "under a clear sky", "clear sky", "in fine weather"],
    "cloudy": ["in cloudy weather", "under clouds", "cloudy sky", "overcast"],
    "rainy": ["in the rain", "in rainy weather", "rain falling", "on a rainy day"],
}
SIZE_WORDS = {"small": ["small", "little", "tiny"], "large": ["large", "big", "huge"]}
COLUMN_PHRASES = {
    "left": ["on the left", "to the left", "at the left"],
    "middle": ["in the middle", "in the centre"],
    "right": ["on the right", "to the right", "at the right"],
}
ROW_PHRASES = {
    "front": ["in front", "in the foreground", "up close"],
    "back": ["at the back", "in the background", "further away"],
}
RELATION_PHRASES = {
    "left of": ["to the left of", "left of", "on the left side of"],
    "right of": ["to the right of", "right of", "on the right side of"],
    "in front of": ["in front of", "before"],
}
GROUP_WORDS = {
    "people": ["people", "persons"],
    "animals": ["animals", "animals"],
    "vehicles": ["vehicles", "vehicles"],
    "plants": ["flowers or plants", "plants"],
    "things": ["things", "objects"],
}
TABLES = {
    "noun": NOUNS, "place": PLACE_PHRASES, "time": TIME_PHRASES, "weather": WEATHER_PHRASES,
    "size": SIZE_WORDS, "column": COLUMN_PHRASES, "row": ROW_PHRASES,
    "relation": RELATION_PHRASES, "group": GROUP_WORDS,
}  # fmt: skip
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_OPENINGS = ["", "", "", "", "a picture of ", "a drawing of ", "an image of ", "there is "]


def article(words: str) -> str:
    """The words with their indefinite article."""
    return f"{'an' if words[0] in 'aeio' or words.startswith('um') else 'a'} {words}"


class Wording:
    """Chooses among synonyms: always the plain form without a generator, else any form."""

    def __init__(self, rng: random.Random | None = None):
        self.rng = rng

    def __call__(self, forms: Sequence[str]) -> str:
        return forms[0] if self.rng is None else self.rng.choice(forms)


def describe(facts: Iterable[Fact], rng: random.Random | None = None) -> str:
    """One caption that says the given facts and nothing else.

    Objects come in the order in which they are first mentioned. Without `rng` the wording is plain
    and fixed.

    >>> describe([Fact("dog", "present", True), Fact("dog", "size", "small"),
    ...           Fact("scene", "place", "beach"), Fact("people", "present", False)])
    'a small dog at the beach, no people'
    """
    say = Wording(rng)
    objects: dict[str, dict] = {}
    scene: dict[str, str | int] = {}
    relations, absent, groups = [], [], []
    for subject, attribute, value in facts:
        if subject == "scene":
            scene[attribute] = value
        elif attribute == "present" and not value:
            absent.append(subject)
        elif subject in world.GROUPS:
            groups.append(subject)
        elif attribute in RELATION_PHRASES:
            relations.append((subject, attribute, str(value)))
            objects.setdefault(subject, {})
            objects.setdefault(str(value), {})
        else:
            objects.setdefault(subject, {})[attribute] = value
    phrases = [_object_phrase(name, attributes, say) for name, attributes in objects.items()]
    phrases += [f"some {say(GROUP_WORDS[group])}" for group in groups]
    text = say(_OPENINGS) + _listing(phrases, say) if phrases else ""
    where = [say(TABLES[name][scene[name]]) for name in ("place", "time") if name in scene]
    text = " ".join(phrase for phrase in (text, *where) if phrase)
    rest = [
        f"the {say(NOUNS[a])} {say(RELATION_PHRASES[relation])} the {say(NOUNS[b])}"
        for a, relation, b in relations
    ]
    if "weather" in scene:
        rest.append(say(WEATHER_PHRASES[scene["weather"]]))
    if "count" in scene:
        number = scene["count"]
        rest.append(f"{NUMBERS[number]} thing{'s' * (number != 1)} in all")
    rest += [f"no {say(GROUP_WORDS.get(name) or NOUNS[name])}" for name in absent]
    return ", ".join(phrase for phrase in (text, *rest) if phrase)


def _object_phrase(name: str, attributes: dict, say: Wording) -> str:
    words = [say(NOUNS[name])]
    if "colour" in attributes:
        words.insert(0, attributes["colour"])
    if "size" in attributes:
        words.insert(0, say(SIZE_WORDS[attributes["size"]]))
    where = [
        say(TABLES[name][attributes[name]]) for name in ("column", "row") if name in attributes
    ]
    return " ".join([article(" ".join(words)), *where])


def _listing(phrases: list[str], say: Wording) -> str:
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
            facts.append(Fact(value, "present", not negated))
            if relation:
                facts.append(Fact(*relation, value))
            last_object, relation, negated = None if negated else value, None, False
        else:
            unread += [lost for lost, _, _ in waiting]
        waiting = []
        if kind == "group":
            facts.append(Fact(value, "present", not negated))
            last_object, negated = None, False
        elif kind in ("column", "row", "relation") and last_object is None:
            unread.append(words)
        elif kind in ("column", "row"):
            facts.append(Fact(last_object, kind, value))
        elif kind == "relation":
            relation = (last_object, value)
        elif kind == "no":
            negated = True
        elif kind not in ("noun", "filler"):
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


def _lexicon() -> dict[str, tuple[str, str | int]]:
    words: dict[str, tuple[str, str | int]] = {
        form: (kind, value)
        for kind, table in TABLES.items()
        for value, forms in table.items()
        for form in forms
    }
    words |= {colour: ("colour", colour) for colour in world.COLOURS}
    words |= {f"{word} thing{'s' * (number != 1)} in all": ("count", number)
              for number, word in NUMBERS.items()}  # fmt: skip
    words |= {opening.strip(): ("filler", "") for opening in _OPENINGS if opening}
    words |= dict.fromkeys(("a", "an", "the", "and", "with", "some"), ("filler", ""))
    return words | {"no": ("no", "")}


_LEXICON = _lexicon()
# Longest first, so that "to the left of" is not read as "to the left".
_PHRASE = re.compile(
    rf"\b(?:{'|'.join(map(re.escape, sorted(_LEXICON, key=len, reverse=True)))})\b"
)


def mention(
    scene: Scene,
    rng: random.Random,
    *,
    num_objects: Sequence[float],
    attribute: float,
    place: float,
    time: float,
    weather: float,
    relation: float = 0.0,
) -> list[Fact]:
    """Facts that somebody might mention of a scene, each kind with its probability.

    `num_objects` are weights of mentioning 1, 2, ... objects, as far as the scene has them;
    `attribute` counts for each colour of a mentioned object, half of it for size and position;
    `relation` for one relation between two of them.
    """
    most = min(len(num_objects), len(scene.objects))
    number = rng.choices(range(1, most + 1), num_objects[:most])[0] if most else 0
    chosen = rng.sample(scene.objects, number)
    facts = []
    for item in chosen:
        facts.append(Fact(item.category, "present", True))
        if item.colour is not None and rng.random() < attribute:
            facts.append(Fact(item.category, "colour", item.colour))
        facts += [
            Fact(item.category, name, getattr(item, name))
            for name in ("size", "column", "row")
            if rng.random() < attribute / 2
        ]
    if number > 1 and rng.random() < relation:
        a, b = chosen[0].category, chosen[1].category
        possible = [Fact(x, r, y) for x, y in ((a, b), (b, a)) for r in world.RELATIONS]
        facts += [fact for fact in possible if holds(fact, scene)][:1]
    for name, probability in (("place", place), ("time", time), ("weather", weather)):
        if rng.random() < probability:
            facts.append(Fact("scene", name, getattr(scene, name)))
    return facts


def short_caption(scene: Scene, rng: random.Random) -> str:
    """A caption as alt texts of the web are: short, incomplete, without negations."""
    shares = {"attribute": 0.4, "place": 0.6, "time": 0.35, "weather": 0.3, "relation": 0.2}
    return describe(mention(scene, rng, num_objects=(4, 4, 2, 1), **shares), rng)

"""The tables of the embedded world: what there is, what it looks like, what goes with what.

Everything that a scene can contain is named here once; `book/world.csv` prints the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

PLACES = ("beach", "city", "forest", "farm", "mountains", "desert", "park", "harbour")
TIMES = ("day", "sunset", "night")
WEATHERS = ("clear", "cloudy", "rainy")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
SIZES = ("small", "large")
COLUMNS = ("left", "middle", "right")
ROWS = ("front", "back")
CELLS = tuple(product(COLUMNS, ROWS))
OPTIONS = {
    "place": PLACES, "time": TIMES, "weather": WEATHERS, "colour": COLOURS, "size": SIZES,
    "column": COLUMNS, "row": ROWS,
}  # fmt: skip
"""The values that each attribute of the scene or of an object can have."""
RELATIONS = ("left of", "right of", "in front of")
GROUPS = ("people", "animals", "vehicles", "plants", "things")

MAX_OBJECTS = 4
"""Objects in a sampled scene; a drawn view may hold up to one in each of the six cells."""


@dataclass(frozen=True)
class Category:
    """A kind of object: its OpenMoji sprite, and which fills of the sprite carry its colour.

    `main` and `shade` are the fill colours of the sprite that are replaced by an object's colour
    and its darker tone; a category with neither always looks as OpenMoji drew it. Its favourite
    colours are four times as likely as each other one.
    """

    name: str
    group: str
    sprite: str
    main: tuple[str, ...] = ()
    shade: tuple[str, ...] = ()
    favourites: str = ""

    @property
    def has_colour(self) -> bool:
        return bool(self.main)


_RED = (("#ea5a47",), ("#d22f27",))
_CATEGORIES = (
    Category("farmer", "people", "1F9D1-200D-1F33E"),
    Category("cyclist", "people", "1F6B4"),
    Category("skier", "people", "26F7"),
    Category("dancer", "people", "1F483"),
    Category("surfer", "people", "1F3C4"),
    Category("dog", "animals", "1F415"),
    Category("cat", "animals", "1F408"),
    Category("horse", "animals", "1F40E"),
    Category("cow", "animals", "1F404"),
    Category("sheep", "animals", "1F411"),
    Category("pig", "animals", "1F416"),
    Category("duck", "animals", "1F986"),
    Category("parrot", "animals", "1F99C"),
    Category("camel", "animals", "1F42B"),
    Category("rabbit", "animals", "1F407"),
    Category("crab", "animals", "1F980"),
    Category("turtle", "animals", "1F422"),
    Category("penguin", "animals", "1F427"),
    Category("elephant", "animals", "1F418"),
    Category("butterfly", "animals", "1F98B", ("#92d3f5",), favourites="blue purple"),
    Category("fish", "animals", "1F41F", ("#92d3f5",), ("#61b2e4",), favourites="blue yellow"),
    Category("car", "vehicles", "1F697", *_RED, favourites="red blue"),
    Category("bus", "vehicles", "1F68C", ("#ea5a47", "#d0cfce"), favourites="yellow red"),
    Category("tractor", "vehicles", "1F69C", ("#b1cc33",), favourites="green red"),
    Category("motorcycle", "vehicles", "1F3CD", *_RED, favourites="red blue"),
    Category("canoe", "vehicles", "1F6F6", ("#61b2e4",), favourites="green yellow"),
    Category("sailboat", "vehicles", "26F5"),
    Category("helicopter", "vehicles", "1F681", *_RED, favourites="blue white"),
    Category("train", "vehicles", "1F682"),
    Category("tulip", "plants", "1F337", ("#f4aa41",), ("#e27022",), favourites="red purple"),
    Category("sunflower", "plants", "1F33B"),
    Category("mushroom", "plants", "1F344", *_RED, favourites="red white"),
    Category("umbrella", "things", "2602", ("#b399c8",), ("#8967aa",), favourites="purple red"),
    Category("balloon", "things", "1F388", *_RED, favourites="red blue"),
    Category("kite", "things", "1FA81", ("#ffa7c0",), ("#e67a94",), favourites="red green"),
    Category("tent", "things", "26FA", ("#fcea2b",), ("#f1b31c",), favourites="green yellow"),
    Category(
        "chair", "things", "1FA91", ("#fcea2b", "#f1b31c"), ("#a57939",), favourites="white yellow"
    ),
    Category("backpack", "things", "1F392", *_RED, favourites="green blue"),
    Category("guitar", "things", "1F3B8", *_RED, favourites="red yellow"),
    Category("lantern", "things", "1F3EE", ("#ea5a47", "#d22f27"), favourites="red white"),
    Category("mailbox", "things", "1F4EB", ("#92d3f5",), ("#61b2e4",), favourites="blue red"),
    Category("football", "things", "26BD"),
    Category("campfire", "things", "1F525"),
    Category("snowman", "things", "26C4"),
)
CATEGORIES = {category.name: category for category in _CATEGORIES}
MEMBERS = {
    group: tuple(name for name, category in CATEGORIES.items() if category.group == group)
    for group in GROUPS
}

# Co-occurrence: an object is TYPICAL of a place, out of place, or (by default) neither.
_TYPICAL_WEIGHT, _NEUTRAL_WEIGHT, _RARE_WEIGHT = 8.0, 1.0, 0.1
TYPICAL = {
    "beach": "surfer dog parrot crab turtle fish sailboat umbrella kite football chair",
    "city": "cyclist dog cat car bus motorcycle helicopter train mailbox backpack umbrella",
    "forest": "rabbit parrot butterfly mushroom tent campfire backpack lantern guitar",
    "farm": "farmer horse cow sheep pig duck cat dog tractor sunflower",
    "mountains": "skier snowman sheep helicopter tent backpack campfire train",
    "desert": "camel elephant motorcycle tent campfire turtle car balloon",
    "park": "cyclist dancer dog duck rabbit butterfly tulip balloon kite football guitar chair",
    "harbour": "canoe sailboat fish crab duck penguin lantern cat bus",
}
RARE = {
    "beach": "skier snowman tractor train cow",
    "city": "crab camel cow tent canoe sailboat",
    "forest": "sailboat surfer bus penguin crab",
    "farm": "surfer crab penguin skier sailboat",
    "mountains": "surfer crab sailboat fish tulip canoe",
    "desert": "snowman sailboat duck penguin fish canoe skier mushroom",
    "park": "camel sailboat crab penguin tractor",
    "harbour": "camel skier snowman tractor cow elephant",
}


def _place_weights(place: str) -> dict[str, float]:
    typical, rare = TYPICAL[place].split(), RARE[place].split()
    weights = dict.fromkeys(CATEGORIES, _NEUTRAL_WEIGHT)
    return weights | dict.fromkeys(typical, _TYPICAL_WEIGHT) | dict.fromkeys(rare, _RARE_WEIGHT)


OBJECT_WEIGHTS = {place: _place_weights(place) for place in PLACES}
"""`OBJECT_WEIGHTS[place][category]`: how readily an object is drawn for a place."""

WEATHER_WEIGHTS = {
    "beach": (6, 2, 1),
    "city": (3, 3, 3),
    "forest": (3, 3, 3),
    "farm": (4, 3, 2),
    "mountains": (3, 4, 2),
    "desert": (9, 1, 0.3),
    "park": (5, 3, 1),
    "harbour": (3, 3, 3),
}
TIME_WEIGHTS = {place: (5, 2.5, 2.5) for place in PLACES} | {"city": (4, 2, 4)}
COUNT_WEIGHTS = {1: 1, 2: 3, 3: 4, 4: 3}
SIZE_WEIGHTS = (1, 1)

COLOUR_WEIGHTS = {
    name: tuple(4.0 if colour in category.favourites.split() else 1.0 for colour in COLOURS)
    for name, category in CATEGORIES.items()
    if category.has_colour
}
"""`COLOUR_WEIGHTS[category]`, one weight for each of `COLOURS`."""

# Common enough to be missed, and kept out of train, val and test altogether.
HELD_OUT_COLOURS = frozenset(
    {("purple", "car"), ("green", "umbrella"), ("blue", "tulip"), ("yellow", "balloon")}
)
HELD_OUT_PLACES = frozenset(
    {("dog", "farm"), ("tent", "desert"), ("duck", "harbour"), ("cyclist", "park")}
)

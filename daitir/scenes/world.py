"""The tables of the embedded world: what there is, what it looks like, what goes with what.

Everything that a scene can contain is named here once; `book/world.csv` prints the weights.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

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


class Category(NamedTuple):
    """A kind of object: its OpenMoji sprite, and which fills of the sprite carry its colour.

    `main` and `shade` are the fill colours of the sprite that are replaced by an object's colour
    and its darker tone; a category with neither always looks as OpenMoji drew it. Its favourite
    colours are four times as likely as each other one. `nouns` are said for it beside its name.
    """

    name: str
    group: str
    nouns: str
    sprite: str
    favourites: str = ""
    main: str = ""
    shade: str = ""

    @property
    def has_colour(self) -> bool:
        return bool(self.main)


# name | group | nouns | sprite | favourites | main | shade
_TABLE = """
farmer | people | farmer with a fork | 1F9D1-200D-1F33E
cyclist | people | person on a bicycle, biker on a bike | 1F6B4
skier | people | person on skis | 26F7
dancer | people | dancing person | 1F483
surfer | people | person surfing | 1F3C4
dog | animals | dog, hound | 1F415
cat | animals | grey cat, kitty | 1F408
horse | animals | brown horse, pony | 1F40E
cow | animals | cow, spotted cow | 1F404
sheep | animals | woolly sheep | 1F411
pig | animals | pink pig | 1F416
duck | animals | mallard | 1F986
parrot | animals | colourful bird | 1F99C
camel | animals | camel with humps | 1F42B
rabbit | animals | bunny | 1F407
crab | animals | crab with claws | 1F980
turtle | animals | tortoise | 1F422
penguin | animals | penguin | 1F427
elephant | animals | grey elephant | 1F418
butterfly | animals | butterfly | 1F98B | blue purple | #92d3f5
fish | animals | fish | 1F41F | blue yellow | #92d3f5 | #61b2e4
car | vehicles | automobile, hatchback | 1F697 | red blue | #ea5a47 | #d22f27
bus | vehicles | coach | 1F68C | yellow red | #ea5a47 #d0cfce
tractor | vehicles | tractor | 1F69C | green red | #b1cc33
motorcycle | vehicles | motorbike | 1F3CD | red blue | #ea5a47 | #d22f27
canoe | vehicles | rowing boat, canoe with a paddle | 1F6F6 | green yellow | #61b2e4
sailboat | vehicles | sailing boat, yacht | 26F5
helicopter | vehicles | chopper | 1F681 | blue white | #ea5a47 | #d22f27
train | vehicles | steam engine, locomotive | 1F682
tulip | plants | tulip flower | 1F337 | red purple | #f4aa41 | #e27022
sunflower | plants | sunflower | 1F33B
mushroom | plants | toadstool | 1F344 | red white | #ea5a47 | #d22f27
umbrella | things | parasol | 2602 | purple red | #b399c8 | #8967aa
balloon | things | balloon on a string | 1F388 | red blue | #ea5a47 | #d22f27
kite | things | kite | 1FA81 | red green | #ffa7c0 | #e67a94
tent | things | camping tent | 26FA | green yellow | #fcea2b | #f1b31c
chair | things | seat | 1FA91 | white yellow | #fcea2b #f1b31c | #a57939
backpack | things | rucksack | 1F392 | green blue | #ea5a47 | #d22f27
guitar | things | electric guitar | 1F3B8 | red yellow | #ea5a47 | #d22f27
lantern | things | paper lantern | 1F3EE | red white | #ea5a47 #d22f27
mailbox | things | letter box | 1F4EB | blue red | #92d3f5 | #61b2e4
football | things | soccer ball | 26BD
campfire | things | fire | 1F525
snowman | things | snowman with a hat | 26C4
"""
_CATEGORIES = [Category(*line.split(" | ")) for line in _TABLE.strip().splitlines()]
CATEGORIES = {category.name: category for category in _CATEGORIES}
MEMBERS = {
    group: tuple(name for name, category in CATEGORIES.items() if category.group == group)
    for group in GROUPS
}

# Co-occurrence: an object is typical of a place, out of place, or (by default) neither.
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
OBJECT_WEIGHTS = {
    place: dict.fromkeys(CATEGORIES, 1.0)
    | dict.fromkeys(TYPICAL[place].split(), 8.0)
    | dict.fromkeys(RARE[place].split(), 0.1)
    for place in PLACES
}
"""`OBJECT_WEIGHTS[place][category]`: how readily an object is drawn for a place."""

WEATHER_WEIGHTS = {
    "beach": (6, 2, 1), "city": (3, 3, 3), "forest": (3, 3, 3), "farm": (4, 3, 2),
    "mountains": (3, 4, 2), "desert": (9, 1, 0.3), "park": (5, 3, 1), "harbour": (3, 3, 3),
}  # fmt: skip
TIME_WEIGHTS = {place: (5, 2.5, 2.5) for place in PLACES} | {"city": (4, 2, 4)}
COUNT_WEIGHTS = {1: 1, 2: 3, 3: 4, 4: 3}
COLOUR_WEIGHTS = {
    name: tuple(4.0 if colour in category.favourites.split() else 1.0 for colour in COLOURS)
    for name, category in CATEGORIES.items()
    if category.has_colour
}
"""`COLOUR_WEIGHTS[category]`, one weight for each of `COLOURS`."""

# Common enough to be missed, and kept out of train, val and test altogether.
HELD_OUT_PAIRS = frozenset({
    ("purple", "car"), ("green", "umbrella"), ("blue", "tulip"), ("yellow", "balloon"),
    ("dog", "farm"), ("tent", "desert"), ("duck", "harbour"), ("cyclist", "park"),
})  # fmt: skip
"""Pairs of a colour and a category, and of a category and a place."""

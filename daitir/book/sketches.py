"""Own data in small, unlike the scenes: shapes on gradients, talk in four languages, sketches.

Written in the format of `daitir.data.datafolder`, to try the commands for one's own data on.
Pictures are of mixed sizes, shapes and file formats; dialogues have 3 to 20 rounds in English,
German, Spanish or Chinese, with typing errors, emoji and talk that tells nothing; the views are
what a person might sketch of what was said so far.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from daitir.common.files import atomic_write
from daitir.data.dialogues import Dialogue, write_dialogues
from daitir.data.manifests import Views, write_views
from daitir.data.viewfiles import views_of

MIN_LENGTH, MAX_LENGTH = 3, 20  # of a dialogue, in rounds
SKETCH_PIXELS = 96
PAINTS = {
    "red": (205, 40, 40), "blue": (40, 80, 200), "green": (40, 150, 60), "yellow": (240, 210, 50),
    "orange": (240, 135, 30), "purple": (130, 50, 160), "black": (25, 25, 25),
    "grey": (140, 140, 140),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "bar")
HEIGHTS, SIDES = ("top", "middle", "bottom"), ("left", "centre", "right")
_WORDS = {
    "red": "rot rojo 红色", "blue": "blau azul 蓝色", "green": "grün verde 绿色",
    "yellow": "gelb amarillo 黄色", "orange": "orange naranja 橙色", "purple": "lila morado 紫色",
    "black": "schwarz negro 黑色", "grey": "grau gris 灰色", "circle": "Kreis círculo 圆形",
    "square": "Quadrat cuadrado 方形", "triangle": "Dreieck triángulo 三角形",
    "bar": "Balken barra 长条", "top": "oben arriba 上面", "middle": "mittig medio 中间",
    "bottom": "unten abajo 下面", "left": "links izquierda 左边", "centre": "zentral centro 中央",
    "right": "rechts derecha 右边",
}  # fmt: skip
_LINES = (  # caption, question with answer, talk that tells nothing
    ("{n} shapes on {b}", "whats {r} {c}? a {k} {o}", "do u like it? yes 🙂"),
    ("{n} Formen auf {b}", "was ist {r} {c}? ein {o} {k}", "ist es schön? ja 😀"),
    ("{n} figuras sobre {b}", "¿qué hay {r} a la {c}? un {k} {o}", "¿es una foto? no sé 🤷"),
    ("{b}背景上有{n}个图形", "{r}{c}是什么？{o}的{k}", "好看吗？好看 🌸"),
)


class Shape(NamedTuple):
    """One shape: kind, colour, and the place in three rows and columns, from 0."""

    kind: str
    colour: str
    row: int
    column: int


def sample_picture(seed: int, index: int) -> tuple[str, list[Shape]]:
    """The background's colour and the two to six shapes of a picture."""
    rng = random.Random(f"sketch/{seed}/{index}")
    background = rng.choice(list(PAINTS))
    others = [colour for colour in PAINTS if colour != background]
    places = rng.sample(range(9), rng.randint(2, 6))
    return background, [
        Shape(rng.choice(SHAPES), rng.choice(others), *divmod(place, 3)) for place in places
    ]


def talk_about(seed: int, index: int) -> tuple[list[str], list[int]]:
    """The rounds of the dialogue about a picture, and how many shapes each has told of so far."""
    background, shapes = sample_picture(seed, index)
    rng = random.Random(f"talk/{seed}/{index}")
    language = rng.randrange(4)
    caption, question, idle = _LINES[language]

    def say(word: str) -> str:
        return word if language == 0 else _WORDS[word].split()[language - 1]

    rounds, told = [caption.format(n=len(shapes), b=say(background))], [0]
    for _ in range(rng.randint(MIN_LENGTH, MAX_LENGTH) - 1):
        tells = told[-1] < len(shapes) and rng.random() < 0.6
        if tells:
            kind, colour, row, column = shapes[told[-1]]
            words = {"r": HEIGHTS[row], "c": SIDES[column], "k": kind, "o": colour}
            rounds.append(question.format(**{name: say(word) for name, word in words.items()}))
        else:
            rounds.append(idle)
        told.append(told[-1] + tells)
    return [_mistyped(text, rng) for text in rounds], told


def draw_picture(seed: int, index: int) -> Image.Image:
    """The picture: its shapes on a gradient with grain, between 60 and 400 pixels wide and high."""
    background, shapes = sample_picture(seed, index)
    rng = np.random.default_rng([seed, index])
    width, height = map(int, rng.integers(60, 401, 2))
    shade = np.outer(np.linspace(0.9, 1.1, height), np.linspace(0.6, 1.2, width))[..., None]
    image = Image.fromarray((shade * PAINTS[background]).clip(0, 255).astype(np.uint8))
    _draw(image, shapes, rng)
    grain = rng.normal(0, 8, (height, width, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def draw_sketch(seed: int, index: int, num_told: int, *, round: int = 0) -> Image.Image:
    """What a person might draw of the background and of the first `num_told` shapes."""
    background, shapes = sample_picture(seed, index)
    image = Image.new("RGB", (SKETCH_PIXELS, SKETCH_PIXELS), PAINTS[background])
    _draw(image, shapes[:num_told], np.random.default_rng([seed, index, round]), wobble=0.2)
    return image


def write_own_data(
    folder: str | Path, *, num_pictures: int = 400, num_dialogues: int = 120, seed: int = 0
) -> None:
    """Write such a data set: `images/`, `dialogues.json` and `views/` with its manifest."""
    folder, dialogues, files = Path(folder), [], []
    for index in range(num_pictures):
        name = f"album-{index % 7}/{index:04}.{('jpg', 'png', 'webp')[index % 3]}"
        _save(draw_picture(seed, index), folder / "images" / name)
        if index < num_dialogues:
            rounds, told = talk_about(seed, index)
            dialogues.append(Dialogue(name, tuple(rounds)))
            for t, number in enumerate(told):
                files.append({"file": f"{index}_{t}.jpg"})
                sketch = draw_sketch(seed, index, number, round=t)
                _save(sketch, folder / "views" / files[-1]["file"])
    source = {"file": "dialogues.json", "text": "raw_dialogue"}
    settings = {"drawn_by": "daitir.book.sketches", "seed": seed, "size": [SKETCH_PIXELS] * 2}
    write_views(folder / "views", Views(settings, source, views_of(dialogues, files)))
    write_dialogues(folder / "dialogues.json", dialogues)


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        image.save(temporary, quality=90)


def _draw(
    image: Image.Image, shapes: list[Shape], rng: np.random.Generator, *, wobble: float = 0.1
) -> None:
    pen, (width, height) = ImageDraw.Draw(image), image.size
    for shape in shapes:
        x = (shape.column + 0.5 + rng.uniform(-wobble, wobble)) * width / 3
        y = (shape.row + 0.5 + rng.uniform(-wobble, wobble)) * height / 3
        dx, dy = rng.uniform(0.25, 0.42, 2) * (width / 3, height / 3)
        colour = PAINTS[shape.colour]
        if shape.kind == "circle":
            pen.ellipse((x - dx, y - dy, x + dx, y + dy), fill=colour)
        elif shape.kind == "triangle":
            pen.polygon([(x - dx, y + dy), (x + dx, y + dy), (x, y - dy)], fill=colour)
        else:
            thin = 3 if shape.kind == "bar" else 1
            pen.rectangle((x - dx, y - dy / thin, x + dx, y + dy / thin), fill=colour)


def _mistyped(text: str, rng: random.Random) -> str:
    """The text, in one of four two neighbouring letters swapped."""
    if rng.random() >= 0.25:
        return text
    at = rng.randrange(len(text) - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]

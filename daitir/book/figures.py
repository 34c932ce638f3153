"""The pictures of an executed chapter, kept so that the checkout grows only by what changed."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from nbformat import NotebookNode
from PIL import Image

_PNG = "image/png"


def png_outputs(cell: NotebookNode) -> list[dict]:
    """The data of a cell's outputs that show a PNG."""
    shown = [output.get("data", {}) for output in cell.get("outputs", [])]
    return [data for data in shown if _PNG in data]


def settle_pictures(cells: Sequence[NotebookNode], before: Sequence[Sequence[str]]) -> None:
    """Give pictures of executed cells few colours, and their old bytes where they look the same.

    `before` are the pictures that each cell showed before, in base64.
    """
    for cell, old_pictures in zip(cells, before, strict=True):
        for place, data in enumerate(png_outputs(cell)):
            new = _with_few_colours(data[_PNG])
            old = old_pictures[place] if place < len(old_pictures) else new
            alike = _changed_share(_image(old), _image(new), by_more_than=10) <= 0.006
            data[_PNG] = old if alike else new


def _with_few_colours(png: str) -> str:
    """A picture with at most 256 colours, dithered where one would see it otherwise."""
    image = _image(png)
    few = image.quantize(256, dither=Image.Dither.NONE)
    if _changed_share(image, few.convert("RGB"), by_more_than=8) >= 0.005:
        few = image.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _changed_share(a: Image.Image, b: Image.Image, *, by_more_than: int) -> float:
    """The share of pixels that differ in a channel by more than that; 1 for two sizes."""
    if a.size != b.size:
        return 1.0
    differences = np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16))
    return float((differences.max(axis=-1) > by_more_than).mean())


def _image(png: str) -> Image.Image:
    """A picture as it looks on a white page."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

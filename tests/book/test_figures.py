"""The pictures of chapters: what keeps its old bytes, and what gets few colours."""

import base64
import io

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_output
from PIL import Image

from daitir.book.provenance import png_outputs, settle_pictures


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def settled(picture, before):
    cell = new_code_cell(outputs=[
        new_output("stream", text="a line"),
        new_output("display_data", data={"image/png": picture}),
    ])  # fmt: skip
    settle_pictures([cell], [before])
    return png_outputs(cell)[0]["image/png"]


def colours(picture):
    return Image.open(io.BytesIO(base64.b64decode(picture)))


@pytest.fixture
def plain():
    return np.full((50, 40, 4), 255, np.uint8)


def test_a_picture_that_looks_the_same_keeps_its_bytes(plain):
    before, now = png(plain), plain.copy()
    now -= np.array([10, 0, 0, 0], np.uint8)  # every pixel a little, twelve of 2,000 much
    now[0, :12, :3] = 0
    assert settled(png(now), [before]) == before
    now[0, :13, :3] = 0
    assert settled(png(now), [before]) != before


def test_another_size_or_place_is_another_picture(plain):
    before = png(plain)
    for now, old in ((plain[:-1], [before]), (plain, [])):
        few = settled(png(now), old)
        assert few != before and colours(few).mode == "P"
        assert np.array_equal(colours(few).convert("RGBA"), now)


def test_many_colours_are_mixed_of_few():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    photo = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 100, np.uint8)], axis=-1)
    few = colours(settled(png(photo), []))
    assert few.mode == "P"
    blocks = [np.asarray(i.convert("RGB").resize((8, 8), Image.Resampling.BOX), int)
              for i in (few, Image.fromarray(photo))]  # fmt: skip
    assert abs(blocks[0] - blocks[1]).max() <= 3
    assert settled(png(photo), [settled(png(photo), [])]) == settled(png(photo), [])


def test_what_is_seen_through_is_white(plain):
    plain[...] = (0, 0, 0, 0)
    assert (np.asarray(colours(settled(png(plain), [])).convert("RGB")) == 255).all()

"""Listing a gallery and reading images of every awkward kind."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from daitir.common.errors import DataError
from daitir.data import gallery
from daitir.data.gallery import (
    FORMATS,
    check_images,
    list_images,
    read_gallery,
    read_image,
    scan_images,
)

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _noise(size=(24, 16), seed=0):
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _bytes(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _pixel(path, at=(0, 0)):
    image = read_image(path)
    assert image.mode == "RGB"
    return image.getpixel(at)


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_lists_images_at_any_depth_and_counts_what_is_left_out(tmp_path, caplog):
    read = ["a/c.jpg", "a/d/é.webp", "b.PNG", "e.gif", "f.BMP", "g.tif", "h.tiff", "i.jfif"]
    _touch(tmp_path, *read, "notes.txt", "a/1.heic", "2.HEIC", "LICENSE", "._b.png", ".cache/x.png")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    (tmp_path / "j.png").symlink_to(tmp_path / "b.PNG")
    assert list_images(tmp_path) == sorted([*read, "j.png"])
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.getMessage() == (
        f"{tmp_path}: left out: 2 hidden, 1 linked folders, 4 not read (.heic 2, no suffix 1, "
        ".txt 1)"
    )
    _, left_out = scan_images(tmp_path)
    assert left_out == {
        "hidden": ["._b.png", ".cache"], "linked folders": ["linked"],
        "not read": ["2.HEIC", "LICENSE", "a/1.heic", "notes.txt"],
    }  # fmt: skip


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, caplog):
    _touch(tmp_path, "b.png", "a/c.jpg")
    assert list_images(tmp_path) == ["a/c.jpg", "b.png"] and not caplog.records


def test_a_link_that_leads_in_a_circle_is_named(tmp_path):
    _touch(tmp_path, "b.png")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(DataError, match="circle: cannot be listed"):
        list_images(tmp_path)


def test_refuses_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "missing")
    _touch(tmp_path, "a.heic")
    with pytest.raises(DataError, match=r"holds no image .*; left out: 1 not read \(\.heic 1\)"):
        list_images(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="a backslash separates folders there")
def test_refuses_a_file_name_that_no_dialogue_can_name(tmp_path):
    (tmp_path / "a\\b.png").write_bytes(b"x")
    with pytest.raises(DataError, match="backslash"):
        list_images(tmp_path)


def test_reads_a_gallery_file(tmp_path):
    path = tmp_path / "gallery.json"
    path.write_text(json.dumps(["z/1.jpg", "./a.jpg"]))
    assert read_gallery(path) == ["z/1.jpg", "a.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "non-empty JSON list"),
        ("[]", "non-empty JSON list"),
        ("[3]", "entry 0"),
        ('["a.jpg", "../b.jpg"]', "entry 1: .* names no file"),
        ('["a.jpg", "./a.jpg"]', "entries 0 and 1"),
        ("[", "not JSON"),
    ],
)
def test_refuses_a_bad_gallery_file(tmp_path, content, message):
    path = tmp_path / "gallery.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_gallery(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_every_format_whatever_the_suffix(tmp_path, kind):
    path = tmp_path / "image.jpg"
    path.write_bytes(_bytes(_noise(), kind))
    assert read_image(path).size == (24, 16)


@pytest.mark.parametrize(
    ("value", "byte"),
    [(0, 0), (128, 0), (129, 1), (257, 1), (385, 1), (386, 2), (511, 2), (32_767, 127),
     (32_768, 128), (40_000, 156), (65_406, 254), (65_407, 255), (65_535, 255)],
)  # fmt: skip
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, value, byte):
    grey = Image.fromarray(np.full((4, 4), value, dtype=np.uint16))
    path = tmp_path / "grey.png"
    grey.save(path)
    assert _pixel(path) == (byte,) * 3


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_every_sixteen_bit_mode_is_scaled(mode):
    bytes_of = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I": "<i4"}
    data = np.full((2, 2), 40_000, dtype=bytes_of[mode]).tobytes()
    image = Image.frombytes(mode, (2, 2), data)
    assert gallery._to_rgb(image).getpixel((1, 1)) == (156, 156, 156)


def test_cmyk_palette_and_alpha(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    red = _pixel(tmp_path / "cmyk.jpg")
    assert red[0] > 250 and max(red[1:]) < 5

    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    assert _pixel(tmp_path / "palette.png") == (10, 20, 30)
    palette.save(tmp_path / "clear.png", transparency=1)
    assert _pixel(tmp_path / "clear.png") == (255, 255, 255)

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "alpha.png")
    assert _pixel(tmp_path / "alpha.png") == (255, 255, 255)
    Image.new("LA", (8, 8), (0, 51)).save(tmp_path / "grey_alpha.png")
    assert _pixel(tmp_path / "grey_alpha.png") == (204, 204, 204)


def test_the_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown 90° clockwise
    image = Image.new("RGB", (24, 16), "blue")
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (16, 24)


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_refuses_a_truncated_image(tmp_path, kind, keep):
    data = _bytes(_noise((64, 64)), kind)
    path = tmp_path / "cut.png"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="truncated or damaged|not an image"):
        read_image(path)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_reads_the_first_of_several_pictures(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / "moving.png"
    path.write_bytes(_bytes(frames[0], kind, save_all=True, append_images=frames[1:]))
    red, green, blue = _pixel(path)
    assert red > 250 and green < 5 and blue < 5


def test_reads_the_first_picture_of_a_phone_jpeg(tmp_path):
    path = tmp_path / "phone.jpg"
    path.write_bytes(_bytes(_noise(), "MPO", save_all=True, append_images=[_noise(seed=1)]))
    assert read_image(path).size == (24, 16)


@pytest.mark.slow
@pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow warns of the first, refuses the second
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refuses_a_decompression_bomb(tmp_path, side):
    path = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(path)
    with pytest.raises(DataError, match="more than 89,478,485"):
        read_image(path)


def test_refuses_what_is_no_image(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    for name, message in [
        ("empty", "0 bytes"),
        ("text", "not an image"),
        ("folder", "directory"),
        ("missing", "No such"),
        ("x" * 300, "cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / f"{name}.png")


FTYP = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FTYP + b"heic\0\0\0\0mif1heic", "is HEIC or HEIF, which is not read; convert it to JPEG"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page"),
        (b"\n <html>\n<head><title>Not found", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS; `git lfs pull`"),
        (b"../../.git/annex/objects/xx/yy/SHA256", "git-annex"),
        (b"%PDF-1.7", "not an image .*; convert it to JPEG or PNG"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named_by_its_content(tmp_path, content, message):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=message):
        check_images(tmp_path, ["photo.jpg"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    for name in ("pipe.jpg", "gallery.json"):
        os.mkfifo(tmp_path / name)
    assert list_images(tmp_path) == ["pipe.jpg"]
    for skip in (False, True):
        with pytest.raises(DataError, match="a pipe or a device"):
            check_images(tmp_path, ["pipe.jpg"], skip_unreadable=skip)
    with pytest.raises(DataError, match="a pipe or a device"):
        read_gallery(tmp_path / "gallery.json")
    with pytest.raises(DataError, match="a pipe or a device"):
        read_gallery("/dev/zero")


@quick
@given(st.binary(max_size=300))
def test_any_bytes_give_an_image_or_a_data_error(tmp_path, content):
    _image_or_data_error(tmp_path, content)


TURNED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\6\0\0\0"
SAMPLES = [
    _bytes(_noise((9, 7)), "PNG"),
    _bytes(_noise((9, 7)), "JPEG", exif=TURNED),
    _bytes(_noise((9, 7)), "WEBP"),
    _bytes(_noise((9, 7)), "GIF"),
    _bytes(_noise((9, 7)), "TIFF"),
    _bytes(_noise((9, 7)), "BMP"),
    _bytes(_noise((9, 7)), "PPM"),
]


@quick
@given(st.sampled_from(SAMPLES), st.data())
def test_any_damage_gives_an_image_or_a_data_error(tmp_path, sample, data):
    damaged = bytearray(sample[: data.draw(st.integers(1, len(sample)))])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _image_or_data_error(tmp_path, bytes(damaged))


@pytest.mark.filterwarnings("ignore")
def _image_or_data_error(folder, content):
    path = folder / "any.png"
    path.write_bytes(content)
    try:
        image = read_image(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert image.mode == "RGB" and image.width and image.height


def test_checks_headers_or_excludes_and_counts(tmp_path, caplog):
    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        _noise((64, 64), seed=i).save(tmp_path / name)
    assert check_images(tmp_path, names) == names
    cut = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(cut[: len(cut) // 2])
    assert check_images(tmp_path, names) == names  # the header is whole
    (tmp_path / "4.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 images are unreadable: .*4\.png"):
        check_images(tmp_path, names)
    kept = check_images(tmp_path, names, skip_unreadable=True)
    assert kept == ["0.png", "2.png", "3.png", "5.png"]
    assert "2 of 6 images are unreadable" in caplog.text
    with pytest.raises(DataError, match="2 of 2"):
        check_images(tmp_path, ["1.png", "4.png"], skip_unreadable=True)


def test_checked_images_cannot_leave_the_folder(tmp_path):
    inside = tmp_path / "images"
    inside.mkdir()
    _noise().save(tmp_path / "secret.png")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", "link.png", str(tmp_path / "secret.png")):
        with pytest.raises(DataError, match="does not lie inside"):
            check_images(inside, [name])


def test_many_bad_images_are_counted_and_three_named(tmp_path):
    names = [f"{i}.png" for i in range(9)]
    with pytest.raises(DataError, match="9 of 9 images are unreadable") as caught:
        check_images(tmp_path, names)
    message = str(caught.value)
    assert [name in message for name in names] == [True] * 3 + [False] * 6
    assert message.endswith("; …; mend them")
    with pytest.raises(DataError, match="--skip-unreadable"):
        check_images(tmp_path, names, skip_unreadable=False)


def test_pixels_without_a_known_white_are_refused():
    for image in (Image.new("F", (2, 2), 0.5), Image.new("I", (2, 2), 70_000)):
        with pytest.raises(ValueError, match="known white|beyond 16 bits"):
            gallery._to_rgb(image)


def _png(bits, colour, pixels, clear):
    """A PNG of one row, as no library writes it: pixels and the transparent one as stored."""

    def chunk(kind, data):
        size, check = len(data), zlib.crc32(kind + data)
        return struct.pack(">I", size) + kind + data + struct.pack(">I", check)

    width = len(pixels) // (3 if colour == 2 else 1)
    row = b"".join(f"{value:0{bits}b}".encode() for value in pixels)
    row = int(row.ljust(-(-len(row) // 8) * 8, b"0"), 2).to_bytes(-(-len(row) // 8), "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("bits", "pixels", "clear", "right"),
    [
        (1, [0, 1], [0], [255, 255]), (2, [1, 2], [1], [255, 170]), (4, [3, 5], [3], [255, 85]),
        (8, [9, 200], [9], [255, 200]), (16, [1000, 40_000], [1000], [255, 156]),
        (16, [1000, 40_000], [40_000], [4, 255]),
    ],
)  # fmt: skip
def test_grey_of_any_depth_with_a_transparent_value(tmp_path, bits, pixels, clear, right):
    (tmp_path / "clear.png").write_bytes(_png(bits, 0, pixels, clear))
    assert [_pixel(tmp_path / "clear.png", (x, 0)) for x in (0, 1)] == [(v,) * 3 for v in right]


def test_sixteen_bit_colour_with_a_transparent_one(tmp_path):
    dark, light = [1000, 2000, 3000], [40_000, 50_000, 60_000]
    (tmp_path / "clear.png").write_bytes(_png(16, 2, dark + light, dark))
    assert _pixel(tmp_path / "clear.png", (0, 0)) == (255, 255, 255)
    assert _pixel(tmp_path / "clear.png", (1, 0)) == (156, 195, 234)


def _tiff(bits, data, *, photometric=1, sample=1):
    """A TIFF of one row of two grey pixels; `photometric` 0 is white at zero, `sample` 2 signed."""
    tags = [(256, 2), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1),
            (278, 1), (279, len(data)), (339, sample)]  # fmt: skip
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


@pytest.mark.parametrize(
    ("bits", "data", "photometric", "right"),
    [
        (16, struct.pack("<2H", 257, 65_535), 1, (1, 255)),
        (16, struct.pack("<2H", 257, 65_535), 0, (254, 0)),
        (8, bytes([1, 255]), 0, (254, 0)), (12, b"\xff\xf0\x00", 1, (255, 0)),
    ],
)  # fmt: skip
def test_grey_of_scanners(tmp_path, bits, data, photometric, right):
    (tmp_path / "scan.tif").write_bytes(_tiff(bits, data, photometric=photometric))
    assert tuple(_pixel(tmp_path / "scan.tif", (x, 0))[0] for x in (0, 1)) == right


@pytest.mark.parametrize(("bits", "data"), [(16, "<2h"), (32, "<2i")])
def test_signed_grey_of_instruments_is_refused(tmp_path, bits, data):
    (tmp_path / "ct.tif").write_bytes(_tiff(bits, struct.pack(data, 7, 9), sample=2))
    with pytest.raises(DataError, match="no known white"):
        read_image(tmp_path / "ct.tif")

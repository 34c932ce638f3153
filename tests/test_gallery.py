"""Listing a gallery and reading images of every awkward kind."""

import io
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from daitir import gallery
from daitir.errors import DataError
from daitir.gallery import check_images, list_images, read_gallery, read_image

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


def test_lists_images_at_any_depth_and_leaves_the_rest_out(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("b.PNG", "a/c.jpg", "a/d/é.webp", "notes.txt", "._b.png", ".cache/x.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    assert list_images(tmp_path) == ["a/c.jpg", "a/d/é.webp", "b.PNG"]
    assert "4 entries are hidden, linked folders or no images" in caplog.text


def test_refuses_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "missing")


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
    [("{}", "non-empty JSON list"), ("[]", "non-empty JSON list"), ("[3]", "entry 0"),
     ('["a.jpg", "../b.jpg"]', "entry 1: .* leaves"), ('["a.jpg", "./a.jpg"]', "entries 0 and 1"),
     ("[", "not JSON")],
)
def test_refuses_a_bad_gallery_file(tmp_path, content, message):
    path = tmp_path / "gallery.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_gallery(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
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


def test_pixels_without_a_known_white_are_refused():
    for image in (Image.new("F", (2, 2), 0.5), Image.new("I", (2, 2), 70_000)):
        with pytest.raises(ValueError, match="known white|beyond 16 bits"):
            gallery._to_rgb(image)


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


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_refuses_an_animation(tmp_path, kind):
    frames = [_noise(seed=i) for i in range(3)]
    path = tmp_path / "moving.png"
    path.write_bytes(_bytes(frames[0], kind, save_all=True, append_images=frames[1:]))
    with pytest.raises(DataError, match=r"animated \(3 frames\)"):
        read_image(path)


def test_reads_the_first_picture_of_a_phone_jpeg(tmp_path):
    path = tmp_path / "phone.jpg"
    path.write_bytes(_bytes(_noise(), "MPO", save_all=True, append_images=[_noise(seed=1)]))
    assert read_image(path).size == (24, 16)


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
    for name, message in [("empty", "0 bytes"), ("text", "not an image"), ("folder", "no such"),
                          ("missing", "no such"), ("x" * 300, "cannot be read")]:
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / f"{name}.png")


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

"""The gallery: which images it holds, and reading one image safely."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from daitir.dialogues import image_name, read_json
from daitir.errors import DataError
from daitir.files import check_folder, safe_join

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# What a file of these suffixes may really hold: pictures saved under another format's name are
# common. Formats that run other programs or fetch other files stay out.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 89_478_485  # Pillow's own limit before it warns of a decompression bomb


def list_images(folder: str | Path) -> list[str]:
    """Names of all images below a folder, relative to it, with forward slashes, sorted.

    Hidden files and folders, links to folders, and other files are left out and counted in the log.
    Raises DataError when the folder does not exist, cannot be listed or holds no image.
    """
    folder = Path(folder)
    check_folder(folder, "images")

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    names, others = [], 0
    for parent, folders, files in os.walk(folder, onerror=refuse):
        left_out = {f for f in folders if f.startswith(".") or (Path(parent) / f).is_symlink()}
        folders[:] = [name for name in folders if name not in left_out]
        others += len(left_out)
        for file in files:
            if file.startswith(".") or not file.lower().endswith(IMAGE_SUFFIXES):
                others += 1
                continue
            try:
                names.append(image_name((Path(parent) / file).relative_to(folder).as_posix()))
            except DataError as error:
                raise DataError(f"{folder}: {error}") from error
    if not names:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{folder}: holds no image ({suffixes}; links to folders are not followed)")
    if others:
        what = "hidden, linked folders or no images"
        logger.info("%s: %d entries are %s, left out", folder, others, what)
    return sorted(names)


def read_gallery(path: str | Path) -> list[str]:
    """Read a gallery file, a JSON list of image paths relative to the image folder.

    Source: ChatIR's released search space. Raises DataError when it is not such a list, is empty,
    holds a path that leaves the folder, or holds one path twice.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: must be a non-empty JSON list of image paths")
    names: dict[str, int] = {}
    for index, entry in enumerate(content):
        try:
            name = image_name(entry)
        except DataError as error:
            raise DataError(f"{path}: entry {index}: {error}") from error
        if names.setdefault(name, index) != index:
            both = f"{names[name]} and {index}"
            raise DataError(f"{path}: entries {both} are the same image {name!r}")
    return list(names)


def read_image(path: str | Path) -> Image.Image:
    """Read one image file as 8-bit RGB.

    The EXIF orientation is applied. 16-bit grey values are scaled to 8 bits (Pillow's own
    conversion clips them), palettes and CMYK converted, transparent pixels composited on white,
    colour profiles ignored. Of a JPEG with several pictures (MPO) the first is read.

    Raises DataError when the file is empty, truncated, animated, no image, or larger than
    MAX_PIXELS.
    """
    with _opened(path) as image:
        return _guarded(path, lambda: _to_rgb(ImageOps.exif_transpose(image)))


def check_images(
    folder: str | Path,
    names: Sequence[str],
    *,
    skip_unreadable: bool = False,
) -> list[str]:
    """The names whose files below `folder` can be read, in order.

    By default only the headers are looked at (fast), and any unreadable file raises DataError with
    the number of them and the first examples. With `skip_unreadable` every image is decoded, so
    that truncated ones are found too, and the unreadable ones are left out, counted in a warning.
    Raises DataError when none is left.
    """
    check = read_image if skip_unreadable else _check_header
    readable, errors = [], []
    for name in names:
        try:
            check(safe_join(folder, name))
        except DataError as error:
            errors.append(str(error))
        else:
            readable.append(name)
    if errors:
        summary = f"{len(errors):,} of {len(names):,} images are unreadable: {examples(errors)}"
        if not skip_unreadable:
            summary += "; mend them, or leave them out with --skip-unreadable"
        if not skip_unreadable or not readable:
            raise DataError(f"{folder}: {summary}")
        logger.warning("%s: excluded, %s", folder, summary)
    return readable


def examples(items: Iterable[object], *, count: int = 3) -> str:
    """The first few items, for a message about many.

    >>> examples(["a", "b", "c", "d"])
    'a; b; c; …'
    """
    items = list(items)
    return "; ".join(map(str, items[:count])) + ("; …" if len(items) > count else "")


def _check_header(path: Path) -> None:
    _opened(path).close()


def _opened(path: str | Path) -> Image.Image:
    """The image, not decoded yet, of an acceptable kind and size."""
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such image file")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty file (0 bytes), no image")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    image = _guarded(path, lambda: Image.open(path, formats=_FORMATS))
    try:
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width} × {image.height}"
            raise DataError(f"{path}: {size} pixels, more than {MAX_PIXELS:,}; shrink it")
        if not image.width * image.height:
            raise DataError(f"{path}: the image has no pixels")
        frames = _guarded(path, lambda: getattr(image, "n_frames", 1))
        if frames > 1 and image.format != "MPO":
            raise DataError(f"{path}: animated ({frames} frames); save one frame as an image")
    except DataError:
        image.close()
        raise
    return image


def _guarded(path: str | Path, action: Callable):
    """The result of `action`, any exception of Pillow's turned into a DataError.

    On damaged files Pillow raises nearly anything: OSError, SyntaxError, ValueError, struct.error…
    """
    try:
        return action()
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image ({', '.join(_FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: more than {MAX_PIXELS:,} pixels; shrink it") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: truncated or damaged image ({reason})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I;16 and its byte orders, and I, which older Pillows give
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")

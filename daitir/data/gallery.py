"""The gallery: which images it holds, and reading one image safely."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, features

from daitir.common.errors import DataError, naming
from daitir.common.files import SafeFolder, check_is_folder, open_regular, read_json
from daitir.data.dialogues import Problem, checked
from daitir.data.names import image_name

logger = logging.getLogger(__name__)

# What is read, by content and not by suffix: plain pictures of one layer. Formats that run other
# programs or fetch other files (EPS, PDF, SVG, WMF), and those without a mark that tells them from
# any bytes, stay out.
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
if features.check("avif"):  # since Pillow 11.3, where it is built with it
    FORMATS, IMAGE_SUFFIXES = [*FORMATS, "AVIF"], (*IMAGE_SUFFIXES, ".avif")
NO_IMAGE = f"holds no image ({', '.join(IMAGE_SUFFIXES)})"
NUM_EXAMPLES = 3  # that a message about many names
MAX_PIXELS = 89_478_485  # Pillow's own limit before it warns of a decompression bomb
_PHOTOMETRIC = 262  # TIFF's tag that tells what zero is

_OTHERS = (  # what files that are no such picture often are, by how they begin
    (rb"(?s).{4}ftyp(heic|heix|hevc|mif1|msf1)",
     "is HEIC or HEIF, which is not read; convert it to JPEG or PNG"),
    (rb"version https://git-lfs",
     "is a pointer of Git LFS; `git lfs pull` fetches the file itself"),
    (rb"(\.\./)*(/|\.git/)annex/objects/",
     "is a pointer of git-annex; `git annex get` fetches the file itself"),
    (rb"(?i)\s*<(!doctype\s+)?html\b",
     "is a web page, as a failed download leaves it; fetch the picture again"),
)  # fmt: skip


def scan_images(folder: str | Path) -> tuple[list[str], dict[str, list[str]]]:
    """The names of the pictures at any depth below a folder, and of all else by kind.

    Links to folders are not followed. Raises DataError when the folder does not exist, cannot be
    listed, or holds a name that no dialogue can have.
    """
    folder = Path(folder)
    check_is_folder(folder, "images")
    names: list[str] = []
    left_out: dict[str, list[str]] = {"hidden": [], "linked folders": [], "not read": []}
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(folder / parent) as entries, naming(folder):
                for entry in entries:
                    name = parent + entry.name
                    if entry.name.startswith("."):
                        left_out["hidden"].append(name)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(name + "/")
                    elif entry.is_symlink() and entry.is_dir():
                        left_out["linked folders"].append(name)
                    elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                        names.append(image_name(name))
                    else:
                        left_out["not read"].append(name)
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error
    return sorted(names), {kind: sorted(others) for kind, others in left_out.items() if others}


def list_images(folder: str | Path, *, tell: Callable[[str], object] = logger.warning) -> list[str]:
    """The names of the pictures that `scan_images` finds, some at least; `tell` gets the rest."""
    names, left_out = scan_images(folder)
    kinds = [f"{len(others):,} {kind}" for kind, others in left_out.items()]
    if others := left_out.get("not read"):
        suffixes = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in others)
        most = [f"{suffix} {number:,}" for suffix, number in suffixes.most_common()]
        kinds[-1] += f" ({examples(most, count=5, between=', ')})"
    told = f"left out: {', '.join(kinds)}"
    if not names:
        raise DataError(f"{folder}: {NO_IMAGE}" + (f"; {told}" if kinds else ""))
    if kinds:
        tell(f"{folder}: {told}")
    return names


def list_gallery(images_dir: Path, listed: Path | None = None, **options) -> list[str]:
    """The pictures to search: those of the file `listed`, without it all that lie in the folder."""
    return read_gallery(listed) if listed else list_images(images_dir, **options)


def read_gallery(path: str | Path) -> list[str]:
    """Read a gallery file, ChatIR's JSON list of image paths relative to the image folder."""
    return checked(path, parse_gallery(read_json(path)))


def parse_gallery(content: Any) -> tuple[list[str], list[Problem]]:
    """The sound names, and the problems, of the content of a gallery file."""
    if not isinstance(content, list) or not content:
        return [], [Problem(None, "not_a_list", "must be a non-empty JSON list of image paths")]
    names: dict[str, int] = {}
    problems = []
    for index, entry in enumerate(content):
        try:
            name = image_name(entry)
            if names.setdefault(name, index) != index:
                message = f"entries {names[name]} and {index} are the same image {name!r}"
                problems.append(Problem(None, "named_twice", message))
        except DataError as error:
            problems.append(Problem(None, "image_path", f"entry {index}: {error}"))
    return list(names), problems


def read_image(path: str | Path) -> Image.Image:
    """One image file as 8-bit RGB; of several pictures or pages in it, the first.

    The EXIF orientation is applied, 16-bit grey values are scaled (Pillow's own conversion clips
    them), transparent pixels composited on white, colour profiles ignored. Else DataError.
    """
    with open_image(path) as image:
        return _to_rgb(image)


def check_images(
    folder: str | Path, names: Sequence[str], *, skip_unreadable: bool | None = None
) -> list[str]:
    """The names whose files below `folder` can be read, in order; the others are a DataError.

    With `skip_unreadable`, None where the command has no such option, every image is decoded and
    not only its header read, and the unreadable are left out, counted in a warning.
    """
    safe, readable, errors = SafeFolder(folder), [], []
    for name in names:
        try:
            with open_image(safe.join(name)) as image:
                if skip_unreadable:
                    _to_rgb(image)
            readable.append(name)
        except DataError as error:
            errors.append(str(error) if len(errors) <= NUM_EXAMPLES else "")
    if errors:
        summary = f"{len(errors):,} of {len(names):,} images are unreadable: {examples(errors)}"
        if not skip_unreadable or not readable:
            option = ", or leave them out with --skip-unreadable" * (skip_unreadable is False)
            raise DataError(f"{folder}: {summary}; mend them{option}")
        logger.warning("%s: excluded, %s", folder, summary)
    return readable


def examples(items: Iterable[object], *, count: int = NUM_EXAMPLES, between: str = "; ") -> str:
    """The first few items, for a message about many, as `a; b; c; …`."""
    items = list(items)
    return between.join([*map(str, items[:count]), *["…"] * (len(items) > count)])


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """The image, not decoded yet; any exception, also while it is in use, becomes a DataError.

    On damaged files Pillow raises nearly anything: OSError, SyntaxError, ValueError, struct.error…
    """
    try:
        with open_regular(path) as file:
            head = file.read(512)
            if not head:
                raise DataError(f"{path}: empty file (0 bytes), no image")
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if not image.width * image.height:
                    raise DataError(f"{path}: the image has no pixels")
                yield image
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        told = (what for beginning, what in _OTHERS if re.match(beginning, head))
        what = next(told, f"not an image ({', '.join(FORMATS)}); convert it to JPEG or PNG")
        raise DataError(f"{path}: {what}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: more than {MAX_PIXELS:,} pixels; shrink it") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: truncated or damaged image ({reason})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    # What the pixels mean is known before they are decoded, and lost where a copy is made.
    how = image.tile[0][3] if getattr(image, "tile", ()) else ""
    stored, is_tiff = how[0] if how and isinstance(how, tuple) else how, image.format == "TIFF"
    clear = image.info.get("transparency")
    black_is_white = is_tiff and image.tag_v2.get(_PHOTOMETRIC) == 0  # Pillow turns 8 bits itself
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # I;16 and its byte orders, and I, which older Pillows give
        values = np.asarray(image).astype(np.int64)
        if is_tiff and image.mode == "I" or values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits, or signed, have no known white")
        white = 4095 if stored == "I;12" else 65535
        grey = (255 * values + white // 2) // white
        grey = 255 - grey if black_is_white else grey
        if clear is not None:
            grey[values == clear] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white")
    # PNG names the transparent colour as it is stored; Pillow has scaled the pixels to 8 bits.
    if stored == "RGB;16B" and clear is not None:
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    elif (step := {"L;2": 85, "L;4": 17}.get(stored)) and clear is not None:
        image.info["transparency"] = clear * step
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")

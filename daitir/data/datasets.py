"""The papers' data: what there is, where it lies, and how it becomes folders of own data.

| name | becomes |
|---|---|
| `visdial` | a folder of own data, `test` being VisDial's validation set |
| `chatir` | one for each source of dialogues about the same pictures, with the field's gallery |
| `coco-unlabeled` | `images/unlabeled2017/`, the pictures that both are about |
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import SafeFolder, atomic_write, open_regular
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.data.downloads import RemoteFile, check_space, verify
from daitir.data.gallery import list_images, read_gallery

HELD_OUT = 60  # one in so many of VisDial's training dialogues is for validation
MAX_VISDIAL = 2**32  # bytes of VisDial's JSON, unpacked, of which the rivals are nearly all
UNLABELED = "unlabeled2017"
_GALLERY = "Search_Space_val_50k.json"
_CHATIR = "https://raw.githubusercontent.com/levymsn/ChatIR/f5a4b908643d5fcd946187da8f20c0667afbe2e5"
_VISDIAL = "https://www.dropbox.com/s"
# What a damaged or encrypted zip file raises, of any way of packing.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, struct.error,
           ValueError)  # fmt: skip
_ID = re.compile(r"(?:^|\D)(\d{12})$")


@dataclass(frozen=True)
class Dataset:
    """One of the papers' data sets.

    Attributes:
        name: as `daitir fetch` calls it.
        title: what it is, with its reference.
        page: where its publishers describe it.
        licence: under which it may be used.
        files: what is fetched.
        unpacked: whether the files lie unpacked beside themselves at the end.
    """

    name: str
    title: str
    page: str
    licence: str
    files: tuple[RemoteFile, ...]
    unpacked: bool = False


def _dialogues(name: str, **known) -> RemoteFile:
    return RemoteFile(f"{name}.json", f"{_CHATIR}/dialogues/{name}.json", **known)


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "visdial",
            "VisDial v1.0, dialogues of people about pictures of COCO (Das et al., CVPR 2017)",
            "https://visualdialog.org/data",
            "CC BY 4.0",
            # Neither sizes nor checksums are published.
            (
                RemoteFile(
                    "visdial_1.0_train.zip",
                    f"{_VISDIAL}/ix8keeudqrd8hn8/visdial_1.0_train.zip?dl=1",
                ),
                RemoteFile(
                    "visdial_1.0_val.zip", f"{_VISDIAL}/ibs3a0zhw74zisc/visdial_1.0_val.zip?dl=1"
                ),
            ),
        ),
        Dataset(
            "chatir",
            "ChatIR, five sources of dialogues and the gallery (Levy et al., NeurIPS 2023)",
            "https://github.com/levymsn/ChatIR",
            "MIT; the human dialogues are VisDial's, CC BY 4.0",
            (
                _dialogues(
                    "VisDial_v1.0_queries_val",
                    size=1_131_983,
                    checksum="sha256:"
                    "6db15734e21df441c932b84cf538ba660350e82dcb18e5d3ab8d0f99691cd210",
                    origin="measured on a copy",
                ),
                _dialogues("Human_BLIP2"),
                _dialogues("ChatGPT_BLIP2"),
                _dialogues("FLAN_ALPACA_XXL_BLIP2"),
                _dialogues("Unanswered_ChatGPT_BLIP2"),
                RemoteFile(_GALLERY, f"{_CHATIR}/ChatIR_Protocol/{_GALLERY}"),
            ),
        ),
        Dataset(
            "coco-unlabeled",
            "COCO 2017, the unlabelled pictures (Lin et al., ECCV 2014)",
            "https://cocodataset.org/#download",
            "the pictures belong to Flickr users (Flickr's terms of use), the rest is CC BY 4.0",
            (
                RemoteFile(
                    f"{UNLABELED}.zip",
                    f"http://images.cocodataset.org/zips/{UNLABELED}.zip",
                    size=20_126_613_414,
                    checksum="md5:7ebc562819fdb32847aab79530457326",
                    origin="pytorch-coco-tools and other third parties; COCO publishes none",
                ),
            ),
            unpacked=True,
        ),
    )
}


def find_files(dataset: Dataset, folder: Path, *, progress: bool = False) -> dict[str, Path]:
    """Those of a data set's files that lie in a folder at any depth, by name, each checked.

    A zip file may be unpacked there: `visdial_1.0_val.json`, or the folder `unlabeled2017`.

    Raises DataError where there is none of them, two of one name, or a wrong one.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = {}
    for file in dataset.files:
        stem = Path(file.name).stem
        names = [file.name, stem if dataset.unpacked else f"{stem}.json"]
        for name in dict.fromkeys(names):
            here = [folder] if folder.name == name else []
            paths = here or sorted(path for path in folder.rglob(name) if path.exists())
            if len(paths) > 1:
                raise DataError(f"{folder}: {paths[0]} and {paths[1]} are both {name}; name one")
            if paths:
                if name == file.name:
                    verify(paths[0], file, progress=progress)
                found[file.name] = paths[0]
                break
    if not found:
        names = ", ".join(file.name for file in dataset.files)
        raise DataError(f"{folder}: has none of the files of {dataset.name}: {names}")
    return found


def prepare(
    dataset: Dataset,
    files: dict[str, Path],
    out: Path,
    *,
    images: Path | None = None,
    progress: bool = False,
) -> list[str]:
    """Make folders of own data below `out` from a data set's files, and say what they hold.

    Args:
        files: paths by name, as `find_files` gives them.
        images: the folder of COCO's pictures, which `images/` will be a link to.

    Raises DataError where a file is not what its name says, where `images` has not the pictures,
    or where `images/` exists and is another folder.
    """
    if dataset.name == "visdial":
        return _prepare_visdial(files, out, images)
    if dataset.name == "chatir":
        return _prepare_chatir(files, out, images)
    return [_prepare_pictures(files[f"{UNLABELED}.zip"], out, progress)]


def visdial_dialogues(
    content: Any, names: Mapping[int, str] | None
) -> Iterator[tuple[int, Dialogue]]:
    """The number of the picture and the dialogue of each entry of VisDial's JSON format.

    There a question and an answer are numbers of rows in two lists. Dialogues about pictures that
    `names` does not have are left out; None is the names that ChatIR gives to all of them. As
    ChatIR writes it, a round is `"question? answer"`.

    >>> entry = {"image_id": 7, "caption": "a dog ", "dialog": [{"question": 0, "answer": 0}]}
    >>> content = {"questions": ["is it big"], "answers": ["no"], "dialogs": [entry]}
    >>> list(visdial_dialogues({"data": content}, {7: "7.jpg"}))
    [(7, Dialogue(image='7.jpg', rounds=('a dog', 'is it big? no')))]

    Raises DataError, naming the dialogue, where it has not the format or names a row that its
    list has not.
    """
    try:
        data = content["data"]
        questions, answers = list(data["questions"]), list(data["answers"])
        entries = list(data["dialogs"])
    except (KeyError, TypeError) as error:
        raise DataError(f"not VisDial's format ({error!r})") from error
    for number, entry in enumerate(entries):
        try:
            image_id = entry["image_id"]
            if type(image_id) is not int:
                raise TypeError(f"image_id {image_id!r} is no number")
            image = f"{UNLABELED}/{image_id:012}.jpg" if names is None else names.get(image_id)
            if image is None:
                continue
            rounds = [entry["caption"].strip()]
            for turn in entry["dialog"]:
                question = _row("question", questions, turn["question"])
                answer = _row("answer", answers, turn["answer"])
                rounds.append(f"{question.rstrip(' ?')}? {answer.strip()}".strip())
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise DataError(f"dialogue {number}: not VisDial's format ({error!r})") from error
        yield image_id, Dialogue(image, tuple(rounds))


def _row(what: str, rows: list[str], index: int) -> str:
    """A row of a list; a negative index, which Python counts from the end, is none."""
    if type(index) is not int or not 0 <= index < len(rows):
        raise IndexError(f"{what} {index} of {len(rows):,}, counted from 0")
    return rows[index]


def is_held_out(image_id: int) -> bool:
    """Whether a training dialogue of VisDial is for validation: by its picture, one in `HELD_OUT`.

    VisDial's own validation set is what the field tests on; choices need another one.
    """
    digest = hashlib.sha256(f"visdial/{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


def _prepare_visdial(files: dict[str, Path], out: Path, images: Path | None) -> list[str]:
    folder = _link_images(out, images)
    numbers = {} if not any(folder.iterdir()) else {
        int(match[1]): name
        for name in list_images(folder)
        if (match := _ID.search(Path(name).stem))
    }  # fmt: skip
    told = []
    for part in ("train", "val"):
        path = files.get(f"visdial_1.0_{part}.zip")
        if path is None:
            told.append(f"visdial_1.0_{part} is not there: without its dialogues")
            continue
        if part == "train" and not numbers:
            told.append(
                "without pictures nobody knows what COCO calls those of VisDial's training "
                "dialogues: run it again with --images DIR for train and val"
            )
            continue
        content = _read_visdial(path)
        try:
            found = list(visdial_dialogues(content, numbers or None))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        num_dialogues = len(content["data"]["dialogs"])
        if part == "val":
            splits = {"test": [dialogue for _, dialogue in found]}
        else:
            splits = {
                "train": [dialogue for i, dialogue in found if not is_held_out(i)],
                "val": [dialogue for i, dialogue in found if is_held_out(i)],
            }
        for split, dialogues in splits.items():
            if dialogues:
                write_dialogues(out / "dialogues" / f"{split}.json", dialogues)
            told.append(f"{split}: {len(dialogues):,} dialogues")
        if len(found) < num_dialogues:
            told.append(
                f"{num_dialogues - len(found):,} of {num_dialogues:,} dialogues of "
                f"visdial_1.0_{part} are left out: {folder} has not their pictures"
            )
    return told


def _prepare_chatir(files: dict[str, Path], out: Path, images: Path | None) -> list[str]:
    gallery_file = files.get(_GALLERY)
    gallery = read_gallery(gallery_file) if gallery_file else None
    told = [] if gallery else [f"{_GALLERY} is not there: all pictures will be searched"]
    for file in DATASETS["chatir"].files[:-1]:
        source = Path(file.name).stem
        if file.name not in files:
            told.append(f"{source} is not there")
            continue
        dialogues = read_dialogues(files[file.name], gallery=gallery)
        folder = out / source
        if images and not (images / dialogues[0].image).is_file():
            raise DataError(f"{images}: has no {dialogues[0].image}; name the folder above it")
        _link_images(folder, images)
        write_dialogues(folder / "dialogues.json", dialogues)
        if gallery_file:
            _copy(gallery_file, folder / "gallery.json")
        told.append(f"{folder}: {len(dialogues):,} dialogues")
    return told


def _prepare_pictures(source: Path, out: Path, progress: bool) -> str:
    target = out / "images" / UNLABELED
    if source.is_dir():
        # The folder above becomes `images/`: links inside of that may not leave it.
        if source.is_symlink():
            raise DataError(f"{source}: is a link; name the folder that {source.resolve()} lies in")
        _link_images(out, source.resolve().parent)
    else:
        _unpack(source, target.parent, progress)
    return f"{target}: {len(list_images(target)):,} pictures"


def _unpack(path: Path, folder: Path, progress: bool) -> None:
    """Unpack the pictures of a zip file into a folder; those that are there stay."""
    with _opened_zip(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        safe = SafeFolder(folder)
        places = {entry.filename: safe.join(entry.filename) for entry in entries}
        todo = [entry for entry in entries if not _has(places[entry.filename], entry)]
        check_space(folder, sum(entry.file_size for entry in todo))
        for entry in tqdm(todo, desc="unpacking", unit="picture", disable=not progress):
            with (
                atomic_write(places[entry.filename], sync=False) as temporary,
                archive.open(entry) as packed,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(packed, file)


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file to read from. Raises DataError where it, or what is read of it, is damaged."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except DataError:
        raise
    except OSError as error:
        if error.errno is not None:  # of the disk; bz2 raises one without for damaged data
            raise
        reason = error
    except _DAMAGE as error:
        reason = error
    else:
        return
    raise DataError(f"{path}: no sound zip file ({reason}); remove it") from reason


def _has(path: Path, entry: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == entry.file_size


def _link_images(folder: Path, images: Path | None) -> Path:
    """`folder/images`, a link to the pictures where it is new and they are named, else empty."""
    path = folder / "images"
    folder.mkdir(parents=True, exist_ok=True)
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: no such folder of pictures")
    if images is not None and path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()  # an earlier run left it for pictures
    if images is not None and not path.exists():
        path.unlink(missing_ok=True)  # a link to nowhere
        path.symlink_to(images.resolve())
    elif images is not None and path.resolve() != images.resolve():
        raise DataError(f"{path}: exists, and is not {images}; remove it, or name it")
    path.mkdir(exist_ok=True)
    return path


def _read_visdial(path: Path) -> Any:
    """The content of a JSON file of VisDial, packed or not, without the rivals of each answer."""

    def slim(entry: dict) -> dict:
        entry.pop("answer_options", None)  # a hundred numbers a round, most of the memory
        return entry

    try:
        if path.suffix != ".zip":
            with open_regular(path) as file:
                _check_size(path, os.fstat(file.fileno()).st_size)
                return json.load(file, object_hook=slim)
        with _opened_zip(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".json")]
            if len(entries) != 1:
                raise DataError(f"{path}: holds {len(entries)} JSON files, not one")
            _check_size(path, entries[0].file_size)  # no more than this is unpacked
            content = archive.read(entries[0])
        return json.loads(content, object_hook=slim)
    except DataError:
        raise
    except (RecursionError, MemoryError) as error:
        raise DataError(f"{path}: the JSON is nested too deeply or too large to read") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error


def _check_size(path: Path, size: int) -> None:
    if size > MAX_VISDIAL:
        raise DataError(f"{path}: {size:,} bytes of JSON, more than {MAX_VISDIAL:,}; no VisDial")


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)

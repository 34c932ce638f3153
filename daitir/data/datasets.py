"""The papers' data, by the names of `book/how_to_run.md`: it becomes folders of own data."""

import hashlib
import operator
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from daitir.common.errors import DataError, naming
from daitir.common.files import atomic_write, check_is_folder, parse_json, read_regular
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.data.downloads import RemoteFile, opened_zip, unpack, verify
from daitir.data.gallery import list_images, read_gallery

HELD_OUT = 60  # one in so many of VisDial's training dialogues is for validation
MAX_VISDIAL = 2**32  # bytes of VisDial's JSON, unpacked; nearly all are the rivals'
UNLABELED = "unlabeled2017"
_GALLERY = "Search_Space_val_50k.json"
_CHATIR = (
    "https://raw.githubusercontent.com/levymsn/ChatIR/f5a4b908643d5fcd946187da8f20c0667afbe2e5"
)
_ID = re.compile(r"(?:^|\D)(\d{12})$")


@dataclass(frozen=True)
class Dataset:
    """One of the papers' data sets."""

    name: str
    title: str  # with its reference
    page: str
    licence: str
    files: tuple[RemoteFile, ...]
    unpacked: bool = False  # whether the files lie unpacked beside themselves at the end


def _file(url: str, *known) -> RemoteFile:
    return RemoteFile(PurePosixPath(urlsplit(url).path).name, url, *known)


_DATASETS = (
    Dataset(
        "visdial",
        "VisDial v1.0, dialogues of people about pictures of COCO (Das et al., CVPR 2017)",
        "https://visualdialog.org/data",
        "CC BY 4.0",
        (  # neither sizes nor checksums are published
            _file("https://www.dropbox.com/s/ix8keeudqrd8hn8/visdial_1.0_train.zip?dl=1"),
            _file("https://www.dropbox.com/s/ibs3a0zhw74zisc/visdial_1.0_val.zip?dl=1"),
        ),
    ),
    Dataset(
        "chatir",
        "ChatIR, five sources of dialogues and the gallery (Levy et al., NeurIPS 2023)",
        "https://github.com/levymsn/ChatIR",
        "MIT; the human dialogues are VisDial's, CC BY 4.0",
        (
            _file(
                f"{_CHATIR}/dialogues/VisDial_v1.0_queries_val.json",
                1_131_983,
                "sha256:6db15734e21df441c932b84cf538ba660350e82dcb18e5d3ab8d0f99691cd210",
                "measured on a copy",
            ),
            _file(f"{_CHATIR}/dialogues/Human_BLIP2.json"),
            _file(f"{_CHATIR}/dialogues/ChatGPT_BLIP2.json"),
            _file(f"{_CHATIR}/dialogues/FLAN_ALPACA_XXL_BLIP2.json"),
            _file(f"{_CHATIR}/dialogues/Unanswered_ChatGPT_BLIP2.json"),
            _file(f"{_CHATIR}/ChatIR_Protocol/{_GALLERY}"),
        ),
    ),
    Dataset(
        "coco-unlabeled",
        "COCO 2017, the unlabelled pictures (Lin et al., ECCV 2014)",
        "https://cocodataset.org/#download",
        "the pictures belong to Flickr users (Flickr's terms of use), the rest is CC BY 4.0",
        (
            _file(
                f"http://images.cocodataset.org/zips/{UNLABELED}.zip",
                20_126_613_414,
                "md5:7ebc562819fdb32847aab79530457326",
                "pytorch-coco-tools and other third parties; COCO publishes none",
            ),
        ),
        unpacked=True,
    ),
)
DATASETS = {dataset.name: dataset for dataset in _DATASETS}


def find_files(dataset: Dataset, folder: Path) -> dict[str, Path]:
    """The files of a data set, by name, in a folder at any depth, packed or not; each checked."""
    check_is_folder(folder, "downloads")
    paths_by_name = {}
    for file in dataset.files:
        unpacked = Path(file.name).with_suffix("" if dataset.unpacked else ".json").name
        for name in dict.fromkeys((file.name, unpacked)):
            here = [folder] if folder.name == name else []
            paths = here or sorted(path for path in folder.rglob(name) if path.exists())
            if len(paths) > 1:
                raise DataError(f"{folder}: {paths[0]} and {paths[1]} are both {name}; name one")
            if paths:
                if name == file.name:
                    verify(paths[0], file)
                paths_by_name[file.name] = paths[0]
                break
    if not paths_by_name:
        names = ", ".join(file.name for file in dataset.files)
        raise DataError(f"{folder}: has none of the files of {dataset.name}: {names}")
    return paths_by_name


def prepare(
    dataset: Dataset,
    files: dict[str, Path],
    out: Path,
    *,
    images: Path | None = None,
    progress: bool = False,
) -> list[str]:
    """Make folders of own data below `out`, with links to `images`, and say what they hold."""
    if dataset.name == "visdial":
        return _prepare_visdial(files, out, images)
    if dataset.name == "chatir":
        return _prepare_chatir(files, out, images)
    return [_prepare_pictures(files[f"{UNLABELED}.zip"], out, progress)]


def _prepare_visdial(files: dict[str, Path], out: Path, images: Path | None) -> list[str]:
    folder = _link_images(out, images)
    names = list_images(folder) if any(folder.iterdir()) else ()
    numbers = {int(match[1]): name for name in names if (match := _ID.search(Path(name).stem))}
    lines = []
    for name, splits in (("visdial_1.0_train", ("train", "val")), ("visdial_1.0_val", ("test",))):
        path = files.get(f"{name}.zip")
        if path is None:
            lines.append(f"{name} is not there: without its dialogues")
            continue
        if "train" in splits and not numbers:
            again = "run it again with --images DIR for train and val"
            lines.append(f"nobody knows what COCO calls the pictures of train: {again}")
            continue
        content = read_visdial(path)
        with naming(path):
            pairs = list(visdial_dialogues(content, numbers or None))
        for split in splits:
            dialogues = [
                d for i, d in pairs if split == "test" or is_held_out(i) == (split == "val")
            ]
            if dialogues:
                write_dialogues(out / "dialogues" / f"{split}.json", dialogues)
            lines.append(f"{split}: {len(dialogues):,} dialogues")
        total = len(content["data"]["dialogs"])
        if lost := total - len(pairs):
            share = f"{lost:,} of {total:,} dialogues of {name}"
            lines.append(f"{share} are left out: {folder} has not their pictures")
    return lines


def _prepare_chatir(files: dict[str, Path], out: Path, images: Path | None) -> list[str]:
    gallery_file = files.get(_GALLERY)
    gallery = read_gallery(gallery_file) if gallery_file else None
    lines = [] if gallery else [f"{_GALLERY} is not there: all pictures will be searched"]
    for file in DATASETS["chatir"].files[:-1]:
        source = Path(file.name).stem
        if file.name not in files:
            lines.append(f"{source} is not there")
            continue
        dialogues = read_dialogues(files[file.name], gallery=gallery)
        folder = out / source
        if images and not (images / dialogues[0].image).is_file():
            raise DataError(f"{images}: has no {dialogues[0].image}; name the folder above it")
        _link_images(folder, images)
        write_dialogues(folder / "dialogues.json", dialogues)
        if gallery_file:
            with atomic_write(folder / "gallery.json") as temporary:
                shutil.copyfile(gallery_file, temporary)
        lines.append(f"{folder}: {len(dialogues):,} dialogues")
    return lines


def _prepare_pictures(source: Path, out: Path, progress: bool) -> str:
    target = out / "images" / UNLABELED
    if source.is_dir():
        # The folder above becomes `images/`: links inside of that may not leave it.
        if source.is_symlink():
            raise DataError(f"{source}: is a link; name the folder that {source.resolve()} lies in")
        _link_images(out, source.resolve().parent)
    else:
        unpack(source, target.parent, progress=progress)
    return f"{target}: {len(list_images(target)):,} pictures"


def _link_images(folder: Path, images: Path | None) -> Path:
    """`folder/images`, a link to the pictures where it is new and they are named, else empty."""
    path = folder / "images"
    folder.mkdir(parents=True, exist_ok=True)
    if images is None:
        path.mkdir(exist_ok=True)
        return path
    check_is_folder(images, "pictures")
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()  # an earlier run left it for pictures
    if not path.exists():
        path.unlink(missing_ok=True)  # a link to nowhere
        path.symlink_to(images.resolve())
    elif path.resolve() != images.resolve():
        raise DataError(f"{path}: exists, and is not {images}; remove it, or name it")
    return path


def visdial_dialogues(
    content: Any, names: Mapping[int, str] | None
) -> Iterator[tuple[int, Dialogue]]:
    """The number of the picture and the dialogue of each entry of VisDial's JSON format.

    Dialogues about pictures that `names` does not have are left out; None is the names that ChatIR
    gives to all of them. Raises DataError, naming the dialogue, where it has not the format.
    """
    where = ""
    try:
        data = content["data"]
        questions, answers = list(data["questions"]), list(data["answers"])
        for number, entry in enumerate(data["dialogs"]):
            where = f"dialogue {number}: "
            image_id = operator.index(entry["image_id"])
            image = f"{UNLABELED}/{image_id:012}.jpg" if names is None else names.get(image_id)
            if image is None:
                continue
            rounds = [entry["caption"].strip()]
            for turn in entry["dialog"]:
                if min(turn["question"], turn["answer"]) < 0:  # which Python counts from the end
                    raise IndexError(f"a row is counted from 0, not {turn}")
                question, answer = questions[turn["question"]], answers[turn["answer"]]
                rounds.append(f"{question.rstrip(' ?')}? {answer.strip()}".strip())
            yield image_id, Dialogue(image, tuple(rounds))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"{where}not VisDial's format ({error!r})") from error


def is_held_out(image_id: int) -> bool:
    """Whether a training dialogue of VisDial is for validation, by its picture."""
    digest = hashlib.sha256(f"visdial/{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


def read_visdial(path: Path) -> Any:
    """The content of a JSON file of VisDial, packed or not, without the rivals of each answer."""

    def without_rivals(entry: dict) -> dict:
        entry.pop("answer_options", None)  # a hundred numbers a round, most of the memory
        return entry

    if path.suffix != ".zip":
        return parse_json(path, read_regular(path, MAX_VISDIAL), without_rivals)
    with opened_zip(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json")]
        if len(names) != 1:
            raise DataError(f"{path}: holds {len(names)} JSON files, not one")
        with archive.open(names[0]) as file:
            content = file.read(MAX_VISDIAL)  # a larger one is cut, and so no JSON
    return parse_json(path, content, without_rivals)

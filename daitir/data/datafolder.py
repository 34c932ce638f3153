"""A folder of one's own data, as `book/own_pictures.md` describes it: where its files lie.

`dialogues.json` alone is the split `test`, and its views may lie in `views/` itself.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from daitir.common.errors import DataError
from daitir.common.files import check_is_folder
from daitir.data.dialogues import Dialogue, read_source, recognise_convention
from daitir.data.gallery import list_gallery

logger = logging.getLogger(__name__)

DATA_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SearchData:
    """What `evaluate` ranks: dialogues, a gallery that holds their targets, folders of views."""

    dialogues: Sequence[Dialogue]
    images_dir: Path  # that the names of pictures are relative to
    gallery: Sequence[str]  # the names of the pictures to search
    views_dirs: Sequence[Path] = ()  # files are named as `daitir.data.viewfiles` tells
    text: str | None = None  # the text convention; None where the dialogues show it
    text_known: str = ""  # how it is known
    name: str = "data"  # a label in tables


@dataclass(frozen=True)
class SearchFiles:
    """The files of a search: those of a split of own data, or named one by one."""

    dialogues: Path  # that texts are made of: dialogues, or the rewrites of `raw`
    images_dir: Path | None = None
    gallery_file: Path | None = None  # None for all pictures in the folder
    views_dirs: Sequence[Path] = ()
    raw: Path | None = None
    name: str = ""  # a label in tables; where it is empty, the name of the dialogues' file

    def read_dialogues(
        self, *, num_dialogues: int | None = None, text: str | None = None, **options
    ) -> tuple[list[Dialogue], str, str]:
        """The first dialogues, the text convention that they show or `text` names, how it is known.

        `options` are those of `read_source`. Raises DataError for too few dialogues too.
        """
        dialogues = read_source(self.dialogues, self.raw, **options)
        if num_dialogues and num_dialogues > len(dialogues):
            fewer = f"{len(dialogues):,} dialogues, fewer than --num-dialogues {num_dialogues:,}"
            raise DataError(f"{self.dialogues}: has {fewer}")
        convention = recognise_convention(dialogues, path=self.dialogues, named=text)
        return dialogues[:num_dialogues], *convention

    def read(self, *, tell: Callable[[str], object] = logger.warning, **options) -> SearchData:
        """Dialogues and gallery; `options` are those of `read_dialogues`, `tell` of `list_images`.

        Raises DataError as these do, and where there is no such folder of views.
        """
        gallery = list_gallery(self.images_dir, self.gallery_file, tell=tell)
        dialogues, *text = self.read_dialogues(gallery=gallery, **options)
        for folder in self.views_dirs:
            check_is_folder(folder, "views")
        name = self.name or self.dialogues.stem
        return SearchData(dialogues, self.images_dir, gallery, self.views_dirs, *text, name)


@dataclass(frozen=True)
class DataFolder:
    """A folder of own data."""

    root: Path
    dialogues: dict[str, Path]  # the file of each split, in the order of `DATA_SPLITS`
    is_single: bool  # whether one `dialogues.json` is the split `test`

    @property
    def images_dir(self) -> Path:
        return self.root / "images"

    @property
    def gallery_file(self) -> Path | None:
        path = self.root / "gallery.json"
        return path if path.exists() else None

    def gallery(self, **options) -> list[str]:
        """The names of the pictures to search, as `daitir.data.gallery.list_gallery` gives them."""
        return list_gallery(self.images_dir, self.gallery_file, **options)

    def dialogue_file(self, split: str) -> Path:
        """The file of a split's dialogues. Raises DataError where the folder has none."""
        if split not in self.dialogues:
            raise DataError(
                f"{self.root}: has no split {split!r}, only {', '.join(self.dialogues)}; its "
                f"dialogues would be dialogues/{split}.json"
            )
        return self.dialogues[split]

    def rewrites_file(self, split: str) -> Path:
        """Where a split's refined dialogues lie, or would lie."""
        of_split = self.root / "rewrites" / f"{split}.json"
        return self.root / "rewrites.json" if self.is_single and not of_split.exists() else of_split

    def views_dir(self, split: str) -> Path:
        """The folder where a split's views lie, or would lie."""
        folder, of_split = self.root / "views", self.root / "views" / split
        has_files = folder.is_dir() and any(path.is_file() for path in folder.iterdir())
        return folder if self.is_single and has_files and not of_split.is_dir() else of_split

    def files(self, split: str = "test", *, text: str | None = None) -> SearchFiles:
        """The files of a split; texts come from its rewrites, unless `text` is `raw_dialogue`."""
        raw, rewrites = self.dialogue_file(split), self.rewrites_file(split)
        views, name = self.views_dir(split), self.root.resolve().name
        folders = (views,) if views.is_dir() else ()
        files = SearchFiles(raw, self.images_dir, self.gallery_file, folders, name=name)
        is_raw = text == "raw_dialogue" or not rewrites.exists()
        return files if is_raw else replace(files, dialogues=rewrites, raw=raw)


def find_data(folder: str | Path) -> DataFolder:
    """The parts of a folder of own data; what its files hold `lint_data` looks at.

    Args:
        folder: with `dialogues.json` or `dialogues/`, and `images/`.

    Returns:
        Where everything lies, for `evaluate` or `DataFolder.files`.

    Raises:
        DataError: the folder does not have the format.
    """
    root = Path(folder)
    check_is_folder(root, "data")
    single, splits = root / "dialogues.json", root / "dialogues"
    if single.exists() and splits.exists():
        raise DataError(f"{root}: has both dialogues.json and dialogues/; keep one of them")
    files = {"test": single} if single.exists() else {p.stem: p for p in splits.glob("*.json")}
    unknown = [path.name for split, path in sorted(files.items()) if split not in DATA_SPLITS]
    if unknown or not files:
        wrong = f"dialogues/{unknown[0]} is no split" if unknown else "no dialogues"
        raise DataError(
            f"{root}: {wrong}; name the files dialogues.json, or dialogues/train.json, "
            "dialogues/val.json and dialogues/test.json"
        )
    dialogues = {split: files[split] for split in DATA_SPLITS if split in files}
    if not (root / "images").is_dir():
        raise DataError(f"{root}: has no folder images/; put the pictures there, at any depth")
    return DataFolder(root, dialogues, single.exists())

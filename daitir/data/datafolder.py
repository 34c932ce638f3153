"""A folder of one's own data: where its dialogues, pictures and views lie.

The format is the field's:

| file or folder | holds |
|---|---|
| `dialogues.json`, or `dialogues/` with `train.json`, `val.json`, `test.json` | ChatIR lists |
| `images/` | the pictures, at any depth, named in the dialogues relative to it |
| `gallery.json` | optional: JSON list of the pictures to search; else all of them |
| `rewrites.json`, or `rewrites/` with a file for each split | optional: refined dialogues |
| `views/{split}/{dialogue}_{round}[_{k}].jpg`, or another picture | optional: views, from 0 |

Views and rewrites may have a manifest beside them, `manifest.json` in the folder of views and
`rewrites.manifest.json`, which tell what they were made from (`daitir.data.manifests`,
`book/derived_files.md`).

A dialogue has any number of rounds. `dialogues.json` alone is the split `test`, and its views may
lie in `views/` itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daitir.common.errors import DataError
from daitir.common.files import check_folder
from daitir.data.gallery import list_images, read_gallery

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataFolder:
    """A folder of own data.

    Attributes:
        root: the folder.
        dialogues: the file of each split's dialogues, in the order of `SPLITS`.
        is_single: whether one `dialogues.json` is the split `test`.
    """

    root: Path
    dialogues: dict[str, Path]
    is_single: bool

    @property
    def images_dir(self) -> Path:
        """The folder that the names of pictures are relative to."""
        return self.root / "images"

    @property
    def gallery_file(self) -> Path | None:
        """The list of the pictures to search, where there is one."""
        path = self.root / "gallery.json"
        return path if path.exists() else None

    def gallery(self, **options) -> list[str]:
        """The names of the pictures to search; `options` are those of `list_images`.

        Raises DataError as `read_gallery` and `list_images` do.
        """
        if self.gallery_file:
            return read_gallery(self.gallery_file)
        return list_images(self.images_dir, **options)

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
        self.dialogue_file(split)
        of_split = self.root / "rewrites" / f"{split}.json"
        return self.root / "rewrites.json" if self.is_single and not of_split.exists() else of_split

    def views_dir(self, split: str) -> Path:
        """The folder where a split's views lie, or would lie."""
        self.dialogue_file(split)
        folder, of_split = self.root / "views", self.root / "views" / split
        has_files = folder.is_dir() and any(path.is_file() for path in folder.iterdir())
        return folder if self.is_single and has_files and not of_split.is_dir() else of_split


def find_data(folder: str | Path) -> DataFolder:
    """The parts of a folder of own data, found by the format of this module.

    Raises DataError where there is no such folder, no dialogues, dialogues in both forms, a file
    of an unknown split, or no `images/`. What the files hold is not looked at.
    """
    root = Path(folder)
    check_folder(root, "data")
    single, splits = root / "dialogues.json", root / "dialogues"
    if single.exists() and splits.exists():
        raise DataError(f"{root}: has both dialogues.json and dialogues/; keep one of them")
    if single.exists():
        dialogues = {"test": single}
    else:
        files = sorted(splits.glob("*.json")) if splits.is_dir() else []
        unknown = [path.name for path in files if path.stem not in SPLITS]
        if unknown or not files:
            wrong = f"dialogues/{unknown[0]} is no split" if unknown else "no dialogues"
            raise DataError(
                f"{root}: {wrong}; name the files dialogues.json, or dialogues/train.json, "
                "dialogues/val.json and dialogues/test.json"
            )
        dialogues = {split: splits / f"{split}.json" for split in SPLITS}
        dialogues = {split: path for split, path in dialogues.items() if path.exists()}
    if not (root / "images").is_dir():
        raise DataError(f"{root}: has no folder images/; put the pictures there, at any depth")
    return DataFolder(root, dialogues, single.exists())

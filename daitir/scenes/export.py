"""Writing a part of the embedded world in the field's file formats."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_json, write_json
from daitir.data.dialogues import Dialogue, write_dialogues
from daitir.data.manifests import (
    Rewrites,
    Views,
    content_digest,
    read_views,
    rewrites_manifest,
    round_digests,
    write_rewrites,
    write_views,
)
from daitir.data.viewfiles import remove_views, views_of
from daitir.scenes.dialogues import dialogue, merge_facts, rewrites
from daitir.scenes.render import render
from daitir.scenes.scene import controlled_view, sample_scenes

SCENES_FILE = "scenes.json"
SCENES_FORMAT, GENERATOR = "daitir.scenes/1", "daitir scenes"
WRITTEN = ("gallery.json", "rewrites.json", "dialogues.json")  # the last one makes a data folder


def export_scenes(
    folder: Path,
    *,
    split: str = "test",
    source: str = "human",
    num_dialogues: int = 100,
    num_gallery: int = 5000,
    broken_share: float | None = None,
    size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Write pictures, gallery, dialogues, their refinements and controlled views of a split.

    Dialogue i is about image i; there are views with a `broken_share` only. What an earlier export
    wrote there is written again; dialogues come last, so that a folder whose export was interrupted
    is no folder of data.
    """
    if not 0 < num_dialogues <= num_gallery:
        raise DataError(
            f"{num_dialogues} dialogues need at least as many gallery images, not {num_gallery}; "
            "raise --num-gallery"
        )
    settings = {"generator": GENERATOR, "split": split, "source": source, "seed": seed,
                "size": size, "num_gallery": num_gallery}  # fmt: skip
    check_folder(folder, with_views=broken_share is not None)
    for name in reversed(WRITTEN):
        (folder / name).unlink(missing_ok=True)
    rewrites_manifest(folder / "rewrites.json").unlink(missing_ok=True)
    if _drew(folder / "views"):
        remove_views(folder / "views")
    about = {"format": SCENES_FORMAT, "settings": settings}
    write_json(folder / SCENES_FILE, about, indent=None)
    scenes = sample_scenes(seed, split, num_gallery)
    names = [f"{index:06d}.png" for index in range(num_gallery)]
    for name, scene in zip(tqdm(names, desc="images", disable=not progress), scenes, strict=True):
        _save(folder / "images" / name, render(scene, size).image)
    talks = [dialogue(source, scene, seed=seed) for scene in scenes[:num_dialogues]]
    raw = [Dialogue(names[i], tuple(turn.text for turn in turns)) for i, turns in enumerate(talks)]
    refined = [Dialogue(names[i], tuple(rewrites(turns, seed=i))) for i, turns in enumerate(talks)]
    said = {"file": "dialogues.json"}
    if broken_share is not None:
        files = [[f"{i}_{t}.png" for t in range(len(turns))] for i, turns in enumerate(talks)]
        entries = views_of(raw, ({"file": file} for row in files for file in row))
        drawn = settings | {"broken_share": broken_share}
        write_views(folder / "views", Views(drawn, said | {"text": "raw_dialogue"}, entries))
        for index, turns in enumerate(tqdm(talks, desc="views", disable=not progress)):
            for number, file in enumerate(files[index]):
                facts = merge_facts(turns[: number + 1])
                view = controlled_view(facts, broken_share=broken_share, seed=f"{index}/{number}")
                _save(folder / "views" / file, render(view.scene, size).image)
    manifest = Rewrites(settings, said, content_digest(refined), list(map(round_digests, raw)))
    write_json(folder / "gallery.json", names, indent=None)
    write_rewrites(folder / "rewrites.json", manifest)
    write_dialogues(folder / "rewrites.json", refined)
    write_dialogues(folder / "dialogues.json", raw)
    about["files"] = {name: _digest_of(folder / name) for name in WRITTEN}
    write_json(folder / SCENES_FILE, about, indent=None)


def check_folder(folder: Path, *, with_views: bool) -> None:
    """Raises DataError where a folder holds data that `export_scenes` did not write."""
    marker = folder / SCENES_FILE
    about = read_json(marker) if marker.is_file() else None
    if marker.is_file() and not (isinstance(about, dict) and about.get("format") == SCENES_FORMAT):
        raise DataError(f"{marker}: not of `daitir scenes`; name another folder")
    names = () if about else (*WRITTEN, "dialogues", "rewrites", "images", "views")
    others = [name for name in names if (folder / name).exists()]
    if with_views and not _drew(folder / "views") and any((folder / "views").glob("*.*")):
        others.append("views")
    if others:
        raise DataError(f"{folder}: holds {others[0]} of another origin; name another folder")
    for name, digest in (about or {}).get("files", {}).items():
        if (folder / name).is_file() and _digest_of(folder / name) != digest:
            raise DataError(
                f"{folder / name}: was changed since `daitir scenes` wrote it; name another folder"
            )


def _drew(folder: Path) -> bool:
    """Whether an export drew the views of a folder."""
    manifest = read_views(folder)
    return manifest is not None and manifest.settings.get("generator") == GENERATOR


def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _save(path: Path, image) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary)

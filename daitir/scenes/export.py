"""Writing a part of the embedded world in the field's file formats."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from daitir.dialogues import Dialogue, write_dialogues
from daitir.files import atomic_write
from daitir.scenes.controlled import controlled_view
from daitir.scenes.datasets import sample_scenes
from daitir.scenes.dialogues import dialogue, merge_facts, rewrites
from daitir.scenes.render import render


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

    The folder gets `images/000000.png` and so on, `gallery.json` (the list of those names),
    `dialogues.json` (ChatIR format, dialogue i is about image i), `rewrites.json` (the same
    with each round refined into one caption) and, with a `broken_share`, views
    `views/{dialogue}_{round}.png`. Files that exist are written again.

    Raises ValueError where there are more dialogues than gallery images.
    """
    if not 0 < num_dialogues <= num_gallery:
        raise ValueError(
            f"{num_dialogues} dialogues need at least as many gallery images, not {num_gallery}; "
            "raise --num-gallery"
        )
    scenes = sample_scenes(seed, split, num_gallery)
    names = [f"{index:06d}.png" for index in range(num_gallery)]
    for name, scene in zip(tqdm(names, desc="images", disable=not progress), scenes, strict=True):
        _save(folder / "images" / name, render(scene, size).image)
    with atomic_write(folder / "gallery.json") as temporary:
        temporary.write_text(json.dumps(names) + "\n", encoding="utf-8")
    talks = [dialogue(source, scene, seed=seed) for scene in scenes[:num_dialogues]]
    for file, texts in (
        ("dialogues.json", [[turn.text for turn in turns] for turns in talks]),
        ("rewrites.json", [rewrites(turns, seed=index) for index, turns in enumerate(talks)]),
    ):
        rows = zip(names, texts, strict=False)
        write_dialogues(folder / file, [Dialogue(name, tuple(rounds)) for name, rounds in rows])
    if broken_share is None:
        return
    for index, turns in enumerate(tqdm(talks, desc="views", disable=not progress)):
        for number in range(len(turns)):
            facts = merge_facts(turns[: number + 1])
            view = controlled_view(facts, broken_share=broken_share, seed=f"{index}/{number}")
            _save(folder / "views" / f"{index}_{number}.png", render(view.scene, size).image)


def _save(path: Path, image) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary)

"""What the page shows without a model: dialogues of every source, their views, and the ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from daitir.analysis.hallucination import cues, one_of_each
from daitir.fusion import dar_fusion
from daitir.retrieval import first_equal, seen_first, target_ranks
from daitir.scenes import Scene, describe, implied, parse, sample_scenes, world
from daitir.scenes.render import _SPRITE, background, sprite
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import ZERO_SHOT, Condition, Trained
from daitir.studies.queries import MEASURED, SEED

PER_SOURCE = 10  # dialogues
TOP = 10
TOLD = ("invented", "contradicted", "omitted")
METHODS = {
    "text": (ZERO_SHOT, "text"),
    "dar": (ZERO_SHOT, "dar"),
    "adafuse": (ZERO_SHOT, Trained("adafuse")),
    "dmcl": ("dmcl", "dar"),
}
"""Encoder and fusion of each."""
SCALE = 2  # how much larger the page draws a scene than the models see it
SHEET_WIDTH = 1024


class Sheet(NamedTuple):
    """Sprites side by side in one picture."""

    image: Image.Image
    places: dict[str, tuple[int, int, int, int]]  # left, top, width and height of each


def condition(queries: str, method: str) -> Condition:
    encoder, fusion = METHODS[method]
    return Condition(
        queries, method, queries=queries, views="drawn", encoder=encoder, fusion=fusion,
        number=PER_SOURCE,
    )  # fmt: skip


def query_features(bench: Bench, asked: Condition) -> Tensor:
    """(num_dialogues, num_rounds, dim)"""
    text = bench.text_features(asked)
    if asked.fusion == "text":
        return text
    view = bench.view_features(asked)
    if isinstance(asked.fusion, Trained):
        with torch.no_grad():
            return bench.fusion(asked.fusion, asked)(text, view)[0]
    return dar_fusion(text, view, round=torch.arange(text.shape[1]))


def ranking(bench: Bench, asked: Condition) -> tuple[list, list]:
    """`ranks[dialogue][round]` from 1 on, and the numbers of the best pictures."""
    query, gallery = query_features(bench, asked), bench.gallery_features(asked)
    ranks = target_ranks(query, gallery, torch.arange(len(query))) + 1
    gallery = gallery[first_equal(gallery)]
    # A few more than are shown, so that those that tie stand in the order of their numbers.
    scores, places = seen_first(query, gallery, TOP + 6)
    order = np.lexsort((places.numpy(), -scores.numpy()))
    best = np.take_along_axis(places.numpy(), order, axis=-1)[..., :TOP]
    return ranks.tolist(), best.tolist()


def scene_code(scene: Scene) -> str:
    """A scene in few characters: three, and seven for each object. `src/scenes.js` reads them."""
    names = list(world.CATEGORIES)
    code = "".join(
        str(world.OPTIONS[name].index(getattr(scene, name)))
        for name in ("place", "time", "weather")
    )
    for item in scene.objects:
        colour = 0 if item.colour is None else 1 + world.COLOURS.index(item.colour)
        numbers = (colour, world.SIZES.index(item.size), world.CELLS.index(item.cell))
        code += f"{names.index(item.category):02}" + "".join(map(str, numbers))
        code += "".join(str(1 + offset) for offset in item.jitter)
    return code


def false_cues(caption: str, seen: Scene, target: Scene) -> list[dict]:
    """What a view shows that is not so, with the cell where it is shown, and what it leaves out."""
    stated = parse(caption).facts
    latest = {fact[:2]: fact for fact in (*implied(stated), *stated)}
    view, _ = one_of_each(seen, {key: fact.value for key, fact in latest.items()})
    others = [item for item in seen.objects if item not in view.objects]
    told = []
    judged = cues(stated, seen, target)
    for fact, kind in judged.judged:
        if kind not in TOLD or fact.attribute == "count":
            continue
        shown = view.object(fact.subject)
        if fact in judged.extra:
            shown = next(item for item in others if item.category == fact.subject)
        row = {"kind": kind, "text": describe([fact]) or str(fact)}
        if kind != "omitted" and shown:
            row["cell"] = world.CELLS.index(shown.cell)
        said = latest.get(fact[:2])
        if kind == "contradicted" and said and said.value != fact.value:
            row["said"] = describe([said]) or str(said)
        if row not in told:
            told.append(row)
    return told


def dialogues(bench: Bench, queries: str, ranked: dict[str, tuple[list, list]]) -> list[dict]:
    """All that the page tells of the first dialogues of a query set, `ranked` by method."""
    one, query_set = condition(queries, "text"), bench.query_set(queries)
    rows = []
    for i, (target, talk) in enumerate(zip(bench.targets(one), bench.talks(one), strict=True)):
        captions, readings = query_set.captions[i], query_set.readings[i]
        rows.append({
            "source": queries,
            "target": i,
            "words": [turn.text for turn in talk],
            "captions": captions,
            "cues": [false_cues(c, s, target) for c, s in zip(captions, readings, strict=True)],
            "ranks": {method: ranks[i] for method, (ranks, _) in ranked.items()},
            "best": {method: best[i] for method, (_, best) in ranked.items()},
        })  # fmt: skip
    return rows


def view_strips(bench: Bench, queries: str) -> list[Image.Image]:
    """The views of each dialogue in a row."""
    views = [np.asarray(Image.open(path)) for path in bench.draw(condition(queries, "dar"))]
    rounds = len(views) // PER_SOURCE
    rows = (views[i : i + rounds] for i in range(0, len(views), rounds))
    return [Image.fromarray(np.concatenate(row, axis=1)) for row in rows]


def sprite_sheet() -> Sheet:
    """Every object in every colour and size, on shelves."""
    looks = [
        (
            f"{category}-{colour or ''}-{size}",
            sprite(category, colour, round(_SPRITE[size] * SCALE)),
        )
        for size in world.SIZES
        for category, kind in world.CATEGORIES.items()
        for colour in (world.COLOURS if kind.has_colour else (None,))
    ]
    places, x, y, tallest = {}, 0, 0, 0
    for name, picture in looks:
        height, width = picture.shape[:2]
        if x + width > SHEET_WIDTH:
            x, y, tallest = 0, y + tallest, 0
        places[name] = (x, y, width, height)
        x, tallest = x + width, max(tallest, height)
    sheet = Image.new("RGBA", (SHEET_WIDTH, y + tallest))
    for name, picture in looks:
        sheet.paste(Image.fromarray(picture), places[name][:2])
    return Sheet(sheet, places)


def stages() -> Image.Image:
    """A row of empty stages for each place: every time and weather."""
    rows = [
        np.concatenate([
            background(place, time, weather, 64 * SCALE)
            for time in world.TIMES for weather in world.WEATHERS
        ], axis=1)
        for place in world.PLACES
    ]  # fmt: skip
    return Image.fromarray(np.concatenate(rows))


def make(bench: Bench, folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Writes the pictures of the page; returns its data, and the features of the test gallery."""
    rows: list[dict] = []
    features: dict[str, np.ndarray] = {}
    ranked: dict[str, dict] = {queries: {} for queries in MEASURED}
    for method, (encoder, _) in METHODS.items():  # which keeps one encoder as long as it is asked
        for queries in MEASURED:
            ranked[queries][method] = ranking(bench, condition(queries, method))
        features[encoder] = bench.gallery_features(condition("human", method)).numpy()
    for queries in MEASURED:
        rows += dialogues(bench, queries, ranked[queries])
        for i, strip in enumerate(view_strips(bench, queries)):
            strip.save(folder / f"views-{queries}-{i}.webp", quality=85, method=6)
    sheet = sprite_sheet()
    sheet.image.save(folder / "sprites.webp", lossless=True, method=6)
    stages().save(folder / "stages.webp", quality=90, method=6)
    number = bench.profile.num_gallery
    splits = dict.fromkeys(MEASURED[row["source"]].split for row in rows)
    return {
        "dialogues": rows,
        "scenes": {s: " ".join(map(scene_code, sample_scenes(SEED, s, number))) for s in splits},
        "split": {name: recipe.split for name, recipe in MEASURED.items()},
        "sprites": sheet.places,
        "scale": SCALE,
        "world": world_table(),
    }, features


def world_table() -> dict[str, Sequence]:
    """The names that the numbers of `scene_code` stand for."""
    names = ("place", "time", "weather", "colour", "size")
    return {
        **{name: world.OPTIONS[name] for name in names},
        "category": list(world.CATEGORIES),
        "cell": world.CELLS,
    }

"""Quality of the shipped models on the validation split, as a table of shares with intervals."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from daitir import metrics
from daitir.common.errors import DataError
from daitir.common.files import atomic_write
from daitir.models.encoders import Encoder
from daitir.models.recogniser import SCENE_ATTRIBUTES, Recogniser
from daitir.models.reformulation import Reformulator
from daitir.models.views import ViewGenerator
from daitir.recipes.recogniser import degraded
from daitir.retrieval import target_ranks
from daitir.scenes import (
    SOURCES,
    Scene,
    describe,
    dialogue,
    holds,
    implied,
    merge_facts,
    parse,
    render_scenes,
    rewrites,
    sample_scenes,
    short_caption,
    world,
)

QUALITY_SPLIT, QUALITY_SEED = "val", 0
QUALITY_COLUMNS = ["model", "split", "measure", "value", "ci_low", "ci_high", "num_queries"]


def update_table(path: Path, rows: pd.DataFrame) -> None:
    """Put a model's rows into the table at `path`; the rows of other models stay.

    Raises DataError where the file is no such table.
    """
    if path.is_file():
        wrong = f"{path}: no table of quality; delete it, or name another file"
        try:
            table = pd.read_csv(path)
        except ValueError as error:
            raise DataError(wrong) from error
        if list(table.columns) != QUALITY_COLUMNS:
            raise DataError(wrong)
        rows = pd.concat([table[~table["model"].isin(rows["model"])], rows])
    with atomic_write(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\n")


def clip_quality(
    encoder: Encoder, *, num_dialogues: int, num_gallery: int, progress: bool = False, **options
) -> pd.DataFrame:
    """How well a dual encoder finds validation scenes by text alone: `R@k` over queries.

    The first `num_dialogues` of `num_gallery` scenes, drawn with the `options` of `render_scenes`,
    are looked for by one short caption, and after the first and the last round of a human-like
    dialogue refined into one caption.
    """
    scenes = sample_scenes(QUALITY_SEED, QUALITY_SPLIT, num_gallery)
    images = render_scenes(scenes, progress=progress, **options)
    gallery = encoder.encode_images(images, progress=progress)
    asked = list(enumerate(scenes[:num_dialogues]))
    captions = [short_caption(scene, random.Random(f"quality/{index}")) for index, scene in asked]
    refined = [
        rewrites(dialogue("human", scene, seed=QUALITY_SEED), seed=index) for index, scene in asked
    ]
    values = {}
    for name, texts, cutoffs in (
        ("short caption", captions, (1, 10)),
        ("dialogue, round 0", [rounds[0] for rounds in refined], (10,)),
        ("dialogue, round 10", [rounds[-1] for rounds in refined], (10,)),
    ):
        features = encoder.encode_texts(texts, progress=progress)
        ranks = target_ranks(features, gallery, torch.arange(len(texts)))
        for k in cutoffs:
            values[f"R@{k}, {name}"] = metrics.recall_values(ranks[:, None], k)[:, 0]
    return _rows(encoder.spec, values)


def recogniser_quality(
    recogniser: Recogniser, *, num_scenes: int = 2000, progress: bool = False, **options
) -> pd.DataFrame:
    """How well a recogniser reads scenes of the validation split and of held-out combinations.

    Each of the six cells counts for `category` (is it empty, what stands there), each object for
    `colour` and `size`, which are wrong too where the object is overlooked; shares are over
    pictures, drawn with the `options` of `render_scenes`, and read once more `degraded`.
    """
    tables = []
    for split in (QUALITY_SPLIT, "heldout"):
        scenes = sample_scenes(QUALITY_SEED, split, num_scenes)
        images = render_scenes(scenes, progress=progress, **options)
        for suffix, shown in (("", images), (", degraded", degraded(images))):
            pairs = list(zip(scenes, recogniser.read(shown, progress=progress), strict=True))
            values = {
                f"{name}{suffix}": [_share_read(name, *pair) for pair in pairs]
                for name in (*SCENE_ATTRIBUTES, "category", "colour", "size")
            }
            tables.append(_rows(_name("recogniser", recogniser.spec), values, split))
    return pd.concat(tables, ignore_index=True)


def _share_read(attribute: str, scene: Scene, read: Scene) -> float:
    """1 or 0 for an attribute of the scene, else the share of cells or objects read right."""
    if attribute in SCENE_ATTRIBUTES:
        return float(getattr(scene, attribute) == getattr(read, attribute))
    there, seen = (
        {(item.column, item.row): getattr(item, attribute) for item in shown.objects}
        for shown in (scene, read)
    )
    stated = {cell for cell, value in there.items() if value is not None}
    cells = world.CELLS if attribute == "category" else stated
    return _mean(there.get(cell) == seen.get(cell) for cell in cells)


def pipeline_quality(
    generator: ViewGenerator,
    recogniser: Recogniser,
    *,
    num_prompts: int = 500,
    batch_size: int = 50,
    progress: bool = False,
) -> pd.DataFrame:
    """`drawing_quality` of a pipeline on fully stated prompts of the validation split."""
    scenes = sample_scenes(QUALITY_SEED, QUALITY_SPLIT, num_prompts)
    prompts = [
        describe(scene.own_facts, random.Random(f"quality/{index}"))
        for index, scene in enumerate(scenes)
    ]
    images = []
    for start in tqdm(range(0, num_prompts, batch_size), desc="drawing", disable=not progress):
        batch = prompts[start : start + batch_size]
        images += generator.draw(batch, range(start, start + len(batch)))
    ending = f", {generator.steps} steps, guidance {generator.guidance:g}"
    values = drawing_quality(images, scenes, recogniser)
    values = {f"{name}{ending}": shares for name, shares in values.items()}
    return _rows(_name("diffusion", generator.spec), values)


def drawing_quality(
    images: Sequence[Image.Image | np.ndarray], scenes: Sequence[Scene], recogniser: Recogniser
) -> dict[str, list[float]]:
    """How much of each scene is drawn, as the recogniser reads it, by measure.

    `object`: share of the objects that are there, wherever; `colour`, `size`, `position` (its
    cell): share of the stated values that hold, an absent object's not; `invented`: share of the
    objects seen whose category was not asked for.
    """
    pairs = list(zip(scenes, recogniser.read(images), strict=True))
    values = {name: [_share_read(name, *pair) for pair in pairs] for name in SCENE_ATTRIBUTES}
    for name, attributes in {
        "object": ("present",), "colour": ("colour",), "size": ("size",),
        "position": ("column", "row"),
    }.items():  # fmt: skip
        values[name] = [
            _mean(
                all(holds(f, drawn) for f in scene.facts if f.subject == item.category
                    and f.attribute in attributes)
                for item in scene.objects
                if name != "colour" or item.colour is not None
            )
            for scene, drawn in pairs
        ]  # fmt: skip
    values["invented"] = [
        _mean(scene.object(item.category) is None for item in drawn.objects)
        for scene, drawn in pairs
    ]
    return values


def lm_quality(
    reformulator: Reformulator,
    *,
    num_dialogues: int = 300,
    rounds: Sequence[int] = (0, 2, 5, 10),
    progress: bool = False,
) -> pd.DataFrame:
    """How much refined captions still say of what dialogues of validation scenes say.

    `kept`: share of the facts stated so far (`merge_facts`) that the caption states; `invented`:
    share of the caption's statements that nobody made, an unreadable stretch counting as one;
    an output of no use keeps nothing. `outputs of no use`: their share, over all rounds.
    `stated facts that are true` and `caption facts that are true`, of the unreliable source: share
    of the facts stated so far, and of those in the caption, that hold in the scene.
    """
    scenes = sample_scenes(QUALITY_SEED, QUALITY_SPLIT, num_dialogues)
    values: dict[str, list[float]] = {}
    for source in SOURCES:
        talks = [dialogue(source, scene, seed=QUALITY_SEED) for scene in scenes]
        texts = [[turn.text for turn in turns] for turns in talks]
        refined = reformulator.refine(texts, progress=progress)
        measures = ("kept", "invented")
        if source == "unreliable":
            measures += ("stated facts that are true", "caption facts that are true")
        values |= {f"{name}, {source}, round {t}": [] for name in measures for t in rounds}
        for index, (scene, turns) in enumerate(zip(scenes, talks, strict=True)):
            for t in rounds:
                stated = implied(merge_facts(turns[: t + 1]))
                facts, unread = parse(refined.captions[index][t])
                told = set() if (index, t) in refined.faults else set(facts)
                number = len(told) + len(unread) if told else 0
                shares = (
                    _mean(fact in told for fact in stated),
                    1 - len(told & stated) / number if number else float("nan"),
                    _mean(holds(fact, scene) for fact in stated),
                    _mean(holds(fact, scene) for fact in told),
                )
                for name, share in zip(measures, shares, strict=False):
                    values[f"{name}, {source}, round {t}"].append(share)
        values[f"outputs of no use, {source}"] = [
            _mean((index, t) in refined.faults for t in range(len(turns)))
            for index, turns in enumerate(talks)
        ]
    # A model of no use at all states nothing, so that nothing can be invented or true.
    measured = {name: column for name, column in values.items() if not np.isnan(column).all()}
    return _rows(_name("lm", reformulator.spec), measured)


def _mean(values: Iterable[bool]) -> float:
    """The mean, or NaN of nothing, which the intervals leave out."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def _name(kind: str, spec: str) -> str:
    return kind if spec == "mini" else f"{kind} {spec}"


def _rows(
    model: str, values: Mapping[str, Sequence[float]], split: str = QUALITY_SPLIT
) -> pd.DataFrame:
    """One row a measure: the mean over queries and its 95% bootstrap interval."""
    rows = []
    for measure, column in values.items():
        interval = metrics.bootstrap_interval(column)
        counted = np.count_nonzero(~np.isnan(column))
        rows.append((model, split, measure, np.nanmean(column), *interval, counted))
    return pd.DataFrame(rows, columns=QUALITY_COLUMNS)

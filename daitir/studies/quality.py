"""Quality of the shipped models on the validation split, as a small table for the model cards."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
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
from daitir.models.recogniser import Recogniser
from daitir.models.reformulation import Reformulator
from daitir.models.views import ViewGenerator
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

SPLIT, SEED = "val", 0
COLUMNS = ["model", "split", "measure", "value", "ci_low", "ci_high", "num_queries"]


def update_table(path: Path, rows: pd.DataFrame) -> None:
    """Put a model's rows into the table at `path`; the rows of other models stay.

    Raises DataError where the file is no such table.
    """
    if path.is_file():
        try:
            table = pd.read_csv(path)
        except (ValueError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no table of quality ({error}); delete it") from error
        if list(table.columns) != COLUMNS:
            raise DataError(f"{path}: no table of quality; its columns are {list(table.columns)}")
        rows = pd.concat([table[~table["model"].isin(rows["model"])], rows])
    with atomic_write(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\n")


def clip_quality(
    encoder: Encoder,
    *,
    image_size: int,
    num_dialogues: int = 1000,
    num_gallery: int = 5000,
    num_workers: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """How well a dual encoder finds validation scenes by text alone.

    Each of the first `num_dialogues` scenes is looked for among `num_gallery` scenes: by one
    short caption, and after the first and the last round of a human-like dialogue refined into
    one caption.

    Returns:
        Columns model, split, measure, value, ci_low, ci_high, num_queries; fractions with 95%
        bootstrap intervals over queries.
    """
    scenes = sample_scenes(SEED, SPLIT, num_gallery)
    images = render_scenes(scenes, size=image_size, num_workers=num_workers, progress=progress)
    gallery_features = encoder.encode_images(images, progress=progress)
    captions = [
        short_caption(scene, random.Random(f"quality/{index}"))
        for index, scene in enumerate(scenes[:num_dialogues])
    ]
    talks = [dialogue("human", scene, seed=SEED) for scene in scenes[:num_dialogues]]
    refined = [rewrites(turns, seed=index) for index, turns in enumerate(talks)]
    queries = {
        "short caption": (captions, (1, 10)),
        "dialogue, round 0": ([rounds[0] for rounds in refined], (10,)),
        "dialogue, round 10": ([rounds[-1] for rounds in refined], (10,)),
    }
    rows = []
    for name, (texts, cutoffs) in queries.items():
        text_features = encoder.encode_texts(texts, progress=progress)
        ranks = target_ranks(text_features, gallery_features, torch.arange(len(texts)))[:, None]
        for k in cutoffs:
            hits = metrics.recall_values(ranks, k)
            low, high = metrics.bootstrap_interval(hits)
            rows.append(
                {
                    "model": encoder.spec,
                    "split": SPLIT,
                    "measure": f"R@{k}, {name}",
                    "value": hits.mean(),
                    "ci_low": np.squeeze(low),
                    "ci_high": np.squeeze(high),
                    "num_queries": len(texts),
                }
            )
    return pd.DataFrame(rows)


def recogniser_quality(
    recogniser: Recogniser,
    *,
    num_scenes: int = 2000,
    degrade: Callable[[np.ndarray], np.ndarray] | None = None,
    num_workers: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """How well a recogniser reads scenes of the validation split and of held-out combinations.

    Each of the six cells counts for `category` (is it empty, what stands there), each object for
    `colour` and `size`, which are wrong too where the object is overlooked. With `degrade`, which
    maps uint8 images (num_scenes, size, size, 3) to worse ones, both splits are read once more.

    Returns:
        The columns of `clip_quality`; fractions, 95% bootstrap intervals over pictures.
    """
    tables = []
    for split in (SPLIT, "heldout"):
        scenes = sample_scenes(SEED, split, num_scenes)
        images = render_scenes(scenes, num_workers=num_workers, progress=progress)
        for suffix, worsen in (("", lambda x: x), (", degraded", degrade)):
            if worsen is None:
                continue
            read = recogniser.read(worsen(images), progress=progress)
            pairs = list(zip(scenes, read, strict=True))
            values = {
                f"{name}{suffix}": [_share_read(name, *pair) for pair in pairs]
                for name in ("place", "time", "weather", "category", "colour", "size")
            }
            tables.append(_rows(_name("recogniser", recogniser.spec), split, values))
    return pd.concat(tables, ignore_index=True)


def drawing_quality(
    draw: Callable[[Sequence[str]], Sequence],
    prompts: Sequence[str],
    scenes: Sequence[Scene],
    recogniser: Recogniser,
    *,
    model: str = "diffusion",
    measure: str = "",
) -> pd.DataFrame:
    """How much of what prompts say of scenes a text-to-image model draws, as the recogniser reads.

    Args:
        draw: maps prompts to as many images.
        prompts: one for each scene, stating all its facts.
        scenes: what is to be seen.
        model: name for the table.
        measure: ends the name of each measure, such as ", 20 steps, guidance 3".

    Returns:
        The columns of `clip_quality`, with 95% bootstrap intervals over prompts. `object`: share
        of the objects that are there, wherever; `colour`, `size`, `position` (its cell): share of
        the stated values that hold, an absent object's not; `invented`: share of the objects seen
        whose category was not asked for.
    """
    read = recogniser.read(draw(prompts))
    values: dict[str, list[float]] = {
        name: [getattr(a, name) == getattr(b, name) for a, b in zip(scenes, read, strict=True)]
        for name in ("place", "time", "weather")
    }
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
            for scene, drawn in zip(scenes, read, strict=True)
        ]  # fmt: skip
    values["invented"] = [
        _mean(scene.object(item.category) is None for item in drawn.objects)
        for scene, drawn in zip(scenes, read, strict=True)
    ]
    return _rows(model, SPLIT, {f"{name}{measure}": column for name, column in values.items()})


def pipeline_quality(
    generator: ViewGenerator,
    recogniser: Recogniser,
    *,
    num_prompts: int = 500,
    batch_size: int = 50,
    progress: bool = False,
) -> pd.DataFrame:
    """How much of fully stated prompts of the validation split a pipeline draws.

    See `drawing_quality`; prompt number i is drawn with the seed i.
    """
    scenes = sample_scenes(SEED, SPLIT, num_prompts)
    prompts = [
        describe(scene.own_facts, random.Random(f"quality/{index}"))
        for index, scene in enumerate(scenes)
    ]

    def draw(prompts: Sequence[str]) -> list[Image.Image]:
        images = []
        starts = range(0, len(prompts), batch_size)
        for start in tqdm(starts, desc="drawing", unit="batch", disable=not progress):
            batch = prompts[start : start + batch_size]
            images += generator.draw(batch, range(start, start + len(batch)))
        return images

    return drawing_quality(
        draw,
        prompts,
        scenes,
        recogniser,
        model=_name("diffusion", generator.spec),
        measure=f", {generator.steps} steps, guidance {generator.guidance:g}",
    )


def lm_quality(
    reformulator: Reformulator,
    *,
    num_dialogues: int = 300,
    rounds: Sequence[int] = (0, 2, 5, 10),
    progress: bool = False,
) -> pd.DataFrame:
    """How much of what dialogues of validation scenes say their refined captions still say.

    Args:
        num_dialogues: of each source, one for each of the first validation scenes.
        rounds: after which the captions are measured.

    Returns:
        The columns of `clip_quality`, with 95% bootstrap intervals over dialogues. `kept`: share
        of the facts stated so far (`merge_facts`) that the caption states; `invented`: share of
        what the caption states that was not, a stretch that cannot be read counting as one
        statement; an output of no use keeps nothing. `outputs of no use`: their share, over all
        rounds. `stated facts that are true` and `caption facts that are true`, of the unreliable
        source: share of the facts stated so far, and of those in the caption, that hold in the
        scene.
    """
    scenes = sample_scenes(SEED, SPLIT, num_dialogues)
    values: dict[str, list[float]] = {}
    for source in SOURCES:
        talks = [dialogue(source, scene, seed=SEED) for scene in scenes]
        found = reformulator.refine(
            [[turn.text for turn in turns] for turns in talks], progress=progress
        )
        values |= {
            f"{name}, {source}, round {t}": [] for name in ("kept", "invented") for t in rounds
        }
        for index, (scene, turns) in enumerate(zip(scenes, talks, strict=True)):
            for t in rounds:
                stated = implied(merge_facts(turns[: t + 1]))
                facts, unread = parse(found.captions[index][t])
                told = set() if (index, t) in found.faults else set(facts)
                number = len(told) + len(unread) if told else 0
                values[f"kept, {source}, round {t}"].append(_mean(f in told for f in stated))
                values[f"invented, {source}, round {t}"].append(
                    1 - len(told & stated) / number if number else float("nan")
                )
                if source == "unreliable":
                    for name, known in (("stated", stated), ("caption", told)):
                        values.setdefault(
                            f"{name} facts that are true, {source}, round {t}", []
                        ).append(_mean(holds(fact, scene) for fact in known))
        values[f"outputs of no use, {source}"] = [
            _mean((index, t) in found.faults for t in range(len(turns)))
            for index, turns in enumerate(talks)
        ]
    # A model of no use at all states nothing, so that nothing can be invented or true.
    measured = {name: column for name, column in values.items() if not np.isnan(column).all()}
    return _rows(_name("lm", reformulator.spec), SPLIT, measured)


def _share_read(attribute: str, scene: Scene, read: Scene) -> float:
    """1 or 0 for an attribute of the scene, else the share of cells or objects read right."""
    if attribute in ("place", "time", "weather"):
        return float(getattr(scene, attribute) == getattr(read, attribute))
    there, seen = ({(o.column, o.row): o for o in s.objects} for s in (scene, read))
    if attribute == "category":
        return _mean(
            getattr(there.get(cell), "category", None) == getattr(seen.get(cell), "category", None)
            for cell in world.CELLS
        )
    return _mean(
        getattr(item, attribute) == getattr(seen.get(cell), attribute, None)
        for cell, item in there.items()
        if getattr(item, attribute) is not None
    )


def _mean(values) -> float:
    """The mean, or NaN of nothing, which the intervals leave out."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def _name(kind: str, spec: str) -> str:
    return kind if spec == "mini" else f"{kind} {spec}"


def _rows(model: str, split: str, values: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    rows = []
    for measure, column in values.items():
        column = np.asarray(column, dtype=float)
        low, high = metrics.bootstrap_interval(column)
        counted = int((~np.isnan(column)).sum())
        rows.append((model, split, measure, np.nanmean(column), low, high, counted))
    return pd.DataFrame(rows, columns=COLUMNS)

"""What a round costs: seconds of each part for one query, by itself, as in live search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from daitir.models.views import view_seed
from daitir.retrieval import target_ranks
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import Condition

METHOD_PARTS = {
    "text": ("refine", "encode_text", "rank"),
    "view": ("refine", "draw", "encode_view", "rank"),
    "dar": ("refine", "draw", "encode_text", "encode_view", "rank"),
}


def part_seconds(
    bench: Bench,
    condition: Condition,
    fusions: Mapping[str, nn.Module],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds that each part of a round takes, one query at a time, (num_dialogues - 1,) each.

    `refine` is a dialogue's, divided by its rounds; the other parts, and each fusion by its name,
    are of its last round. The first dialogue warms up and is left out of the result.
    """
    rows: list[dict[str, float]] = []
    gallery, target = bench.gallery_features(condition), torch.tensor([0])
    for index, rounds in enumerate(bench.words(condition)):
        seconds: dict[str, float] = {}

        def timed(part: str, function: Callable, *arguments, seconds=seconds, **options):
            began = clock()
            made = function(*arguments, **options)
            seconds[part] = clock() - began
            return made

        caption = timed("refine", bench.reformulator.refine, [rounds]).captions[0][-1]
        seconds["refine"] /= len(rounds)
        seed = view_seed(0, index, len(rounds) - 1)
        views = timed("draw", bench.generator.draw, [caption], [seed])
        text = timed("encode_text", bench.base.encode_texts, [caption], batch_size=1)
        view = timed("encode_view", bench.base.encode_images, views, batch_size=1)
        for name, model in fusions.items():
            with torch.no_grad():
                timed(name, model, text, view)
        timed("rank", target_ranks, text, gallery, target)
        rows.append(seconds)
    return {part: np.array([row[part] for row in rows[1:]]) for part in rows[0]}


def method_seconds(
    parts: Mapping[str, np.ndarray], fusions: Sequence[str]
) -> dict[str, np.ndarray]:
    """Seconds of one query by `text`, `view`, `dar` and each fusion, of the parts that it needs."""
    needed = METHOD_PARTS | {name: (*METHOD_PARTS["dar"], name) for name in fusions}
    return {name: sum(parts[part] for part in used) for name, used in needed.items()}

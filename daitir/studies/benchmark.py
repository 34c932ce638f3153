"""The benchmark: every method on every source of dialogues."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from daitir.models.views import view_seed
from daitir.recipes.run import count_parameters
from daitir.retrieval import target_ranks
from daitir.scenes import SOURCES
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import Condition, Key, Shown, Study, Trained, over
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

BENCHMARKS = (*SOURCES, "heldout")
ALONE = ("hits_at_10", "recall_at_10", "recall_at_1", "mrr", "bri")
HARM = ("degradation_rate", "degradation_rate_ln2", "rank_drop")
GAINED = ("hits_at_10", "recall_at_10")
NUM_TIMED = 20  # queries whose cost is timed
METHOD_PARTS = {
    "text": ("refine", "encode_text", "rank"),
    "view": ("refine", "draw", "encode_view", "rank"),
    "dar": ("refine", "draw", "encode_text", "encode_view", "rank"),
}


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Text in four ways; view and DAR; fusions; stand-ins and other noise; controlled views."""
    for name in BENCHMARKS:
        asked = partial(Condition, name, queries=name)
        yield asked("text")
        yield asked("text_controlled", words="exact")
        yield asked("text_raw_dialogue", words="said", text="raw_dialogue")
        yield asked("text_all_rewrites", text="all_rewrites")
        for fusion in ("view", "dar", "dar_tuned", "rank_fusion", "best_of_text_and_view"):
            yield asked(fusion, fusion=fusion)
        for fusion in profile.fusions:
            yield from asked(fusion, fusion=Trained(fusion)).seeds(profile.num_fusion_seeds)
        stand_ins = {"placebo": "placebo:kept", "noise": "noise:kept"}
        if name == "human":
            stand_ins |= {"again": "kept:again", "fixed_noise": "kept:fixed_noise"}
        for label, views in stand_ins.items():
            number = None if views.endswith(":kept") else profile.num_other_dialogues
            about = {"views": views, "number": number}
            yield asked(f"dar_{label}", fusion="dar", **about)
            if label != "noise":
                adafuse = asked(f"adafuse_{label}", fusion=Trained("adafuse"), **about)
                yield from adafuse.seeds(profile.num_fusion_seeds)
        for share in profile.broken_shares:
            views = f"controlled_{round(100 * share):02d}"
            for fusion in ("view", "dar"):
                yield asked(f"{fusion}_{views}", fusion=fusion, words="exact", views=views)


def shown(key: Key, ranks: Ranks) -> Shown:
    """Metrics; degradation and gains over the same text, and of fusions over DAR.

    The leaderboard has all metrics of every source; here the main one has them.
    """
    benchmark, method = key
    alone = ALONE if benchmark == "human" else GAINED
    if method.startswith("text"):
        return Shown(alone)
    text = "text_controlled" if "_controlled_" in method else "text"
    rivals = {"gain": text}
    if method == "dar_tuned" or not method.startswith(("view", "dar")):
        stand_in = method.removeprefix("adafuse") if method.startswith("adafuse") else ""
        rivals["gain_over_dar"] = f"dar{stand_in}"
    return Shown((*alone, *HARM), Key(benchmark, text), over(key, *GAINED, **rivals))


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

    def timed(part: str, function: Callable, *arguments, **options):
        began = clock()
        made = function(*arguments, **options)
        rows[-1][part] = clock() - began
        return made

    for index, rounds in enumerate(bench.words(condition)):
        rows.append({})
        caption = timed("refine", bench.reformulator.refine, [rounds]).captions[0][-1]
        rows[-1]["refine"] /= len(rounds)
        seed = view_seed(0, index, len(rounds) - 1)
        views = timed("draw", bench.generator.draw, [caption], [seed])
        text = timed("encode_text", bench.base.encode_texts, [caption], batch_size=1)
        view = timed("encode_view", bench.base.encode_images, views, batch_size=1)
        for name, model in fusions.items():
            with torch.no_grad():
                timed(name, model, text, view)
        timed("rank", target_ranks, text, gallery, target)
    return {part: np.array([row[part] for row in rows[1:]]) for part in rows[0]}


def method_seconds(
    parts: Mapping[str, np.ndarray], fusions: Iterable[str]
) -> dict[str, np.ndarray]:
    """Seconds of one query by `text`, `view`, `dar` and each fusion, of the parts that it needs."""
    needed = METHOD_PARTS | {name: (*METHOD_PARTS["dar"], name) for name in fusions}
    return {name: sum(parts[part] for part in used) for name, used in needed.items()}


def costs(bench: Bench) -> dict[tuple[str, str, int, str], np.ndarray]:
    """Seconds of a query and parameters added, by method, of the first validation dialogues."""
    condition = Condition("human", "costs", queries="val", number=NUM_TIMED + 1, words="said")
    models = {name: bench.fusion(Trained(name), condition) for name in bench.profile.fusions}
    seconds = part_seconds(bench, condition, models)
    bench.facts["cost_of_a_round"] = {n: round(float(s.mean()), 6) for n, s in seconds.items()}
    values = {}
    for method, of_queries in method_seconds(seconds, models).items():
        added = count_parameters(models[method]) if method in models else 0
        values["human", method, 0, "seconds_per_query"] = of_queries[:, None]
        values["human", method, 0, "parameters_added"] = np.full((len(of_queries), 1), float(added))
    return values


def notes(bench: Bench, ranks: Ranks) -> dict:
    """How many query texts were cut off, and what validation chose for DAR."""
    truncated: dict[str, dict[str, int]] = {name: {} for name in BENCHMARKS}
    for asked in conditions(bench.profile, ranks):
        if asked.method.startswith("text"):
            number = bench.base.count_truncated(bench.texts(asked))
            truncated[asked.benchmark][asked.method] = number
    return bench.facts | {
        "truncated_query_texts": truncated,
        "tuned_weights_of_the_view": bench.tuned_weights(Condition("", "")),
    }


STUDY = Study(
    "benchmark", "Every method on every source of dialogues.", minutes=16,
    conditions=conditions, shown=shown, together=True, alone="human", digits=4,
    values=costs, notes=notes,
)  # fmt: skip

"""The benchmark: every method on every source of dialogues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from daitir.scenes import SOURCES
from daitir.studies.engine.conditions import Condition, Key, Shown, Study, Trained, gain
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

BENCHMARKS = (*SOURCES, "heldout")
ALONE = ("hits_at_10", "recall_at_10", "recall_at_1", "mrr", "bri")
HARM = ("degradation_rate", "degradation_rate_ln2", "rank_drop")
GAINED = ("hits_at_10", "recall_at_10")
NUM_TIMED = 20  # queries whose cost is timed


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Text in four ways; view and DAR; fusions; stand-ins and other noise; controlled views."""
    seeds = range(profile.num_fusion_seeds)
    for name in BENCHMARKS:
        yield Condition(name, "text", queries=name)
        yield Condition(name, "text_controlled", queries=name, words="exact")
        yield Condition(name, "text_raw_dialogue", queries=name, words="said", text="raw_dialogue")
        yield Condition(name, "text_all_rewrites", queries=name, text="all_rewrites")
        for fusion in ("view", "dar", "dar_tuned", "rank_fusion", "best_of_text_and_view"):
            yield Condition(name, fusion, queries=name, fusion=fusion)
        for fusion in profile.fusions:
            for seed in seeds:
                yield Condition(name, fusion, seed, queries=name, fusion=Trained(fusion))
        stand_ins = {"placebo": "placebo:kept", "noise": "noise:kept"}
        if name == "human":
            stand_ins |= {"again": "kept:again", "fixed_noise": "kept:fixed_noise"}
        for label, views in stand_ins.items():
            number = None if views.endswith(":kept") else profile.num_other_dialogues
            about = {"queries": name, "views": views, "number": number}
            yield Condition(name, f"dar_{label}", fusion="dar", **about)
            for seed in seeds if label != "noise" else ():
                fusion = Trained("adafuse")
                yield Condition(name, f"adafuse_{label}", seed, fusion=fusion, **about)
        for share in profile.broken_shares:
            views = f"controlled_{round(100 * share):02d}"
            about = {"queries": name, "words": "exact", "views": views}
            yield Condition(name, f"view_{views}", fusion="view", **about)
            yield Condition(name, f"dar_{views}", fusion="dar", **about)


def shown(key: Key, ranks: Ranks) -> Shown:
    """All metrics; degradation and gains over the same text, and of fusions over DAR."""
    benchmark, method = key
    if method.startswith("text"):
        return Shown(ALONE)
    text = Key(benchmark, "text_controlled" if "_controlled_" in method else "text")
    contrasts = {"gain": gain(key, text, *GAINED)}
    if not method.startswith("view") and not (method.startswith("dar") and method != "dar_tuned"):
        stand_in = method.removeprefix("adafuse") if method.startswith("adafuse") else ""
        contrasts["gain_over_dar"] = gain(key, Key(benchmark, f"dar{stand_in}"), *GAINED)
    return Shown((*ALONE, *HARM), text, contrasts)


def costs(bench: Bench) -> Mapping[tuple[str, str, int, str], np.ndarray]:
    """Seconds of a query and parameters added, by method, of the first validation dialogues."""
    from daitir.studies.costs import method_seconds, part_seconds

    condition = Condition("human", "costs", queries="val", number=NUM_TIMED + 1, words="said")
    models = {name: bench.fusion(Trained(name), condition) for name in bench.profile.fusions}
    seconds = part_seconds(bench, condition, models)
    bench.facts["cost_of_a_round"] = {n: round(float(s.mean()), 6) for n, s in seconds.items()}
    added = dict.fromkeys(("text", "view", "dar"), 0)
    added |= {n: sum(p.numel() for p in model.parameters()) for n, model in models.items()}
    values = {}
    for method, of_queries in method_seconds(seconds, tuple(models)).items():
        values["human", method, 0, "seconds_per_query"] = of_queries[:, None]
        count = np.full((len(of_queries), 1), float(added[method]))
        values["human", method, 0, "parameters_added"] = count
    return values


def notes(bench: Bench, ranks: Ranks) -> dict:
    """How many query texts were cut off, and what validation chose for DAR."""
    return bench.facts | {
        "truncated_query_texts": {
            name: {
                asked.method: bench.base.count_truncated(bench.texts(asked))
                for asked in conditions(bench.profile, ranks)
                if asked.benchmark == name and asked.method.startswith("text")
            }
            for name in BENCHMARKS
        },
        "tuned_weights_of_the_view": bench.tuned_weights(Condition("", "")),
    }


STUDY = Study(
    "benchmark",
    "Every method on every source of dialogues.",
    minutes=16,
    conditions=conditions,
    shown=shown,
    together=True,
    alone=lambda key: "recall_at_10" if key.benchmark == "human" else None,
    digits=4,
    values=costs,
    notes=notes,
)

"""The views of earlier rounds are remembered instead of thrown away: an improvement of our own.

Every round draws a view of the same target, from other noise and other words. What is invented
differs from one to the next, what is true does not, so a mean of the views so far is a better
view, and nothing more is drawn for it. DAR can use it as it is; ADaFuSE is trained on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from daitir.scenes import NUM_QUESTIONS
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.engine.conditions import (
    VALIDATION,
    Condition,
    Contrast,
    Key,
    Shown,
    Study,
    Trained,
    gain,
)
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

DECAYS = (0.0, 0.5, 0.75, 1.0)  # 0 remembers nothing: the shipped fusions
ENCODER_DECAYS = {"dar": 0.75, "adafuse": 0.5}  # what validation chose, for fine-tuned encoders too


def remembered(decay: float, views: str = "kept") -> str:
    """The name of remembered views, as in `Condition.views`."""
    return f"remembered_{decay:g}:{views}" if decay else views


def chosen(ranks: Ranks) -> dict[str, float]:
    """The decay that is best on validation, of DAR and of ADaFuSE."""
    from daitir.studies.engine.tables import MEASURES

    def mean(method: str, decay: float) -> float:
        of_seeds = ranks.of(Key(VALIDATION, f"{method}_decay_{decay:g}"))
        return sum(float(MEASURES["mean_recall_at_10"](of_seed).mean()) for of_seed in of_seeds)

    return {name: max(DECAYS, key=partial(mean, name)) for name in ("dar", "adafuse")}


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Every decay on validation; then, with those that it chose, every source of the test split."""
    seeds = range(profile.num_fusion_seeds)
    for decay in DECAYS:
        views = remembered(decay)
        dar, adafuse = f"dar_decay_{decay:g}", f"adafuse_decay_{decay:g}"
        yield Condition(VALIDATION, dar, queries="val", views=views, fusion="dar")
        for seed in seeds:
            fusion = Trained("adafuse", views)
            yield Condition(VALIDATION, adafuse, seed, queries="val", views=views, fusion=fusion)
    if not any(key.benchmark == VALIDATION for key in ranks.keys):
        return
    decays = chosen(ranks)
    dar, adafuse = remembered(decays["dar"]), remembered(decays["adafuse"])
    for name in BENCHMARKS:
        for fusion in ("text", "view", "dar"):
            yield Condition(name, fusion, queries=name, fusion=fusion)
        yield Condition(name, "dar_memory", queries=name, views=dar, fusion="dar")
        for method, views, fusion in (
            ("adafuse", "kept", Trained("adafuse")),
            ("adafuse_shown_memory", adafuse, Trained("adafuse")),
            ("adafuse_memory", adafuse, Trained("adafuse", adafuse)),
        ):
            for seed in seeds:
                yield Condition(name, method, seed, queries=name, views=views, fusion=fusion)


def shown(key: Key, ranks: Ranks) -> Shown:
    """Gains over text, DAR and the same method without memory (`change`)."""
    benchmark, method = key
    if benchmark == VALIDATION:
        usual = Key(VALIDATION, f"{method.split('_')[0]}_decay_0")
        contrasts = {"change": gain(key, usual, "recall_at_10_val")}
        metrics = {"recall_at_10_val": "mean_recall_at_10"}
        return Shown(metrics, contrasts=contrasts, round=NUM_QUESTIONS)
    return with_change(key, Key(benchmark, method.split("_")[0]))


def with_change(key: Key, usual: Key | None) -> Shown:
    """R@10 with its gains over text and DAR, its change from what is `usual`, and degradation."""
    benchmark, method = key
    text, dar = Key(benchmark, "text"), Key(benchmark, "dar")
    contrasts: dict[str, Contrast] = {}
    if method != "text":
        contrasts["gain"] = gain(key, text)
    if method not in ("text", "dar"):
        contrasts["gain_over_dar"] = gain(key, dar)
    if usual is not None:
        contrasts["change"] = gain(key, usual)
    if method == "text":
        return Shown(("recall_at_10",), contrasts=contrasts)
    return Shown(("recall_at_10", "degradation_rate_ln2"), text, contrasts)


def notes(bench: Bench, ranks: Ranks) -> dict:
    """What validation chose."""
    return {"chosen_decay": chosen(ranks)}


MEMORY = Study(
    "memory",
    "Fusions that remember the views of earlier rounds.",
    minutes=24,
    conditions=conditions,
    shown=shown,
    together=True,
    notes=notes,
)

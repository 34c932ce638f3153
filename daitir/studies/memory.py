"""The views of earlier rounds are remembered instead of thrown away: an improvement of our own.

Each round draws the target from other noise and other words: what is invented differs, what is true
does not, so a mean of the views so far is a better view. DAR can use it; ADaFuSE is trained on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from daitir.scenes import NUM_QUESTIONS
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.engine.conditions import VALIDATION, Condition, Key, Shown, Study, Trained, over
from daitir.studies.engine.ranks import MEASURES, Ranks
from daitir.studies.profiles import Profile

DECAYS = (0.0, 0.5, 0.75, 1.0)  # 0 remembers nothing: the shipped fusions
DAR_DECAY = 0.75  # what validation chose, for fine-tuned encoders too


def remembered(decay: float, views: str = "kept") -> str:
    """The name of remembered views, as in `Condition.views`."""
    return f"remembered_{decay:g}:{views}" if decay else views


def chosen(ranks: Ranks) -> dict[str, float]:
    """The decay that is best on validation, of DAR and of ADaFuSE."""

    def mean(method: str, decay: float) -> float:
        of_seeds = ranks.of(Key(VALIDATION, f"{method}_decay_{decay:g}"))
        return sum(float(MEASURES["mean_recall_at_10"](of_seed).mean()) for of_seed in of_seeds)

    return {name: max(DECAYS, key=partial(mean, name)) for name in ("dar", "adafuse")}


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Every decay on validation; then, with those that it chose, every source of the test split."""
    for decay in DECAYS:
        views = remembered(decay)
        asked = partial(Condition, VALIDATION, queries="val", views=views)
        yield asked(f"dar_decay_{decay:g}", fusion="dar")
        adafuse = asked(f"adafuse_decay_{decay:g}", fusion=Trained("adafuse", views))
        yield from adafuse.seeds(profile.num_fusion_seeds)
    if not ranks.arrays:
        return
    views = {name: remembered(decay) for name, decay in chosen(ranks).items()}
    usual, ours = Trained("adafuse"), Trained("adafuse", views["adafuse"])
    for name in BENCHMARKS:
        asked = partial(Condition, name, queries=name)
        for fusion in ("text", "view", "dar"):
            yield asked(fusion, fusion=fusion)
        yield asked("dar_memory", views=views["dar"], fusion="dar")
        for adafuse in (
            asked("adafuse", fusion=usual),
            asked("adafuse_shown_memory", views=views["adafuse"], fusion=usual),
            asked("adafuse_memory", views=views["adafuse"], fusion=ours),
        ):
            yield from adafuse.seeds(profile.num_fusion_seeds)


def shown(key: Key, ranks: Ranks) -> Shown:
    """Gains over text, DAR and the same method without memory (`change`)."""
    usual = key.method.split("_")[0]
    if key.benchmark == VALIDATION:
        change = over(key, "recall_at_10_val", change=f"{usual}_decay_0")
        metrics = {"recall_at_10_val": "mean_recall_at_10"}
        return Shown(metrics, contrasts=change, round=NUM_QUESTIONS)
    return with_change(key, Key(key.benchmark, usual))


def with_change(key: Key, usual: Key | None) -> Shown:
    """R@10 with its gains over text and DAR, its change from what is `usual`, and degradation."""
    gained = {"gain": "text", "gain_over_dar": "dar"}
    rivals = {n: rival for n, rival in gained.items() if key.method not in ("text", rival)}
    contrasts = over(key, **rivals, **({"change": usual} if usual else {}))
    harm = () if key.method == "text" else ("degradation_rate_ln2",)
    return Shown(("recall_at_10", *harm), Key(key.benchmark, "text"), contrasts)


MEMORY = Study(
    "memory", "Fusions that remember the views of earlier rounds.", minutes=24,
    conditions=conditions, shown=shown, together=True,
    notes=lambda bench, ranks: {"chosen_decay": chosen(ranks)},
)  # fmt: skip

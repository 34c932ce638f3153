"""Which part of ADaFuSE matters: the fusion with one part changed, trained and measured anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from daitir.recipes.settings import FusionRecipe
from daitir.scenes import NUM_QUESTIONS
from daitir.studies.engine.conditions import VALIDATION, Condition, Key, Shown, Study, Trained, gain
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

ABLATION_SEEDS = 3
WITHOUT_VIEW = "without_view"


def variants(profile: Profile) -> Mapping[str, FusionRecipe]:
    """The recipe of ADaFuSE, whole and with one thing changed, by name.

    `published_size` has the published step size too. `without_view` is whole, but is shown the text
    in the place of the view.
    """
    recipe = profile.fusions["adafuse"]
    return {
        "whole": recipe,
        "without_gate": replace(recipe, use_gate=False),
        "without_residual": replace(recipe, use_residual=False),
        "1_expert": replace(recipe, num_experts=1),
        "2_experts": replace(recipe, num_experts=2),
        "8_experts": replace(recipe, num_experts=8),
        "without_dropout": replace(recipe, dropout=0.0),
        "half_width": replace(
            recipe, projection_dim=recipe.projection_dim // 2, hidden_dim=recipe.hidden_dim // 2
        ),
        "published_size": replace(recipe, projection_dim=512, hidden_dim=2048, learning_rate=5e-5),
        WITHOUT_VIEW: recipe,
    }


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Every variant with every seed, on the test and the validation split."""
    yield Condition("human", "text")
    yield Condition("human", "dar", fusion="dar")
    for name in variants(profile):
        views = "text" if name == WITHOUT_VIEW else "kept"
        fusion = Trained(name, views)
        for seed in range(ABLATION_SEEDS):
            yield Condition("human", name, seed, views=views, fusion=fusion)
            yield Condition(VALIDATION, name, seed, queries="val", views=views, fusion=fusion)


def shown(key: Key, ranks: Ranks) -> Shown | None:
    """The gains of every variant; on validation R@10 over all drawn rounds, to choose by."""
    if key.method in ("text", "dar"):
        return None
    if key.benchmark == VALIDATION:
        return Shown({"recall_at_10_val": "mean_recall_at_10"}, round=NUM_QUESTIONS)
    text, dar = Key("human", "text"), Key("human", "dar")
    contrasts = {"gain": gain(key, text), "gain_over_dar": gain(key, dar)}
    return Shown(("recall_at_10", "bri", "degradation_rate_ln2"), text, contrasts)


def notes(bench: Bench, ranks: Ranks) -> dict:
    """How many parameters each variant has."""
    from daitir.fusion import build_fusion

    fusions = {n: build_fusion(bench.base.dim, r) for n, r in variants(bench.profile).items()}
    return {"parameters": {n: sum(p.numel() for p in f.parameters()) for n, f in fusions.items()}}


STUDY = Study(
    "ablations",
    "ADaFuSE with one part changed, trained and measured.",
    minutes=10,
    conditions=conditions,
    shown=shown,
    fusions=variants,
    notes=notes,
)

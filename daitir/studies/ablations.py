"""Which part of ADaFuSE matters: the fusion with one part changed, trained and measured anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from daitir.fusion import build_fusion
from daitir.recipes.run import count_parameters
from daitir.recipes.settings import FusionRecipe
from daitir.scenes import NUM_QUESTIONS
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import VALIDATION, Condition, Key, Shown, Study, Trained, over
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

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
        about = {"views": views, "fusion": Trained(name, views)}
        for seed in range(ABLATION_SEEDS):
            yield Condition("human", name, seed, **about)
            yield Condition(VALIDATION, name, seed, queries="val", **about)


def shown(key: Key, ranks: Ranks) -> Shown | None:
    """The gains of every variant; on validation R@10 over all drawn rounds, to choose by."""
    if key.method in ("text", "dar"):
        return None
    if key.benchmark == VALIDATION:
        return Shown({"recall_at_10_val": "mean_recall_at_10"}, round=NUM_QUESTIONS)
    contrasts = over(key, gain="text", gain_over_dar="dar")
    return Shown(("recall_at_10", "bri", "degradation_rate_ln2"), Key("human", "text"), contrasts)


def notes(bench: Bench, ranks: Ranks) -> dict:
    """How many parameters each variant has."""
    fusions = {n: build_fusion(bench.base.dim, r) for n, r in variants(bench.profile).items()}
    return {"parameters": {name: count_parameters(fusion) for name, fusion in fusions.items()}}


STUDY = Study(
    "ablations", "ADaFuSE with one part changed, trained and measured.", minutes=10,
    conditions=conditions, shown=shown, fusions=variants, notes=notes,
)  # fmt: skip

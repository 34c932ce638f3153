"""What each part of DMCL does, and what more data does: fine-tuned anew, in short trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from daitir.objectives import DMCL_TERMS
from daitir.recipes.settings import EncoderRecipe
from daitir.studies.engine.conditions import (
    VALIDATION,
    ZERO_SHOT,
    Condition,
    Key,
    Shown,
    Study,
    gain,
)
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

SHORT_SEEDS, WHOLE = 3, "whole"
QUERIES = {"text": "drawn", "view": "drawn", "dar": "drawn", "placebo": "placebo:drawn"}
# A tenth of the steps on half a batch: three seeds of every variant in the time of a few trainings.
SHORT = {"steps_divisor": 10, "batch_divisor": 2}
# More data show only where the fewest are seen many times.
LONGER = {"steps_divisor": 5, "batch_divisor": 2}
DATA_DIVISORS = (16, 8, 4, 2, 1)


def variants(profile: Profile) -> dict[str, EncoderRecipe]:
    """The recipe of DMCL, whole and with one thing changed, by name, all of them short.

    `shuffled_views` is whole, but every dialogue has the views of another one in training.
    """
    short = shortened(profile.encoders["dmcl"], **SHORT)
    changed = {
        "text_alone": {"terms": DMCL_TERMS[:1]},
        **{f"without_{name}": {"terms": tuple(t for t in DMCL_TERMS if t != name)}
           for name in DMCL_TERMS},
        "resampled_views": {"resampled_views": True},
        "shuffled_views": {},
        "learnable_weights": {"learnable_weights": True},
        "raw_dialogue": {"text": "raw_dialogue"},
        "hard_negatives": {"hard_negatives": True},
        "fixed_scale": {"learnable_scale": False},
    }  # fmt: skip
    return {WHOLE: short} | {name: replace(short, **change) for name, change in changed.items()}


def growth(profile: Profile) -> dict[str, EncoderRecipe]:
    """DMCL and fine-tuning on text alone, on more and more of the training dialogues.

    All take the same number of steps. A name ends with the number of dialogues, as in
    `dmcl_on_750`.
    """
    recipes = {}
    for name in ("finetune_text", "dmcl"):
        recipe = shortened(profile.encoders[name], **LONGER)
        for divisor in DATA_DIVISORS:
            number = profile.num_train_dialogues // divisor
            recipes[f"{name}_on_{number}"] = replace(recipe, num_dialogues=number)
    return recipes


def shortened(recipe: EncoderRecipe, *, steps_divisor: int, batch_divisor: int) -> EncoderRecipe:
    """The recipe with fewer steps on smaller batches, whose last weights are kept."""
    steps = max(1, recipe.steps // steps_divisor)
    return replace(
        recipe,
        steps=steps,
        batch_size=max(2, recipe.batch_size // batch_divisor),
        warmup_steps=recipe.warmup_steps // steps_divisor,
        eval_every=steps,  # nothing is selected
        rank=None,
    )


def read_by(recipe: EncoderRecipe | None) -> dict[str, str]:
    """The words and the text that an encoder of a recipe was trained to read."""
    text = "current_rewrite" if recipe is None else recipe.text
    return {"words": "said" if text == "raw_dialogue" else "refined", "text": text}


def recipes(profile: Profile) -> Mapping[str, EncoderRecipe]:
    """All recipes of the study."""
    return variants(profile) | growth(profile)


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Four queries of every encoder, at the drawn rounds of the validation split."""
    names = [(ZERO_SHOT, 0), *((n, seed) for n in recipes(profile) for seed in range(SHORT_SEEDS))]
    for name, seed in names:
        read = read_by(recipes(profile).get(name))
        for query, views in QUERIES.items():
            fusion = "dar" if query == "placebo" else query
            yield Condition(
                VALIDATION, f"{name}+{query}", seed, queries="val", views=views, encoder=name,
                fusion=fusion, **read,
            )  # fmt: skip


def shown(key: Key, ranks: Ranks) -> Shown:
    """R@10 over the drawn rounds, its change from `whole` or of growth from the start."""
    name, _, query = key.method.partition("+")
    grown = "_on_" in name
    reference = Key(VALIDATION, f"{ZERO_SHOT if grown else WHOLE}+{query}")
    contrasts = {"change": gain(key, reference)}
    if query == "dar":
        contrasts["gain"] = gain(key, Key(VALIDATION, f"{name}+text"))
        if grown:
            rival = name.replace("dmcl", "finetune_text")
            contrasts["over_words"] = gain(key, Key(VALIDATION, f"{rival}+text"))
    return Shown({"recall_at_10": "mean_recall_at_10"}, contrasts=contrasts, round=0)


def notes(bench: Bench, ranks: Ranks) -> dict:
    """The recipes, and what became of the weights of the terms that learned."""
    import pandas as pd

    folder = bench.work_dir / "encoders" / "learnable_weights"
    weights = {}
    for seed in range(SHORT_SEEDS):
        last = pd.read_csv(folder / str(seed) / "log.csv").iloc[-1]
        weights[seed] = {n.removeprefix("weight_"): w for n, w in last.items() if "weight_" in n}
    named = {name: asdict(recipe) for name, recipe in recipes(bench.profile).items()}
    return {"recipes": named, "learned_weights": weights}


STUDY = Study(
    "encoder_ablations",
    "DMCL with one part changed, and on less data, in short trainings.",
    minutes=82,
    conditions=conditions,
    shown=shown,
    together=True,
    encoders=recipes,
    notes=notes,
)

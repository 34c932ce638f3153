"""What each part of DMCL does, and what more data does: fine-tuned anew, in short trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import pandas as pd

from daitir.objectives import DMCL_TERMS
from daitir.recipes.settings import EncoderRecipe
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import (
    VALIDATION,
    ZERO_SHOT,
    Condition,
    Key,
    Shown,
    Study,
    encoder_seeds,
    over,
)
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

SHORT_SEEDS, WHOLE = 3, "whole"
# A tenth of the steps: three seeds of every variant in the time of a few trainings. More data show
# only where the fewest are seen many times, with a fifth.
SHORT, LONGER = 10, 5
DATA_DIVISORS = (16, 8, 4, 2, 1)


def variants(profile: Profile) -> dict[str, EncoderRecipe]:
    """The recipe of DMCL, whole and with one thing changed, by name, all of them short.

    `shuffled_views` is whole, but every dialogue has the views of another one in training.
    """
    short = shortened(profile.encoders["dmcl"], SHORT)
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
        recipe = shortened(profile.encoders[name], LONGER)
        for divisor in DATA_DIVISORS:
            number = profile.num_train_dialogues // divisor
            recipes[f"{name}_on_{number}"] = replace(recipe, num_dialogues=number)
    return recipes


def shortened(recipe: EncoderRecipe, divisor: int) -> EncoderRecipe:
    """The recipe with fewer steps on batches of half the size, whose last weights are kept."""
    steps = max(1, recipe.steps // divisor)
    return replace(
        recipe,
        steps=steps,
        batch_size=max(2, recipe.batch_size // 2),
        warmup_steps=recipe.warmup_steps // divisor,
        eval_every=steps,  # nothing is selected
        rank=None,
    )


def recipes(profile: Profile) -> Mapping[str, EncoderRecipe]:
    """All recipes of the study."""
    return variants(profile) | growth(profile)


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Four queries of every encoder, at the drawn rounds of the validation split."""
    trained = recipes(profile)
    for name, seed in encoder_seeds(trained, SHORT_SEEDS):
        about = {"queries": "val", "views": "drawn", "encoder": name}
        if name in trained and trained[name].text == "raw_dialogue":  # as it was trained to read
            about |= {"words": "said", "text": "raw_dialogue"}
        for fusion in ("text", "view", "dar"):
            yield Condition(VALIDATION, f"{name}+{fusion}", seed, fusion=fusion, **about)
        about["views"] = "placebo:drawn"
        yield Condition(VALIDATION, f"{name}+placebo", seed, fusion="dar", **about)


def shown(key: Key, ranks: Ranks) -> Shown:
    """R@10 over the drawn rounds, its change from `whole` or of growth from the start."""
    name, _, query = key.method.partition("+")
    grown = "_on_" in name
    rivals = {"change": f"{ZERO_SHOT if grown else WHOLE}+{query}"}
    if query == "dar":
        rivals["gain"] = f"{name}+text"
        if grown:
            rivals["over_words"] = f"{name.replace('dmcl', 'finetune_text')}+text"
    metrics = {"recall_at_10": "mean_recall_at_10"}
    return Shown(metrics, contrasts=over(key, **rivals), round=0)


def notes(bench: Bench, ranks: Ranks) -> dict:
    """The recipes, and what became of the weights of the terms that learned."""
    folder = bench.work_dir / "encoders" / "learnable_weights"
    weights = {}
    for seed in range(SHORT_SEEDS):
        last = pd.read_csv(folder / str(seed) / "log.csv").iloc[-1]
        weights[seed] = {n.removeprefix("weight_"): w for n, w in last.items() if "weight_" in n}
    named = {name: asdict(recipe) for name, recipe in recipes(bench.profile).items()}
    return {"recipes": named, "learned_weights": weights}


STUDY = Study(
    "encoder_ablations", "DMCL with one part changed, and on less data, in short trainings.",
    minutes=82, conditions=conditions, shown=shown, together=True, encoders=recipes, notes=notes,
)  # fmt: skip

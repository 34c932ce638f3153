"""What parts of DMCL do, the raw dialogue, and more data: encoders that are trained anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import pandas as pd

from daitir.objectives import DMCL_TERMS
from daitir.recipes.settings import EncoderRecipe
from daitir.studies.benchmark import GAINED
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
from daitir.studies.leaderboard import NONE, REWRITE, VIEWS_OF, WORDS_OF, Protocol
from daitir.studies.profiles import Profile

SHORT_SEEDS, WHOLE = 3, "whole"
# A tenth of the steps: three seeds of every variant in the time of a few trainings. More data show
# only where the fewest are seen many times, with a fifth.
SHORT, LONGER = 10, 5
DATA_DIVISORS = (16, 8, 4, 2, 1)
LEARNED, RAW, RIVAL = "dmcl_learnable_weights", "raw_dialogue", "finetune_text"


def variants(profile: Profile) -> dict[str, EncoderRecipe]:
    """The recipe of DMCL, whole and with one thing changed, by name, all of them short.

    `shuffled_views` is whole, but every dialogue has the views of another one in training.
    """
    short = shortened(profile.encoders["dmcl"], SHORT)
    changed = {
        "text_alone": {"terms": DMCL_TERMS[:1]},
        **{f"without_{name}": without(name) for name in DMCL_TERMS[:3]},
        "resampled_views": {"resampled_views": True},
        "shuffled_views": {},
        "fixed_scale": {"learnable_scale": False},
    }
    return {WHOLE: short} | {name: replace(short, **change) for name, change in changed.items()}


def without(term: str) -> dict:
    """The terms of DMCL but one."""
    return {"terms": tuple(name for name in DMCL_TERMS if name != term)}


def full_length(profile: Profile) -> dict[str, EncoderRecipe]:
    """DMCL with one thing changed, and the profile's recipes on the raw dialogue, by name."""
    read = {name: profile.encoders[name] for name in (RIVAL, "text_view", "dmcl")}
    changed = {
        **{f"dmcl_without_{name}": without(name) for name in DMCL_TERMS[3:]},
        "dmcl_hard_negatives": {"hard_negatives": True},
        LEARNED: {"learnable_weights": True},
    }
    return {
        **{f"{name}_{RAW}": replace(recipe, text=RAW) for name, recipe in read.items()},
        **{name: replace(read["dmcl"], **change) for name, change in changed.items()},
    }


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
    return variants(profile) | growth(profile) | full_length(profile)


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Short ones: four queries on validation. Full length: the queries of their text on a test."""
    for name, seed in encoder_seeds(variants(profile) | growth(profile), SHORT_SEEDS):
        about = {"queries": "val", "views": "drawn", "encoder": name}
        for fusion in ("text", "view", "dar"):
            yield Condition(VALIDATION, f"{name}+{fusion}", seed, fusion=fusion, **about)
        about["views"] = "placebo:drawn"
        yield Condition(VALIDATION, f"{name}+placebo", seed, fusion="dar", **about)
    trained = {name: profile.encoders[name] for name in (RIVAL, "dmcl")} | full_length(profile)
    noises = [("text", NONE, "text"), *(("dar", *of) for of in VIEWS_OF.items())]
    for name, seed in encoder_seeds(trained, profile.num_encoder_seeds):
        for text in (REWRITE, RAW) if name == ZERO_SHOT else (trained[name].text,):
            for query, noise, views in noises:
                yield Condition(
                    "human", Protocol(f"{name}+{query}", text, noise).label, seed, "human",
                    WORDS_OF[text], text, views, name, query, number=profile.num_other_dialogues,
                )  # fmt: skip


def shown(key: Key, ranks: Ranks) -> Shown:
    """Short: R@10 over the drawn rounds, its change from `whole` or of growth from the start."""
    if key.benchmark != VALIDATION:
        return shown_at_length(key, ranks)
    name, _, query = key.method.partition("+")
    grown = "_on_" in name
    rivals = {"change": f"{ZERO_SHOT if grown else WHOLE}+{query}"}
    if query == "dar":
        rivals["gain"] = f"{name}+text"
        if grown:
            rivals["over_words"] = f"{name.replace('dmcl', RIVAL)}+text"
    metrics = {"recall_at_10": "mean_recall_at_10"}
    return Shown(metrics, contrasts=over(key, **rivals), round=0)


def shown_at_length(key: Key, ranks: Ranks) -> Shown:
    """Both metrics; gains over its own text and text-only fine-tuning; the change from DMCL."""
    protocol = Protocol(*key.method.split("|"))
    name, _, query = protocol.query.partition("+")
    peer = RIVAL if protocol.text == REWRITE else f"{RIVAL}_{RAW}"
    rivals = {
        "gain_over_text": protocol._replace(query=f"{name}+text", noise=NONE),
        "gain_over_finetune_text": protocol._replace(query=f"{peer}+text", noise=NONE),
        "gain_over_finetune_text_sum": protocol._replace(query=f"{peer}+dar"),
    }
    if name.startswith("dmcl_") and protocol.text == REWRITE:
        rivals["change"] = protocol._replace(query=f"dmcl+{query}")
    labels = {suffix: rival.label for suffix, rival in rivals.items()
              if rival != protocol and Key(key.benchmark, rival.label) in ranks.keys}  # fmt: skip
    return Shown(GAINED, contrasts=over(key, *GAINED, **labels))


def notes(bench: Bench, ranks: Ranks) -> dict:
    """The recipes, and what became of the weights of the terms that learned."""
    weights = {}
    for seed in range(bench.profile.num_encoder_seeds):
        path = bench.work_dir / "encoders" / LEARNED / str(seed) / "log.csv"
        last = pd.read_csv(path).iloc[-1]
        weights[seed] = {n.removeprefix("weight_"): w for n, w in last.items() if "weight_" in n}
    named = {name: asdict(recipe) for name, recipe in recipes(bench.profile).items()}
    return {"recipes": named, "learned_weights": weights}


STUDY = Study(
    "encoder_ablations", "DMCL with parts changed, on the raw dialogue, and on less data.",
    minutes=400, conditions=conditions, shown=shown, together=True, encoders=recipes, notes=notes,
)  # fmt: skip

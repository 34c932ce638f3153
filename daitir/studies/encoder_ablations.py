"""What parts of DMCL do, and more data, in short trainings; and the raw dialogue at full length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

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
from daitir.studies.leaderboard import NONE, SAID, VIEWS_OF, WORDS_OF, Protocol
from daitir.studies.leaderboard import shown as shown_by_protocol
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


def on_raw_dialogue(profile: Profile) -> dict[str, EncoderRecipe]:
    """The peers of the profile, trained to read the text that papers rank, as long as there."""
    peers = {name: profile.encoders[name] for name in ("finetune_text", "dmcl")}
    return {f"{name}_{SAID}": replace(recipe, text=SAID) for name, recipe in peers.items()}


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
    return variants(profile) | growth(profile) | on_raw_dialogue(profile)


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Short trainings on validation by four queries; full ones on a test by text and DAR's sum."""
    for name, seed in encoder_seeds(variants(profile) | growth(profile), SHORT_SEEDS):
        about = {"queries": "val", "views": "drawn", "encoder": name}
        for fusion in ("text", "view", "dar"):
            yield Condition(VALIDATION, f"{name}+{fusion}", seed, fusion=fusion, **about)
        about["views"] = "placebo:drawn"
        yield Condition(VALIDATION, f"{name}+placebo", seed, fusion="dar", **about)
    noises = [("text", NONE, "text"), *(("dar", *of) for of in VIEWS_OF.items())]
    for name, seed in encoder_seeds(on_raw_dialogue(profile), profile.num_encoder_seeds):
        for query, noise, views in noises:
            label = Protocol(f"{name.removesuffix('_' + SAID)}+{query}", SAID, noise).label
            yield Condition(
                "human", label, seed, "human", WORDS_OF[SAID], SAID, views, name, query,
                number=profile.num_other_dialogues,
            )  # fmt: skip


def shown(key: Key, ranks: Ranks) -> Shown:
    """R@10 over the drawn rounds, its change from `whole` or of growth from the start.

    On the test what the leaderboard shows of a protocol, whose encoders were trained on its text.
    """
    if key.benchmark != VALIDATION:
        return shown_by_protocol(key, ranks)
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
    """The recipes."""
    return {"recipes": {name: asdict(recipe) for name, recipe in recipes(bench.profile).items()}}


STUDY = Study(
    "encoder_ablations", "DMCL with one part changed, on less data, and on the raw dialogue.",
    minutes=260, conditions=conditions, shown=shown, together=True, encoders=recipes, notes=notes,
)  # fmt: skip

"""DMCL at full length: with one part changed, and trained on the raw dialogue that papers rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from daitir.objectives import DMCL_TERMS
from daitir.recipes.settings import EncoderRecipe
from daitir.studies.benchmark import GAINED
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import (
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

RAW = "raw_dialogue"
RIVAL = "finetune_text"  # reads the same text and sees no view


def recipes(profile: Profile) -> Mapping[str, EncoderRecipe]:
    """What is trained beside the profile's encoders, by name, as long as they are."""
    dmcl = profile.encoders["dmcl"]
    changed = {
        **{f"without_{name}": {"terms": tuple(t for t in DMCL_TERMS if t != name)}
           for name in ("text_view", "agreement")},
        "hard_negatives": {"hard_negatives": True},
        "learnable_weights": {"learnable_weights": True},
    }  # fmt: skip
    read = {name: profile.encoders[name] for name in (RIVAL, "text_view", "dmcl")}
    return {
        **{f"{name}_{RAW}": replace(recipe, text=RAW) for name, recipe in read.items()},
        **{f"dmcl_{name}": replace(dmcl, **change) for name, change in changed.items()},
    }


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Text and DAR's sum with either noise, by the text that an encoder was trained to read."""
    trained = {RIVAL: REWRITE, "dmcl": REWRITE} | {n: r.text for n, r in recipes(profile).items()}
    for name, seed in encoder_seeds(trained, profile.num_encoder_seeds):
        for text in (REWRITE, RAW) if name == ZERO_SHOT else (trained[name],):
            for query, noises in {"text": {NONE: "text"}, "dar": VIEWS_OF}.items():
                for noise, views in noises.items():
                    yield Condition(
                        "human", Protocol(f"{name}+{query}", text, noise).label, seed, "human",
                        WORDS_OF[text], text, views, name, query,
                        number=profile.num_other_dialogues,
                    )  # fmt: skip


def shown(key: Key, ranks: Ranks) -> Shown:
    """Both metrics, and gains: over the text, over text-only fine-tuning, and over whole DMCL."""
    protocol = Protocol(*key.method.split("|"))
    name, _, query = protocol.query.partition("+")
    peer = RIVAL if protocol.text == REWRITE else f"{RIVAL}_{RAW}"
    rivals = {
        "gain_over_text": protocol._replace(query=f"{name}+text", noise=NONE),
        "gain_over_finetune_text": protocol._replace(query=f"{peer}+text", noise=NONE),
        "gain_over_finetune_text_sum": protocol._replace(query=f"{peer}+dar"),
        "change": protocol._replace(query=f"dmcl+{query}", text=REWRITE),
    }
    there = {suffix: rival.label for suffix, rival in rivals.items()
             if rival != protocol and Key(key.benchmark, rival.label) in ranks.keys}  # fmt: skip
    if name == "dmcl" or protocol.text == RAW:
        there.pop("change", None)
    return Shown(GAINED, contrasts=over(key, *GAINED, **there))


def notes(bench: Bench, ranks: Ranks) -> dict:
    """The recipes."""
    return {"recipes": {name: asdict(recipe) for name, recipe in recipes(bench.profile).items()}}


STUDY = Study(
    "full_length", "DMCL with one part changed, and on the raw dialogue, at full length.",
    minutes=300, conditions=conditions, shown=shown, together=True, digits=4, encoders=recipes,
    notes=notes,
)  # fmt: skip

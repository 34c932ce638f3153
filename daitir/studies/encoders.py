"""The benchmark of fine-tuned encoders: each on every source of dialogues, alone and fused.

A second study puts together encoders, the views of earlier rounds and an adaptive fusion.
"""

from __future__ import annotations

from collections.abc import Iterator

from daitir.recipes.settings import EncoderRecipe
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.engine.conditions import (
    ZERO_SHOT,
    Condition,
    Contrast,
    Key,
    Shown,
    Study,
    Trained,
    gain,
)
from daitir.studies.engine.ranks import Ranks
from daitir.studies.memory import ENCODER_DECAYS, remembered
from daitir.studies.profiles import Profile

SHORT_CAPTION = "short_caption"
PEERS = {"dar": "zero_shot+dar", "adafuse": "zero_shot+adafuse",
         "finetune_text": "finetune_text+text"}  # fmt: skip
"""Whom gains are over: an encoder and what it ranks by."""
RIVALS = ("dar", "finetune_text")  # of the published gain in Hits@10
IMPROVED = {"dmcl_resampled": "dmcl"}  # encoders that are compared with another, query by query
COMPARED_QUERIES = ("text", "dar", "memory", "adafuse")  # that are compared with the peers
COMPARED = ("finetune_text", "dmcl")  # all that the smaller studies measure
TOGETHER = "adafuse_memory"


def trained(profile: Profile, names: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """Names and seeds of the encoders that are measured, the start first."""
    seeds = range(profile.num_encoder_seeds)
    names = names or tuple(profile.encoders)
    return [(ZERO_SHOT, 0), *((name, seed) for name in names for seed in seeds)]


def read_by(recipe: EncoderRecipe | None) -> dict[str, str]:
    """The words and the text that an encoder of a recipe was trained to read."""
    text = "current_rewrite" if recipe is None else recipe.text
    return {"words": "said" if text == "raw_dialogue" else "refined", "text": text}


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Six queries of every encoder on every source, and one clean short caption of each target."""
    for encoder, seed in trained(profile):
        about = {"seed": seed, "encoder": encoder, **read_by(profile.encoders.get(encoder))}
        for name in BENCHMARKS:
            for query, views, fusion in (
                ("text", "drawn", "text"),
                ("view", "drawn", "view"),
                ("dar", "drawn", "dar"),
                ("placebo", "placebo:drawn", "dar"),
                ("memory", remembered(ENCODER_DECAYS["dar"], "drawn"), "dar"),
                ("adafuse", "drawn", Trained("adafuse", "drawn")),
            ):
                method = f"{encoder}+{query}"
                yield Condition(name, method, queries=name, views=views, fusion=fusion, **about)
        about |= {"words": "short_caption", "text": "current_rewrite", "rounds": (0,)}
        yield Condition(SHORT_CAPTION, f"{encoder}+text", **about)


def shown(key: Key, ranks: Ranks) -> Shown:
    """R@10, Hits@10 and BRI, gains over the same encoder's text and over the peers."""
    encoder, _, query = key.method.partition("+")
    text = Key(key.benchmark, f"{encoder}+text")
    contrasts: dict[str, Contrast] = {}
    if query in COMPARED_QUERIES:
        if query != "text":
            contrasts["gain"] = gain(key, text)
        if key.benchmark != SHORT_CAPTION:
            contrasts |= gains_over(key, ranks, *PEERS)
        plain = Key(key.benchmark, f"{IMPROVED.get(encoder)}+{query}")
        if plain in ranks.keys:
            contrasts[f"gain_over_{IMPROVED[encoder]}"] = gain(key, plain)
    metrics: tuple[str, ...] = ("recall_at_10", "hits_at_10", "bri")
    if query.startswith(("dar", "adafuse")):
        metrics = (*metrics, "degradation_rate", "degradation_rate_ln2")
    return Shown(metrics, text, contrasts)


def gains_over(key: Key, ranks: Ranks, *peers: str) -> dict[str, Contrast]:
    """The contrasts with those of `PEERS` that have ranks."""
    contrasts = {}
    for peer in peers:
        rival = Key(key.benchmark, PEERS[peer])
        if rival in ranks.keys:
            metrics = ("recall_at_10", "hits_at_10") if peer in RIVALS else ("recall_at_10",)
            contrasts[f"gain_over_{peer}"] = gain(key, rival, *metrics)
    return contrasts


def memory_conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """ADaFuSE trained on remembered views, and its rivals, with the encoders that are compared."""
    views = remembered(ENCODER_DECAYS["adafuse"], "drawn")
    for encoder, seed in trained(profile, COMPARED):
        about = {"seed": seed, "encoder": encoder}
        for name in BENCHMARKS:
            for query in ("text", "dar"):
                method = f"{encoder}+{query}"
                yield Condition(name, method, queries=name, views="drawn", fusion=query, **about)
            method, fusion = f"{encoder}+{TOGETHER}", Trained("adafuse", views)
            yield Condition(name, method, queries=name, views=views, fusion=fusion, **about)


def memory_shown(key: Key, ranks: Ranks) -> Shown | None:
    """R@10, Hits@10 and BRI of the fusion on remembered views, and its gains over the peers."""
    if not key.method.endswith(TOGETHER):
        return None
    words = Key(key.benchmark, f"finetune_text+{TOGETHER}")
    contrasts = gains_over(key, ranks, "dar", "finetune_text")
    contrasts["gain_over_dar"] = gain(key, Key(key.benchmark, "zero_shot+dar"))
    contrasts["gain_over_finetune_text_memory"] = gain(key, words)
    return Shown(("recall_at_10", "hits_at_10", "bri"), contrasts=contrasts)


STUDY = Study(
    "encoders",
    "Fine-tuned encoders on every source of dialogues, alone and fused.",
    minutes=240,
    conditions=conditions,
    shown=shown,
    together=True,
    alone=lambda key: "recall_at_10" if key.benchmark == "human" else None,
    digits=4,
)
ENCODER_MEMORY = Study(
    "encoder_memory",
    "Remembered views, ADaFuSE and fine-tuned encoders together.",
    minutes=30,
    conditions=memory_conditions,
    shown=memory_shown,
    together=True,
    digits=4,
)

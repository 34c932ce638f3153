"""The leaderboard: every method under every protocol, on dialogues that nothing was chosen on.

Published tables differ in three switches that they do not name: which text is ranked, whether the
noise of the views is kept over a dialogue, and what the rival ranks by. Here each row names all
three. The sealed test is new dialogues of each source, whose targets are searched among the same
others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from daitir import metrics
from daitir.recipes.cast import cast_ranks
from daitir.retrieval import target_ranks
from daitir.studies.benchmark import BENCHMARKS, GAINED, NUM_TIMED
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import (
    ZERO_SHOT,
    Condition,
    Key,
    Shown,
    Study,
    Trained,
    encoder_seeds,
    over,
)
from daitir.studies.engine.ranks import Ranks, averaged
from daitir.studies.memory import DAR_DECAY, remembered
from daitir.studies.profiles import Profile

REWRITE, SAID = "current_rewrite", "raw_dialogue"
WORDS_OF = {REWRITE: "refined", SAID: "said", "all_rewrites": "refined"}
"""What is ranked, and the words that it is made of."""
AFFIRMED = "affirmed_rewrite"  # a rewrite without what it denies, compared with the whole one
VIEWS_OF = {"new": "drawn", "kept": "drawn:fixed_noise"}
"""The noise of a dialogue's views: drawn anew each round, or one for all."""
NONE, BOTH = "none", "both"  # of a query without text or views, and with the views of either noise
RIVALS = ("zero_shot+text", "zero_shot+dar", "finetune_text+text", "finetune_text+dar")
SHORT_CAPTION = "short_caption"  # one clean caption of the target, and no dialogue
ONCE = ("text_view", "dmcl_resampled")  # one training, which asks the main source alone
ROUNDS, GAIN_ROUNDS = (0, 2, 5, 10), (2, 10)  # that the table shows; the ranks have all
POWER = (1.96 + 0.8416) / (2 * 1.96)  # of the width of an interval: found in 80% of samples


class Protocol(NamedTuple):
    """A query with its switches; its label is like `dmcl+dar|raw_dialogue|kept`."""

    query: str
    text: str
    noise: str

    @property
    def label(self) -> str:
        return "|".join(self)

    @property
    def read(self) -> str:
        """The text that it is compared with; of views alone that which they were drawn from."""
        return REWRITE if self.text in (NONE, AFFIRMED) else self.text


def queries(profile: Profile, encoder: str) -> Iterator[tuple]:
    """Of an encoder: a query's name, fusion, texts, noises, and how often a fusion is trained."""
    start = encoder == ZERO_SHOT
    seeds = profile.num_fusion_seeds if start else 1
    yield "text", "text", (*WORDS_OF, AFFIRMED) if start else WORDS_OF, (NONE,), 1
    yield "view", "view", (NONE,), VIEWS_OF, 1
    yield "dar", "dar", WORDS_OF, VIEWS_OF, 1
    yield "dar_placebo", "dar", (REWRITE,), ("new",), 1
    yield "dar_memory", "dar", (REWRITE,), VIEWS_OF, 1
    yield "dar_tuned", "dar_tuned", WORDS_OF if start else (REWRITE,), VIEWS_OF, 1
    yield "adafuse", Trained("adafuse", "kept" if start else "drawn"), (REWRITE,), VIEWS_OF, seeds
    if start:
        yield "adafuse", Trained("adafuse"), (SAID,), VIEWS_OF, seeds
        for name in profile.fusions:
            if name != "adafuse":
                yield name, Trained(name), (REWRITE,), VIEWS_OF, seeds
        yield "rank_fusion", "rank_fusion", (REWRITE,), ("new",), 1
        yield "visret_two_views", "rank_fusion", (NONE,), (BOTH,), 1
        yield "cast", "cast", (REWRITE,), (NONE,), 1


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Every query of every encoder on every source, those of `ONCE` on one; and short captions."""
    for encoder, seed in encoder_seeds(profile.encoders, profile.num_encoder_seeds):
        if encoder in ONCE and seed:
            continue
        for query, fusion, texts, noises, number in queries(profile, encoder):
            if isinstance(fusion, Trained) and encoder in ONCE:
                continue
            for protocol in (Protocol(f"{encoder}+{query}", t, n) for t in texts for n in noises):
                views = {NONE: "text", BOTH: "both_noises", **VIEWS_OF}[protocol.noise]
                if query == "dar_placebo":
                    views = f"placebo:{views}"
                if query == "dar_memory":
                    views = remembered(DAR_DECAY, views)
                for name in ("human",) if encoder in ONCE else BENCHMARKS:
                    asked = Condition(
                        name, protocol.label, seed, f"sealed_{name}", WORDS_OF[protocol.read],
                        protocol.read if protocol.text == NONE else protocol.text, views, encoder,
                        fusion,
                    )  # fmt: skip
                    yield from asked.seeds(number) if number > 1 else [asked]
        yield Condition(
            SHORT_CAPTION, Protocol(f"{encoder}+text", REWRITE, NONE).label, seed, "sealed_human",
            words="short_caption", encoder=encoder, rounds=(0,),
        )  # fmt: skip


def shown(key: Key, ranks: Ranks) -> Shown:
    """All metrics; harm against the same encoder's text; gains over the rivals of its protocol."""
    protocol = Protocol(*key.method.split("|"))
    several, keys = protocol.noise in (NONE, BOTH), set(ranks.keys)
    rivals = {}
    for rival in RIVALS:
        drawn = rival.endswith("+dar")
        for noise in (VIEWS_OF if several else (protocol.noise,)) if drawn else (NONE,):
            # A query of either noise or of none is compared with what is drawn in both ways.
            which = f", {noise} noise" if drawn and several else ""
            label = Protocol(rival, protocol.read, noise).label
            if key.method != label and Key(key.benchmark, label) in keys:
                rivals[f"gain_over_{rival}{which}"] = label
    encoder = protocol.query.partition("+")[0]
    text = Key(key.benchmark, Protocol(f"{encoder}+text", protocol.read, NONE).label)
    harm = () if text == key else ("degradation_rate", "degradation_rate_ln2")
    measures = (*GAINED, "recall_at_1", "mrr", "bri", *harm)
    return Shown(measures, text, over(key, *GAINED, **rivals))


def costs(bench: Bench, ranks: Ranks) -> dict:
    """Seconds of ranking one query, by its text and by CAST, which changes every picture for it."""
    asked = Condition("", "", queries="sealed_human", number=NUM_TIMED)
    text, gallery = bench.text_features(asked), bench.gallery_features(asked)
    model, targets = bench.cast(asked), torch.arange(len(text))
    seconds = {}
    for name, rank in {"text": target_ranks, "cast": partial(cast_ranks, model)}.items():
        began = time.perf_counter()
        rank(text, gallery, targets)
        seconds[name] = round((time.perf_counter() - began) / text.shape[:2].numel(), 6)
    return {"seconds_per_query": seconds, "num_gallery": len(gallery)}


def finish(table: pd.DataFrame, ranks: Ranks) -> pd.DataFrame:
    """Labels taken apart; the smallest gain that would be found; groups of methods that tie."""
    plain = table["metric"].isin(GAINED) & table["round"].isin(ROUNDS)
    table = table[plain | table["round"].isin(GAIN_ROUNDS)]
    table = pd.concat([table, tie_groups(ranks)], ignore_index=True)
    labels = table.pop("method").str.split("|", expand=True)
    query = labels[0].str.split("+", n=1, expand=True)
    metric = table.pop("metric").str.split("_gain_over_", n=1, expand=True).reindex(columns=[0, 1])
    is_gain = metric[1].notna()
    columns = {
        "benchmark": table["benchmark"], "encoder": query[0], "query": query[1],
        "text": labels[1], "noise": labels[2], "rival": metric[1].fillna(""),
        "metric": metric[0] + is_gain.map({True: "_gain", False: ""}),
    }  # fmt: skip
    columns["num_seeds"] = table.pop("seed").str.removeprefix("mean of ")
    detectable = (POWER * (table["ci_high"] - table["ci_low"])).round(4).where(is_gain)
    table = table.drop(columns="benchmark").assign(detectable=detectable)
    return pd.DataFrame(columns).join(table)


def tie_groups(ranks: Ranks) -> pd.DataFrame:
    """Of every source and protocol the group of each method, 1 for the best and what ties with it.

    A method is in the group of the best that is left where the interval of their difference at the
    last round, query by query, holds 0.
    """
    rows = []
    protocols = {key: Protocol(*key.method.split("|")) for key in ranks.keys}
    for benchmark, text, noise in product(BENCHMARKS, WORDS_OF, VIEWS_OF):
        keys = [
            key for key, protocol in protocols.items()
            if key.benchmark == benchmark and protocol.text in (text, NONE)
            and protocol.noise in (noise, NONE, BOTH)
        ]  # fmt: skip
        for metric in GAINED:
            values = {key: averaged(metric, ranks.of(key))[:, -1] for key in keys}
            left, group = sorted(keys, key=lambda key: -values[key].mean()), 0
            while left:
                group += 1
                lead = np.stack([values[left[0]] - values[key] for key in left], axis=1)
                low, _ = metrics.bootstrap_interval(lead, bounds=metrics.DIFFERENCES)
                ties = [key for key, bound in zip(left, low.round(12), strict=True) if bound <= 0]
                for key in ties:
                    rows.append({
                        **key._asdict(), "seed": f"mean of {len(ranks.seeds(key))}",
                        "round": ROUNDS[-1], "metric": f"tie_group_of_{metric} ({text}, {noise})",
                        "value": group, "num_queries": len(lead),
                    })  # fmt: skip
                left = [key for key in left if key not in ties]
    return pd.DataFrame(rows)


STUDY = Study(
    "leaderboard", "Every method under every protocol, on a sealed test.", minutes=200,
    conditions=conditions, shown=shown, together=True, digits=4, notes=costs, finish=finish,
)  # fmt: skip

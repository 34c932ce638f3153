"""The leaderboard: every method under every protocol, on dialogues that nothing was chosen on.

Published tables differ in three switches that they do not name: which text is ranked, whether the
noise of the views is kept over a dialogue, and what the rival ranks by. Here each row names all
three. The sealed test is 500 new dialogues of each source, in a gallery of 50,000 pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from daitir import metrics
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.encoders import COMPARED, trained
from daitir.studies.engine.conditions import ZERO_SHOT, Condition, Key, Shown, Study, Trained, gain
from daitir.studies.engine.ranks import Ranks
from daitir.studies.engine.tables import MEASURES
from daitir.studies.memory import ENCODER_DECAYS, remembered
from daitir.studies.profiles import Profile

TEXTS = {"current_rewrite": "refined", "raw_dialogue": "said", "all_rewrites": "refined"}
"""What is ranked, and the words that it is made of."""
NOISES = {"new": "drawn", "kept": "drawn:fixed_noise"}
"""The noise of a dialogue's views: drawn anew each round, or one for all."""
NONE = "none"  # where a query has no text, or no view
RIVALS = ("zero_shot+text", "zero_shot+dar", "finetune_text+text", "finetune_text+dar")
ROUNDS = (0, 2, 5, 10)  # that the table shows; the ranks have all
RANKED = ("recall_at_10", "hits_at_10")
POWER = (1.96 + 0.8416) / (2 * 1.96)  # of the width of an interval: found in 80% of samples
USUAL = ("current_rewrite",)  # what the trained methods were trained to read


class Protocol(NamedTuple):
    """A method of the table with its switches; as a label `dmcl+dar|raw_dialogue|kept`."""

    query: str
    text: str
    noise: str

    @property
    def label(self) -> str:
        return "|".join(self)


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """All queries of the encoder before training; of fine-tuned ones those that are published."""
    for benchmark in BENCHMARKS:
        for encoder, seed in trained(profile, COMPARED):
            start = encoder == ZERO_SHOT
            shown = "kept" if start else "drawn"
            many = range(profile.num_fusion_seeds) if start else (seed,)
            asked = [
                ("text", "text", TEXTS, (NONE,), (seed,)),
                ("view", "view", (NONE,), NOISES, (seed,)),
                ("dar", "dar", TEXTS, NOISES, (seed,)),
                ("dar_tuned", "dar_tuned", TEXTS if start else USUAL, NOISES, (seed,)),
                ("dar_memory", "dar", USUAL, NOISES, (seed,)),
                ("adafuse", Trained("adafuse", shown), USUAL, NOISES, many),
            ]
            if start:
                raw, fusions = ("raw_dialogue",), [n for n in profile.fusions if n != "adafuse"]
                asked += [(n, Trained(n), USUAL, NOISES, many) for n in fusions]
                asked += [
                    ("adafuse", Trained("adafuse"), raw, NOISES, many),
                    ("rank_fusion", "rank_fusion", USUAL, NOISES, (0,)),
                    ("visret_two_views", "rank_fusion", (NONE,), ("both",), (0,)),
                    ("cast", "cast", USUAL, (NONE,), (0,)),
                ]
            for query, fusion, texts, noises, seeds in asked:
                for text in texts:
                    for noise in noises:
                        protocol = Protocol(f"{encoder}+{query}", text, noise)
                        views = {NONE: "text", "both": "both_noises"} | NOISES
                        of_query = views[noise]
                        if query == "dar_memory":
                            of_query = remembered(ENCODER_DECAYS["dar"], of_query)
                        read = USUAL[0] if text == NONE else text
                        for one in seeds:
                            yield Condition(
                                benchmark, protocol.label, one, f"sealed_{benchmark}",
                                TEXTS[read], read, of_query, encoder, fusion,
                            )  # fmt: skip


def protocol_of(key: Key) -> Protocol:
    """The switches of a row."""
    return Protocol(*key.method.split("|"))


def shown(key: Key, ranks: Ranks) -> Shown:
    """All metrics; harm against the same encoder's text; gains over the rivals of its protocol."""
    query, text, noise = protocol_of(key)
    read = USUAL[0] if text == NONE else text
    baseline = Key(key.benchmark, f"{query.partition('+')[0]}+text|{read}|{NONE}")
    contrasts = {}
    for rival in RIVALS:
        drawn = rival.endswith("+dar")
        noises = ("new", "kept") if noise in (NONE, "both") else (noise,)
        for other in noises if drawn else (NONE,):
            # A query without views is compared with what is drawn in either way.
            of_noise = f", {other} noise" if drawn and len(noises) > 1 else ""
            place = Key(key.benchmark, Protocol(rival, read, other).label)
            if place in ranks.keys and place != key:
                contrasts[f"gain_over_{rival}{of_noise}"] = gain(key, place, *RANKED)
    harm = () if query.endswith("+text") else ("degradation_rate", "degradation_rate_ln2")
    return Shown((*RANKED, "recall_at_1", "mrr", "bri", *harm), baseline, contrasts)


def finish(table: pd.DataFrame, ranks: Ranks) -> pd.DataFrame:
    """Labels taken apart, with what a gain must be to be found, and the groups of ties."""
    table = table[table["round"].isin(ROUNDS)]
    table = pd.concat([table, *map(_tie_groups, *_boards(ranks))], ignore_index=True)
    labels = table.pop("method").str.split("|", expand=True)
    query = labels[0].str.split("+", n=1, expand=True)
    metric = table.pop("metric").str.split("_gain_over_", expand=True)
    table.insert(1, "encoder", query[0])
    table.insert(2, "query", query[1])
    table.insert(3, "text", labels[1])
    table.insert(4, "noise", labels[2])
    table.insert(5, "rival", metric[1].fillna(""))
    table.insert(8, "metric", metric[0] + metric[1].notna().map({True: "_gain", False: ""}))
    width = table["ci_high"] - table["ci_low"]
    table["detectable"] = (POWER * width).round(4).where(metric[1].notna())
    return table


def _boards(ranks: Ranks) -> tuple[list[str], list[list[Key]], list[Ranks]]:
    """The methods of one source and one protocol, which are compared with each other."""
    labels, boards = [], []
    for benchmark in dict.fromkeys(key.benchmark for key in ranks.keys):
        keys = [key for key in ranks.keys if key.benchmark == benchmark]
        for text in TEXTS:
            for noise in NOISES:
                of_board = [
                    key for key in keys
                    if protocol_of(key).text in (text, NONE)
                    and protocol_of(key).noise in (noise, NONE, "both")
                ]  # fmt: skip
                labels.append(f"{text}, {noise} noise")
                boards.append(of_board)
    return labels, boards, [ranks] * len(boards)


def _tie_groups(label: str, keys: list[Key], ranks: Ranks) -> pd.DataFrame:
    """The group of each method at the last round, 1 for the best and what ties with it.

    A method is in the group of the best that is left where the interval of their difference, query
    by query, holds 0.
    """
    rows = []
    for metric in RANKED:
        values = {
            k: np.mean([MEASURES[metric](r)[:, -1] for r in ranks.of(k)], axis=0) for k in keys
        }
        left, group = sorted(keys, key=lambda key: -values[key].mean()), 0
        while left:
            group += 1
            differences = np.stack([values[left[0]] - values[key] for key in left], axis=1)
            low, _ = metrics.bootstrap_interval(differences, bounds=metrics.DIFFERENCES)
            ties = [key for key, bound in zip(left, low, strict=True) if bound <= 0]
            for key in ties:
                about = {"seed": f"mean of {len(ranks.seeds(key))}", "round": ROUNDS[-1]}
                about |= {"metric": f"tie_group_of_{metric} ({label})", "value": group}
                rows.append({**key._asdict(), **about, "num_queries": len(values[key])})
            left = [key for key in left if key not in ties]
    return pd.DataFrame(rows)


STUDY = Study(
    "leaderboard",
    "Every method under every protocol, on a sealed test.",
    minutes=240,
    conditions=conditions,
    shown=shown,
    together=True,
    digits=4,
    finish=finish,
)

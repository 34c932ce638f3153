"""When drawings help: what a view knows beyond the words, against what it gets wrong of them.

Controlled views break a share of what was said and get a share of what was not said right. Both
are measured on the scenes that are shown, and on what the recogniser reads off the diffusion
model's views, so that these have a place on the same map. It is of the validation split.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from daitir.analysis.hallucination import cues
from daitir.scenes import Fact, Scene
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import (
    VALIDATION,
    ZERO_SHOT,
    Condition,
    Key,
    Shown,
    Study,
    Trained,
    drop,
    encoder_seeds,
    over,
    split_name,
)
from daitir.studies.engine.inputs import controlled_scenes, said_facts
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

MAP_ROUNDS = (2, 6, 10)
PERCENTS = {"broken": (0, 10, 20, 35, 50), "foreseen": (0, 25, 50, 75, 100)}
SUMMED = ("finetune_text", "dmcl")  # encoders whose sums are on the map
DRAWN = "drawn"  # the views of the diffusion model


def _asked(profile: Profile, views: str) -> dict:
    asked = {"queries": "val", "words": "exact", "views": views, "rounds": MAP_ROUNDS}
    return asked | {"number": profile.num_other_dialogues}


def places() -> list[str]:
    """The views of the map, as in `Condition.views`."""
    return [f"controlled_{b:02d}_{f}" for b, f in product(*PERCENTS.values())] + [DRAWN]


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Text and DAR of every encoder, and ADaFuSE as it was trained, at every place."""
    for encoder, seed in encoder_seeds(SUMMED, profile.num_encoder_seeds):
        at = {"seed": seed, "encoder": encoder}
        yield Condition(VALIDATION, f"{encoder}+text", **at, **_asked(profile, "text"))
        for views in places():
            method = f"{encoder}+dar|{views}"
            yield Condition(VALIDATION, method, fusion="dar", **at, **_asked(profile, views))
    for views in places():
        adafuse = Condition(
            VALIDATION, f"{ZERO_SHOT}+adafuse|{views}", fusion=Trained("adafuse"),
            **_asked(profile, views),
        )  # fmt: skip
        yield from adafuse.seeds(profile.num_fusion_seeds)


def shown(key: Key, ranks: Ranks) -> Shown:
    """R@10 and harm, the gain over the text of the same encoder, and what false facts cost."""
    text = f"{key.method.partition('+')[0]}+text"
    if key.method == text:
        return Shown(("recall_at_10",))
    contrasts, worst = over(key, gain=text), f"{PERCENTS['broken'][-1]}_0"
    if key.method.endswith(f"|controlled_{worst}"):
        contrasts |= drop(key, worst, "00_0")
    return Shown(("recall_at_10", "degradation_rate_ln2"), Key(VALIDATION, text), contrasts)


def contents(bench: Bench) -> dict[tuple[str, str, int, str], np.ndarray]:
    """Of every place the share of what was said that views break, and of the rest that is right."""
    shares = {}
    for views in places():
        asked = Condition(VALIDATION, "", **_asked(bench.profile, views))
        if views == DRAWN:
            seen = bench.recogniser.read(bench.pictures(asked))
        else:
            seen = controlled_scenes(bench, asked, split_name(views)[1])
        targets = [scene for scene in bench.targets(asked) for _ in MAP_ROUNDS]
        rows = np.array(list(map(content, said_facts(bench, asked), seen, targets)))
        for metric, column in zip(("stated_broken", "unstated_right"), rows.T, strict=True):
            values = column.reshape(-1, len(MAP_ROUNDS))
            shares[VALIDATION, f"content|{views}", 0, metric] = values
    return shares


def content(said: tuple[Fact, ...], seen: Scene, target: Scene) -> tuple[float, float]:
    """The share of what was said that a view breaks, and of what was not said that it has right."""
    of_view, stated = cues(said, seen, target), {fact[:2] for fact in said}
    wrong = of_view.count("contradicted") + of_view.count("omitted")
    unsaid = sum(fact[:2] not in stated for fact in target.own_facts)
    told = of_view.count("supported") + wrong
    return wrong / max(1, told), of_view.count("lucky") / max(1, unsaid)


def finish(table: pd.DataFrame, ranks: Ranks) -> pd.DataFrame:
    """The place on the map beside the method: percentages that were asked for, else `drawn`."""
    method = table["method"].str.split("|", n=1, expand=True)
    asked = method[1].str.extract(r"controlled_(?P<broken>\d+)_(?P<foreseen>\d+)")
    columns = {name: asked[name].fillna(method[1]).fillna("") for name in PERCENTS}
    return table.assign(method=method[0], **columns)


STUDY = Study(
    "drawings", "When drawings help: what they know, against what they get wrong.", minutes=15,
    conditions=conditions, shown=shown, together=True, digits=4, values=contents, finish=finish,
)  # fmt: skip

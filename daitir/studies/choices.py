"""The choices of drawing: how many views, how they are combined, guidance, steps, training.

Measured on the validation split, since whoever reads the table may choose by it. One study asks the
encoder before training, one the fine-tuned encoders, and one draws with less trained U-Nets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from daitir.scenes import Scene, parse
from daitir.studies.engine.conditions import (
    VALIDATION,
    ZERO_SHOT,
    Condition,
    Contrast,
    Key,
    Shown,
    Study,
    Trained,
    encoder_seeds,
    gain,
)  # fmt: skip
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

DRAWN_ROUNDS = (2, 6, 10)
NUM_VIEWS = (2, 4, 8)
SETTINGS = ("guidance_1", "guidance_4", "guidance_8", "steps_2", "steps_4", "steps_20")
COMPARED = ("finetune_text", "dmcl")  # encoders that less trained U-Nets draw for
DIVISORS = (20, 5)  # of the steps in which the U-Net of the profile was trained
METRICS = ("recall_at_10", "mrr", "degradation_rate", "degradation_rate_ln2")


def _asked(profile: Profile) -> dict:
    return {"queries": "val", "rounds": DRAWN_ROUNDS, "number": profile.num_other_dialogues}


def _choices() -> dict[str, str]:
    """What stands in the place of the view, by the suffix of the method."""
    return {
        "": "view_0",
        **{f"_{number}_views": f"first_{number}" for number in NUM_VIEWS},
        **{f"_{setting}": setting for setting in SETTINGS},
    }


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """DAR, with several views in three ways, and ADaFuSE of every seed, with every choice."""
    about = _asked(profile)
    yield Condition(VALIDATION, "text", **about)
    for suffix, views in _choices().items():
        ways = {"": "dar"}
        if suffix.endswith("views"):
            ways = {"_features": "dar", "_scores": "dar_of_scores", "_best": "dar_of_best"}
        for way, fusion in ways.items():
            yield Condition(VALIDATION, f"dar{suffix}{way}", views=views, fusion=fusion, **about)
        for seed in range(profile.num_fusion_seeds):
            at = {"seed": seed, "views": views, "fusion": Trained("adafuse")}
            yield Condition(VALIDATION, f"adafuse{suffix}", **at, **about)


def shown(key: Key, ranks: Ranks) -> Shown:
    """R@10 and MRR, the gain over text, and degradation."""
    text = Key(VALIDATION, "text")
    return Shown(METRICS, text, {"gain": gain(key, text)})


def false_cues(views: Mapping[str, str]) -> Callable:
    """What measures the share of false cues of views, by the method that has them."""

    def measure(bench: Bench) -> dict[tuple[str, str, int, str], np.ndarray]:
        shares = {}
        for method, name in views.items():
            condition = Condition(VALIDATION, method, views=name, **_asked(bench.profile))
            readings = bench.recogniser.read(bench.pictures(condition))
            targets = [scene for scene in bench.targets(condition) for _ in DRAWN_ROUNDS]
            flat = false_cue_shares(bench.prompts(condition), readings, targets)
            columns = np.reshape(flat, (-1, len(DRAWN_ROUNDS)))
            shares[VALIDATION, method, 0, "false_cue_share"] = columns
        return shares

    return measure


def false_cue_shares(
    captions: Sequence[str], readings: Sequence[Scene], targets: Sequence[Scene]
) -> list[float]:
    """For each view the share of its cues that are invented or contradicted."""
    from daitir.analysis.hallucination import cues

    shares = []
    for caption, seen, target in zip(captions, readings, targets, strict=True):
        of_view = cues(parse(caption).facts, seen, target)
        shown_cues = len(of_view.kinds) + len(of_view.extra)
        false = of_view.count("invented") + of_view.count("contradicted")
        shares.append(false / shown_cues)
    return shares


def _asked_of(
    profile: Profile, suffixes: Mapping[str, str], names: tuple[str, ...] = ()
) -> Iterator[Condition]:
    """Text, DAR and ADaFuSE of encoders with every choice of views, by suffix."""
    for encoder, seed in encoder_seeds(profile, names):
        at = {"seed": seed, "encoder": encoder, **_asked(profile)}
        yield Condition(VALIDATION, f"{encoder}+text", **at)
        for suffix, views in suffixes.items():
            for fusion, how in (("dar", "dar"), ("adafuse", Trained("adafuse", "drawn"))):
                method = f"{encoder}+{fusion}{suffix}"
                yield Condition(VALIDATION, method, views=views, fusion=how, **at)


def _controlled(profile: Profile) -> dict[str, str]:
    shares = (0.0, *profile.broken_shares)
    percents = [f"{round(100 * share):02d}" for share in shares]
    return {f"_controlled_{percent}": f"controlled_captions_{percent}" for percent in percents}


def _checkpoints(profile: Profile) -> list[str]:
    steps = [profile.diffusion.steps // divisor for divisor in (*DIVISORS, 1)]
    return [f"trained_{number}" for number in steps]


def encoder_shown(key: Key, ranks: Ranks) -> Shown:
    """As of the encoder before training, with what false facts, or less training, cost."""
    encoder, _, query = key.method.partition("+")
    text = Key(VALIDATION, f"{encoder}+text")
    words = Key(VALIDATION, "finetune_text+text")
    contrasts = {"gain_over_finetune_text": gain(key, words)} if words in ranks.keys else {}
    if query == "text":
        return Shown(("recall_at_10",), contrasts=contrasts)
    contrasts["gain"] = gain(key, text)
    doses = sorted({k.method.split("_")[-1] for k in ranks.keys if _DOSE in k.method})
    steps = sorted({k.method.split("_")[-1] for k in ranks.keys if _STEPS in k.method}, key=int)
    if doses and query.endswith(f"{_DOSE}{doses[-1]}"):
        contrasts |= _drop(key, f"{_DOSE}{doses[-1]}", f"{_DOSE}{doses[0]}")
    if steps and query.endswith(f"{_STEPS}{steps[0]}"):
        contrasts |= _drop(key, f"{_STEPS}{steps[0]}", f"{_STEPS}{steps[-1]}")
    return Shown(("recall_at_10", "degradation_rate", "degradation_rate_ln2"), text, contrasts)


_DOSE, _STEPS = "_controlled_", "_trained_"


def _drop(key: Key, most: str, none: str) -> dict[str, Contrast]:
    """What R@10 loses from `none` to `most`, and how much more than it loses before training."""
    encoder = key.method.partition("+")[0]
    drop = {key._replace(method=key.method.replace(most, none)): 1.0, key: -1.0}
    over = dict(drop)
    for rival, weight in drop.items():
        start = rival._replace(method=rival.method.replace(encoder, ZERO_SHOT, 1))
        over[start] = over.get(start, 0.0) - weight
    return {"drop": Contrast(drop), "drop_over_zero_shot": Contrast(over)}


STUDY = Study(
    "choices",
    "Numbers of views, guidance and steps.",
    minutes=20,
    conditions=conditions,
    shown=shown,
    values=false_cues({"dar": "view_0", **{f"dar_{name}": name for name in SETTINGS}}),
)
ENCODER_CHOICES = Study(
    "encoder_choices",
    "The choices of drawing with fine-tuned encoders.",
    minutes=33,
    conditions=lambda profile, ranks: _asked_of(profile, _choices() | _controlled(profile)),
    shown=encoder_shown,
    together=True,
    digits=4,
)
ENCODER_CHECKPOINTS = Study(
    "encoder_checkpoints",
    "Less trained diffusion models with fine-tuned encoders.",
    minutes=60,
    conditions=lambda profile, ranks: _asked_of(
        profile, {f"_{name}": name for name in _checkpoints(profile)}, COMPARED
    ),
    shown=encoder_shown,
    together=True,
    digits=4,
    values=lambda bench: false_cues({name: name for name in _checkpoints(bench.profile)})(bench),
)

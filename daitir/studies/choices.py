"""The choices of drawing: how many views, how they are combined, guidance, steps, training.

Measured on the validation split, since whoever reads the table may choose by it. One study asks the
encoder before training; one asks the fine-tuned encoders too, and draws with less trained U-Nets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from daitir.analysis.hallucination import cues
from daitir.scenes import Scene, parse
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import (
    VALIDATION,
    Condition,
    Key,
    Shown,
    Study,
    Trained,
    drop,
    encoder_seeds,
    over,
)
from daitir.studies.engine.ranks import Ranks
from daitir.studies.profiles import Profile

DRAWN_ROUNDS = (2, 6, 10)
NUM_VIEWS = (2, 4, 8)
SETTINGS = ("guidance_1", "guidance_4", "guidance_8", "steps_2", "steps_4", "steps_20")
COMPARED = ("finetune_text", "dmcl")  # the fine-tuned encoders
DIVISORS = (20, 5)  # of the steps in which the U-Net of the profile was trained
_STEPS = "_trained_"


def _asked(profile: Profile) -> dict:
    return {"queries": "val", "rounds": DRAWN_ROUNDS, "number": profile.num_other_dialogues}


def _choices() -> dict[str, str]:
    """What stands in the place of the view, by the suffix of the method."""
    several = {f"_{number}_views": f"first_{number}" for number in NUM_VIEWS}
    return {"": "view_0"} | several | {f"_{setting}": setting for setting in SETTINGS}


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """DAR, with several views in three ways, and ADaFuSE of every seed, with every choice."""
    about = _asked(profile)
    yield Condition(VALIDATION, "text", **about)
    for suffix, views in _choices().items():
        about["views"] = views
        ways = {"": "dar"}
        if suffix.endswith("views"):
            ways = {"_features": "dar", "_scores": "dar_of_scores", "_best": "dar_of_best"}
        for way, fusion in ways.items():
            yield Condition(VALIDATION, f"dar{suffix}{way}", fusion=fusion, **about)
        adafuse = Condition(VALIDATION, f"adafuse{suffix}", fusion=Trained("adafuse"), **about)
        yield from adafuse.seeds(profile.num_fusion_seeds)


def shown(key: Key, ranks: Ranks) -> Shown:
    """R@10 and MRR, the gain over text, and degradation."""
    metrics = ("recall_at_10", "mrr", "degradation_rate", "degradation_rate_ln2")
    return Shown(metrics, Key(VALIDATION, "text"), over(key, gain="text"))


def false_cues(
    bench: Bench, views: Mapping[str, str]
) -> dict[tuple[str, str, int, str], np.ndarray]:
    """The share of false cues of views, by the method that has them."""
    shares = {}
    for method, name in views.items():
        condition = Condition(VALIDATION, method, views=name, **_asked(bench.profile))
        readings = bench.recogniser.read(bench.pictures(condition))
        targets = [scene for scene in bench.targets(condition) for _ in DRAWN_ROUNDS]
        flat = false_cue_shares(bench.prompts(condition), readings, targets)
        columns = np.reshape(flat, (-1, len(DRAWN_ROUNDS)))
        shares[VALIDATION, method, 0, "false_cue_share"] = columns
    return shares


def false_cue_shares(
    captions: Sequence[str], readings: Sequence[Scene], targets: Sequence[Scene]
) -> list[float]:
    """For each view the share of its cues that are invented or contradicted."""
    shares = []
    for caption, seen, target in zip(captions, readings, targets, strict=True):
        of_view = cues(parse(caption).facts, seen, target)
        false = of_view.count("invented") + of_view.count("contradicted")
        shares.append(false / (len(of_view.kinds) + len(of_view.extra)))
    return shares


def encoder_conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Text, DAR and ADaFuSE of every encoder with every choice of views."""
    steps = [profile.diffusion.steps // divisor for divisor in DIVISORS]
    suffixes = _choices() | {f"{_STEPS}{number}": f"trained_{number}" for number in steps}
    ways = {"dar": "dar", "adafuse": Trained("adafuse", "drawn")}
    for encoder, seed in encoder_seeds(COMPARED, profile.num_encoder_seeds):
        at = {"seed": seed, "encoder": encoder, **_asked(profile)}
        yield Condition(VALIDATION, f"{encoder}+text", **at)
        for suffix, views in suffixes.items():
            for fusion, way in ways.items():
                method = f"{encoder}+{fusion}{suffix}"
                yield Condition(VALIDATION, method, views=views, fusion=way, **at)


def encoder_shown(key: Key, ranks: Ranks) -> Shown:
    """As of the encoder before training, with what less training of the U-Net costs."""
    encoder, _, query = key.method.partition("+")
    contrasts = over(key, gain_over_finetune_text="finetune_text+text")
    if query == "text":
        return Shown(("recall_at_10",), contrasts=contrasts)
    contrasts |= over(key, gain=f"{encoder}+text")
    if _STEPS in query:
        contrasts |= drop(key, f"{_STEPS}{query.partition(_STEPS)[2]}", "")
    metrics = ("recall_at_10", "degradation_rate", "degradation_rate_ln2")
    return Shown(metrics, Key(VALIDATION, f"{encoder}+text"), contrasts)


STUDY = Study(
    "choices", "Numbers of views, guidance and steps.", minutes=20,
    conditions=conditions, shown=shown,
    values=lambda bench: false_cues(
        bench, {"dar": "view_0", **{f"dar_{name}": name for name in SETTINGS}}
    ),
)  # fmt: skip
ENCODER_CHOICES = Study(
    "encoder_choices", "The choices of drawing, and less trained U-Nets, with fine-tuned encoders.",
    minutes=70, conditions=encoder_conditions, shown=encoder_shown, together=True, digits=4,
)  # fmt: skip

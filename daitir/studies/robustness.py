"""Robustness: text, view, DAR and ADaFuSE under conditions that ADaFuSE was not trained for.

Whatever is perturbed goes through the whole chain again: refined, drawn and encoded. Wrong answers
are a source of the benchmark, `unreliable`, and placebo views a method of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from daitir.studies.engine.conditions import ZERO_SHOT, Condition, Key, Shown, Study, Trained
from daitir.studies.engine.ranks import Ranks
from daitir.studies.memory import with_change
from daitir.studies.profiles import Profile

ASKED_ROUNDS, LONG_ROUNDS = (2, 6, 10), (10, 15, 20)
SPACE_SEEDS = 3  # of a fusion that is trained here
CHANGES = {  # what stands in the place of the view, or what is read and drawn
    "as_trained": {"views": "kept"},
    "guidance_1": {"views": "guidance_1"},
    "steps_2": {"views": "steps_2"},
    "redrawn": {"views": "redrawn"},
    "missing_text_alone": {"views": "half_nothing"},
    "missing_text_as_view": {"views": "half_text"},
    "missing_previous_view": {"views": "half_previous"},
    "typos_10": {"words": "typos_10", "views": "drawn"},
    "typos_30": {"words": "typos_30", "views": "drawn"},
    "dropped_rounds": {"words": "dropped_rounds_30", "views": "drawn"},
    "shuffled_rounds": {"words": "shuffled_rounds", "views": "drawn"},
    "longer": {"words": "longer", "views": "drawn", "rounds": LONG_ROUNDS},
}
# Encoders, and the views that each encodes.
SPACES = {"rotated": ("rotated", "kept"), "other_encoder": ("other_clip", "drawn")}


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Text, view, DAR and ADaFuSE of every seed under each condition."""
    usual = {"number": profile.num_other_dialogues, "rounds": ASKED_ROUNDS}
    controlled = [f"controlled_{round(100 * share):02d}" for share in profile.broken_shares]
    changes = CHANGES | {views: {"words": "exact", "views": views} for views in controlled}
    for label, change in changes.items():
        yield from _methods(label, Trained("adafuse"), profile.num_fusion_seeds, **usual | change)
    carried = Trained("adafuse", encoder=ZERO_SHOT)
    for label, (encoder, views) in SPACES.items():
        about = usual | {"encoder": encoder, "views": views}
        yield from _methods(f"{label}_carried_over", carried, profile.num_fusion_seeds, **about)
        trained = Trained("adafuse", views)
        yield from _methods(f"{label}_trained_for_it", trained, SPACE_SEEDS, **about)


def _methods(label: str, adafuse: Trained, num_seeds: int, **about) -> Iterator[Condition]:
    for fusion in ("text", "view", "dar"):
        if fusion != "view" or not label.startswith("missing"):
            yield Condition(label, fusion, fusion=fusion, **about)
    yield from Condition(label, "adafuse", fusion=adafuse, **about).seeds(num_seeds)


def shown(key: Key, ranks: Ranks) -> Shown:
    """Gains over text and DAR, and the change from the same method as it was trained."""
    other = key.benchmark == "longer" or key.benchmark.startswith(tuple(SPACES))
    return with_change(key, None if other else Key("as_trained", key.method))


STUDY = Study(
    "robustness", "What ADaFuSE was not trained for, from typing errors to another encoder.",
    minutes=25, conditions=conditions, shown=shown, together=True,
)  # fmt: skip

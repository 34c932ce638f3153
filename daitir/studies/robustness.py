"""Robustness: text, view, DAR and ADaFuSE under conditions that ADaFuSE was not trained for.

Whatever is perturbed goes through the whole chain again: it is refined, drawn and encoded as a
system would have to do it. All is measured on the first test dialogues of the source `human`;
wrong answers are a source of the benchmark, `unreliable`, and placebo views a method of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from daitir.studies.engine.conditions import ZERO_SHOT, Condition, Key, Shown, Study, Trained
from daitir.studies.engine.ranks import Ranks
from daitir.studies.memory import with_change
from daitir.studies.profiles import Profile

ASKED_ROUNDS, LONG_ROUNDS = (2, 6, 10), (10, 15, 20)
SPACE_SEEDS = 3  # of a fusion that is trained here
AGAIN = {  # what is read and drawn instead of the refined captions
    "typos_10": "typos_10",
    "typos_30": "typos_30",
    "dropped_rounds": "dropped_rounds_30",
    "shuffled_rounds": "shuffled_rounds",
}
OTHER_VIEWS = {  # what stands in the place of the view
    "as_trained": "kept",
    "guidance_1": "guidance_1",
    "steps_2": "steps_2",
    "redrawn": "redrawn",
    "missing_text_alone": "half_nothing",
    "missing_text_as_view": "half_text",
    "missing_previous_view": "half_previous",
}
SPACES = {"rotated": "kept", "other_encoder": "drawn"}  # with the views that each encodes


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """Text, view, DAR and ADaFuSE of every seed under each condition."""
    usual = {"number": profile.num_other_dialogues, "rounds": ASKED_ROUNDS}
    changed = {label: {"views": views} for label, views in OTHER_VIEWS.items()}
    changed |= {label: {"words": words, "views": "drawn"} for label, words in AGAIN.items()}
    changed["longer"] = {"words": "longer", "views": "drawn", "rounds": LONG_ROUNDS}
    for share in profile.broken_shares:
        label = f"controlled_{round(100 * share):02d}"
        changed[label] = {"words": "exact", "views": label}
    for label, change in changed.items():
        yield from _methods(label, Trained("adafuse"), profile.num_fusion_seeds, **usual | change)
    for label, views in SPACES.items():
        encoder = "rotated" if label == "rotated" else "other_clip"
        about = usual | {"encoder": encoder, "views": views}
        carried = Trained("adafuse", encoder=ZERO_SHOT)
        seeds = profile.num_fusion_seeds
        yield from _methods(f"{label}_carried_over", carried, seeds, **about)
        trained = Trained("adafuse", views)
        yield from _methods(f"{label}_trained_for_it", trained, SPACE_SEEDS, **about)


def _methods(label: str, adafuse: Trained, num_seeds: int, **about) -> Iterator[Condition]:
    for fusion in ("text", "view", "dar"):
        if fusion != "view" or not label.startswith("missing"):
            yield Condition(label, fusion, fusion=fusion, **about)
    for seed in range(num_seeds):
        yield Condition(label, "adafuse", seed, fusion=adafuse, **about)


def shown(key: Key, ranks: Ranks) -> Shown:
    """Gains over text and DAR, and the change from the same method as it was trained."""
    other = key.benchmark == "longer" or key.benchmark.startswith(tuple(SPACES))
    return with_change(key, None if other else Key("as_trained", key.method))


STUDY = Study(
    "robustness",
    "What ADaFuSE was not trained for, from typing errors to another encoder.",
    minutes=165,
    conditions=conditions,
    shown=shown,
    together=True,
)

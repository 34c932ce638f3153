"""A fine-tuned encoder, the views of earlier rounds and an adaptive fusion, all three together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.encoders import COMPARED, gains_over, trained
from daitir.studies.engine.conditions import Condition, Key, Shown, Study, Trained, gain
from daitir.studies.memory import ENCODER_DECAYS, remembered

if TYPE_CHECKING:
    from daitir.studies.engine.ranks import Ranks
    from daitir.studies.profiles import Profile

QUERY = "adafuse_memory"


def conditions(profile: Profile, ranks: Ranks) -> Iterator[Condition]:
    """ADaFuSE trained on remembered views, and its rivals, with the encoders that are compared."""
    views = remembered(ENCODER_DECAYS["adafuse"], "drawn")
    for encoder, seed in trained(profile, COMPARED):
        for name in BENCHMARKS:
            for query, views_of, fusion in (
                ("text", "drawn", "text"),
                ("dar", "drawn", "dar"),
                (QUERY, views, Trained("adafuse", views)),
            ):
                yield Condition(
                    name, f"{encoder}+{query}", seed, queries=name, views=views_of,
                    encoder=encoder, fusion=fusion,
                )  # fmt: skip


def shown(key: Key, ranks: Ranks) -> Shown | None:
    """R@10, Hits@10 and BRI of the fusion on remembered views, and its gains over the peers."""
    if not key.method.endswith(QUERY):
        return None
    words = Key(key.benchmark, f"finetune_text+{QUERY}")
    contrasts = gains_over(key, ranks, "dar", "finetune_text")
    contrasts["gain_over_dar"] = gain(key, Key(key.benchmark, "zero_shot+dar"))
    contrasts["gain_over_finetune_text_memory"] = gain(key, words)
    return Shown(("recall_at_10", "hits_at_10", "bri"), contrasts=contrasts)


STUDY = Study(
    "encoder_memory",
    "Remembered views, ADaFuSE and fine-tuned encoders together.",
    minutes=30,
    conditions=conditions,
    shown=shown,
    together=True,
    digits=4,
)

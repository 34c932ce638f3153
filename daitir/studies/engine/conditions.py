"""What a study is made of: conditions that give ranks, and what its table says of them.

A study is data. It names its conditions, each a way to ask a query set, and for every method the
metrics and the rivals that its table shows. The bench turns conditions into ranks, tables turn
ranks into rows; neither knows any study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from daitir.recipes.settings import EncoderRecipe, FusionRecipe
    from daitir.studies.engine.bench import Bench
    from daitir.studies.engine.ranks import Ranks
    from daitir.studies.profiles import Profile

VALIDATION = "human_val"  # the label of the validation split
ZERO_SHOT = "zero_shot"  # the encoder before any training of ours


class Key(NamedTuple):
    """The rows of a table that belong together, whatever their seed."""

    benchmark: str
    method: str


@dataclass(frozen=True)
class Trained:
    """A fusion that is trained, as it stands in the place of a condition's fusion.

    Attributes:
        recipe: its name among the fusions of the study or of the profile.
        views: what it was shown in training, as in `Condition.views`.
        encoder: whose features it was trained on; None for the encoder of the condition.
    """

    recipe: str
    views: str = "kept"
    encoder: str | None = None


@dataclass(frozen=True)
class Condition:
    """One way to ask a query set: dialogues, text, views, encoder and fusion, with a seed.

    Attributes:
        benchmark: its label in the table.
        method: its label in the table.
        seed: of the training of fusion and encoder, where they are trained.
        queries: the query set, one of `daitir.studies.queries.SETS`.
        words: what is read, one of `words.WORDS`.
        text: how a query is made of the words of the rounds so far, one of
            `daitir.data.dialogues.TEXT_CONVENTIONS`.
        views: what stands in the place of the view, one of `views.VIEWS`, with a number where it
            takes one (`guidance_4`); stand-ins name what they are made from after a colon
            (`placebo:kept`).
        encoder: one of `encoders.ENCODERS`, or a trained one of the study or of the profile.
        fusion: one of `fusions.FUSIONS` or `fusions.RANKINGS`, or a trained one.
        rounds: which are asked; None for those that the query set has drawn.
        number: the first dialogues that are asked; None for all.
    """

    benchmark: str
    method: str
    seed: int = 0
    queries: str = "human"
    words: str = "refined"
    text: str = "current_rewrite"
    views: str = "kept"
    encoder: str = ZERO_SHOT
    fusion: str | Trained = "text"
    rounds: tuple[int, ...] | None = None
    number: int | None = None

    @property
    def key(self) -> Key:
        """The rows of the table that it belongs to."""
        return Key(self.benchmark, self.method)


@dataclass(frozen=True)
class Contrast:
    """A metric of a method less that of its rivals, query by query.

    Attributes:
        weights: of the metric under each method, by key; a gain is 1 of the method and -1 of its
            rival.
        metrics: of which the table shows the contrast.
    """

    weights: Mapping[Key, float]
    metrics: tuple[str, ...] = ("recall_at_10",)


@dataclass(frozen=True)
class Shown:
    """What a table shows of a method.

    Attributes:
        metrics: by the name in the table, one of `tables.MEASURES` each.
        baseline: whose ranks a degraded one is worse than; metrics of degradation need it.
        contrasts: by the suffix of the metric's name, for example `gain_over_dar`.
        round: the label of metrics over all rounds; None for the last round.
    """

    metrics: tuple[str, ...] | Mapping[str, str]
    baseline: Key | None = None
    contrasts: Mapping[str, Contrast] = field(default_factory=dict)
    round: int | None = None


@dataclass(frozen=True)
class Study:
    """A question that is measured, and the table that answers it.

    Attributes:
        name: of the study, and of its table behind the name of the profile.
        question: what is measured.
        minutes: about what it takes on two cores under the profile `classroom`.
        conditions: of a profile and of the ranks that are there; a study that chooses by what it
            measured first names more when those ranks are there.
        shown: what the table shows of a key, None for nothing.
        together: whether what is measured is averaged over seeds, query by query; otherwise every
            seed has rows of its own.
        alone: keys and a metric of which each seed has a value beside the average.
        digits: to which the numbers of the table are rounded.
        fusions: recipes that the study trains beside those of the profile, by name.
        encoders: recipes that the study trains beside those of the profile, by name.
        values: what is measured of queries and is no rank: arrays `(num_queries, num_rounds)` by
            benchmark, method, seed and metric.
        notes: what the notes beside the table tell of its ranks.
    """

    name: str
    question: str
    minutes: int
    conditions: Callable[[Profile, Ranks], Iterable[Condition]]
    shown: Callable[[Key, Ranks], Shown | None]
    together: bool = False
    alone: Callable[[Key], str | None] = lambda key: None
    digits: int | None = None
    fusions: Callable[[Profile], Mapping[str, FusionRecipe]] = lambda profile: {}
    encoders: Callable[[Profile], Mapping[str, EncoderRecipe]] = lambda profile: {}
    values: Callable[[Bench], Mapping[tuple[str, str, int, str], np.ndarray]] | None = None
    notes: Callable[[Bench, Ranks], Mapping] = lambda bench, ranks: {}

    def table(self, profile_name: str) -> str:
        """The name of the table; the benchmark's is that of the profile alone."""
        suffix = "" if self.name == "benchmark" else f"_{self.name}"
        return f"{profile_name}{suffix}"


@dataclass(frozen=True)
class Instrument:
    """A study that measures features of encoders and ranks nothing.

    Attributes:
        name: of the study, and of its table behind the name of the profile.
        question: what is measured.
        minutes: about what it takes on two cores under the profile `classroom`.
        measure: measures encoders and gives the rows of the table with what its notes tell.
    """

    name: str
    question: str
    minutes: int
    measure: Callable[..., tuple[pd.DataFrame, Mapping]]

    def table(self, profile_name: str) -> str:
        """The name of the table."""
        return f"{profile_name}_{self.name}"


def gain(key: Key, rival: Key, *metrics: str) -> Contrast:
    """The contrast of a method and its rival.

    >>> gain(Key("human", "dar"), Key("human", "text")).weights[Key("human", "text")]
    -1.0
    """
    weights = {key: 0.0, rival: 0.0}  # a method is its own rival where nothing changes
    weights[key] += 1
    weights[rival] -= 1
    return Contrast(weights, metrics or ("recall_at_10",))

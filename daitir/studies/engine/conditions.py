"""What a study is made of: conditions that give ranks, and what its table says of them.

A study is data: its conditions, each a way to ask a query set, and for every method the metrics
and the rivals that its table shows. Neither the bench nor the tables know any study.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from daitir.common.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from daitir.recipes.settings import EncoderRecipe, FusionRecipe
    from daitir.studies.engine.bench import Bench
    from daitir.studies.engine.ranks import Ranks
    from daitir.studies.profiles import Profile

T = TypeVar("T")
VALIDATION = "human_val"  # the label of the validation split
ZERO_SHOT = "zero_shot"  # the encoder before any training of ours


class Key(NamedTuple):
    """The rows of a table that belong together, whatever their seed."""

    benchmark: str
    method: str


@dataclass(frozen=True)
class Trained:
    """A fusion that is trained, as it stands in the place of a condition's fusion."""

    recipe: str  # its name among the fusions of the study or of the profile
    views: str = "kept"  # what it was shown in training, as in `Condition.views`
    encoder: str | None = None  # whose features it was trained on; None for the condition's


@dataclass(frozen=True)
class Condition:
    """One way to ask a query set, with the two labels that it has in the table.

    Views take a number where there is one (`guidance_4`), and stand-ins name what they are made
    from after a colon (`placebo:kept`).
    """

    benchmark: str
    method: str
    seed: int = 0  # of the training of fusion and encoder, where they are trained
    queries: str = "human"  # one of `daitir.studies.queries.SETS`
    words: str = "refined"  # what is read, one of `inputs.WORDS`
    text: str = "current_rewrite"  # one of `daitir.data.dialogues.TEXT_CONVENTIONS`
    views: str = "kept"  # what stands in the place of the view, one of `inputs.VIEWS`
    encoder: str = ZERO_SHOT  # one of `models.ENCODERS`, or a trained one
    fusion: str | Trained = "text"  # one of `models.FUSIONS` or `RANKINGS`, or a trained one
    rounds: tuple[int, ...] | None = None  # which are asked; None for those that are drawn
    number: int | None = None  # the first dialogues that are asked; None for all

    @property
    def key(self) -> Key:
        """The rows of the table that it belongs to."""
        return Key(self.benchmark, self.method)

    @property
    def drawn_from(self) -> str:
        """The words that are drawn where others are read."""
        return "refined" if self.words in ("said", "exact") else self.words

    def seeds(self, number: int) -> list[Condition]:
        """The condition with each of a number of seeds."""
        return [replace(self, seed=seed) for seed in range(number)]


@dataclass(frozen=True)
class Contrast:
    """A metric of methods by weight, query by query: 1 of one and -1 of its rival is a gain."""

    weights: Mapping[Key, float]
    metrics: tuple[str, ...] = ("recall_at_10",)  # of which the table shows the contrast


@dataclass(frozen=True)
class Shown:
    """What a table shows of a method."""

    metrics: tuple[str, ...] | Mapping[str, str]  # by the name in the table, of `ranks.MEASURES`
    baseline: Key | None = None  # whose ranks a degraded one is worse than
    contrasts: Mapping[str, Contrast] = field(default_factory=dict)  # by the metric's suffix
    round: int | None = None  # the label of metrics over all rounds; None for the last round


@dataclass(frozen=True)
class Measured:
    """A question that is measured into a table."""

    name: str
    question: str
    minutes: int  # about what it takes on two cores under the profile `classroom`

    def table(self, profile_name: str) -> str:
        """The name of the table; the benchmark's is that of the profile alone."""
        if (profile_name, self.name) == ("classroom", "leaderboard"):
            return "leaderboard"  # the one that everybody quotes
        return profile_name if self.name == "benchmark" else f"{profile_name}_{self.name}"


@dataclass(frozen=True)
class Study(Measured):
    """Conditions that are ranked, and what the table shows of their ranks.

    A study that chooses by what it measured first names more conditions when those ranks are there.
    """

    conditions: Callable[[Profile, Ranks], Iterable[Condition]]
    shown: Callable[[Key, Ranks], Shown | None]  # None for nothing
    together: bool = False  # averages over seeds, query by query, not rows for each seed
    alone: str | None = None  # a benchmark on which R@10 of each seed stands besides
    digits: int | None = None  # to which the table is rounded
    # Recipes that are trained beside those of the profile, by name.
    fusions: Callable[[Profile], Mapping[str, FusionRecipe]] = lambda profile: {}
    encoders: Callable[[Profile], Mapping[str, EncoderRecipe]] = lambda profile: {}
    # What is no rank: arrays (num_queries, num_rounds) by benchmark, method, seed and metric.
    values: Callable[[Bench], Mapping[tuple[str, str, int, str], np.ndarray]] | None = None
    notes: Callable[[Bench, Ranks], Mapping] = lambda bench, ranks: {}
    finish: Callable[[pd.DataFrame, Ranks], pd.DataFrame] = lambda table, ranks: table


@dataclass(frozen=True)
class Instrument(Measured):
    """A measurement of features that ranks nothing: rows of a table, and its notes."""

    measure: Callable[[Bench], tuple[pd.DataFrame, Mapping]]


def encoder_seeds(names: Iterable[str], num_seeds: int) -> list[tuple[str, int]]:
    """Names and seeds of encoders: the start, then those of the names, each with its seeds."""
    return [(ZERO_SHOT, 0), *((name, seed) for name in names for seed in range(num_seeds))]


def gain(key: Key, rival: Key, *metrics: str) -> Contrast:
    """The contrast of a method and its rival."""
    # A method is its own rival where nothing changes.
    weights = {key: 0.0} if key == rival else {key: 1.0, rival: -1.0}
    return Contrast(weights, metrics or ("recall_at_10",))


def over(key: Key, *metrics: str, **rivals: str | Key) -> dict[str, Contrast]:
    """The gains of a method over others, on its benchmark where only the method is named."""
    keys = {n: r if isinstance(r, Key) else Key(key.benchmark, r) for n, r in rivals.items()}
    return {suffix: gain(key, rival, *metrics) for suffix, rival in keys.items()}


def drop(key: Key, most: str, none: str) -> dict[str, Contrast]:
    """What R@10 loses from `none` to `most` in the name of a method, and that over `zero_shot`."""
    encoder = key.method.partition("+")[0]
    lost = {key._replace(method=key.method.replace(most, none)): 1.0, key: -1.0}
    beyond = dict(lost)
    for rival, weight in lost.items():
        start = rival._replace(method=rival.method.replace(encoder, ZERO_SHOT, 1))
        beyond[start] = beyond.get(start, 0.0) - weight
    return {"drop": Contrast(lost), "drop_over_zero_shot": Contrast(beyond)}


def split_name(name: str) -> tuple[str, str]:
    """A name and its argument: `guidance_4` is `guidance` with `4`, `placebo:kept` with `kept`.

    >>> split_name("guidance_4"), split_name("placebo:kept"), split_name("remembered_0.5:drawn")
    (('guidance', '4'), ('placebo', 'kept'), ('remembered', '0.5:drawn'))
    """
    match = re.fullmatch(r"([a-z_]+?)(?:_(\d.*)|:(.*))?", name)
    if match is None:
        raise DataError(f"{name!r} is no name with a number or a colon behind it")
    return match[1], match[2] or match[3] or ""


def named(entries: Mapping[str, T], name: str, what: str) -> T:
    """The entry of a name. Raises DataError for an unknown one, with those that there are."""
    if name not in entries:
        raise DataError(f"unknown {what} {name!r}; there are {', '.join(entries)}")
    return entries[name]

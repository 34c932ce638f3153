"""Tables of what becomes of single cues under encoders: means over views and over training seeds.

Measures are averaged over seeds, view by view, and then bootstrapped over views; the smallest and
the largest mean of a single seed stand beside. Encoders are compared by the change within views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from daitir import metrics
from daitir.analysis.geometry.pairs import CUES, PAIR_KINDS
from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_tensors
from daitir.common.terminal import printable
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.finetuned import CONFIG_NAME
from daitir.studies.cues.samples import CueSample
from daitir.studies.profiles import Profile
from daitir.studies.training_sets import encoder_folder

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

CUE_COLUMNS = (
    "measure", "encoder", "where", "cue", "kind", "value", "ci_low", "ci_high", "num_views",
    "num_seeds", "seed_low", "seed_high",
)  # fmt: skip
TRAINED = ("finetune_text", "dmcl")
SHARE_MEASURES = (  # the measures that lie between 0 and 1; nothing bounds the others
    "area", "pointing", "pointing_shuffled", "readable", "share", "share_in_null_space",
    "share_in_span", "share_shuffled",
)  # fmt: skip
RATIOS = (
    "attenuation", "attenuation_beyond", "occlusion_attenuation", "slope_ratio",
    "slope_ratio_beyond",
)  # fmt: skip
ALL_CUES = ("all", *CUES)
T = TypeVar("T", np.ndarray, Tensor)
Array = np.ndarray | Tensor
Columns = dict[tuple[str, str], np.ndarray]  # (num_seeds, num_views) by cue and kind


class Rows:
    """Rows of a table of means over views."""

    def __init__(self):
        self.rows: list[tuple] = []

    def columns(self, values: Array, kind: str) -> Columns:
        """The values by cue and kind; here they are of all cues."""
        return {("all", kind): np.atleast_2d(np.asarray(values))}

    def add(
        self, measure: str, encoder: str, values: Array, where: str = "", kind: str = "", **options
    ) -> None:
        """Rows of means over views and seeds; those of `RATIOS`, given as logarithms, as ratios.

        `values` are (num_views,) or (num_seeds, num_views), and `columns` divides them into rows,
        which share the samples of the bootstrap. NaN stands for a view without a value; fewer than
        two views that have one under every seed give no row.
        """
        columns = self.columns(values, kind, **options)
        means = {place: of_seeds.mean(axis=0) for place, of_seeds in columns.items()}
        means = {place: mean for place, mean in means.items() if (~np.isnan(mean)).sum() > 1}
        if not means:
            return
        name, is_change, _ = measure.partition("_change_over_")
        bounds = metrics.DIFFERENCES if is_change else metrics.SHARES
        intervals = metrics.bootstrap_interval(
            np.stack(list(means.values()), axis=1),
            bounds=bounds if name in SHARE_MEASURES else None,
        )
        told: Callable = np.exp if measure in RATIOS else np.asarray
        for (place, mean), *interval in zip(means.items(), *intervals, strict=True):
            has = ~np.isnan(mean)
            singles = told(columns[place][:, has].mean(axis=1))
            self.put(measure, encoder, told([mean[has].mean(), *interval]), int(has.sum()), singles,
                     where=where, cue=place[0], kind=place[1])  # fmt: skip

    def compare(self, measure: str, values: Mapping[str, T], **options) -> None:
        """Rows of each encoder, and of its change over each that stands before it.

        `values` by encoder as in `add`; the change, within each view and from seed to seed, is the
        measure `<measure>_change_over_<earlier encoder>`.
        """
        for name, column, over in with_changes(values):
            self.add(f"{measure}{over}", name, column, **options)

    def put(
        self, measure: str, encoder: str, bounds: Sequence, number: int, singles: Sequence,
        *, where: str = "", cue: str = "all", kind: str = "",
    ) -> None:  # fmt: skip
        """One row as it is: a value with its bounds, of `number` views, and that of each seed."""
        seeds = len(singles), min(singles), max(singles)
        self.rows.append((measure, encoder, where, cue, kind, *bounds, number, *seeds))

    def frame(self) -> pd.DataFrame:
        """The rows with the columns `CUE_COLUMNS`, numbers to four significant digits."""
        table = pd.DataFrame(self.rows, columns=list(CUE_COLUMNS))
        for column in ("value", "ci_low", "ci_high", "seed_low", "seed_high"):
            table[column] = [float(f"{x:.4g}") for x in table[column]]
        return table


class CueTable(Rows):
    """Rows from a value for each pair of a sample, averaged by view."""

    def __init__(self, sample: CueSample):
        super().__init__()
        self.sample = sample

    def columns(self, values: Array, kind: str, *, cues: Sequence[str] = ALL_CUES) -> Columns:
        """Of (num_seeds, num_pairs), each cue and kind of pairs, and all cues of a kind.

        With `kind`, such as noise, values are of the hallucinated pairs alone, under that name.
        """
        values = np.atleast_2d(np.asarray(values, dtype=float))
        given = self.sample.chosen(PAIR_KINDS[0]) | (not kind)
        views = self.sample.views[given]
        return {
            (cue, kind or of): self._per_view(values, views, self.sample.chosen(of, cue)[given])
            for of in (PAIR_KINDS[:1] if kind else PAIR_KINDS)
            for cue in cues
        }

    def _per_view(self, values: np.ndarray, views: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Means of the chosen pairs' values by view, (num_seeds, num_views), NaN without one."""
        views, number = views[chosen], len(self.sample.scenes)
        sums = np.stack([np.bincount(views, of[chosen], minlength=number) for of in values])
        counts = np.bincount(views, minlength=number)
        return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)

    def put_draws(
        self, measure: str, encoder: str, values: Array, number: int = 0, **place: str
    ) -> None:
        """A row of values (num_seeds, num_draws): their mean, and what holds 95% of the draws."""
        values = np.asarray(values, dtype=float)
        of_draws, singles = values.mean(axis=0), values.mean(axis=1)
        bounds = (of_draws.mean(), *np.quantile(of_draws, [0.025, 0.975]))
        self.put(measure, encoder, bounds, number or len(of_draws), singles, **place)


def difference_of_means(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Mean of a less mean of b and its 95% interval; views are resampled, NaN left out of each.

    Unlike a paired bootstrap it keeps the views that have a value in one column only. The interval
    is NaN where all samples have the same difference.
    """
    counts = np.random.default_rng(0).multinomial(len(a), np.full(len(a), 1 / len(a)), size=1000)
    with np.errstate(invalid="ignore"):
        means = [counts @ np.nan_to_num(x) / (counts @ ~np.isnan(x)) for x in (a, b)]
    differences = means[0] - means[1]
    low, high = np.nanquantile(differences, [0.025, 0.975])
    if np.nanmin(differences) == np.nanmax(differences):
        low = high = np.nan
    return float(np.nanmean(a) - np.nanmean(b)), float(low), float(high)


def compared_encoders(profile: Profile) -> dict[str, list[str]]:
    """Specs of the encoders of a study: the profile's as `before`, and those trained from it.

    These are the fine-tuning on text alone, which is the control, and DMCL, of all seeds that lie
    where the profile has its encoders. Raises DataError where they have more than one seed each,
    but not as many.
    """
    specs = {}
    for name in TRAINED:
        folders = [encoder_folder(profile, name, seed) for seed in range(profile.num_encoder_seeds)]
        there = [folder for folder in folders if (folder / CONFIG_NAME).is_file()]
        specs[name] = [f"finetuned:{folder}" for folder in there or folders[:1]]
    numbers = {name: len(of_seeds) for name, of_seeds in specs.items()}
    if len(set(numbers.values()) - {1}) > 1:
        raise DataError(
            f"encoders with seeds {numbers}: seeds are compared with seeds, so train each name as "
            "often, or once"
        )
    return {"before": [profile.encoder], **specs}


def load_compared(bench: Bench) -> tuple[dict[str, list[Encoder]], dict[str, str]]:
    """The encoders of `compared_encoders`, and what tells each from others, by `name/number`."""
    load = partial(load_encoder, device=bench.device)
    encoders = {n: list(map(load, seeds)) for n, seeds in compared_encoders(bench.profile).items()}
    digests = {f"{n}/{i}": e.digest for n, seeds in encoders.items() for i, e in enumerate(seeds)}
    return encoders, digests


def measured(
    bench: Bench,
    encoders: Mapping[str, Sequence[Encoder]],
    measure: Callable[[Encoder], Mapping[str, Tensor]],
    ending: str,
) -> dict[str, dict[str, Tensor]]:
    """What is measured of encoders, by name, with an axis of seeds before the others.

    The work folder keeps it of each encoder in a file whose name ends with `ending`.
    """
    by_name = {}
    for name, seeds in encoders.items():
        of_seeds = []
        for encoder in tqdm(seeds, desc=printable(name), disable=not bench.progress):
            path = bench.work_dir / f"{encoder.digest[:16]}_{ending}.safetensors"
            if not path.is_file():
                made = {key: tensor.contiguous() for key, tensor in measure(encoder).items()}
                with atomic_write(path) as temporary:
                    save_file(made, temporary)
            of_seeds.append(read_tensors(path)[0])
        by_name[name] = {key: torch.stack([seed[key] for seed in of_seeds]) for key in of_seeds[0]}
    return by_name


def changes(values: Mapping[str, T]) -> Iterable[tuple[str, str, T]]:
    """Each name after each that stands before it: both, the earlier first, and their difference."""
    names = list(values)
    for index, name in enumerate(names):
        for base in names[:index]:
            yield base, name, values[name] - values[base]


def with_changes(values: Mapping[str, T]) -> Iterable[tuple[str, T, str]]:
    """Every name with its value, then with its `changes` and the suffix of their measure."""
    yield from ((name, value, "") for name, value in values.items())
    yield from ((name, value, f"_change_over_{base}") for base, name, value in changes(values))


def sample_counts(number: int) -> np.ndarray:
    """How often each of a number of queries counts: once, and then in bootstrap samples."""
    shares = np.full(number, 1 / number)
    draws = np.random.default_rng(0).multinomial(number, shares, size=metrics.NUM_SAMPLES)
    return np.vstack([np.ones(number), draws])


def sample_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean of values (num_queries,) in each row of `sample_counts`; NaN is left out."""
    has = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # a sample may miss every value
        return counts[:, has] @ values[has] / counts[:, has].sum(axis=1)


def sample_rows(
    samples: Mapping[tuple, np.ndarray], rivals: Mapping[str, tuple[int, str]]
) -> list[tuple]:
    """Rows of what was measured, with its interval, and of its change over a rival's.

    The last part of each key is a metric. The first one says which other part is replaced, and by
    what, in the key of its rival.
    """
    rows = []
    for key, values in samples.items():
        place, name = rivals[key[0]]
        rival, told = (*key[:place], name, *key[place + 1 :]), {key: values}
        if rival != key and rival in samples:
            told[(*key[:-1], f"{key[-1]}_change")] = values - samples[rival]
        for labels, of in told.items():
            rows.append((*labels, of[0], *np.nanquantile(of[1:], metrics.TAILS)))
    return rows

"""Tables of what becomes of single cues under encoders: means over views and over training seeds.

Encoders of one name are one training with several seeds. Measures are averaged over them, view by
view, and then bootstrapped over views; the smallest and the largest mean of a single seed stand
beside. An encoder is compared with another by its change within each view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from daitir import metrics
from daitir.analysis.geometry.pairs import CUES
from daitir.analysis.geometry.pairs import PAIR_KINDS as KINDS
from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_tensors
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.finetuned import CONFIG_NAME
from daitir.studies.cues.samples import CueSample
from daitir.studies.profiles import Profile
from daitir.studies.training_sets import encoder_folder

CUE_COLUMNS = (
    "measure", "encoder", "where", "cue", "kind", "value", "ci_low", "ci_high", "num_views",
    "num_seeds", "seed_low", "seed_high",
)  # fmt: skip
TRAINED = ("finetune_text", "dmcl")
SHARE_MEASURES = (
    "area", "pointing", "pointing_shuffled", "readable", "share", "share_in_null_space",
    "share_in_span", "share_shuffled",
)  # fmt: skip
"""The measures that lie between 0 and 1; nothing bounds the others."""
T = TypeVar("T")


class Rows:
    """Rows of a table of means over views."""

    def __init__(self):
        self.rows: list[tuple] = []

    def add(
        self, measure: str, encoder: str, values: np.ndarray, *, kind: str = "", **options
    ) -> None:
        """One row: the mean over views and seeds, `link` applied to it and its bounds.

        `values` are (num_views,) or (num_seeds, num_views). NaN stands for a view without a value;
        fewer than two views that have one under every seed give no row.
        """
        self.add_all(measure, encoder, {("all", kind): values}, **options)

    def add_all(
        self,
        measure: str,
        encoder: str,
        values: Mapping[tuple[str, str], np.ndarray],
        *,
        where: str = "",
        link: Callable = float,
    ) -> None:
        """Rows as of `add`, of values by cue and kind; they share the samples of the bootstrap."""
        means = {place: np.atleast_2d(of_seeds).mean(axis=0) for place, of_seeds in values.items()}
        means = {place: mean for place, mean in means.items() if (~np.isnan(mean)).sum() > 1}
        if not means:
            return
        columns = np.stack(list(means.values()), axis=1)
        intervals = metrics.bootstrap_interval(columns, bounds=_bounds(measure))
        for (place, mean), low, high in zip(means.items(), *intervals, strict=True):
            has = ~np.isnan(mean)
            singles = [link(single) for single in np.atleast_2d(values[place])[:, has].mean(axis=1)]
            self.put(measure, encoder, (link(mean[has].mean()), link(low), link(high)),
                     int(has.sum()), singles, where=where, cue=place[0], kind=place[1])  # fmt: skip

    def compare(
        self, measure: str, values: Mapping[str, np.ndarray], *, where: str = "", kind: str = ""
    ) -> None:
        """A row of each encoder, and rows of its change over each that stands before it.

        `values` by encoder as in `add`; the change, within each view and from seed to seed, is the
        measure `<measure>_change_over_<earlier encoder>`.
        """
        for name, column, over in with_changes(values):
            self.add(f"{measure}{over}", name, column, where=where, kind=kind)

    def put(
        self,
        measure: str,
        encoder: str,
        bounds: tuple[float, float, float],
        number: int,
        singles: Sequence[float],
        *,
        where: str = "",
        cue: str = "all",
        kind: str = "",
    ) -> None:
        """One row as it is: a value with its bounds, of `number` views, and that of each seed."""
        self.rows.append((measure, encoder, where, cue, kind, *bounds, number, len(singles),
                          min(singles), max(singles)))  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """The rows with the columns `CUE_COLUMNS`, numbers to four significant digits."""
        table = pd.DataFrame(self.rows, columns=list(CUE_COLUMNS))
        for column in ("value", "ci_low", "ci_high", "seed_low", "seed_high"):
            table[column] = [float(f"{x:.4g}") for x in table[column]]
        return table


class CueTable(Rows):
    """Rows from a value for each pair of a sample."""

    def __init__(self, sample: CueSample):
        super().__init__()
        self.sample = sample
        self._views = np.array([pair.view for pair in sample.pairs])

    def per_view(self, values: Tensor | np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Means of the chosen pairs' values by view, NaN without one.

        (num_pairs,) gives (num_views,), and (num_seeds, num_pairs) gives (num_seeds, num_views).
        """
        values = np.asarray(values, dtype=float)
        if values.ndim == 2:
            return np.stack([self.per_view(of_seed, chosen) for of_seed in values])
        number = len(self.sample.scenes)
        sums = np.bincount(self._views[chosen], values[chosen], minlength=number)
        counts = np.bincount(self._views[chosen], minlength=number)
        return np.divide(sums, counts, out=np.full(number, np.nan), where=counts > 0)

    def add_pairs(
        self, measure: str, encoder: str, values: Tensor, *, kind: str | None = None, **options
    ) -> None:
        """A row for each cue and kind of pairs' values, and one for all cues of a kind.

        With `kind`, such as noise: rows of hallucinated pairs alone, under that name. `values` are
        (num_pairs,) or (num_seeds, num_pairs).
        """
        places = {
            (cue, kind or of): self.sample.chosen(of, None if cue == "all" else cue)
            for of in (KINDS if kind is None else KINDS[:1])
            for cue in ("all", *CUES)
        }
        columns = {place: self.per_view(values, chosen) for place, chosen in places.items()}
        self.add_all(measure, encoder, columns, **options)

    def compare_pairs(self, measure: str, values: Mapping[str, Tensor], *, where: str = "") -> None:
        """As `compare`, for each cue and kind, of pairs' values by encoder."""
        for name, column, over in with_changes(values):
            self.add_pairs(f"{measure}{over}", name, column, where=where)

    def spread(self, values: Tensor) -> Tensor:
        """(num_seeds, num_pairs) from (num_seeds, num_hallucinated), NaN for the other pairs."""
        whole = torch.full((len(values), len(self.sample.pairs)), float("nan"))
        whole[:, torch.from_numpy(self.sample.chosen("hallucinated"))] = values.float().cpu()
        return whole


def _bounds(measure: str) -> metrics.Bounds:
    """The values between which a measure lies, None where nothing bounds it."""
    name, is_change, _ = measure.partition("_change_over_")
    if name not in SHARE_MEASURES:
        return None
    return metrics.DIFFERENCES if is_change else metrics.SHARES


def difference_of_means(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Mean of a less mean of b and its 95% interval; views are resampled, NaN left out of each.

    Unlike a paired bootstrap it keeps the views that have a value in one column only. Where the
    samples have one and the same difference, the interval is NaN.
    """
    counts = np.random.default_rng(0).multinomial(len(a), np.full(len(a), 1 / len(a)), size=1000)
    with np.errstate(invalid="ignore"):
        means = [counts @ np.nan_to_num(x) / (counts @ ~np.isnan(x)) for x in (a, b)]
    differences = means[0] - means[1]
    low, high = np.nanquantile(differences, [0.025, 0.975])
    if np.nanmin(differences) == np.nanmax(differences):
        low = high = np.nan
    return float(np.nanmean(a) - np.nanmean(b)), float(low), float(high)


def compared_encoders(
    profile: Profile, others: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Specs of the encoders of a study: the profile's as `before`, and those trained from it.

    Each name has a spec for each seed of its training. Without `others` they are the fine-tuning
    on text alone, which is the control, and DMCL, of all seeds that lie where the profile has its
    encoders; the package has three. Raises DataError for names with more than one seed each, but
    not as many.
    """
    if others is None:
        others = {}
        for name in TRAINED:
            folders = [encoder_folder(profile, name, s) for s in range(profile.num_encoder_seeds)]
            there = [folder for folder in folders if (folder / CONFIG_NAME).is_file()]
            others[name] = [f"finetuned:{folder}" for folder in there or folders[:1]]
    numbers = {name: len(specs) for name, specs in others.items()}
    if len(set(numbers.values()) - {1}) > 1:
        raise DataError(
            f"encoders with seeds {numbers}: seeds are compared with seeds, so give each name as "
            "many, or one"
        )
    return {"before": [profile.encoder], **{name: list(specs) for name, specs in others.items()}}


def load_compared(
    profile: Profile, others: Mapping[str, Sequence[str]] | None, device: str
) -> dict[str, list[Encoder]]:
    """The encoders of `compared_encoders`."""
    specs = compared_encoders(profile, others)
    return {n: [load_encoder(s, device=device) for s in seeds] for n, seeds in specs.items()}


def digests_of(encoders: Mapping[str, Sequence[Encoder]]) -> dict[str, str]:
    """What tells an encoder from others, by `name/number`."""
    return {f"{n}/{i}": e.digest for n, seeds in encoders.items() for i, e in enumerate(seeds)}


def earlier_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Every name with each that stands before it: what a ratio or difference is taken to.

    >>> earlier_pairs(["before", "finetune_text", "dmcl"])
    [('before', 'finetune_text'), ('before', 'dmcl'), ('finetune_text', 'dmcl')]
    """
    names = list(names)
    return [(base, name) for index, name in enumerate(names) for base in names[:index]]


def changes(values: Mapping[str, T]) -> Iterable[tuple[str, str, T]]:
    """For `earlier_pairs`: the earlier name, the later one, and the difference of their values.

    >>> list(changes({"before": np.array([[1.0]]), "after": np.array([[2.0], [4.0]])}))
    [('before', 'after', array([[1.],
           [3.]]))]
    """
    for base, name in earlier_pairs(values):
        yield base, name, values[name] - values[base]


def with_changes(values: Mapping[str, T]) -> Iterable[tuple[str, T, str]]:
    """Every name with its value, then with its `changes` and the suffix of their measure."""
    yield from ((name, value, "") for name, value in values.items())
    yield from ((name, value, f"_change_over_{base}") for base, name, value in changes(values))


def seeds_together(a: Sequence[T], b: Sequence[T]) -> list[tuple[T, T]]:
    """The values of two names, paired by seed; a single one is paired with every seed of the other.

    >>> seeds_together(["before"], ["dmcl 0", "dmcl 1"])
    [('before', 'dmcl 0'), ('before', 'dmcl 1')]
    """
    if len(a) == len(b):
        return list(zip(a, b, strict=True))
    return list(zip(repeat(a[0]), b)) if len(a) == 1 else list(zip(a, repeat(b[0])))


def kept_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a file; where there is none yet they are made and kept there."""
    if not path.is_file():
        made = {name: tensor.contiguous() for name, tensor in make().items()}
        with atomic_write(path) as temporary:
            save_file(made, temporary)
    return read_tensors(path)[0]

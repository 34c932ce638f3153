"""The null space in our world: what becomes of one cue under an encoder, before and after training.

Every number is a mean over views with a bootstrap interval over views; statistics of a whole space
have a jackknife interval. `daitir geometry` writes them into one table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daitir import metrics
from daitir.attention import image_pixels
from daitir.encoders import Encoder, load_encoder
from daitir.evaluation import write_results
from daitir.files import atomic_write, weights_digest
from daitir.fusion import dar_fusion
from daitir.geometry import nullspace, probes, spaces
from daitir.geometry.pairs import (
    CUES,
    KINDS,
    CueFeatures,
    CueSample,
    encode_cues,
    sample_cues,
)
from daitir.profiles import Profile
from daitir.provenance import versions
from daitir.queries import SEED, manifest_of, queries_folder
from daitir.scenes import render_scenes, sample_scenes
from daitir.training.finetune import encoder_folder
from daitir.training.fusion import fusion_folder, load_fusion

COLUMNS = ("measure", "encoder", "where", "cue", "kind", "value", "ci_low", "ci_high", "num_views")
NUM_PROBE_SCENES, NUM_DERIVED = 2000, 30  # pictures for probes, views for derivatives
NUM_GALLERY = 2000
TRAINED = ("finetune_text", "dmcl")
SPANS = 50  # random subspaces of the null


class Rows:
    """Rows of a table of means over views."""

    def __init__(self):
        self.rows: list[tuple] = []

    def add(
        self,
        measure: str,
        encoder: str,
        values: np.ndarray,
        *,
        where: str = "",
        cue: str = "all",
        kind: str = "",
        link: Callable = float,
    ) -> None:
        """One row: the mean over views of (num_views,) values, `link` applied to it and its bounds.

        NaN stands for a view without a value; fewer than two views give no row.
        """
        number = int((~np.isnan(values)).sum())
        if number > 1:
            found = (np.nanmean(values), *metrics.bootstrap_interval(values))
            self.put(measure, encoder, *map(link, found), number, where=where, cue=cue, kind=kind)

    def put(
        self,
        measure: str,
        encoder: str,
        value: float,
        low: float,
        high: float,
        number: int,
        *,
        where: str = "",
        cue: str = "all",
        kind: str = "",
    ) -> None:
        """One row as it is."""
        self.rows.append((measure, encoder, where, cue, kind, value, low, high, number))

    def frame(self) -> pd.DataFrame:
        """The rows with the columns `COLUMNS`."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS))


class CueTable(Rows):
    """Rows from a value for each pair of a sample."""

    def __init__(self, sample: CueSample):
        super().__init__()
        self.sample = sample
        self._views = np.array([pair.view for pair in sample.pairs])

    def per_view(self, values: Tensor | np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(num_views,) means of the chosen pairs' (num_pairs,) values, NaN without one."""
        values, number = np.asarray(values, dtype=float)[chosen], len(self.sample.scenes)
        sums = np.bincount(self._views[chosen], values, minlength=number)
        counts = np.bincount(self._views[chosen], minlength=number)
        return np.divide(sums, counts, out=np.full(number, np.nan), where=counts > 0)

    def add_pairs(
        self, measure: str, encoder: str, values: Tensor, *, where: str = "", link: Callable = float
    ) -> None:
        """A row for each cue and kind of (num_pairs,) values, and one for all cues of a kind."""
        for kind in KINDS:
            for cue in ("all", *CUES):
                chosen = self.sample.chosen(kind, None if cue == "all" else cue)
                self.add(measure, encoder, self.per_view(values, chosen), where=where, cue=cue,
                         kind=kind, link=link)  # fmt: skip


def difference_of_means(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Mean of a less mean of b and its 95% interval; views are resampled, NaN left out of each.

    Unlike a paired bootstrap it keeps the views that have a value in one column only.
    """
    counts = np.random.default_rng(0).multinomial(len(a), np.full(len(a), 1 / len(a)), size=1000)
    with np.errstate(invalid="ignore"):
        means = [counts @ np.nan_to_num(x) / (counts @ ~np.isnan(x)) for x in (a, b)]
    low, high = np.nanquantile(means[0] - means[1], [0.025, 0.975])
    return float(np.nanmean(a) - np.nanmean(b)), float(low), float(high)


def add_attenuation(table: CueTable, features: Mapping[str, CueFeatures]) -> None:
    """(a) Lengths of δ, and their ratio to those of an earlier encoder (`where`).

    `attenuation_beyond` divides the ratio by that of something else (`kind`): noise as far away in
    pixels as the cue, or cues of the same type that are supported or lucky.
    """
    sample = table.sample
    false = torch.from_numpy(sample.chosen("hallucinated"))
    for name, found in features.items():
        table.add_pairs("length", name, found.displacements(sample).norm(dim=-1))
    for base, name in earlier_pairs(features):
        both = features[base], features[name]
        log_ratio = nullspace.attenuation(*(f.displacements(sample) for f in both))
        table.add_pairs("attenuation", name, log_ratio, where=base, link=math.exp)
        for kind, inside in (("noise", False), ("noise inside", True)):
            of_noise = torch.full((len(sample.pairs),), float("nan"))
            of_noise[false] = nullspace.attenuation(
                *(f.noise_displacements(sample, inside=inside) for f in both)
            )
            for measure, values in (
                ("attenuation", of_noise),
                ("attenuation_beyond", log_ratio - of_noise),
            ):
                for cue in ("all", *CUES):
                    chosen = sample.chosen("hallucinated", None if cue == "all" else cue)
                    table.add(measure, name, table.per_view(values, chosen), where=base, cue=cue,
                              kind=kind, link=math.exp)  # fmt: skip
        for cue in CUES:
            for other in KINDS[1:]:
                columns = [
                    table.per_view(log_ratio, sample.chosen(kind, cue))
                    for kind in (KINDS[0], other)
                ]
                number = min(int((~np.isnan(column)).sum()) for column in columns)
                if number > 1:
                    bounds = map(math.exp, difference_of_means(*columns))
                    table.put("attenuation_beyond", name, *bounds, number, where=base, cue=cue,
                              kind=other)  # fmt: skip


def add_directions(table: CueTable, features: Mapping[str, CueFeatures]) -> None:
    """(b) Share of δ in the span that separates gallery images, angles, and random subspaces."""
    sample = table.sample
    for name, found in features.items():
        delta = found.displacements(sample)
        span = nullspace.target_span(found.gallery)
        dim = span.shape[1]
        table.put("span_directions", name, *[float(len(span))] * 3, len(found.gallery))
        table.add_pairs("share_in_span", name, nullspace.share_in_span(delta, span))
        for kind, inside in (("noise", False), ("noise inside", True)):
            shares = torch.full((len(sample.pairs),), float("nan"))
            chosen = sample.chosen("hallucinated")
            shares[torch.from_numpy(chosen)] = nullspace.share_in_span(
                found.noise_displacements(sample, inside=inside), span
            )
            table.add("share_in_span", name, table.per_view(shares, chosen), kind=kind)
        false = delta[torch.from_numpy(sample.chosen("hallucinated"))]
        randoms = [nullspace.random_span(len(span), dim, seed=seed) for seed in range(SPANS)]
        null = [float(nullspace.share_in_span(false, r).mean()) for r in randoms]
        table.put("share_in_span", name, np.mean(null), *np.quantile(null, [0.025, 0.975]),
                  SPANS, kind="random span")  # fmt: skip
        for kind in KINDS[:2]:
            chosen = spaces.unit(delta[torch.from_numpy(sample.chosen(kind))])
            _, values, directions = torch.linalg.svd(chosen.double(), full_matrices=False)
            shares = (values.square() / values.square().sum()).cumsum(dim=0)
            main = directions[: int((shares < 0.9).sum()) + 1].float()
            angle = float(nullspace.principal_angles(main, span).mean())
            null = [float(nullspace.principal_angles(main, r).mean()) for r in randoms]
            table.put("mean_angle", name, angle, angle, angle, len(chosen), kind=kind)
            table.put("mean_angle", name, np.mean(null), *np.quantile(null, [0.025, 0.975]), SPANS,
                      where="random span", kind=kind)  # fmt: skip


def add_removal(
    table: CueTable, features: Mapping[str, CueFeatures], scales: Mapping[str, float]
) -> None:
    """(c) What projecting δ out of the view, and of DAR's query, does to logit and rank."""
    sample = table.sample
    index = torch.tensor([pair.view for pair in sample.pairs])
    generator = torch.Generator().manual_seed(SEED)
    for name, found in features.items():
        delta = found.displacements(sample)
        random = torch.randn(delta.shape, generator=generator)
        queries = {
            "view": found.views[index],
            "dar": dar_fusion(found.texts, found.views, round=sample.rounds)[index],
        }  # fmt: skip
        for where, query in queries.items():
            for measure, direction in (("removal", delta), ("random_removal", random)):
                effect = nullspace.effect_of_removal(
                    query, nullspace.project_out(query, direction), found.gallery, index,
                    logit_scale=scales[name],
                )  # fmt: skip
                table.add_pairs(f"{measure}_logit", name, effect.logits, where=where)
                table.add_pairs(f"{measure}_log_rank", name, effect.log_ranks, where=where)
        undone = nullspace.effect_of_removal(
            found.views[index], found.changed, found.gallery, index, logit_scale=scales[name]
        )
        table.add_pairs("undo_logit", name, undone.logits, where="view")
        table.add_pairs("undo_log_rank", name, undone.log_ranks, where="view")


def add_linear(
    table: CueTable, encoders: Mapping[str, Encoder], features: Mapping[str, CueFeatures]
) -> None:
    """(d) Derivatives along the cues, and what the last projection loses."""
    sample = table.sample
    number = min(NUM_DERIVED, len(sample.scenes))
    some = [k for k, pair in enumerate(sample.pairs) if pair.view < number]
    order = {k: n for n, k in enumerate(np.flatnonzero(sample.chosen("hallucinated")))}
    for name, encoder in encoders.items():
        slopes = torch.full((2, len(sample.pairs)), float("nan"))
        for view in range(number):
            mine = [k for k in some if sample.pairs[k].view == view]
            if not mine:
                continue
            point = image_pixels(encoder, [sample.images[view]])[0]
            tangents = image_pixels(encoder, list(sample.changed[mine])) - point
            slopes[0, mine] = nullspace.cue_jacobian(encoder, point, tangents).norm(dim=-1).cpu()
            false = [k for k in mine if k in order]
            if false:
                noisy = [sample.noise_inside[order[k]] for k in false]
                tangents = image_pixels(encoder, noisy) - point
                along = nullspace.cue_jacobian(encoder, point, tangents)
                slopes[1, false] = along.norm(dim=-1).cpu()
        table.add_pairs("slope", name, slopes[0])
        noise = table.per_view(slopes[1], sample.chosen("hallucinated"))
        table.add("slope", name, noise, kind="noise inside")
        null = nullspace.null_basis(encoder.model.visual.proj.detach().cpu())
        found = features[name]
        delta = found.raw_views[[pair.view for pair in sample.pairs]] - found.raw_changed
        table.add_pairs("share_in_null_space", name, nullspace.share_in_span(delta, null))
        expected = len(null) / null.shape[1]
        table.put("share_in_null_space", name, *[expected] * 3, len(null), kind="random")


def add_probes(table: CueTable, encoders: Mapping[str, Encoder], profile: Profile) -> None:
    """(e) How well each cue can be read off each layer: area under the ROC curve, over views.

    Probes are trained on pictures of other scenes. For a fact that a view shows, the value is the
    share of the views without it that the probe gives a lower score.
    """
    sample = table.sample
    scenes = sample_scenes(SEED, "train", NUM_PROBE_SCENES)
    images = render_scenes(scenes, size=profile.image_size)
    labels = [set(scene.own_facts) for scene in scenes]
    shown = [set(scene.own_facts) for scene in sample.scenes]
    facts = sorted({pair.fact for pair in sample.pairs}, key=str)
    for name, encoder in encoders.items():
        train, test = (
            probes.layer_features(encoder, image_pixels(encoder, list(part)))
            for part in (images, sample.images)
        )
        for layer, (rows, others) in enumerate(zip(train, test, strict=True)):
            probe = probes.fit_probe(rows, labels)
            scores = probe.scores(others)
            area = torch.full((len(sample.pairs),), float("nan"))
            for fact in facts:
                if fact not in probe.classes:
                    continue  # never seen in training
                column = scores[:, probe.classes.index(fact)]
                absent = torch.tensor([fact not in some for some in shown])
                mine = [k for k, pair in enumerate(sample.pairs) if pair.fact == fact]
                views = [sample.pairs[k].view for k in mine]
                area[mine] = probes.beaten_shares(column[views], column[absent]).float()
            where = "feature" if layer == len(train) - 1 else f"layer {layer}"
            table.add_pairs("readable", name, area, where=where)


def add_fusions(
    table: CueTable, found: CueFeatures, fusions: Mapping[str, Sequence[nn.Module]]
) -> None:
    """What DAR and trained fusions do with δ: its gain, and how much the residual cancels."""
    sample = table.sample
    index = [pair.view for pair in sample.pairs]
    text, delta = found.texts[index], found.displacements(sample)
    pair = (found.views[index], found.changed)
    fused = [dar_fusion(text, view, round=sample.rounds[index]) for view in pair]
    gain = (fused[0] - fused[1]).norm(dim=-1) / delta.norm(dim=-1)
    table.add_pairs("fusion_gain", "before", gain, where="dar")
    for name, models in fusions.items():
        gains, cosines = [], []
        for model in models:
            residuals: list[Tensor] = []
            hook = model.output.register_forward_hook(
                lambda module, inputs, output, into=residuals: into.append(output)
            )
            with torch.no_grad():
                fused = [model(text, view)[0] for view in pair]
            hook.remove()
            gains.append((fused[0] - fused[1]).norm(dim=-1) / delta.norm(dim=-1))
            cosines.append(torch.cosine_similarity(residuals[0] - residuals[1], delta, dim=-1))
        table.add_pairs("fusion_gain", "before", torch.stack(gains).mean(dim=0), where=name)
        table.add_pairs("residual_cosine", "before", torch.stack(cosines).mean(dim=0), where=name)


def add_spaces(table: CueTable, features: Mapping[str, CueFeatures]) -> None:
    """Gap, alignment, uniformity, rank of texts, views and targets, and CKA before with after."""
    number = len(table.sample.scenes)
    sets = {
        name: {"text": f.texts, "view": f.views, "target": f.gallery[:number]}
        for name, f in features.items()
    }

    def put(measure: str, encoder: str, where: str, statistic: Callable, *parts: Tensor) -> None:
        bounds = spaces.jackknife(statistic, *parts)
        table.put(measure, encoder, *bounds, len(parts[0]), where=where)

    for name, parts in sets.items():
        for a, b in (("text", "target"), ("text", "view"), ("view", "target")):
            where = f"{a}–{b}"
            put("modality_gap", name, where, spaces.modality_gap, parts[a], parts[b])
            values = spaces.alignment_values(parts[a], parts[b]).numpy()
            table.add("alignment", name, values, where=where)
        for where, part in parts.items():
            put("uniformity", name, where, spaces.uniformity, part)
            put("effective_rank", name, where, spaces.effective_rank, part)
    first, *others = sets
    for name in others:
        for where, part in sets[name].items():
            put("cka", name, where, spaces.linear_cka, sets[first][where], part)


def compared_encoders(profile: Profile, others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Specs of the encoders of a study: the profile's as `before`, and those trained from it.

    Without `others` those are the fine-tuning on text alone, the control, and DMCL, of seed 0.
    """
    if others is None:
        others = {name: f"finetuned:{encoder_folder(profile, name, 0)}" for name in TRAINED}
    return {"before": profile.encoder, **others}


def earlier_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Every name with each that stands before it: what a ratio or difference is taken to.

    >>> earlier_pairs(["before", "finetune_text", "dmcl"])
    [('before', 'finetune_text'), ('before', 'dmcl'), ('finetune_text', 'dmcl')]
    """
    names = list(names)
    return [(base, name) for index, name in enumerate(names) for base in names[:index]]


def run_geometry(
    profile: Profile,
    others: Mapping[str, str] | None = None,
    *,
    work_dir: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Measure the profile's encoder and others and write `results/<profile>_geometry.csv`.

    Args:
        others: specs of the encoders to compare, by name, as in `compared_encoders`.
        work_dir: keeps features, so that an interrupted run continues.

    Returns the path of the table. Raises DataError as `sample_cues` and `load_encoder` do.
    """
    began = time.perf_counter()
    specs = compared_encoders(profile, others)
    encoders = {name: load_encoder(spec, device=device) for name, spec in specs.items()}
    options = {"num_workers": num_workers, "progress": progress}
    sample = sample_cues(profile, encoders["before"], **options)
    gallery = render_scenes(
        sample_scenes(SEED, "test", min(NUM_GALLERY, profile.num_gallery)),
        size=profile.image_size,
        **options,
    )
    features = {}
    for name, encoder in encoders.items():
        digest = weights_digest(encoder.model)[:16]
        path = work_dir / f"{digest}_{len(sample.pairs)}_{len(gallery)}.safetensors"
        if not path.is_file():
            made = encode_cues(sample, gallery, encoder, progress=progress)
            with atomic_write(path) as temporary:
                save_file({k: v.contiguous() for k, v in vars(made).items()}, temporary)
        features[name] = CueFeatures(**load_file(path))
    table = CueTable(sample)
    add_spaces(table, features)
    add_attenuation(table, features)
    add_directions(table, features)
    add_removal(table, features, {name: e.logit_scale for name, e in encoders.items()})
    add_linear(table, encoders, features)
    add_probes(table, encoders, profile)
    folders = [fusion_folder(profile, "adafuse", s) for s in range(profile.num_fusion_seeds)]
    models = [load_fusion(folder, dim=encoders["before"].dim) for folder in folders]
    add_fusions(table, features["before"], {"adafuse": models})
    path = results_dir / f"{profile.name}_geometry.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "encoders": {name: weights_digest(e.model) for name, e in encoders.items()},
        "views": len(sample.scenes),
        "gallery": len(gallery),
        "pairs": len(sample.pairs),
        "unseen_pairs": sample.num_unseen,
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_results(path, table.frame(), notes)
    return path

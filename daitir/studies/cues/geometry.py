"""The null space in our world: what becomes of one cue under an encoder, before and after training.

Every number is a mean over views with a bootstrap interval over views; statistics of a whole space
have a jackknife interval. Encoders are lists by name, one for each training seed. `daitir study
geometry` writes them into one table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from daitir.analysis.attention import image_pixels
from daitir.analysis.geometry import nullspace, probes, spaces
from daitir.analysis.geometry.pairs import CUES
from daitir.analysis.geometry.pairs import PAIR_KINDS as KINDS
from daitir.fusion import dar_fusion
from daitir.models.encoders import Encoder
from daitir.recipes.fusion import load_fusion
from daitir.scenes import render_scenes, sample_scenes
from daitir.studies.cues.samples import CueFeatures, CueSample, cue_slopes, encode_cues, sample_cues
from daitir.studies.cues.tables import (
    CueTable,
    changes,
    difference_of_means,
    digests_of,
    earlier_pairs,
    kept_tensors,
    load_compared,
    seeds_together,
    with_changes,
)
from daitir.studies.engine.conditions import Instrument
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED
from daitir.studies.training_sets import fusion_folder

NUM_PROBE_SCENES, NUM_DERIVED = 2000, 255  # pictures for probes, views for derivatives
NUM_GALLERY = 2000
SPANS = 50  # random subspaces of the null
NOISES = (("noise", False), ("noise inside", True))  # kinds of noise, and whether inside the cue

Features = Mapping[str, Sequence[CueFeatures]]


def add_attenuation(table: CueTable, features: Features) -> None:
    """(a) Lengths of δ, and their ratio to those of an earlier encoder (`where`).

    `attenuation_beyond` divides the ratio by that of something else (`kind`): noise as far away in
    pixels as the cue, or cues of the same type that are supported or lucky.
    """
    sample = table.sample
    for name, seeds in features.items():
        lengths = torch.stack([encoded.displacements(sample).norm(dim=-1) for encoded in seeds])
        table.add_pairs("length", name, lengths)
    for base, name in earlier_pairs(features):
        both = seeds_together(features[base], features[name])
        ratios = torch.stack([
            nullspace.attenuation(*(f.displacements(sample) for f in pair)) for pair in both
        ])  # fmt: skip
        table.add_pairs("attenuation", name, ratios, where=base, link=math.exp)
        for kind, inside in NOISES:
            of_noise = table.spread(torch.stack([
                nullspace.attenuation(*(f.noise_displacements(sample, inside=inside) for f in pair))
                for pair in both
            ]))  # fmt: skip
            for measure, values in (
                ("attenuation", of_noise),
                ("attenuation_beyond", ratios - of_noise),
            ):
                table.add_pairs(measure, name, values, where=base, kind=kind, link=math.exp)
        for cue in CUES:
            for other in KINDS[1:]:
                columns = [
                    table.per_view(ratios, sample.chosen(kind, cue)) for kind in (KINDS[0], other)
                ]
                number = min(int((~np.isnan(column[0])).sum()) for column in columns)
                if number > 1:
                    bounds = difference_of_means(*(column.mean(axis=0) for column in columns))
                    singles = np.subtract(*(np.nanmean(column, axis=1) for column in columns))
                    table.put("attenuation_beyond", name, tuple(map(math.exp, bounds)), number,
                              np.exp(singles), where=base, cue=cue, kind=other)  # fmt: skip


def add_directions(table: CueTable, features: Features) -> None:
    """(b) Share of δ in the span that separates gallery images, angles, and random subspaces."""
    sample, shares = table.sample, {}
    false = torch.from_numpy(sample.chosen("hallucinated"))
    for name, seeds in features.items():
        delta = torch.stack([encoded.displacements(sample) for encoded in seeds])
        spans = [nullspace.target_span(encoded.gallery) for encoded in seeds]
        sizes = [float(len(span)) for span in spans]
        size = float(np.mean(sizes))
        table.put("span_directions", name, (size,) * 3, len(seeds[0].gallery), sizes)
        shares[name] = torch.stack(list(map(nullspace.share_in_span, delta, spans)))
        for kind, inside in NOISES:
            of_noise = torch.stack([
                nullspace.share_in_span(f.noise_displacements(sample, inside=inside), span)
                for f, span in zip(seeds, spans, strict=True)
            ])  # fmt: skip
            everywhere = table.per_view(table.spread(of_noise), false.numpy())
            table.add("share_in_span", name, everywhere, kind=kind)
        randoms = [
            [nullspace.random_span(len(span), span.shape[1], seed=n) for n in range(SPANS)]
            for span in spans
        ]
        put_null(table, "share_in_span", name, [
            [float(nullspace.share_in_span(displaced[false], r).mean()) for r in draws]
            for displaced, draws in zip(delta, randoms, strict=True)
        ], kind="random span")  # fmt: skip
        for kind in KINDS[:2]:
            chosen = delta[:, torch.from_numpy(sample.chosen(kind))]
            main = [nullspace.main_directions(spaces.unit(d))[0].float() for d in chosen]
            angles = [
                float(nullspace.principal_angles(directions, span).mean())
                for directions, span in zip(main, spans, strict=True)
            ]
            table.put("mean_angle", name, (float(np.mean(angles)),) * 3, chosen.shape[1], angles,
                      kind=kind)  # fmt: skip
            put_null(table, "mean_angle", name, [
                [float(nullspace.principal_angles(directions, r).mean()) for r in draws]
                for directions, draws in zip(main, randoms, strict=True)
            ], where="random span", kind=kind)  # fmt: skip
    table.compare_pairs("share_in_span", shares)


def put_null(
    table: CueTable, measure: str, encoder: str, values: Sequence[Sequence[float]], **place: str
) -> None:
    """A row of `values[seed][draw]`: their mean, and the range that holds 95% of the draws."""
    of_draws = np.mean(values, axis=0)
    bounds = (of_draws.mean(), *np.quantile(of_draws, [0.025, 0.975]))
    table.put(measure, encoder, bounds, len(of_draws), np.mean(values, axis=1), **place)


def add_removal(table: CueTable, features: Features, scales: Mapping[str, Sequence[float]]) -> None:
    """(c) The effect of projecting δ out of the view, and of DAR's query, on logit and rank.

    And the effect of undoing the cue in the picture. All encoders share one random direction.
    """
    sample = table.sample
    index = torch.tensor([pair.view for pair in sample.pairs])
    shape = features["before"][0].changed.shape
    random = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))

    def effects(encoded: CueFeatures, scale: float) -> dict[tuple[str, str], Tensor]:
        fused = dar_fusion(encoded.texts, encoded.views, round=sample.rounds)
        queries = {"view": encoded.views[index], "dar": fused[index]}
        changed = {("undo", "view"): (queries["view"], encoded.changed)}
        for where, query in queries.items():
            for name, directions in (("removal", encoded.displacements(sample)),
                               ("random_removal", random)):  # fmt: skip
                changed[name, where] = (query, nullspace.project_out(query, directions))
        effect = {}
        for (name, where), pair in changed.items():
            effect[f"{name}_logit", where], effect[f"{name}_log_rank", where] = (
                nullspace.effect_of_removal(*pair, encoded.gallery, index, logit_scale=scale)
            )
        return effect

    of_names = {
        name: [effects(encoded, scale) for encoded, scale in zip(seeds, scales[name], strict=True)]
        for name, seeds in features.items()
    }
    for measure, where in of_names["before"][0]:
        values = {
            name: torch.stack([effect[measure, where] for effect in seeds])
            for name, seeds in of_names.items()
        }
        if not measure.startswith("random"):
            table.compare_pairs(measure, values, where=where)
            continue
        for name, of_seeds in values.items():
            for kind in KINDS:
                of_kind = table.per_view(of_seeds, sample.chosen(kind))
                table.add(measure, name, of_kind, where=where, kind=kind)


def add_linear(
    table: CueTable,
    encoders: Mapping[str, Sequence[Encoder]],
    features: Features,
    slopes: Mapping[str, Sequence[Mapping[str, Tensor]]],
) -> None:
    """(d) Derivatives along the cues (`cue_slopes`), and what the last projection loses.

    `slope_ratio` divides by an earlier encoder's slope (`where`); `slope_ratio_beyond` divides that
    by the ratio of noise in the same pixels.
    """
    sample, lost, logs = table.sample, {}, {}
    for name, seeds in encoders.items():
        along = torch.stack([lengths["cues"] for lengths in slopes[name]])
        of_noise = table.spread(torch.stack([lengths["noise_inside"] for lengths in slopes[name]]))
        table.add_pairs("slope", name, along)
        noise = table.per_view(of_noise, sample.chosen("hallucinated"))
        table.add("slope", name, noise, kind="noise inside")
        logs[name] = torch.stack([along, of_noise]).log()
        nulls = [nullspace.null_basis(e.model.visual.proj.detach().cpu()) for e in seeds]
        index = [pair.view for pair in sample.pairs]
        lost[name] = torch.stack([
            nullspace.share_in_span(encoded.raw_views[index] - encoded.raw_changed, null)
            for encoded, null in zip(features[name], nulls, strict=True)
        ])  # fmt: skip
        expected = [len(null) / null.shape[1] for null in nulls]
        bounds = (float(np.mean(expected)),) * 3
        table.put("share_in_null_space", name, bounds, len(nulls[0]), expected, kind="random")
    table.compare_pairs("share_in_null_space", lost)
    for base, name, (along, of_noise) in changes(logs):
        table.add_pairs("slope_ratio", name, along, where=base, link=math.exp)
        for measure, values in (("ratio", of_noise), ("ratio_beyond", along - of_noise)):
            table.add_pairs(f"slope_{measure}", name, values, where=base, kind="noise inside",
                            link=math.exp)  # fmt: skip


def add_probes(table: CueTable, areas: Mapping[str, Tensor]) -> None:
    """(e) How well each cue can be read off each layer: area under the ROC curve, over views.

    `areas` are those of `readable`, (num_seeds, num_layers, num_pairs) by encoder.
    """
    last = areas["before"].shape[1] - 1
    for layer in range(last):
        for name, of_seeds in areas.items():
            table.add_pairs("readable", name, of_seeds[:, layer], where=f"layer {layer}")
    features = {name: of_seeds[:, last] for name, of_seeds in areas.items()}
    table.compare_pairs("readable", features, where="feature")


def readable(sample: CueSample, encoder: Encoder, *, size: int) -> dict[str, Tensor]:
    """`areas` (num_layers, num_pairs): share of the views without a cue that its probe ranks lower.

    Probes are trained on pictures of other scenes; NaN where these never show the fact.
    """
    scenes = sample_scenes(SEED, "train", NUM_PROBE_SCENES)
    images = render_scenes(scenes, size=size)
    labels = [set(scene.own_facts) for scene in scenes]
    shown = [set(scene.own_facts) for scene in sample.scenes]
    train, test = (
        probes.layer_features(encoder, image_pixels(encoder, list(pictures)))
        for pictures in (images, sample.images)
    )
    areas = torch.full((len(train), len(sample.pairs)), float("nan"))
    for area, rows, others in zip(areas, train, test, strict=True):
        probe = probes.fit_probe(rows, labels)
        scores = probe.scores(others)
        for fact in {pair.fact for pair in sample.pairs} & set(probe.classes):
            column = scores[:, probe.classes.index(fact)]
            absent = torch.tensor([fact not in facts for facts in shown])
            mine = [k for k, pair in enumerate(sample.pairs) if pair.fact == fact]
            views = [sample.pairs[k].view for k in mine]
            area[mine] = probes.beaten_shares(column[views], column[absent]).float()
    return {"areas": areas}


def add_spaces(table: CueTable, features: Features) -> None:
    """Gap, alignment, uniformity, rank of texts, views and targets, and CKA before with after."""
    number = len(table.sample.scenes)
    sets = {
        name: [{"text": f.texts, "view": f.views, "target": f.gallery[:number]} for f in seeds]
        for name, seeds in features.items()
    }

    def put(measure: str, encoder: str, where: str, of_seeds: Tensor) -> None:
        bounds = spaces.jackknife_interval(of_seeds.mean(dim=0))
        table.put(measure, encoder, bounds, number, of_seeds[:, 0].tolist(), where=where)

    def compare(measure: str, statistic: Callable, *roles: str) -> None:
        values = {
            name: torch.stack([spaces.leave_out(statistic, *map(s.get, roles)) for s in seeds])
            for name, seeds in sets.items()
        }
        for name, of_seeds, over in with_changes(values):
            put(f"{measure}{over}", name, "–".join(roles), of_seeds)

    for roles in (("text", "target"), ("text", "view"), ("view", "target")):
        compare("modality_gap", spaces.modality_gap, *roles)
        table.compare("alignment", {
            name: np.stack([spaces.alignment_values(*map(s.get, roles)) for s in seeds])
            for name, seeds in sets.items()
        }, where="–".join(roles))  # fmt: skip
    first, *others = sets
    for role in ("text", "view", "target"):
        compare("uniformity", spaces.uniformity, role)
        compare("effective_rank", spaces.effective_rank, role)
        for name in others:
            similar = [
                spaces.leave_out(spaces.linear_cka, a[role], b[role])
                for a, b in seeds_together(sets[first], sets[name])
            ]
            put("cka", name, role, torch.stack(similar))


def add_fusions(
    table: CueTable, encoded: CueFeatures, fusions: Mapping[str, Sequence[nn.Module]]
) -> None:
    """What DAR and trained fusions do with δ: its gain, and how much the residual cancels."""
    sample = table.sample
    index = [pair.view for pair in sample.pairs]
    text, delta = encoded.texts[index], encoded.displacements(sample)
    pair = (encoded.views[index], encoded.changed)

    def gain(fused: Sequence[Tensor]) -> Tensor:
        return (fused[0] - fused[1]).norm(dim=-1) / delta.norm(dim=-1)

    fused = [dar_fusion(text, view, round=sample.rounds[index]) for view in pair]
    table.add_pairs("fusion_gain", "before", gain(fused), where="dar")
    for name, models in fusions.items():
        gains, cosines = [], []
        for model in models:
            residuals: list[Tensor] = []
            hook = model.output.register_forward_hook(
                lambda module, inputs, output, into=residuals: into.append(output)
            )
            with torch.no_grad():
                gains.append(gain([model(text, view)[0] for view in pair]))
            hook.remove()
            cosines.append(torch.cosine_similarity(residuals[0] - residuals[1], delta, dim=-1))
        table.add_pairs("fusion_gain", "before", torch.stack(gains).mean(dim=0), where=name)
        table.add_pairs("residual_cosine", "before", torch.stack(cosines).mean(dim=0), where=name)


def measure_geometry(
    profile: Profile,
    others: Mapping[str, Sequence[str]] | None = None,
    *,
    work_dir: Path,
    cache: Path | None = None,
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> tuple[pd.DataFrame, dict]:
    """Measure the profile's encoder and others: the rows of the table and what its notes tell.

    `others` are as in `compared_encoders`. `work_dir` keeps the measures; `cache` is not needed.
    """
    encoders = load_compared(profile, others, device)
    before = encoders["before"][0]
    options = {"num_workers": num_workers, "progress": progress}
    sample = sample_cues(profile, before, **options)
    scenes = sample_scenes(SEED, "test", min(NUM_GALLERY, profile.num_gallery))
    gallery = render_scenes(scenes, size=profile.image_size, **options)

    def made(make: Callable, ending: str, *extra, **options) -> dict[str, list[dict[str, Tensor]]]:
        """What `make` gives for the sample, `extra` and each encoder, by name."""
        by_name: dict[str, list[dict[str, Tensor]]] = {}
        for name, seeds in encoders.items():
            for encoder in seeds:
                stem = f"{encoder.digest[:16]}_{len(sample.pairs)}_{ending}"
                path = work_dir / f"{stem}.safetensors"
                tensors = kept_tensors(path, lambda e=encoder: make(sample, *extra, e, **options))
                by_name.setdefault(name, []).append(tensors)
        return by_name

    encoded = made(encode_cues, f"{len(gallery)}", gallery, progress=progress)
    features = {name: [CueFeatures(**rows) for rows in seeds] for name, seeds in encoded.items()}
    slopes = made(cue_slopes, f"slopes_{NUM_DERIVED}", num_views=NUM_DERIVED, progress=progress)
    areas = made(readable, f"areas_{NUM_PROBE_SCENES}", size=profile.image_size)
    table = CueTable(sample)
    add_spaces(table, features)
    add_attenuation(table, features)
    add_directions(table, features)
    scales = {n: [e.logit_scale for e in seeds] for n, seeds in encoders.items()}
    add_removal(table, features, scales)
    add_linear(table, encoders, features, slopes)
    add_probes(table, {n: torch.stack([s["areas"] for s in seeds]) for n, seeds in areas.items()})
    folders = [fusion_folder(profile, "adafuse", s) for s in range(profile.num_fusion_seeds)]
    models = [load_fusion(folder, dim=before.dim) for folder in folders]
    add_fusions(table, features["before"][0], {"adafuse": models})
    return table.frame(), {
        "encoders": digests_of(encoders),
        "views": len(sample.scenes),
        "gallery": len(gallery),
        "pairs": len(sample.pairs),
        "unseen_pairs": sample.num_unseen,
    }


INSTRUMENT = Instrument(
    "geometry",
    "What becomes of single cues under the profile's encoder and trained ones.",
    minutes=2,
    measure=measure_geometry,
)

"""The null space in our world: what becomes of one cue under an encoder, before and after training.

`daitir study geometry` writes the table. Every number is a mean over views with a bootstrap
interval over views; statistics of a whole space have a jackknife interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from daitir.analysis.attention import image_pixels
from daitir.analysis.geometry import nullspace, probes, spaces
from daitir.analysis.geometry.pairs import CUES, PAIR_KINDS
from daitir.fusion import dar_fusion
from daitir.models.encoders import Encoder
from daitir.recipes.fusion import load_fusion
from daitir.scenes import render_scenes, sample_scenes
from daitir.studies.cues.samples import NOISES, CueSample, cue_slopes, encode_cues, sample_cues
from daitir.studies.cues.tables import (
    CueTable,
    Rows,
    changes,
    difference_of_means,
    load_compared,
    measured,
    with_changes,
)
from daitir.studies.engine.conditions import Instrument
from daitir.studies.queries import SEED
from daitir.studies.training_sets import fusion_folder

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

NUM_PROBE_SCENES, NUM_DERIVED = 2000, 255  # pictures for probes, views for derivatives
NUM_GALLERY = 2000
SPANS = 50  # random subspaces of the null

# By encoder, what is measured of it, with an axis of seeds before the others.
Features = Mapping[str, Mapping[str, Tensor]]


def add_attenuation(table: CueTable, features: Features) -> None:
    """(a) Lengths of δ, and their ratio to those of an earlier encoder (`where`).

    `attenuation_beyond` divides the ratio by that of something else (`kind`): noise as far away in
    pixels as the cue, or cues of the same type that are supported or lucky.
    """
    logs, false = {}, table.sample.chosen("hallucinated")
    numbers = [len(false), *[int(false.sum())] * len(NOISES)]
    for name, of in features.items():
        lengths = [of[key].norm(dim=-1) for key in ("delta", *NOISES)]
        table.add("length", name, lengths[0])
        logs[name] = torch.cat(lengths, dim=1).log()
    for base, name, change in changes(logs):
        ratios, *of_noises = change.split(numbers, dim=1)
        table.add("attenuation", name, ratios, where=base)
        for kind, of_noise in zip(NOISES, of_noises, strict=True):
            beyond = ratios[:, false] - of_noise
            table.add("attenuation", name, of_noise, where=base, kind=kind)
            table.add("attenuation_beyond", name, beyond, where=base, kind=kind)
        columns = table.columns(ratios, "")
        for cue in CUES:
            for other in PAIR_KINDS[1:]:
                both = [columns[cue, kind] for kind in (PAIR_KINDS[0], other)]
                number = min(int((~np.isnan(column[0])).sum()) for column in both)
                if number > 1:
                    bounds = difference_of_means(*(column.mean(axis=0) for column in both))
                    singles = np.subtract(*(np.nanmean(column, axis=1) for column in both))
                    table.put("attenuation_beyond", name, np.exp(bounds), number, np.exp(singles),
                              where=base, cue=cue, kind=other)  # fmt: skip


def directions_of(sample: CueSample, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of one encoder: `share in span` of displacements and of noise, and means of nulls.

    `span` is the number of directions that separate gallery images, `null shares` (SPANS,) are of
    random subspaces, and `angles` (1 + SPANS,) of a kind's main directions with the span and those.
    """
    span = nullspace.target_span(of["gallery"])
    nulls = [nullspace.random_span(*span.shape, seed=number) for number in range(SPANS)]
    delta = {kind: of["delta"][sample.chosen(kind)] for kind in PAIR_KINDS[:2]}
    shares = [nullspace.share_in_span(delta["hallucinated"], null).mean() for null in nulls]
    values = {"span": torch.tensor([float(len(span))]), "null shares": torch.stack(shares)}
    for key in ("delta", *NOISES):
        values[f"{key} in span"] = nullspace.share_in_span(of[key], span)
    for kind, displaced in delta.items():
        main = nullspace.main_directions(spaces.unit(displaced))[0].float()
        angles = [nullspace.principal_angles(main, other).mean() for other in (span, *nulls)]
        values[f"angles {kind}"] = torch.stack(angles)
    return values


def add_directions(table: CueTable, features: Features) -> None:
    """(b) Share of δ in the span that separates gallery images, angles, and random subspaces."""
    for name, of in features.items():
        table.put_draws("span_directions", name, of["span"], of["gallery"].shape[1])
        for kind in NOISES:
            inside = of[f"{kind} in span"]
            table.add("share_in_span", name, inside, kind=kind, cues=("all",))
        table.put_draws("share_in_span", name, of["null shares"], kind="random span")
        for kind in PAIR_KINDS[:2]:
            angles, number = of[f"angles {kind}"], int(table.sample.chosen(kind).sum())
            table.put_draws("mean_angle", name, angles[:, :1], number, kind=kind)
            table.put_draws("mean_angle", name, angles[:, 1:], where="random span", kind=kind)
    table.compare("share_in_span", {name: of["delta in span"] for name, of in features.items()})


def removals_of(sample: CueSample, of: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Of one encoder: what projecting δ out of a query, or undoing the cue, does to its target.

    By "measure|query". All encoders share one random direction.
    """
    index = torch.from_numpy(sample.views)
    random = torch.randn(of["delta"].shape, generator=torch.Generator().manual_seed(SEED))
    fused = dar_fusion(of["texts"], of["views"], round=sample.rounds)
    values: dict[str, Tensor] = {}
    for where, query in (("view", of["views"][index]), ("dar", fused[index])):
        ends = {"undo": of["changed"]} if where == "view" else {}
        ends["removal"] = nullspace.project_out(query, of["delta"])
        ends["random_removal"] = nullspace.project_out(query, random)
        for name, end in ends.items():
            effect = nullspace.effect_of_removal(
                query, end, of["gallery"], index, logit_scale=scale
            )
            values[f"{name}_logit|{where}"], values[f"{name}_log_rank|{where}"] = effect
    return values


def add_removal(table: CueTable, features: Features) -> None:
    """(c) The effect of projecting δ out of the view, and of DAR's query, on logit and rank.

    And the effect of undoing the cue in the picture.
    """
    for name, where in (
        ("undo", "view"), ("removal", "view"), ("random_removal", "view"), ("removal", "dar"),
        ("random_removal", "dar"),
    ):  # fmt: skip
        for measure in (f"{name}_logit", f"{name}_log_rank"):
            values = {encoder: of[f"{measure}|{where}"] for encoder, of in features.items()}
            if name != "random_removal":
                table.compare(measure, values, where=where)
                continue
            for encoder, of_seeds in values.items():
                table.add(measure, encoder, of_seeds, where=where, cues=("all",))


def add_linear(table: CueTable, features: Features) -> None:
    """(d) Derivatives along the cues (`cue_slopes`), and what the last projection loses.

    `slope_ratio` divides by an earlier encoder's slope (`where`); `slope_ratio_beyond` divides that
    by the ratio of noise in the same pixels.
    """
    logs, false = {}, table.sample.chosen("hallucinated")
    for name, of in features.items():
        table.add("slope", name, of["slopes"])
        table.add("slope", name, of["noise_slopes"], kind=NOISES[1], cues=("all",))
        logs[name] = torch.cat([of["slopes"], of["noise_slopes"]], dim=1).log()
        directions, share = of["null"][0, 0], of["null"][:, 1:]
        table.put_draws("share_in_null_space", name, share, int(directions), kind="random")
    table.compare("share_in_null_space", {name: of["lost"] for name, of in features.items()})
    for base, name, change in changes(logs):
        along, of_noise = change.split([len(false), int(false.sum())], dim=1)
        beyond = along[:, false] - of_noise
        table.add("slope_ratio", name, along, where=base)
        table.add("slope_ratio", name, of_noise, where=base, kind=NOISES[1])
        table.add("slope_ratio_beyond", name, beyond, where=base, kind=NOISES[1])


def add_probes(table: CueTable, features: Features) -> None:
    """(e) How well each cue can be read off each layer: area under the ROC curve, over views."""
    areas = {name: of["areas"] for name, of in features.items()}
    last = areas["before"].shape[1] - 1
    for layer in range(last):
        for name, of_seeds in areas.items():
            table.add("readable", name, of_seeds[:, layer], where=f"layer {layer}")
    feature = {name: of_seeds[:, last] for name, of_seeds in areas.items()}
    table.compare("readable", feature, where="feature")


def readable(sample: CueSample, encoder: Encoder, *, size: int) -> Tensor:
    """(num_layers, num_pairs): share of the views without a cue that its probe ranks lower.

    Probes are trained on pictures of other scenes; NaN where these never show the fact.
    """
    scenes = sample_scenes(SEED, "train", NUM_PROBE_SCENES)
    labels, shown = ([set(s.own_facts) for s in of] for of in (scenes, sample.scenes))
    train, test = (
        probes.layer_features(encoder, image_pixels(encoder, list(images)))
        for images in (render_scenes(scenes, size=size), sample.images)
    )
    areas = torch.full((len(train), len(sample.pairs)), torch.nan)
    for area, rows, others in zip(areas, train, test, strict=True):
        probe = probes.fit_probe(rows, labels)
        scores = dict(zip(probe.classes, probe.scores(others).T, strict=True))
        for fact in {pair.fact for pair in sample.pairs} & set(scores):
            absent = torch.tensor([fact not in facts for facts in shown])
            mine = np.array([pair.fact == fact for pair in sample.pairs])
            column = scores[fact]
            area[mine] = probes.beaten_shares(column[sample.views[mine]], column[absent]).float()
    return areas


def add_spaces(rows: Rows, features: Features, number: int) -> None:
    """Gap, alignment, uniformity, rank of texts, views and targets, and CKA before with after."""
    sets = {
        name: {"text": of["texts"], "view": of["views"], "target": of["gallery"][:, :number]}
        for name, of in features.items()
    }

    def put(measure: str, encoder: str, where: str, of_seeds: Tensor) -> None:
        bounds = spaces.jackknife_interval(of_seeds.mean(dim=0))
        rows.put(measure, encoder, bounds, number, of_seeds[:, 0].tolist(), where=where)

    def by_name(statistic: Callable, *roles: str) -> dict[str, Tensor]:
        return {
            name: torch.stack(list(map(statistic, *(of[role] for role in roles))))
            for name, of in sets.items()
        }

    def compare(measure: str, statistic: Callable, *roles: str) -> None:
        values = by_name(lambda *of_seed: spaces.leave_out(statistic, *of_seed), *roles)
        for name, of_seeds, over in with_changes(values):
            put(f"{measure}{over}", name, "–".join(roles), of_seeds)

    for roles in (("text", "target"), ("text", "view"), ("view", "target")):
        compare("modality_gap", spaces.modality_gap, *roles)
        aligned = by_name(spaces.alignment_values, *roles)
        rows.compare("alignment", aligned, where="–".join(roles))
    first, *others = sets
    for role in ("text", "view", "target"):
        compare("uniformity", spaces.uniformity, role)
        compare("effective_rank", spaces.effective_rank, role)
        for name in others:
            pairs = zip(*torch.broadcast_tensors(sets[first][role], sets[name][role]), strict=True)
            similar = [spaces.leave_out(spaces.linear_cka, *pair) for pair in pairs]
            put("cka", name, role, torch.stack(similar))


def add_fusions(
    table: CueTable, features: Mapping[str, Tensor], models: Sequence[nn.Module]
) -> None:
    """What DAR and ADaFuSE do with δ: its gain, and how much the residual cancels."""
    index, rounds = table.sample.views, table.sample.rounds
    keys = ("texts", "views", "changed", "delta")
    texts, views, changed, delta = (features[key][0] for key in keys)

    def gain(fuse: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            return (fuse(views[index]) - fuse(changed)).norm(dim=-1) / delta.norm(dim=-1)

    by_dar = gain(lambda view: dar_fusion(texts[index], view, round=rounds[index]))
    table.add("fusion_gain", "before", by_dar, where="dar")
    gains, residuals = [], []
    for model in models:
        with model.output.register_forward_hook(lambda *passed: residuals.append(passed[-1])):
            gains.append(gain(lambda view, model=model: model(texts[index], view)[0]))
    moved = [a - b for a, b in zip(residuals[::2], residuals[1::2], strict=True)]
    cosines = [torch.cosine_similarity(change, delta, dim=-1) for change in moved]
    for measure, values in (("fusion_gain", gains), ("residual_cosine", cosines)):
        table.add(measure, "before", torch.stack(values).mean(dim=0), where="adafuse")


def measure_geometry(bench: Bench) -> tuple[pd.DataFrame, dict]:
    """As `measure_attention`."""
    profile, (encoders, digests) = bench.profile, load_compared(bench)
    before = encoders["before"][0]
    sample = sample_cues(profile, before, **bench.drawing)
    scenes = sample_scenes(SEED, "test", min(NUM_GALLERY, profile.num_gallery))
    gallery = bench.draw_scenes(scenes)

    def measure(encoder: Encoder) -> dict[str, Tensor]:
        of = encode_cues(sample, gallery, encoder)
        return {
            **of,
            **directions_of(sample, of),
            **removals_of(sample, of, encoder.logit_scale),
            **cue_slopes(sample, encoder, num_views=NUM_DERIVED),
            "areas": readable(sample, encoder, size=profile.image_size),
        }

    ending = f"{len(sample.pairs)}_{len(gallery)}_{NUM_DERIVED}_{NUM_PROBE_SCENES}"
    features = measured(bench, encoders, measure, ending)
    of_spaces, table = Rows(), CueTable(sample)
    add_spaces(of_spaces, features, len(sample.scenes))
    for add in (add_attenuation, add_directions, add_removal, add_linear, add_probes):
        add(table, features)
    folders = [fusion_folder(profile, "adafuse", s) for s in range(profile.num_fusion_seeds)]
    add_fusions(table, features["before"], [load_fusion(f, dim=before.dim) for f in folders])
    return pd.concat([of_spaces.frame(), table.frame()], ignore_index=True), {
        "encoders": digests,
        "views": len(sample.scenes),
        "gallery": len(gallery),
        "pairs": len(sample.pairs),
        "unseen_pairs": sample.num_unseen,
    }


INSTRUMENT = Instrument(
    "geometry", "What becomes of single cues under the profile's encoder and trained ones.",
    minutes=2, measure=measure_geometry,
)  # fmt: skip

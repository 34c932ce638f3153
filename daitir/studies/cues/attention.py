"""Where encoders look in drawn views, before and after training: at what is named, false, or empty.

`daitir study attention` writes the table. A mask is that of an object as it would be rendered where
the recogniser reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.analysis.attention import (
    deletion_insertion,
    image_pixels,
    mask_share,
    pointing_hits,
    randomised,
    relevance_maps,
    rollout_maps,
)
from daitir.data.gallery import read_image
from daitir.models.encoders import Encoder
from daitir.models.views import ViewGenerator, view_seed
from daitir.scenes import Scene, parse, render
from daitir.studies.cues.samples import NUM_CUE_VIEWS, views_in_turn
from daitir.studies.cues.tables import Rows, changes, load_compared, measured
from daitir.studies.engine.conditions import Instrument
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, SETS

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

KINDS = ("named", "false", "background")
STEPS = 4  # of deleting and inserting pixels: areas are of five points
BATCH = 64


class SeenViews(NamedTuple):
    """Drawn views and where their objects stand, as `object_masks` tells."""

    captions: list[str]  # what each was drawn from
    images: np.ndarray  # (num_views, size, size, 3) uint8
    masks: dict[str, Tensor]  # (num_views, size, size) bool, by kind


def seen_views(
    profile: Profile,
    before: Encoder,
    generator: ViewGenerator,
    *,
    cache: Path,
    num_views: int = NUM_CUE_VIEWS,
    progress: bool = False,
) -> SeenViews:
    """The views of `views_in_turn`, drawn; `cache` keeps them."""
    rounds, captions, readings, targets = views_in_turn(profile, before, num_views)
    seeds = [view_seed(SETS["human"].seed, index, t) for index, t in enumerate(rounds)]
    paths = generator.generate(captions, seeds, cache, progress=progress)
    images = np.stack([np.asarray(read_image(path)) for path in paths])
    masks = list(map(partial(object_masks, size=images.shape[1]), captions, readings, targets))
    stacked = {kind: torch.stack([by_kind[kind] for by_kind in masks]) for kind in KINDS}
    return SeenViews(captions, images, stacked)


def object_masks(caption: str, seen: Scene, target: Scene, *, size: int) -> dict[str, Tensor]:
    """Masks of one view, (size, size) bool, of `KINDS`; empty where a view has none of a kind.

    They show objects that the caption names, objects that neither the target has nor the caption
    names, and no object. Objects of the target that the caption does not name have no kind.
    """
    said = {fact.subject for fact in parse(caption).facts if fact.value is not False}
    drawn = torch.from_numpy(render(seen, size).masks)
    masks = {kind: torch.zeros(size, size, dtype=torch.bool) for kind in KINDS}
    for item, mask in zip(seen.objects, drawn, strict=True):
        if item.category in said:
            masks["named"] |= mask
        elif target.object(item.category) is None:
            masks["false"] |= mask
    masks["background"] = ~drawn.any(dim=0)
    return masks


def in_batches(function: Callable[..., Tensor], *columns: Sequence) -> Tensor:
    """A function of rows, such as maps of pixels and texts, taken `BATCH` rows at a time."""
    starts = range(0, len(columns[0]), BATCH)
    return torch.cat([function(*(column[i : i + BATCH] for column in columns)) for i in starts])


def occluded(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture with a mask filled by the mean colour of the pixels at most four away, uint8.

    Where there are none, the whole rest of the picture gives the colour.
    """
    wide = F.max_pool2d(torch.from_numpy(mask)[None].float(), 9, stride=1, padding=4)[0].bool()
    around = wide.numpy() & ~mask
    around = around if around.any() else ~mask
    filled = image.copy()
    filled[mask] = np.rint(image[around].mean(axis=0)).astype(np.uint8)
    return filled


ByKey = dict[str, Tensor]  # (num_views,) by "measure|where|kind"


def share_values(views: SeenViews, maps: Tensor, where: str) -> ByKey:
    """Share of maps, and of highest points, on each kind of mask and on that of another view.

    NaN stands for views without such a mask.
    """
    by_key = {}
    shares = [("share", kind, mask_share) for kind in KINDS]
    for measure, kind, statistic in (*shares, ("pointing", "named", pointing_hits)):
        has = views.masks[kind].flatten(1).any(dim=1)
        for shift, suffix in enumerate(("", "_shuffled")):
            values = torch.full((len(maps),), torch.nan)
            masks = views.masks[kind][has].roll(shift, dims=0)
            values[has] = statistic(maps[has].cpu(), masks)
            by_key[f"{measure}{suffix}|{where}|{kind}"] = values
    return by_key


def curve_values(encoder: Encoder, pixels: Tensor, texts: Tensor, maps: Tensor) -> ByKey:
    """Areas under the caption's cosine as `STEPS` parts are deleted or inserted by the map.

    Also by a random order, and `_beyond`, the map's area less the random one.
    """

    def score(shown: Tensor) -> Tensor:
        features = in_batches(encoder.model.encode_image, shown)
        return (F.normalize(features, dim=-1) * texts.to(pixels)).sum(dim=-1)

    random = torch.rand(maps.shape, generator=torch.Generator().manual_seed(SEED))
    areas = [
        deletion_insertion(score, pixels, order.to(pixels.device), num_steps=STEPS).areas()
        for order in (maps, random)
    ]
    by_key = {}
    for measure, of_map, at_random in zip(("deletion", "insertion"), *areas, strict=True):
        by_key[f"{measure}|relevance|"] = of_map.cpu()
        by_key[f"{measure}|random|"] = at_random.cpu()
        by_key[f"{measure}_beyond|random|"] = (of_map - at_random).cpu()
    return by_key


def occlusion_values(views: SeenViews, encoder: Encoder, texts: Tensor) -> ByKey:
    """How features change when the named or the false objects of drawn views are filled in."""
    whole, by_key = encoder.encode_images(views.images), {}
    for kind in KINDS[:2]:
        masks = views.masks[kind].numpy()
        index = np.flatnonzero(masks.any(axis=(1, 2)))
        filled = np.stack([occluded(views.images[i], masks[i]) for i in index])
        change = encoder.encode_images(filled) - whole[index]
        length, gain = torch.full((2, len(whole)), torch.nan)
        length[index], gain[index] = change.norm(dim=-1), (change * texts[index]).sum(dim=-1)
        by_key[f"occlusion_length||{kind}"] = length
        by_key[f"occlusion_caption_cosine||{kind}"] = gain
    return by_key


def seen_by(views: SeenViews, encoder: Encoder, *, acts: bool = True) -> ByKey:
    """All measures of one encoder: its maps and, with `acts`, the effects of changed views."""
    pixels = image_pixels(encoder, list(views.images))
    relevant = in_batches(
        lambda batch, texts: relevance_maps(encoder, batch, texts).images, pixels, views.captions
    )
    rolled = in_batches(lambda batch: rollout_maps(encoder, batch), pixels)
    by_key = share_values(views, relevant, "relevance") | share_values(views, rolled, "rollout")
    if acts:
        texts = encoder.encode_texts(views.captions)
        by_key |= curve_values(encoder, pixels, texts, relevant)
        by_key |= occlusion_values(views, encoder, texts)
    return by_key


def measure_attention(bench: Bench) -> tuple[pd.DataFrame, dict]:
    """Measure the encoders of `compared_encoders`: the table's rows and what its notes tell."""
    encoders, digests = load_compared(bench)
    before, rows = encoders["before"][0], Rows()
    blank = copy.copy(before)
    blank.model = randomised(blank.model, seed=SEED)
    views = seen_views(
        bench.profile, before, bench.generator, cache=bench.cache, progress=bench.progress
    )
    for kind, masks in views.masks.items():
        area = masks.float().mean(dim=(1, 2))
        rows.add("area", "none", torch.where(area > 0, area, torch.nan), kind=kind)
    ending = f"{len(views.captions)}_{STEPS}"
    by_name = measured(bench, encoders, partial(seen_by, views), ending)
    for key, values in seen_by(views, blank, acts=False).items():
        measure, where, kind = key.split("|")
        rows.add(measure, "randomised", values, where=where, kind=kind)
    for key in by_name["before"]:
        measure, where, kind = key.split("|")
        values = {name: by_key[key] for name, by_key in by_name.items()}
        rows.compare(measure, values, where=where, kind=kind)
        if measure == "occlusion_length":
            logs = {name: lengths.log() for name, lengths in values.items()}
            for base, name, ratio in changes(logs):
                rows.add("occlusion_attenuation", name, ratio, where=base, kind=kind)
    return rows.frame(), {"encoders": digests, "views": len(views.captions)}


INSTRUMENT = Instrument(
    "attention", "Where the profile's encoder and trained ones look in drawn views.", minutes=6,
    measure=measure_attention,
)  # fmt: skip

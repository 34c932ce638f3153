"""Where encoders look in drawn views, before and after training: at what is named, false, or empty.

`daitir study attention` writes the table. Objects are located by the recogniser: a mask is that of
the object as it would be rendered where it was read. Encoders are lists by name, one for each
training seed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from daitir.analysis.attention import (
    deletion_insertion,
    image_pixels,
    mask_share,
    pointing_hits,
    randomised,
    relevance_maps,
    rollout_maps,
)
from daitir.common.terminal import printable
from daitir.data.gallery import read_image
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.views import ViewGenerator, load_view_generator, view_seed
from daitir.scenes import Scene, parse, render, sample_scenes
from daitir.studies.cues.samples import NUM_CUE_VIEWS as NUM_VIEWS
from daitir.studies.cues.samples import VIEW_ROUNDS as ROUNDS
from daitir.studies.cues.tables import Rows, changes, compared_encoders, kept_tensors
from daitir.studies.engine.conditions import Instrument
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, SETS, load_query_set, queries_folder

KINDS = ("named", "false", "background")
STEPS = 4  # in which pixels are deleted and inserted, so that areas are of five points
BATCH = 64


@dataclass(frozen=True)
class SeenViews:
    """Drawn views and where their objects stand.

    Attributes:
        captions: what each was drawn from.
        images: (num_views, size, size, 3) uint8.
        targets: what is true.
        masks: for each of `KINDS` (num_views, size, size) bool: objects that the caption names,
            objects that the target lacks and the caption does not name, and no object; empty
            where a view has none.
    """

    captions: list[str]
    images: np.ndarray
    targets: list[Scene]
    masks: dict[str, Tensor]


def seen_views(
    profile: Profile,
    before: Encoder,
    generator: ViewGenerator,
    *,
    cache: Path,
    num_views: int = NUM_VIEWS,
    progress: bool = False,
) -> SeenViews:
    """Views of the test set `human`, one a dialogue at `ROUNDS` in turn; `cache` keeps them.

    Raises DataError where the query set is missing or of another encoder.
    """
    drawn = load_query_set("human", before, queries_folder(profile))
    number = min(num_views, len(drawn.captions))
    rounds = [ROUNDS[index % len(ROUNDS)] for index in range(number)]
    captions = [drawn.captions[index][t] for index, t in enumerate(rounds)]
    seeds = [view_seed(SETS["human"].seed, index, t) for index, t in enumerate(rounds)]
    paths = generator.generate(captions, seeds, cache, progress=progress)
    images = np.stack([np.asarray(read_image(path)) for path in paths])
    targets = sample_scenes(SEED, "test", number)
    readings = [drawn.readings[index][t] for index, t in enumerate(rounds)]
    masks = [
        object_masks(caption, seen, target, size=images.shape[1])
        for caption, seen, target in zip(captions, readings, targets, strict=True)
    ]
    stacked = {kind: torch.stack([found[kind] for found in masks]) for kind in KINDS}
    return SeenViews(captions, images, targets, stacked)


def object_masks(caption: str, seen: Scene, target: Scene, *, size: int) -> dict[str, Tensor]:
    """The masks of one view by `KINDS`, (size, size) bool each.

    An object that the target has and the caption does not name is of no kind.
    """
    said = {fact.subject for fact in parse(caption).facts if fact.value is not False}
    drawn = torch.from_numpy(render(seen, size).masks)
    found = {kind: torch.zeros(size, size, dtype=torch.bool) for kind in KINDS}
    for item, mask in zip(seen.objects, drawn, strict=True):
        if item.category in said:
            found["named"] |= mask
        elif target.object(item.category) is None:
            found["false"] |= mask
    found["background"] = ~drawn.any(dim=0)
    return found


def in_batches(function: Callable[..., Tensor], *parts: Sequence) -> Tensor:
    """A function of rows, such as maps of pixels and texts, taken `BATCH` rows at a time."""
    number = len(parts[0])
    starts = range(0, number, BATCH)
    return torch.cat([function(*(part[i : i + BATCH] for part in parts)) for i in starts])


def occluded(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture with a mask filled by the mean colour of what surrounds it, uint8.

    The surroundings are the pixels at most four away in rows and columns; the whole rest of the
    picture where there are none.
    """
    wide = F.max_pool2d(torch.from_numpy(mask)[None].float(), 9, stride=1, padding=4)[0].bool()
    around = wide.numpy() & ~mask
    around = around if around.any() else ~mask
    filled = image.copy()
    filled[mask] = np.rint(image[around].mean(axis=0)).astype(np.uint8)
    return filled


Found = dict[str, Tensor]  # (num_views,) by "measure|where|kind"


def share_values(views: SeenViews, maps: Tensor, where: str) -> Found:
    """Share of maps on each kind of mask, and on that of another view; so for their highest points.

    NaN stands for views without such a mask.
    """
    found = {}

    def put(measure: str, kind: str, statistic: Callable, shift: int) -> None:
        has = views.masks[kind].flatten(1).any(dim=1)
        values = torch.full((len(maps),), torch.nan)
        masks = views.masks[kind][has].roll(shift, dims=0)
        values[has] = statistic(maps[has].cpu(), masks)
        found[f"{measure}|{where}|{kind}"] = values

    for kind in KINDS:
        put("share", kind, mask_share, 0)
        put("share_shuffled", kind, mask_share, 1)
    put("pointing", "named", pointing_hits, 0)
    put("pointing_shuffled", "named", pointing_hits, 1)
    return found


def curve_values(views: SeenViews, encoder: Encoder, maps: Tensor) -> Found:
    """Areas under deletion and insertion of the caption's cosine, by the map and at random.

    In `STEPS` equal parts; `_beyond` is the map's area less that of the random order.
    """
    pixels = image_pixels(encoder, list(views.images))
    text = encoder.encode_texts(views.captions).to(pixels)

    def score(shown: Tensor) -> Tensor:
        found = in_batches(encoder.model.encode_image, shown)
        return (F.normalize(found, dim=-1) * text).sum(dim=-1)

    random = torch.rand(maps.shape, generator=torch.Generator().manual_seed(SEED))
    found = {}
    for where, some in (("relevance", maps), ("random", random)):
        some = some.to(pixels.device)
        areas = deletion_insertion(score, pixels, some, num_steps=STEPS).areas()
        for measure, values in zip(("deletion", "insertion"), areas, strict=True):
            found[f"{measure}|{where}|"] = values.cpu()
    for measure in ("deletion", "insertion"):
        beyond = found[f"{measure}|relevance|"] - found[f"{measure}|random|"]
        found[f"{measure}_beyond|random|"] = beyond
    return found


def occlusion_values(views: SeenViews, encoder: Encoder) -> Found:
    """What filling in the named and the false objects of drawn views does to the feature."""
    whole = encoder.encode_images(views.images)
    texts = encoder.encode_texts(views.captions)
    found = {}
    for kind in KINDS[:2]:
        index = views.masks[kind].flatten(1).any(dim=1).nonzero()[:, 0].tolist()
        filled = np.stack([
            occluded(views.images[i], views.masks[kind][i].numpy()) for i in index
        ])  # fmt: skip
        changed = encoder.encode_images(filled)
        length, gain = torch.full((2, len(whole)), torch.nan)
        length[index] = (whole[index] - changed).norm(dim=-1)
        gain[index] = ((changed - whole[index]) * texts[index]).sum(dim=-1)
        found[f"occlusion_length||{kind}"] = length
        found[f"occlusion_caption_cosine||{kind}"] = gain
    return found


def seen_by(views: SeenViews, encoder: Encoder, *, acts: bool = True) -> Found:
    """What is measured of one encoder: its maps and, with `acts`, what changes of the views do."""
    pixels = image_pixels(encoder, list(views.images))
    relevant = in_batches(
        lambda some, texts: relevance_maps(encoder, some, texts).images, pixels, views.captions
    )
    rolled = in_batches(lambda some: rollout_maps(encoder, some), pixels)
    shares = share_values(views, relevant, "relevance") | share_values(views, rolled, "rollout")
    if not acts:
        return shares
    return shares | curve_values(views, encoder, relevant) | occlusion_values(views, encoder)


def measure_attention(
    profile: Profile,
    others: Mapping[str, Sequence[str]] | None = None,
    *,
    work_dir: Path,
    cache: Path,
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> tuple[pd.DataFrame, dict]:
    """Measure the profile's encoder and others: the rows of the table and what its notes tell.

    Args:
        others: specs of the encoders to compare, by name, as in `compared_encoders`.
        work_dir: keeps what each encoder is measured to be, so that an interrupted run continues.
        cache: keeps the views.

    Raises DataError as `compared_encoders`, `seen_views` and `load_encoder` do.
    """
    generator = load_view_generator(profile.generator, device=device)
    specs = compared_encoders(profile, others)
    encoders = {n: [load_encoder(s, device=device) for s in some] for n, some in specs.items()}
    before = encoders["before"][0]
    blank = copy.copy(before)
    blank.model = randomised(blank.model, seed=SEED)
    views = seen_views(profile, before, generator, cache=cache, progress=progress)
    rows, found, digests = Rows(), {}, {}
    for kind, masks in views.masks.items():
        area = masks.float().mean(dim=(1, 2))
        rows.add("area", "none", torch.where(area > 0, area, torch.nan).numpy(), kind=kind)
    for name, seeds in encoders.items():
        of_seeds = []
        for number, encoder in enumerate(tqdm(seeds, desc=printable(name), disable=not progress)):
            digest = digests[f"{name}/{number}"] = encoder.digest
            kept = work_dir / f"{digest[:16]}_{len(views.captions)}_{STEPS}.safetensors"
            of_seeds.append(kept_tensors(kept, lambda e=encoder: seen_by(views, e)))
        found[name] = {key: np.stack([one[key] for one in of_seeds]) for key in of_seeds[0]}
    for key, values in seen_by(views, blank, acts=False).items():
        measure, where, kind = key.split("|")
        rows.add(measure, "randomised", values.numpy(), where=where, kind=kind)
    for key in found["before"]:
        measure, where, kind = key.split("|")
        values = {name: of_keys[key] for name, of_keys in found.items()}
        rows.compare(measure, values, where=where, kind=kind)
        if measure == "occlusion_length":
            logs = {name: np.log(some) for name, some in values.items()}
            for base, name, ratio in changes(logs):
                rows.add("occlusion_attenuation", name, ratio, where=base, kind=kind, link=np.exp)
    return rows.frame(), {"encoders": digests, "views": len(views.captions)}


INSTRUMENT = Instrument(
    "attention",
    "Where the profile's encoder and trained ones look in drawn views.",
    minutes=6,
    measure=measure_attention,
)

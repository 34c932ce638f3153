"""Where encoders look in drawn views, before and after training: at what is named, false, or empty.

`daitir attention` writes the table. Objects are located by the recogniser: a mask is that of the
object as it would be rendered where it was read.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.attention import (
    deletion_insertion,
    image_pixels,
    mask_share,
    pointing_hits,
    randomised,
    relevance_maps,
    rollout_maps,
)
from daitir.cue_geometry import Rows, compared_encoders, earlier_pairs
from daitir.encoders import Encoder, load_encoder
from daitir.evaluation import write_results
from daitir.files import weights_digest
from daitir.gallery import read_image
from daitir.geometry.pairs import NUM_VIEWS, ROUNDS
from daitir.profiles import Profile
from daitir.provenance import versions
from daitir.queries import SEED, SETS, load_query_set, manifest_of, queries_folder
from daitir.scenes import Scene, parse, render, sample_scenes
from daitir.views import ViewGenerator, view_seed

KINDS = ("named", "false", "background")
NUM_CURVES = 60  # views whose pixels are deleted and inserted
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


def add_shares(rows: Rows, views: SeenViews, name: str, maps: Tensor, where: str) -> dict:
    """Share of maps on each kind of mask, and on the mask of another view.

    Returns the shares by kind, (num_views,) with NaN, to be compared between encoders.
    """
    found = {}
    for kind, masks in views.masks.items():
        has = masks.flatten(1).any(dim=1)
        own, others = masks[has], masks[has].roll(1, dims=0)
        for measure, some in (("share", own), ("share_shuffled", others)):
            values = np.full(len(maps), np.nan)
            values[has.numpy()] = mask_share(maps[has], some).numpy()
            rows.add(measure, name, values, where=where, kind=kind)
            if measure == "share":
                found[kind] = values
    has = views.masks["named"].flatten(1).any(dim=1)
    for measure, shift in (("pointing", 0), ("pointing_shuffled", 1)):
        values = np.full(len(maps), np.nan)
        hits = pointing_hits(maps[has], views.masks["named"][has].roll(shift, dims=0))
        values[has.numpy()] = hits.numpy()
        rows.add(measure, name, values, where=where, kind="named")
    return found


def add_curves(rows: Rows, views: SeenViews, name: str, encoder: Encoder, maps: Tensor) -> None:
    """Areas under deletion and insertion of the caption's cosine, by the map and at random."""
    number = min(NUM_CURVES, len(maps))
    pixels = image_pixels(encoder, list(views.images[:number]))
    text = encoder.encode_texts(views.captions[:number]).to(pixels)

    def score(shown: Tensor) -> Tensor:
        found = in_batches(encoder.model.encode_image, shown)
        return (F.normalize(found, dim=-1) * text).sum(dim=-1)

    random = torch.rand(maps[:number].shape, generator=torch.Generator().manual_seed(SEED))
    for where, some in (("relevance", maps[:number]), ("random", random)):
        areas = deletion_insertion(score, pixels, some.to(pixels.device), num_steps=8).areas()
        for measure, values in zip(("deletion", "insertion"), areas, strict=True):
            rows.add(measure, name, values.cpu().numpy(), where=where)


def add_occlusion(rows: Rows, views: SeenViews, encoders: dict[str, Encoder]) -> None:
    """What filling in the named and the false objects of drawn views does to the feature."""
    lengths: dict[tuple[str, str], np.ndarray] = {}
    for name, encoder in encoders.items():
        whole = encoder.encode_images(views.images)
        texts = encoder.encode_texts(views.captions)
        for kind in KINDS[:2]:
            has = views.masks[kind].flatten(1).any(dim=1)
            index = has.nonzero()[:, 0].tolist()
            filled = np.stack([occluded(views.images[i], views.masks[kind][i].numpy())
                               for i in index])  # fmt: skip
            changed = encoder.encode_images(filled)
            length, gain = np.full((2, len(whole)), np.nan)
            length[index] = (whole[index] - changed).norm(dim=-1).numpy()
            gain[index] = ((changed - whole[index]) * texts[index]).sum(dim=-1).numpy()
            rows.add("occlusion_length", name, length, kind=kind)
            rows.add("occlusion_caption_cosine", name, gain, kind=kind)
            lengths[name, kind] = length
    for base, name in earlier_pairs(encoders):
        for kind in KINDS[:2]:
            ratio = np.log(lengths[name, kind] / lengths[base, kind])
            rows.add("occlusion_attenuation", name, ratio, where=base, kind=kind, link=np.exp)


def run_attention(
    profile: Profile,
    generator: ViewGenerator,
    others: Mapping[str, str] | None = None,
    *,
    cache: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    progress: bool = False,
) -> Path:
    """Measure the profile's encoder and others and write `results/<profile>_attention.csv`.

    Args:
        generator: draws the views.
        others: specs of the encoders to compare, by name, as in `compared_encoders`.
        cache: keeps the views, so that an interrupted run continues.

    Returns the path of the table. Raises DataError as `seen_views` and `load_encoder` do.
    """
    began = time.perf_counter()
    specs = compared_encoders(profile, others)
    encoders = {name: load_encoder(spec, device=device) for name, spec in specs.items()}
    blank = copy.copy(encoders["before"])
    blank.model = randomised(blank.model, seed=SEED)
    views = seen_views(profile, encoders["before"], generator, cache=cache, progress=progress)
    rows, shares = Rows(), {}
    for kind, masks in views.masks.items():
        area = masks.float().mean(dim=(1, 2))
        rows.add("area", "none", torch.where(area > 0, area, torch.nan).numpy(), kind=kind)
    for name, encoder in {**encoders, "randomised": blank}.items():
        pixels = image_pixels(encoder, list(views.images))
        relevant = in_batches(
            lambda some, texts, e=encoder: relevance_maps(e, some, texts).images,
            pixels, views.captions,
        )  # fmt: skip
        rolled = in_batches(lambda some, e=encoder: rollout_maps(e, some), pixels)
        for where, maps in (("relevance", relevant), ("rollout", rolled)):
            shares[name, where] = add_shares(rows, views, name, maps, where)
        if name != "randomised":
            add_curves(rows, views, name, encoder, relevant)
    for base, name in earlier_pairs(encoders):
        for where in ("relevance", "rollout"):
            for kind in KINDS:
                moved = shares[name, where][kind] - shares[base, where][kind]
                rows.add(f"share_change_over_{base}", name, moved, where=where, kind=kind)
    add_occlusion(rows, views, encoders)
    path = results_dir / f"{profile.name}_attention.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "encoders": {name: weights_digest(e.model) for name, e in encoders.items()},
        "views": len(views.captions),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_results(path, rows.frame(), notes)
    return path

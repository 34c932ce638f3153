"""Views of the test set with their pairs, drawn and encoded, for the study of geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from daitir.analysis.attention import image_pixels
from daitir.analysis.geometry.nullspace import before_projection, cue_jacobian, equal_noise
from daitir.analysis.geometry.pairs import CuePair, cue_pairs
from daitir.analysis.geometry.spaces import unit
from daitir.models.encoders import Encoder
from daitir.scenes import Scene, render_scenes, sample_scenes
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, load_query_set, queries_folder

VIEW_ROUNDS = (2, 6, 10)  # of the views, one a dialogue, in turn
NUM_CUE_VIEWS = 510


@dataclass(frozen=True)
class CueSample:
    """Views with their pairs, drawn, and what they are compared with."""

    captions: list[str]  # what each view was drawn from
    rounds: Tensor  # (num_views,), of their dialogues
    pairs: list[CuePair]  # every cue of every view that can be undone and is seen
    scenes: list[Scene]  # what the views show
    images: np.ndarray  # of the views, (num_views, size, size, 3) uint8
    changed: np.ndarray  # of the pairs
    noise: np.ndarray  # for each hallucinated pair the view with noise as far away
    noise_inside: np.ndarray  # the same in the changed pixels only
    num_unseen: int  # pairs left out since no pixel changed

    def chosen(self, kind: str, cue: str | None = None) -> np.ndarray:
        """(num_pairs,) bool, the pairs of a kind and, where it is given, a cue."""
        return np.array([p.kind == kind and cue in (None, p.cue) for p in self.pairs])


def views_in_turn(
    profile: Profile, before: Encoder, num_views: int
) -> tuple[list[int], list[str], list[Scene], list[Scene]]:
    """Rounds, captions, readings and targets of views of the test set `human`, one a dialogue.

    `before` is the encoder that the query sets were made with.
    """
    drawn = load_query_set("human", before, queries_folder(profile))
    number = min(num_views, len(drawn.captions))
    rounds = [VIEW_ROUNDS[index % len(VIEW_ROUNDS)] for index in range(number)]
    captions = [drawn.captions[index][t] for index, t in enumerate(rounds)]
    readings = [drawn.readings[index][t] for index, t in enumerate(rounds)]
    return rounds, captions, readings, sample_scenes(SEED, "test", number)


def sample_cues(
    profile: Profile,
    before: Encoder,
    *,
    num_views: int = NUM_CUE_VIEWS,
    num_workers: int = 1,
    progress: bool = False,
) -> CueSample:
    """The views of `views_in_turn` and their pairs. Raises DataError as `cue_pairs` does."""
    rounds, captions, readings, targets = views_in_turn(profile, before, num_views)
    views, pairs = cue_pairs(captions, readings, targets)
    options = {"size": profile.image_size, "num_workers": num_workers, "progress": progress}
    images = render_scenes(views, **options)
    changed = render_scenes([pair.scene for pair in pairs], **options)
    is_seen = np.array([(c != images[p.view]).any() for p, c in zip(pairs, changed, strict=True)])
    seen_pairs, changed = [pairs[index] for index in np.flatnonzero(is_seen)], changed[is_seen]
    noise, noise_inside = (
        np.stack([
            equal_noise(images[pair.view], image, seed=index, inside=inside)
            for index, (pair, image) in enumerate(zip(seen_pairs, changed, strict=True))
            if pair.kind == "hallucinated"
        ])
        for inside in (False, True)
    )  # fmt: skip
    return CueSample(captions, torch.tensor(rounds), seen_pairs, views, images, changed, noise,
                     noise_inside, num_unseen=len(pairs) - len(seen_pairs))  # fmt: skip


@dataclass(frozen=True)
class CueFeatures:
    """A sample under one encoder; rows as in `CueSample`, features (num, dim) of unit length.

    `raw_views` and `raw_changed` (num, width) are what the last projection is applied to.
    """

    texts: Tensor
    views: Tensor
    changed: Tensor
    noise: Tensor
    noise_inside: Tensor
    gallery: Tensor
    raw_views: Tensor
    raw_changed: Tensor

    def displacements(self, sample: CueSample) -> Tensor:
        """δ of each pair, (num_pairs, dim)."""
        return self.views[[pair.view for pair in sample.pairs]] - self.changed

    def noise_displacements(self, sample: CueSample, *, inside: bool) -> Tensor:
        """δ of the noise of each hallucinated pair, (num_hallucinated, dim)."""
        views = [pair.view for pair in sample.pairs if pair.kind == "hallucinated"]
        return self.views[views] - (self.noise_inside if inside else self.noise)


def encode_cues(
    sample: CueSample, gallery: np.ndarray, encoder: Encoder, *, progress: bool = False
) -> dict[str, Tensor]:
    """The `CueFeatures` of a sample and of a gallery's pictures, by name."""
    raw_views, raw_changed = (
        before_projection(encoder, images, progress=progress)
        for images in (sample.images, sample.changed)
    )
    projection = encoder.model.visual.proj.detach().float().cpu()
    pictures = {"noise": sample.noise, "noise_inside": sample.noise_inside, "gallery": gallery}
    return {
        "texts": encoder.encode_texts(sample.captions, progress=progress),
        "views": unit(raw_views @ projection),
        "changed": unit(raw_changed @ projection),
        **{n: encoder.encode_images(images, progress=progress) for n, images in pictures.items()},
        "raw_views": raw_views,
        "raw_changed": raw_changed,
    }


def cue_slopes(
    sample: CueSample, encoder: Encoder, *, num_views: int = NUM_CUE_VIEWS, progress: bool = False
) -> dict[str, Tensor]:
    """Lengths of the derivative of the feature at the first views, per unit of pixel change.

    `cues` (num_pairs,) along the change that undoes a cue, `noise_inside` (num_hallucinated,)
    along the noise in the same pixels; NaN for the pairs of later views.
    """
    views = np.array([pair.view for pair in sample.pairs])
    false_views = views[sample.chosen("hallucinated")]
    lengths = {
        name: torch.full((len(of),), float("nan"))
        for name, of in (("cues", views), ("noise_inside", false_views))
    }
    number = min(num_views, len(sample.scenes))
    for view in trange(number, desc="derivatives", disable=not progress):
        pairs, noises = np.flatnonzero(views == view), np.flatnonzero(false_views == view)
        if not len(pairs):
            continue  # nothing of the view can be undone
        ends = [sample.images[view], *sample.changed[pairs], *sample.noise_inside[noises]]
        pixels = image_pixels(encoder, ends)
        along = cue_jacobian(encoder, pixels[0], pixels[1:] - pixels[0]).norm(dim=-1).float().cpu()
        lengths["cues"][pairs], lengths["noise_inside"][noises] = along.split(
            [len(pairs), len(noises)]
        )
    return lengths

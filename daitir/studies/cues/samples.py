"""Views of the test set with their pairs, drawn, and what an encoder makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from daitir.analysis.attention import image_pixels
from daitir.analysis.geometry import cue_jacobian, equal_noise, null_basis, share_in_span
from daitir.analysis.geometry.nullspace import before_projection
from daitir.analysis.geometry.pairs import CuePair, cue_pairs
from daitir.analysis.geometry.spaces import unit
from daitir.models.encoders import Encoder
from daitir.scenes import Scene, render_scenes, sample_scenes
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, load_query_set, queries_folder

VIEW_ROUNDS = (2, 6, 10)  # of the views, one a dialogue, in turn
NUM_CUE_VIEWS = 510
NOISES = ("noise", "noise inside")  # everywhere, and in the changed pixels only


@dataclass(frozen=True)
class CueSample:
    """Views with their pairs, drawn, and what they are compared with."""

    captions: list[str]  # what each view was drawn from
    rounds: Tensor  # (num_views,), of their dialogues
    pairs: list[CuePair]  # every cue of every view that can be undone and is seen
    scenes: list[Scene]  # what the views show
    images: np.ndarray  # of the views, (num_views, size, size, 3) uint8
    changed: np.ndarray  # of the pairs
    noises: dict[str, np.ndarray]  # of `NOISES`: for each hallucinated pair, as far from the view
    num_unseen: int  # pairs left out since no pixel changed

    def chosen(self, kind: str, cue: str = "all") -> np.ndarray:
        """(num_pairs,) bool, the pairs of a kind and, where it is given, a cue."""
        return np.array([p.kind == kind and cue in ("all", p.cue) for p in self.pairs])

    @property
    def views(self) -> np.ndarray:
        """(num_pairs,), the view of each pair."""
        return np.array([pair.view for pair in self.pairs])


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
    profile: Profile, before: Encoder, *, num_views: int = NUM_CUE_VIEWS, **options
) -> CueSample:
    """The views of `views_in_turn` and their pairs, drawn with the `options` of `render_scenes`.

    Raises DataError as `cue_pairs` does.
    """
    rounds, captions, readings, targets = views_in_turn(profile, before, num_views)
    views, pairs = cue_pairs(captions, readings, targets)
    images, changed = (
        render_scenes(scenes, size=profile.image_size, **options)
        for scenes in (views, [pair.scene for pair in pairs])
    )
    seen = [k for k, pair in enumerate(pairs) if (changed[k] != images[pair.view]).any()]
    num_unseen = len(pairs) - len(seen)
    pairs, changed = [pairs[k] for k in seen], changed[seen]
    noises = {
        name: np.stack([
            equal_noise(images[pair.view], changed[k], seed=k, inside=inside)
            for k, pair in enumerate(pairs) if pair.kind == "hallucinated"
        ])
        for name, inside in zip(NOISES, (False, True), strict=True)
    }  # fmt: skip
    rounds = torch.tensor(rounds)
    return CueSample(captions, rounds, pairs, views, images, changed, noises, num_unseen)


def encode_cues(sample: CueSample, gallery: np.ndarray, encoder: Encoder) -> dict[str, Tensor]:
    """A sample and a gallery's pictures under one encoder, by name.

    `texts`, `views`, `changed` and `gallery` are features (num, dim) of unit length, `delta` and
    `NOISES` the displacements of all pairs and of the noise of hallucinated ones. `lost`
    (num_pairs,) is the share of a change that the last projection sends to 0, and `null` the number
    of directions that it sends there, and their share of all.
    """
    projection = encoder.model.visual.proj.detach().float().cpu()
    null, index, false = null_basis(projection), sample.views, sample.chosen("hallucinated")
    raw_views, raw_changed = (
        before_projection(encoder, images) for images in (sample.images, sample.changed)
    )
    views, changed = unit(raw_views @ projection), unit(raw_changed @ projection)
    return {
        "texts": encoder.encode_texts(sample.captions),
        "views": views,
        "changed": changed,
        "gallery": encoder.encode_images(gallery),
        "delta": views[index] - changed,
        **{n: views[index[false]] - encoder.encode_images(sample.noises[n]) for n in NOISES},
        "lost": share_in_span(raw_views[index] - raw_changed, null),
        "null": torch.tensor([len(null), len(null) / null.shape[1]], dtype=torch.float64),
    }


def cue_slopes(sample: CueSample, encoder: Encoder, *, num_views: int) -> dict[str, Tensor]:
    """Lengths of the derivative of the feature at the first views, per unit of pixel change.

    `slopes` (num_pairs,) along the change that undoes a cue, `noise_slopes` (num_hallucinated,)
    along the noise in the same pixels; NaN for the pairs of later views.
    """
    views, false, noise = sample.views, sample.chosen("hallucinated"), sample.noises[NOISES[1]]
    slopes, noise_slopes = (torch.full((n,), torch.nan) for n in (len(views), len(noise)))
    for view in range(min(num_views, len(sample.scenes))):
        pairs, noises = np.flatnonzero(views == view), np.flatnonzero(views[false] == view)
        if not len(pairs):
            continue  # nothing of the view can be undone
        ends = [sample.images[view], *sample.changed[pairs], *noise[noises]]
        pixels = image_pixels(encoder, ends)
        along = cue_jacobian(encoder, pixels[0], pixels[1:] - pixels[0]).norm(dim=-1).float().cpu()
        slopes[pairs], noise_slopes[noises] = along[: len(pairs)], along[len(pairs) :]
    return {"slopes": slopes, "noise_slopes": noise_slopes}

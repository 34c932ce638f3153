"""Pairs of a view and the same view with one cue undone, sorted by what the cue is.

The reading of a view is drawn again, whole and with one cue changed, so that the two pictures
differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from daitir.analysis.attention import image_pixels
from daitir.analysis.geometry.nullspace import cue_jacobian, equal_noise
from daitir.analysis.geometry.spaces import unit
from daitir.analysis.hallucination import Cues, cues, interventions, one_of_each
from daitir.common.errors import DataError
from daitir.models.encoders import Encoder
from daitir.scenes import Fact, Scene, implied, parse, render_scenes, sample_scenes
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, load_query_set, queries_folder

KINDS = ("hallucinated", "supported", "lucky")
ROUNDS = (2, 6, 10)  # of the views, one a dialogue, in turn
NUM_VIEWS = 510
CUES = ("place", "time", "weather", "object", "colour", "size", "column", "row")


class CuePair(NamedTuple):
    """One cue of one view, undone.

    Attributes:
        view: the number of the view.
        cue: one of `CUES`; an `object` is undone by taking it out.
        kind: of `KINDS`: *hallucinated* is false of the target and not stated, *supported* is
            stated, *lucky* is true of the target and not stated.
        fact: what the view shows and the changed scene does not.
        scene: the view with the cue undone: a hallucinated one made true, another made false.
    """

    view: int
    cue: str
    kind: str
    fact: Fact
    scene: Scene


def cue_pairs(
    captions: Sequence[str],
    readings: Sequence[Scene],
    targets: Sequence[Scene],
    *,
    seed: int = 0,
) -> tuple[list[Scene], list[CuePair]]:
    """The views, one object of each category, and every pair of theirs.

    What is put in, such as an object that the view lacks, is no cue of the view and left out, and
    so are stated facts that are false of the target.

    Args:
        captions: what each view was drawn from.
        readings: what the recogniser reads off it.
        targets: what is true.
        seed: of the false values that undo true cues.

    Raises DataError where the three are not as many or there is no pair.
    """
    if not len(captions) == len(readings) == len(targets):
        raise DataError(
            f"{len(captions)} captions, {len(readings)} readings and {len(targets)} targets: each "
            "view needs all three"
        )
    views, pairs = [], []
    for number, (caption, seen, target) in enumerate(zip(captions, readings, targets, strict=True)):
        stated = parse(caption).facts
        view, _ = one_of_each(seen, {f[:2]: f.value for f in (*implied(stated), *stated)})
        views.append(view)
        found = cues(stated, seen, target)
        for action, name, scene in interventions(view, target, seed=f"{seed}/{number}")[0]:
            gone = [f for f in view.own_facts if f.attribute != "count"
                    and f not in scene.own_facts]  # fmt: skip
            if not gone:
                continue  # something was put in
            fact = next((f for f in gone if f.attribute == "present"), gone[0])
            kind = _kind(action, fact, found)
            if kind:
                cue = "object" if fact.attribute == "present" else name
                pairs.append(CuePair(number, cue, kind, fact, scene))
    if not pairs:
        raise DataError(f"none of the {len(views)} views shows a cue that can be undone")
    return views, pairs


def _kind(action: str, fact: Fact, found: Cues) -> str | None:
    kind = found.kinds[fact]
    if action == "repair":
        return None if kind == "supported" else "hallucinated"
    return kind if kind in KINDS else None


@dataclass(frozen=True)
class CueSample:
    """Views with their pairs, drawn, and what they are compared with.

    Attributes:
        captions: what each view was drawn from.
        rounds: (num_views,), of their dialogues.
        pairs: every cue of every view that can be undone and is seen.
        scenes: what the views show.
        images: of the views, (num_views, size, size, 3) uint8; `changed` are those of the pairs.
        noise: for each hallucinated pair the view with noise as far away, `noise_inside` in the
            changed pixels only.
        num_unseen: pairs left out since no pixel changed.
    """

    captions: list[str]
    rounds: Tensor
    pairs: list[CuePair]
    scenes: list[Scene]
    images: np.ndarray
    changed: np.ndarray
    noise: np.ndarray
    noise_inside: np.ndarray
    num_unseen: int

    def chosen(self, kind: str, cue: str | None = None) -> np.ndarray:
        """(num_pairs,) bool, the pairs of a kind and, where it is given, a cue."""
        return np.array([p.kind == kind and cue in (None, p.cue) for p in self.pairs])


def sample_cues(
    profile: Profile,
    before: Encoder,
    *,
    num_views: int = NUM_VIEWS,
    num_workers: int = 1,
    progress: bool = False,
) -> CueSample:
    """Views of the test set `human`, one a dialogue, and their pairs.

    `before` is the encoder that the query sets were made with. Raises DataError where the query
    set is missing or of another encoder, and as `cue_pairs` does.
    """
    drawn = load_query_set("human", before, queries_folder(profile))
    number = min(num_views, len(drawn.captions))
    rounds = [ROUNDS[index % len(ROUNDS)] for index in range(number)]
    captions = [drawn.captions[index][t] for index, t in enumerate(rounds)]
    readings = [drawn.readings[index][t] for index, t in enumerate(rounds)]
    views, pairs = cue_pairs(captions, readings, sample_scenes(SEED, "test", number))
    options = {"size": profile.image_size, "num_workers": num_workers, "progress": progress}
    images = render_scenes(views, **options)
    changed = render_scenes([pair.scene for pair in pairs], **options)
    seen = [bool((c != images[p.view]).any()) for p, c in zip(pairs, changed, strict=True)]
    kept = [pair for pair, is_seen in zip(pairs, seen, strict=True) if is_seen]
    changed = changed[np.array(seen)]
    noises = [
        np.stack([
            equal_noise(images[p.view], c, seed=index, inside=inside)
            for index, (p, c) in enumerate(zip(kept, changed, strict=True))
            if p.kind == "hallucinated"
        ])
        for inside in (False, True)
    ]  # fmt: skip
    return CueSample(captions, torch.tensor(rounds), kept, views, images, changed, *noises,
                     len(pairs) - len(kept))  # fmt: skip


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
) -> CueFeatures:
    """Everything of a sample, and a gallery's pictures, encoded."""
    raw = [
        before_projection(encoder, images, progress=progress)
        for images in (sample.images, sample.changed)
    ]
    projection = encoder.model.visual.proj.detach().float().cpu()
    return CueFeatures(
        encoder.encode_texts(sample.captions, progress=progress),
        *(unit(part @ projection) for part in raw),
        *(
            encoder.encode_images(part, progress=progress)
            for part in (sample.noise, sample.noise_inside, gallery)
        ),
        *raw,
    )


def cue_slopes(
    sample: CueSample, encoder: Encoder, *, num_views: int = NUM_VIEWS, progress: bool = False
) -> dict[str, Tensor]:
    """Lengths of the derivative of the feature at the first views, per unit of pixel change.

    `cues` (num_pairs,) along the change that undoes a cue, `noise_inside` (num_hallucinated,)
    along the noise in the same pixels; NaN for the pairs of later views.
    """
    views = np.array([pair.view for pair in sample.pairs])
    false = sample.chosen("hallucinated")
    lengths = {
        "cues": torch.full((len(views),), float("nan")),
        "noise_inside": torch.full((int(false.sum()),), float("nan")),
    }
    number = min(num_views, len(sample.scenes))
    for view in trange(number, desc="derivatives", disable=not progress):
        mine, noisy = np.flatnonzero(views == view), np.flatnonzero(views[false] == view)
        if not len(mine):
            continue  # nothing of the view can be undone
        ends = [sample.images[view], *sample.changed[mine], *sample.noise_inside[noisy]]
        pixels = image_pixels(encoder, ends)
        along = cue_jacobian(encoder, pixels[0], pixels[1:] - pixels[0]).norm(dim=-1).float().cpu()
        lengths["cues"][mine], lengths["noise_inside"][noisy] = along.split([len(mine), len(noisy)])
    return lengths


@torch.no_grad()
def before_projection(
    encoder: Encoder, images: np.ndarray, *, batch_size: int = 256, progress: bool = False
) -> Tensor:
    """What an open_clip ViT's last projection is applied to, (num_images, width).

    Raises DataError for a tower without such a projection.
    """
    if getattr(encoder.model.visual, "proj", None) is None:
        raise DataError(
            f"{type(encoder.model.visual).__name__}: ends in no linear projection, so it has no "
            "null space in the strict sense; choose an open_clip ViT"
        )
    tower = encoder.model.visual
    projection, tower.proj = tower.proj, None
    try:
        starts = trange(0, len(images), batch_size, desc="encoding images", disable=not progress)
        return torch.cat([
            tower(image_pixels(encoder, list(images[start : start + batch_size]))).float().cpu()
            for start in starts
        ])  # fmt: skip
    finally:
        tower.proj = projection

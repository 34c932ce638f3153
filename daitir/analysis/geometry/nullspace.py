"""Null space, defined and tested: what an encoder does with one change of a picture.

A *displacement* δ is the feature of a view less the feature of the same view with one cue undone.
A linear map has a null space; an encoder, which is not linear, has at each picture a Jacobian, and
one truly linear part, its last projection. So the questions are asked one by one: does δ lie
outside the directions that tell gallery images apart (`target_span`), does it move the query
(`effect_of_removal`), is the derivative along the cue small (`cue_jacobian`), and is the change
lost in the last projection (`null_basis`). `probes` tells whether the cue can still be read.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.analysis.attention import image_pixels, record_attention
from daitir.analysis.geometry.spaces import TOLERANCE, check_enough, unit
from daitir.common.errors import DataError
from daitir.models.encoders import Encoder
from daitir.retrieval import target_ranks

NUM_TANGENTS = 32  # derivatives at once
SHARE = 0.9  # of the variance that a span holds
PER_BATCH = 256  # images


def equal_noise(image: np.ndarray, changed: np.ndarray, *, seed: int, inside: bool) -> np.ndarray:
    """A picture plus noise as far away, in pixels, as a changed one: uint8 (height, width, 3).

    The noise is white and lies everywhere or, with `inside`, in the changed pixels only. More noise
    makes up for what black and white cut off. Raises DataError for pictures that do not differ.
    """
    difference = changed.astype(float) - image
    size = np.sqrt((difference**2).sum())
    if not size:
        raise DataError("the two pictures are the same: there is no change to match")
    noise = np.random.default_rng(seed).standard_normal(image.shape)
    if inside:
        noise *= (difference != 0).any(axis=-1, keepdims=True)

    def noisy(gain: float) -> np.ndarray:
        return np.clip(np.rint(image + gain * noise), 0, 255)

    low, high = 0.0, 512.0
    for _ in range(24):  # the distance grows with the gain
        gain = (low + high) / 2
        is_short = np.sqrt(((noisy(gain) - image) ** 2).sum()) < size
        low, high = (gain, high) if is_short else (low, gain)
    return noisy(high).astype(np.uint8)


def target_span(gallery_features: Tensor) -> Tensor:
    """Directions that tell gallery images apart: an orthonormal basis (num_directions, dim).

    The fewest principal directions of differences between images that hold `SHARE` of their
    variance; the covariance of differences is twice that of the images. Raises DataError for no
    more images than dimensions, and where the last direction inside has the variance of the next.

    >>> images = torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 0.1, 0], [0, -0.1, 0], [0, 0, 0.1]])
    >>> target_span(images).abs().round(decimals=3)
    tensor([[1., 0., 0.]])
    """
    number, dim = gallery_features.shape
    check_enough(number, dim, f"at most {number - 1} directions can be told")
    directions, values = main_directions(gallery_features - gallery_features.double().mean(dim=0))
    size = len(directions)
    if size < dim and values[size - 1] - values[size] <= TOLERANCE * values[0]:
        both = f"directions {size} and {size + 1} have one variance"
        raise DataError(f"the spectrum is degenerate: {both}; take other images")
    return directions.to(gallery_features)


def main_directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The fewest directions, (num_directions, dim), that hold `SHARE` of all rows' squared length.

    The rows are (num, dim). The second value is every singular value, the largest first.
    """
    _, values, directions = torch.linalg.svd(rows.double(), full_matrices=False)
    shares = values.square() / values.square().sum().clamp(min=1e-300)
    size = int((shares.cumsum(dim=0) < SHARE - 1e-9).sum()) + 1
    return directions[:size], values


def random_span(num_directions: int, dim: int, *, seed: int) -> Tensor:
    """An orthonormal basis (num_directions, dim) of a subspace drawn evenly: the null of spans."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, num_directions, generator=generator))[0].T


def share_in_span(displacements: Tensor, basis: Tensor) -> Tensor:
    """Share of each displacement's squared length inside a span, (num_pairs,); the rest is outside.

    `basis` (num_directions, dim) is orthonormal. Raises DataError as `unit` does.

    >>> share_in_span(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.3600])
    """
    return (unit(displacements) @ basis.T).square().sum(dim=-1)


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles between two subspaces in degrees, the smallest first: (fewer directions,).

    Both (num_directions, dim) are orthonormal. Source: Björck and Golub (1973).
    """
    cosines = torch.linalg.svdvals(a.double() @ b.double().T).clamp(0, 1)
    return torch.rad2deg(torch.arccos(cosines))


def project_out(features: Tensor, directions: Tensor) -> Tensor:
    """Features without their part along a direction, one each, scaled to length 1: (num, dim).

    >>> project_out(torch.tensor([[0.6, 0.8]]), torch.tensor([[5.0, 0.0]]))
    tensor([[0., 1.]])
    """
    directions = unit(directions)
    along = (features * directions).sum(dim=-1, keepdim=True)
    return unit(features - along * directions)


def effect_of_removal(
    queries: Tensor, changed: Tensor, gallery: Tensor, targets: Tensor, *, logit_scale: float
) -> tuple[Tensor, Tensor]:
    """Change of the target's logit, and of ln(rank + 1), from queries to changed queries.

    Both queries are (num_queries, dim), the gallery is (num_images, dim), and the targets are
    (num_queries,) indices of it. A logit is the cosine with the target times the scale. The changes
    are (num_queries,); lower log-ranks are better.
    """
    pair = (queries, changed)
    ranks = [target_ranks(q, gallery, targets).double().log1p() for q in pair]
    logits = [logit_scale * (q * gallery[targets]).sum(dim=-1) for q in pair]
    return logits[1] - logits[0], ranks[1] - ranks[0]


def cue_jacobian(encoder: Encoder, pixels: Tensor, tangents: Tensor) -> Tensor:
    """Derivatives of an image's unit feature along changes of its pixels, (num_tangents, dim).

    `pixels` (3, size, size) are as `image_pixels` gives them. `tangents` (num_tangents, 3, size,
    size), such as a picture with one cue undone less the picture, are each scaled to length 1, so
    that lengths of rows compare. Raises DataError for a tangent of 0.
    """
    scaled = unit(tangents.flatten(1)).view_as(tangents)
    tower = encoder.model.visual

    def feature(x: Tensor) -> Tensor:
        return F.normalize(encoder.model.encode_image(x[None]), dim=-1)[0]

    def along(tangent: Tensor) -> Tensor:
        return torch.func.jvp(feature, (pixels,), (tangent,))[1]

    # Fused kernels have no forward-mode derivatives; a recorder computes by plain products.
    plain = record_attention(tower) if hasattr(tower, "transformer") else nullcontext()
    with torch.no_grad(), plain, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's first jvp uses what it deprecates
        return torch.func.vmap(along, chunk_size=NUM_TANGENTS)(scaled)


def null_basis(weight: Tensor) -> Tensor:
    """Directions that a linear map sends to 0, an orthonormal basis (num_directions, num_inputs).

    `weight` (num_inputs, num_outputs) is applied as x @ weight, such as `model.visual.proj`. There
    are no such directions where the map is one to one.

    >>> null_basis(torch.tensor([[1.0], [0.0]])).abs()
    tensor([[0., 1.]])
    """
    directions, values, _ = torch.linalg.svd(weight.double(), full_matrices=True)
    rank = int((values > TOLERANCE * values[0]).sum())
    return directions[:, rank:].T.to(weight)


@torch.no_grad()
def before_projection(encoder: Encoder, images: np.ndarray) -> Tensor:
    """What an open_clip ViT's last projection is applied to, (num_images, width).

    Raises DataError for a tower without such a projection.
    """
    tower = encoder.model.visual
    if getattr(tower, "proj", None) is None:
        raise DataError(
            f"{type(tower).__name__}: ends in no linear projection, so it has no null space in the "
            "strict sense; choose an open_clip ViT"
        )
    projection, tower.proj = tower.proj, None
    try:
        starts = range(0, len(images), PER_BATCH)
        batches = (list(images[start : start + PER_BATCH]) for start in starts)
        return torch.cat([tower(image_pixels(encoder, batch)).float().cpu() for batch in batches])
    finally:
        tower.proj = projection

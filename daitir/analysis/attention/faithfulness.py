"""How far a map can be believed: where its mass lies, what its pixels do, and nulls for both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.common.errors import DataError


def mask_share(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the mass of each map, (num_images, rows, columns), on its mask: (num_images,).

    `masks` (num_images, height, width) are bool, with sides that are multiples of the maps'. A cell
    that the mask covers in part counts in part. Raises DataError for sizes that do not fit, an
    empty mask, and maps that are negative or zero throughout.
    """
    _check_masks(maps, masks)
    totals = maps.sum(dim=(1, 2))
    bad = (maps < 0).flatten(1).any(dim=1) | ~(totals > 0)
    _refuse(bad, "maps are negative somewhere or zero everywhere", "a share needs a positive map")
    covered = F.adaptive_avg_pool2d(masks.float()[:, None], maps.shape[1:])[:, 0]
    return (maps * covered).sum(dim=(1, 2)) / totals


def pointing_hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether each map is highest on its mask, (num_images,) float: the pointing game.

    The map is scaled up to the mask bilinearly. Arguments and errors are those of `mask_share`, but
    maps may have any sign. Source: Zhang et al. (2018).
    """
    _check_masks(maps, masks)
    fine = F.interpolate(maps[:, None].float(), masks.shape[1:], mode="bilinear")[:, 0]
    return masks.flatten(1).gather(1, fine.flatten(1).argmax(dim=1, keepdim=True))[:, 0].float()


class Curves(NamedTuple):
    """Scores while the pixels that a map finds important go or come, (num_images, steps + 1)."""

    deletion: Tensor
    insertion: Tensor

    def areas(self) -> tuple[Tensor, Tensor]:
        """Areas under the curves of deletion (low is good) and insertion (high), (num_images,)."""
        return tuple(torch.trapezoid(c, dim=1) / (c.shape[1] - 1) for c in self)


@torch.no_grad()
def deletion_insertion(
    score: Callable[[Tensor], Tensor], pixels: Tensor, maps: Tensor, *, num_steps: int = 16
) -> Curves:
    """Scores as the most important cells are removed from a picture, and as they are put in.

    Cells are taken in the order of the map, the highest first, in `num_steps` equal parts; what is
    not shown has the colour that is the picture's mean. `score` maps pixels (num_images, 3, height,
    width) to scores (num_images,); the sides of `pixels` are multiples of those of the maps
    (num_images, rows, columns). Raises DataError for sizes that do not fit. Source: Petsiuk et al.
    (2018).
    """
    number, rows, columns = maps.shape
    _check_sides(maps, pixels)
    places = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    empty = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
    whole, nothing = score(pixels), score(empty)  # both curves have these ends
    deletion, insertion = [whole], [nothing]
    for step in range(1, num_steps):
        taken = (places < round(step * rows * columns / num_steps)).view(number, 1, rows, columns)
        taken = F.interpolate(taken.float(), pixels.shape[2:], mode="nearest").bool()
        deletion.append(score(torch.where(taken, empty, pixels)))
        insertion.append(score(torch.where(taken, pixels, empty)))
    return Curves(torch.stack([*deletion, nothing], dim=1), torch.stack([*insertion, whole], dim=1))


def randomised(model: nn.Module, *, seed: int) -> nn.Module:
    """A copy of a model that has learned nothing: the entries of every weight change places.

    Each weight keeps its distribution and scale. Maps that do not change with the model cannot
    show what it learned. Source: the sanity check of Adebayo et al. (2018).
    """
    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for weight in copied.parameters():
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return copied


def _check_masks(maps: Tensor, masks: Tensor) -> None:
    _check_sides(maps, masks)
    empty = ~masks.flatten(1).any(dim=1)
    _refuse(empty, "masks are empty", "leave out objects that are not seen")


def _refuse(bad: Tensor, problem: str, advice: str) -> None:
    if bad.any():
        first = f"the first is number {int(bad.nonzero()[0])}"
        raise DataError(f"{int(bad.sum())} of {len(bad)} {problem}, {first}; {advice}")


def _check_sides(maps: Tensor, fine: Tensor) -> None:
    cells, pixels = maps.shape[-2:], fine.shape[-2:]
    if any(f % m for f, m in zip(pixels, cells, strict=True)):
        raise DataError(
            f"maps of {cells[0]} × {cells[1]} cells do not divide pictures of {pixels[0]} × "
            f"{pixels[1]} pixels; render them at the encoder's size"
        )

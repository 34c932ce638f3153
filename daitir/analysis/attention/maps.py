"""Maps from recorded attention, rollout and relevance, and how far they can be believed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.analysis.attention.record import record_attention, text_tower
from daitir.common.errors import DataError
from daitir.models.encoders import Encoder
from daitir.models.open_clip_encoders import length_read, shortened_context


class Relevance(NamedTuple):
    """What a similarity rests on."""

    images: Tensor  # maps of the patches, (num_pairs, rows, columns)
    tokens: list[list[tuple[str, float]]]  # of each text, with relevance, without start and end


def image_pixels(encoder: Encoder, images: Sequence[Image.Image | np.ndarray]) -> Tensor:
    """What the vision tower sees of pictures, (num_images, 3, size, size), on its device."""
    pictures = [Image.fromarray(i) if isinstance(i, np.ndarray) else i for i in images]
    pixels = torch.stack([encoder.preprocess(picture) for picture in pictures])
    return pixels.to(encoder.device, next(encoder.model.parameters()).dtype)


def rollout(attention: Sequence[Tensor]) -> Tensor:
    """Attention followed through the layers, (batch, tokens, tokens); rows sum to one.

    Each layer has (batch, heads, tokens, tokens), the first layer first. Its heads are averaged and
    mixed half and half with the identity, for the connection past the layer; then layers multiply.
    Source: Abnar and Zuidema (2020). Raises ValueError without a layer.
    """
    if not attention:
        raise ValueError("no attention was recorded; run the model while the recorder is open")
    total = identity = torch.eye(attention[0].shape[-1], device=attention[0].device)
    for weights in attention:
        mixed = (weights.float().mean(dim=1) + identity) / 2
        total = mixed @ total
    return total


def relevance(attention: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Relevance of each input token to each output token, (batch, tokens, tokens).

    It starts as the identity. Each layer adds its attention times the gradient of the score, both
    (batch, heads, tokens, tokens), positive parts averaged over heads, times the relevance so far.
    Source: Chefer et al. (2021), equations 5 and 6.
    """
    total = torch.eye(attention[0].shape[-1], device=attention[0].device)
    for weights, gradient in zip(attention, gradients, strict=True):
        weighted = (weights.float() * gradient.float()).clamp(min=0).mean(dim=1)
        total = total + weighted @ total
    return total


def patch_maps(tower: nn.Module, tokens: Tensor) -> Tensor:
    """The rows of the tokens that an image's feature is read from, as maps of the patches.

    `tokens` (..., tokens, tokens) gives (..., rows, columns): the row of the class token, or the
    mean of the patches' rows where the tower averages them. Raises DataError for other towers.
    """
    if tower.attn_pool is not None or tower.pool_type not in ("tok", "avg"):
        raise DataError(
            f"{type(tower).__name__}: reads its patches by a pooling of another kind than a class "
            "token or an average, so no row of the attention is the image's"
        )
    read = tokens[..., 0, :] if tower.pool_type == "tok" else tokens[..., 1:, :].mean(dim=-2)
    return read[..., 1:].unflatten(-1, tower.grid_size)


def attention_maps(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Where each head of each layer looks, (num_images, layers, heads, rows, columns).

    A map sums to less than one: the class token looks at itself too. Raises DataError as
    `record_attention` and `patch_maps` do.
    """
    layers = _vision_attention(encoder, pixels)
    return patch_maps(encoder.model.visual, torch.stack(layers, dim=1)).float().cpu()


def rollout_maps(encoder: Encoder, pixels: Tensor) -> Tensor:
    """`rollout` of images as maps of the patches, (num_images, rows, columns); no text is asked."""
    return patch_maps(encoder.model.visual, rollout(_vision_attention(encoder, pixels))).cpu()


@torch.no_grad()
def _vision_attention(encoder: Encoder, pixels: Tensor) -> list[Tensor]:
    with record_attention(encoder.model.visual) as layers:
        encoder.model.encode_image(pixels)
    return layers


def relevance_maps(encoder: Encoder, pixels: Tensor, texts: Sequence[str]) -> Relevance:
    """`relevance` of patches and tokens to the cosine of each image with its text.

    Raises DataError as `attention_maps` does, and for a text tower that reads another token than
    the end; ValueError where there are not as many texts as images.
    """
    if len(pixels) != len(texts):
        raise ValueError(f"{len(pixels)} images need as many texts, not {len(texts)}")
    model, visual, textual = encoder.model, encoder.model.visual, text_tower(encoder.model)
    pooling = getattr(textual, "text_pool_type", getattr(textual, "pool_type", None))
    if pooling != "argmax":
        raise DataError(
            f"{type(textual).__name__}: reads its text by pooling {pooling!r}; relevance is known "
            "for towers that read it off the end token"
        )
    tokens = encoder.tokenizer(list(texts)).to(encoder.device)
    used = length_read(model, tokens)
    with (
        torch.enable_grad(),
        record_attention(visual) as of_image,
        record_attention(textual) as of_text,
        shortened_context(model, used),
    ):
        tokens = tokens[:, :used]
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = F.normalize(model.encode_text(tokens), dim=-1)
        gradients = torch.autograd.grad((image * text).sum(), [*of_image, *of_text])
    with torch.no_grad():
        layers = len(of_image)
        seen = patch_maps(visual, relevance(of_image, gradients[:layers]))
        said = relevance(of_text, gradients[layers:])
    # open_clip wraps tokenisers of Hugging Face.
    tokenizer = getattr(encoder.tokenizer, "tokenizer", encoder.tokenizer)
    read = []
    for values, row in zip(said, tokens.tolist(), strict=True):
        end = row.index(max(row))  # the end token is the largest
        words = [tokenizer.decode([number]).strip() for number in row[1:end]]
        read.append(list(zip(words, values[end, 1:end].tolist(), strict=True)))
    return Relevance(seen.cpu(), read)


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
    not shown has the picture's mean colour. `score` maps pixels (num_images, 3, height, width) to
    scores (num_images,); their sides are multiples of those of the maps (num_images, rows,
    columns). Raises DataError for sizes that do not fit. Source: Petsiuk et al. (2018).
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

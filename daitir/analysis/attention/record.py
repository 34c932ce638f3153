"""Recording attention, which open_clip and diffusers compute by fused kernels that return none.

A recorder is a context manager. While it is open, the attention of one model is computed by plain
products, with the same result up to rounding; when it closes, the model is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.common.errors import DataError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def text_tower(model: nn.Module) -> nn.Module:
    """The part of an open_clip model that holds the text transformer; of a `CLIP` itself."""
    return getattr(model, "text", model)


def attention_layers(tower: nn.Module) -> list[nn.MultiheadAttention]:
    """The self-attention of every block of an open_clip ViT or text tower, first layer first.

    Raises DataError for a tower without such blocks, or whose attention has a fused kernel only.
    """
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", ())
    layers = [getattr(block, "attn", None) for block in blocks]
    if not layers:
        raise DataError(
            f"{type(tower).__name__}: has no transformer blocks of open_clip, so there is no "
            "attention to record; choose a ViT"
        )
    if not all(isinstance(layer, nn.MultiheadAttention) for layer in layers):
        raise DataError(
            f"{type(tower).__name__}: its attention ({type(layers[0]).__name__}) has a fused "
            "kernel only; build the model with open_clip's standard blocks"
        )
    return layers


@contextmanager
def record_attention(tower: nn.Module) -> Iterator[list[Tensor]]:
    """Record the attention of an open_clip tower: `model.visual`, or `text_tower(model)`.

    Yields a list that holds, after a forward pass, the attention of each layer, (batch, heads,
    tokens, tokens), whose rows sum to one; another pass replaces it. The output is computed from
    these tensors, so that it has gradients for them. Raises DataError as `attention_layers` does.
    """
    layers = attention_layers(tower)
    recorded: list[Tensor] = []

    def recording(number: int, layer: nn.MultiheadAttention):
        def forward(query, key, value, need_weights=False, attn_mask=None):
            if number == 0:
                recorded.clear()
            output, weights = _explicit_attention(layer, query, attn_mask)
            recorded.append(weights)
            return output, None

        return forward

    forwards = [vars(layer).get("forward") for layer in layers]  # recorders may be nested
    try:
        for number, layer in enumerate(layers):
            layer.forward = recording(number, layer)
        yield recorded
    finally:
        for layer, forward in zip(layers, forwards, strict=True):
            del layer.forward  # the class's own method shows again
            if forward is not None:
                layer.forward = forward


def _explicit_attention(
    layer: nn.MultiheadAttention, x: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Self-attention of (batch, tokens, width) by plain products: the output, and the weights."""
    batch, tokens, width = x.shape
    heads = layer.num_heads
    joint = F.linear(x, layer.in_proj_weight, layer.in_proj_bias)
    joint = joint.view(batch, tokens, 3, heads, width // heads)
    query, key, value = joint.permute(2, 0, 3, 1, 4)
    scores = query * (width // heads) ** -0.5 @ key.transpose(-2, -1)
    if mask is not None:  # (tokens, tokens) or (batch · heads, tokens, tokens)
        scores = scores + (mask.view(scores.shape) if mask.ndim == 3 else mask)
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(dim=-1, dtype=precise).to(x.dtype)
    if torch.is_grad_enabled() and not weights.requires_grad:
        weights.requires_grad_()  # all parameters are frozen
    output = (weights @ value).transpose(1, 2).reshape(batch, tokens, width)
    return layer.out_proj(output), weights


class CrossAttention:
    """Maps of where each token of a prompt was looked at, summed up while a pipeline draws."""

    def __init__(self):
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._number = 0

    def add(self, weights: Tensor) -> None:
        """Add one layer at one step, (batch, tokens, height, width) averaged over its heads."""
        size = tuple(weights.shape[-2:])
        self._sums[size] = self._sums.get(size, 0) + weights.float()
        self._number += 1

    @property
    def maps(self) -> Tensor:
        """(batch, tokens, height, width), averaged over steps and layers, of the finest layer.

        Coarser layers are scaled up bilinearly; at every place the tokens sum to one. Source: DAAM
        (Tang et al. 2023). Raises ValueError where nothing was drawn.
        """
        if not self._sums:
            raise ValueError("nothing was drawn while the recorder was open")
        finest = max(self._sums, key=lambda size: size[0] * size[1])
        total = sum(F.interpolate(s, finest, mode="bilinear") for s in self._sums.values())
        return total / self._number


@contextmanager
def record_cross_attention(pipeline: DiffusionPipeline) -> Iterator[CrossAttention]:
    """Record a diffusers pipeline's attention to the tokens of its prompts while it draws.

    Guided drawing is recorded in the half that sees the prompt. One batch of prompts may be drawn.
    Raises DataError for a pipeline without a U-Net that attends to a text, and for one whose
    attention has a fused kernel or a processor of another kind.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    unet = getattr(pipeline, "unet", nn.Module())
    layers = {
        name: module
        for name, module in unet.named_modules()
        if name.endswith("attn2") and hasattr(module, "get_attention_scores")
    }
    if not layers:
        raise DataError(
            f"{type(pipeline).__name__}: has no U-Net with cross-attention to a text; maps of "
            "tokens can be recorded of pipelines such as StableDiffusionPipeline"
        )
    for name, layer in layers.items():
        is_plain = type(layer.processor) in (AttnProcessor, AttnProcessor2_0)
        if not is_plain or layer.norm_q is not None or layer.norm_k is not None:
            raise DataError(
                f"{name}: its attention ({type(layer.processor).__name__}) is of a kind that "
                "cannot be recorded; call unet.set_default_attn_processor() first"
            )
    recorded, size = CrossAttention(), []

    def note_size(module, arguments, keywords):
        sample = arguments[0] if arguments else keywords["sample"]
        size[:] = sample.shape[-2:]

    def recording(layer):
        plain = type(layer).get_attention_scores

        def scores(query, key, attention_mask=None):
            weights = plain(layer, query, key, attention_mask)
            maps = weights.unflatten(0, (-1, layer.heads)).mean(dim=1).transpose(1, 2)
            if pipeline.do_classifier_free_guidance:
                maps = maps.chunk(2)[1]
            shrunk = round((size[0] * size[1] / maps.shape[-1]) ** 0.5)
            recorded.add(maps.unflatten(-1, (-(-size[0] // shrunk), -1)).detach())
            return weights

        return scores

    processors = [layer.processor for layer in layers.values()]
    handle = unet.register_forward_pre_hook(note_size, with_kwargs=True)
    try:
        for layer in layers.values():
            layer.set_processor(AttnProcessor())
            layer.get_attention_scores = recording(layer)
        yield recorded
    finally:
        handle.remove()
        for layer, processor in zip(layers.values(), processors, strict=True):
            layer.set_processor(processor)
            vars(layer).pop("get_attention_scores", None)

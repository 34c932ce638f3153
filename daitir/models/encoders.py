"""Dual encoders by their specs."""

from __future__ import annotations

import torch

from daitir.models.encoder import Encoder
from daitir.models.registry import encoder_kind


def load_encoder(
    spec: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Encoder:
    """The encoder of a spec.

    Args:
        spec: `mini`, the one that comes with the package, or another form that
            `daitir.models.registry` lists.
        device: where it computes.
        dtype: the precision of its products (mixed precision: the weights stay as they are).

    Returns:
        The encoder, in eval mode.

    Raises:
        DataError: the spec is unknown, a file is missing, damaged or asks for code to be run, or
            weights do not fit the architecture. Known mismatches are told before anything is
            fetched: weights that expect QuickGELU under a name without it, and a file that lies
            beside an `open_clip_config.json` of another architecture.

    Example:
        >>> load_encoder("mini").encode_texts("a red dog").shape
        torch.Size([1, 128])
    """
    kind, name = encoder_kind(spec)
    options = {"load_base": load_encoder} if kind.has_base else {}
    encoder = kind.loader()(name, device=device, **options)
    encoder.dtype = dtype
    return encoder

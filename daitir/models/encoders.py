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

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate
from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import weights_digest
from daitir.data.gallery import read_image
from daitir.models import ASSETS
from daitir.models.identity import identity

CONFIGS = Path(__file__).parent / "configs"  # architectures of our own
MINI_FOLDER = ASSETS / "clip"
CONFIG_NAME = "open_clip_config.json"
TOKENIZER_FOLDER = ASSETS / "tokenizer"
OWN_ARCHITECTURES = tuple(sorted(path.stem for path in (CONFIGS).glob("*.json")))

if not set(OWN_ARCHITECTURES) <= set(open_clip.list_models()):
    open_clip.add_model_config(CONFIGS)

Picture = Image.Image | str | Path | np.ndarray
Pictures = Iterable[Picture] | Picture


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
        origin: str | None = None,
    ):
        """`origin` is the `identity` of what the model was loaded from, None without files."""
        self.spec = spec
        self.folder = folder
        self.model = model.to(device).eval()
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.context_length, self.image_size = self._sizes()
        with torch.no_grad():
            self.dim = self._text_features(["a"]).shape[-1]
        self.came_from(origin)

    def came_from(self, origin: str | None) -> None:
        """Note the identity of what the weights, as they are now, were loaded from."""
        self._origin, self._loaded = origin, self._state()

    def _state(self) -> list:
        """What changes with the weights, be they changed by hand, and with the preprocessing."""
        tensors = [t for t in self.model.state_dict().values() if t.numel()]
        versions = sum(0 if tensor.is_inference() else tensor._version for tensor in tensors)
        ranges = [[str(x.item()) for x in t.aminmax()] for t in tensors if not t.is_complex()]
        return [versions, ranges, self._settings()]

    @property
    def digest(self) -> str:
        """A hash of all that decides the features: files, settings and precision.

        Weights without files, or that were changed since they were loaded, count by their values.
        """
        origin = self._origin
        if origin is None or self._state() != self._loaded:
            origin = [origin, weights_digest(self.model), self._settings()]
        return identity(
            origin=origin, context_length=self.context_length, image_size=self.image_size,
            dtype=str(self.dtype),
        )  # fmt: skip

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

    def _settings(self) -> str:
        """How pictures are prepared, in words, for a model that has no files to tell it."""
        return re.sub(r" at 0x[0-9a-f]+", "", repr(self.preprocess))

    def _text_features(self, batch: list[str]) -> Tensor:
        tokens = self.tokenizer(batch)
        length = length_read(self.model, tokens)
        with shortened_context(self.model, length):
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
        self, texts: str | Sequence[str], *, batch_size: int = 256, progress: bool = False
    ) -> Tensor:
        """Features of texts, (num_texts, dim) float32 on the CPU, each of length 1.

        One string is one text. Texts that occur more than once are encoded once. Raises DataError
        for what is no text, and ValueError without any.
        """
        texts = _listed_texts(texts)
        # Texts of like length in one batch waste little on padding.
        unique = sorted(dict.fromkeys(texts), key=len)
        if not unique:
            raise ValueError("no text to encode")
        features = []
        for batch in _batches(unique, batch_size, len(unique), "encoding texts", progress):
            with self._precision():
                padded = _whole(batch, batch_size)
                features.append(_unit(self._text_features(padded))[: len(batch)])
        table = dict(zip(unique, range(len(unique)), strict=True))
        return torch.cat(features)[[table[text] for text in texts]]

    def encode_images(
        self,
        images: Pictures,
        *,
        batch_size: int = 256,
        workers: int = 0,
        progress: bool = False,
    ) -> Tensor:
        """Features of images, (num_images, dim) float32 on the CPU, each of length 1.

        Equal pictures get equal features, bit by bit, wherever they stand.

        Args:
            images: pictures, paths of pictures, or uint8 arrays (height, width, 3); or one of
                these, which is one picture.
            batch_size: images that the model sees together.
            workers: threads that decode and preprocess ahead of the model; 0 for none.

        Raises DataError, naming the file, where a path is no readable image, and for what is no
        picture.
        """
        images = listed(images)
        total = len(images) if isinstance(images, Sequence | np.ndarray) else None
        features = []
        with tqdm(total=total, desc="encoding images", unit="item", disable=not progress) as bar:
            for batch in self.image_batches(images, batch_size=batch_size, workers=workers):
                features.append(batch)
                bar.update(len(batch))
        return torch.cat(features) if features else torch.empty(0, self.dim)

    def image_batches(
        self,
        images: Pictures,
        *,
        batch_size: int = 256,
        workers: int = 0,
    ) -> Iterator[Tensor]:
        """What `encode_images` gives, batch by batch."""

        def pixels_of(image: Picture) -> Tensor:
            return self.preprocess(as_image(image))

        pixels = in_order(pixels_of, listed(images), workers=workers, ahead=batch_size)
        while batch := list(islice(pixels, batch_size)):
            with torch.no_grad(), self._precision():
                inputs = default_collate(_whole(batch, batch_size))
                features = _unit(self._image_features(inputs))[: len(batch)]
            yield features

    def _precision(self):
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def length_read(model, tokens: Tensor) -> int:
    """How many of the tokens (num_texts, context) of an open_clip model decide its features.

    In a causal tower that reads its features off one token, as open_clip's separate text towers
    do, no token looks at what stands behind it, and the rest costs time only. Elsewhere it is all.
    """
    tower = _shortenable(model)
    if tower is None:
        return tokens.shape[1]
    ends = tokens if tower.pool_type == "argmax" else (tokens == tower.eos_id).int()
    return int(ends.argmax(dim=1).max()) + 1


@contextmanager
def shortened_context(model, length: int) -> Iterator[None]:
    """Let a text tower read texts of `length` tokens, as `length_read` tells; else leave it."""
    tower = _shortenable(model)
    if tower is None:
        yield
        return
    mask = tower.attn_mask
    tower.attn_mask = mask[:length, :length]
    try:
        yield
    finally:
        tower.attn_mask = mask


def _shortenable(model):
    """The text tower of a model where it can read fewer tokens than its context has, else None."""
    tower = getattr(model, "text", None)
    mask, pooling = (getattr(tower, name, None) for name in ("attn_mask", "pool_type"))
    causal = isinstance(mask, Tensor) and mask.ndim == 2
    whole = getattr(tower, "cls_emb", None) is not None  # CoCa reads a token at the very end
    return tower if causal and not whole and pooling in ("argmax", "eos") else None


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
    kind, _, rest = spec.partition(":")
    if spec == "mini" or kind == "open_clip" and rest:
        from daitir.models.open_clip_encoders import (  # late, as those below:
            load_folder,
            load_open_clip,
        )

        if spec == "mini":  # they build on this module
            return load_folder(spec, MINI_FOLDER, device=device)
        return load_open_clip(rest, device=device)
    if spec == "lit" or kind == "lit" and rest:
        from daitir.models.lit_encoder import LIT_FOLDER, load_lit

        return load_lit(Path(rest) if rest else LIT_FOLDER, device=device)
    if kind == "hf" and rest:
        from daitir.models.hf_encoders import load_hf

        return load_hf(rest, device=device)
    if kind == "finetuned" and rest:
        from daitir.models.finetuned import load_finetuned

        return load_finetuned(Path(rest), device=device)
    raise DataError(
        f"unknown encoder {spec!r}; use mini, open_clip:NAME, open_clip:NAME@PRETRAINED, "
        "open_clip:FOLDER, hf:NAME, hf:FOLDER, lit or finetuned:FOLDER"
    )


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1).cpu()


def _whole(batch: list, batch_size: int) -> list:
    """A batch, with its first items again behind it, up to a size that changes no item's result.

    Products of few rows are summed in another order, by the last bit, and the order in them counts.
    Measured on x86 with 1 to 16 threads: from 16 on no size and no place changes a bit; below
    that multiples of 4 are equal among themselves. Batches of one are all alike.
    """
    unit = min(16, -(-batch_size // 4) * 4) if batch_size > 1 else 1
    return batch + [batch[i % len(batch)] for i in range(-len(batch) % unit)]


def _listed_texts(texts: object) -> list[str]:
    if isinstance(texts, str):
        return [str(texts)]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping | Set):
        raise DataError(f"a text or a list of texts is wanted, not {type(texts).__name__}")
    texts = list(texts)
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if wrong:
        raise DataError(f"texts are strings, not {wrong[0]}")
    return texts


def listed(images: Pictures) -> Iterable[Picture]:
    """Pictures as something to go through: one alone is a list of one.

    Raises DataError, naming the type, for what is neither.
    """
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, bytes | Mapping | Set | Tensor):
        raise DataError(f"a picture or a list of pictures is wanted, not {type(images).__name__}")
    return images


def as_image(image: Picture) -> Image.Image:
    """The picture of a path or an array. Raises DataError as `read_image`, and for other types."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise DataError(f"a picture is an image, a path or an array, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(
            f"an array of uint8 (height, width, 3) is wanted, not {image.dtype} {image.shape}"
        )
    return Image.fromarray(image)


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

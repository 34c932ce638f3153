"""What a dual encoder is: one interface over models of any library."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from operator import length_hint
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate
from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import weights_digest
from daitir.data.gallery import read_image
from daitir.models.identity import identity

Picture = Image.Image | str | Path | np.ndarray
Pictures = Iterable[Picture] | Picture


class Encoder(ABC):
    """A dual encoder: texts and images to unit vectors of one space.

    A subclass gives `_text_features`, and `_token_counts`, `_image_features` and `_preprocessing`
    where they differ. `daitir.models.registry` names it.

    Attributes:
        spec: the spec it was loaded from.
        folder: the folder with its weights, training log and card, None where it has none.
        model: the model of its library, in eval mode, with its library's `preprocess`.
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
        context_length: int,
        image_size: int,
        folder: Path | None = None,
        origin: str | None = None,
    ):
        """`origin` is the `identity` of what the model was loaded from, None without files."""
        self.spec, self.folder, self.device = spec, folder, torch.device(device)
        self.model, self.preprocess, self.tokenizer = model.to(device).eval(), preprocess, tokenizer
        self.context_length, self.image_size = context_length, image_size
        with torch.no_grad():
            self.dim = self._text_features(["a"]).shape[-1]
        self.came_from(origin)

    @abstractmethod
    def _text_features(self, texts: list[str]) -> Tensor:
        """Features of a batch of texts, (num_texts, dim), of any length."""

    def _token_counts(self, texts: list[str]) -> list[int]:
        """How many tokens each text has, start and end tokens included, before it is cut."""
        return [len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"]]

    def tokens(
        self,
        texts: list[str],
        names: Sequence[str] = ("input_ids", "attention_mask"),
        padding: str | bool = True,
    ) -> dict[str, Tensor]:
        """What a text tower of transformers reads of a batch of texts."""
        cut = {"truncation": True, "max_length": self.context_length}
        tokens = self.tokenizer(texts, padding=padding, return_tensors="pt", **cut).to(self.device)
        return {name: tokens[name] for name in names if name in tokens}

    def _image_features(self, inputs: Tensor) -> Tensor:
        """Features of a batch of what `preprocess` gives, (num_images, dim), of any length."""
        return self.model.encode_image(inputs.to(self.device))

    def _preprocessing(self) -> str:
        """How pictures are prepared, in words, for a model that has no files to tell it."""
        return re.sub(r" at 0x[0-9a-f]+", "", repr(self.preprocess))

    def came_from(self, origin: str | None) -> None:
        """Note the identity of what the weights, as they are now, were loaded from."""
        self._origin, self._loaded = origin, self._state()

    def _state(self) -> list:
        """What changes with the weights, even by hand, and with the preprocessing."""
        tensors = [t for t in self.model.state_dict().values() if t.numel()]
        versions = sum(0 if tensor.is_inference() else tensor._version for tensor in tensors)
        ranges = [[str(x.item()) for x in t.aminmax()] for t in tensors if not t.is_complex()]
        return [versions, ranges, self._preprocessing()]

    @property
    def digest(self) -> str:
        """A hash of all that decides the features: files, settings and precision.

        Weights without files, or changed since they were loaded, count by their values.
        """
        origin = self._origin
        if origin is None or self._state() != self._loaded:
            origin = [origin, weights_digest(self.model), self._preprocessing()]
        sizes = {"context_length": self.context_length, "image_size": self.image_size}
        return identity(origin=origin, dtype=str(self.dtype), **sizes)

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities that the model was trained with."""
        return self.model.logit_scale.exp().item()

    def count_truncated(self, texts: Iterable[str]) -> int:
        """How many texts have more tokens than the text tower reads."""
        return sum(length > self.context_length for length in self._token_counts(list(texts)))

    def encode_texts(
        self, texts: str | Sequence[str], *, batch_size: int = 256, progress: bool = False
    ) -> Tensor:
        """Features of texts, or of one string: (num_texts, dim) float32 on the CPU, of length 1.

        Texts that occur more than once are encoded once. Raises DataError where something is no
        text, and ValueError where there is none.
        """
        texts = list(listed(texts, "text"))
        if wrong := [type(text).__name__ for text in texts if not isinstance(text, str)]:
            raise DataError(f"texts are strings, not {wrong[0]}")
        # Texts of like length in one batch waste little on padding.
        unique = sorted(dict.fromkeys(texts), key=len)
        if not unique:
            raise ValueError("no text to encode")
        starts = range(0, len(unique), batch_size)
        chunks = (unique[start : start + batch_size] for start in starts)
        batches = (self._encode(self._text_features, chunk, batch_size) for chunk in chunks)
        features = self._joined(batches, "encoding texts", len(unique), progress)
        rows = {text: row for row, text in enumerate(unique)}
        return features[[rows[text] for text in texts]]

    def encode_images(
        self, images: Pictures, *, batch_size: int = 256, workers: int = 0, progress: bool = False
    ) -> Tensor:
        """Features of images: (num_images, dim) float32 on the CPU, of length 1.

        An image is a picture, a path, or a uint8 array (height, width, 3); one alone will do. Equal
        ones get equal features, bit by bit, wherever they stand. `workers` threads decode ahead.
        Raises DataError where a path, which is named, is no readable image, or for no picture.
        """
        images = listed(images)
        batches = self.image_batches(images, batch_size=batch_size, workers=workers)
        return self._joined(batches, "encoding images", length_hint(images), progress)

    def _joined(self, batches: Iterable[Tensor], what: str, total: int, progress: bool) -> Tensor:
        features = [torch.empty(0, self.dim)]
        with tqdm(total=total or None, desc=what, unit="item", disable=not progress) as bar:
            for batch in batches:
                features.append(batch)
                bar.update(len(batch))
        return torch.cat(features)

    def image_batches(
        self, images: Pictures, *, batch_size: int = 256, workers: int = 0
    ) -> Iterator[Tensor]:
        """What `encode_images` gives, batch by batch."""

        def pixels_of(numbered: tuple[int, Picture]):
            return self.preprocess(as_image(*numbered))

        def features_of(pixels: list) -> Tensor:
            return self._image_features(default_collate(pixels))

        numbered = enumerate(listed(images))
        pixels = in_order(pixels_of, numbered, workers=workers, ahead=batch_size)
        while batch := list(islice(pixels, batch_size)):
            yield self._encode(features_of, batch, batch_size)

    @torch.no_grad()
    def _encode(self, function: Callable[[list], Tensor], batch: list, batch_size: int) -> Tensor:
        """The unit features (len(batch), dim) that a function gives of a batch, on the CPU.

        The batch is filled up with its first items to a size that changes no item's result, as the
        order of sums in a product does to the last bit. Measured on x86 with 1 to 16 threads: from
        16 on no size and no place changes a bit; below, multiples of 4 are equal among themselves.
        """
        unit = min(16, -(-batch_size // 4) * 4) if batch_size > 1 else 1
        filled = batch + [batch[i % len(batch)] for i in range(-len(batch) % unit)]
        is_single = self.dtype == torch.float32
        with nullcontext() if is_single else torch.autocast(self.device.type, self.dtype):
            features = F.normalize(function(filled).float(), dim=-1)
        return features.cpu()[: len(batch)]


def listed(items: Iterable | Picture, what: str = "picture") -> Iterable:
    """Pictures or texts to go through, one alone too; for others DataError names the type."""
    is_array = isinstance(items, np.ndarray) and items.ndim == 3
    if is_array or isinstance(items, str | Path | Image.Image):
        return [items]
    if not isinstance(items, Iterable) or isinstance(items, bytes | Mapping | Set | Tensor):
        raise DataError(f"a {what} or a list of {what}s is wanted, not {type(items).__name__}")
    return items


def as_image(index: int, image: Picture) -> Image.Image:
    """The picture of a path or an array; DataError as `read_image`, and for other types."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return image
    kind = type(image).__name__
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
            return Image.fromarray(image)
        kind = f"{image.dtype} {image.shape}"
    wanted = "an image, a path or an array of uint8 (height, width, 3) is wanted"
    raise DataError(f"image {index}: {wanted}, not {kind}")


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

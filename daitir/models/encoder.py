"""What a dual encoder is: one interface over models of any library."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
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

    A kind of encoder is a subclass: it gives `_text_features` and `_token_counts`, and
    `_image_features` and `_preprocessing` where they differ. `daitir.models.registry` names it.

    Attributes:
        spec: the spec it was loaded from.
        folder: the folder with its weights, training log and card, None where it has none.
        model: the model of its library, in eval mode.
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
        context_length: int,
        image_size: int,
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
        self.context_length, self.image_size = context_length, image_size
        with torch.no_grad():
            self.dim = self._text_features(["a"]).shape[-1]
        self.came_from(origin)

    @abstractmethod
    def _text_features(self, texts: list[str]) -> Tensor:
        """Features of a batch of texts, (num_texts, dim), of any length."""

    @abstractmethod
    def _token_counts(self, texts: list[str]) -> list[int]:
        """How many tokens each text has, start and end tokens included, before it is cut."""

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

        Weights without files, or that were changed since they were loaded, count by their values.
        """
        origin = self._origin
        if origin is None or self._state() != self._loaded:
            origin = [origin, weights_digest(self.model), self._preprocessing()]
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

    def encode_texts(
        self, texts: str | Sequence[str], *, batch_size: int = 256, progress: bool = False
    ) -> Tensor:
        """Features of texts; those that occur more than once are encoded once.

        Args:
            texts: texts, or one string, which is one text.
            batch_size: texts that the model sees together.
            progress: show a bar.

        Returns:
            (num_texts, dim) float32 on the CPU, each of length 1.

        Raises:
            DataError: something is no text.
            ValueError: there is no text.
        """
        texts = _listed_texts(texts)
        # Texts of like length in one batch waste little on padding.
        unique = sorted(dict.fromkeys(texts), key=len)
        if not unique:
            raise ValueError("no text to encode")
        features = []
        with tqdm(
            total=len(unique), desc="encoding texts", unit="item", disable=not progress
        ) as bar:
            for start in range(0, len(unique), batch_size):
                batch = unique[start : start + batch_size]
                features.append(self._encode(self._text_features, batch, batch_size))
                bar.update(len(batch))
        rows = {text: row for row, text in enumerate(unique)}
        return torch.cat(features)[[rows[text] for text in texts]]

    def encode_images(
        self,
        images: Pictures,
        *,
        batch_size: int = 256,
        workers: int = 0,
        progress: bool = False,
    ) -> Tensor:
        """Features of images. Equal ones get equal features, bit by bit, wherever they stand.

        Args:
            images: pictures, paths of pictures, or uint8 arrays (height, width, 3); or one of
                these, which is one picture.
            batch_size: images that the model sees together.
            workers: threads that decode and preprocess ahead of the model; 0 for none.
            progress: show a bar.

        Returns:
            (num_images, dim) float32 on the CPU, each of length 1.

        Raises:
            DataError: a path, which is named, is no readable image, or something is no picture.
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
        self, images: Pictures, *, batch_size: int = 256, workers: int = 0
    ) -> Iterator[Tensor]:
        """What `encode_images` gives, batch by batch."""

        def pixels_of(numbered: tuple[int, Picture]):
            return self.preprocess(as_image(*numbered))

        numbered = enumerate(listed(images))
        pixels = in_order(pixels_of, numbered, workers=workers, ahead=batch_size)
        while batch := list(islice(pixels, batch_size)):
            yield self._encode(
                lambda rows: self._image_features(default_collate(rows)), batch, batch_size
            )

    @torch.no_grad()
    def _encode(self, function: Callable[[list], Tensor], batch: list, batch_size: int) -> Tensor:
        """The unit features (len(batch), dim) that a function gives of a batch, on the CPU.

        The batch is filled up with its first items to a size that changes no item's result.
        Products of few rows are summed in another order, to the last bit, and their order counts.
        Measured on x86 with 1 to 16 threads: from 16 on no size and no place changes a bit; below
        that multiples of 4 are equal among themselves. Batches of one are all alike.
        """
        unit = min(16, -(-batch_size // 4) * 4) if batch_size > 1 else 1
        filled = batch + [batch[i % len(batch)] for i in range(-len(batch) % unit)]
        is_single = self.dtype == torch.float32
        with nullcontext() if is_single else torch.autocast(self.device.type, self.dtype):
            features = F.normalize(function(filled).float(), dim=-1)
        return features.cpu()[: len(batch)]


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


def as_image(index: int, image: Picture) -> Image.Image:
    """The picture of a path or an array.

    Raises DataError as `read_image`, and, naming the index, for other types and arrays.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise DataError(f"image {index}: an image, a path or an array is wanted, not {kind}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(
            f"image {index}: an array of uint8 (height, width, 3) is wanted, not {image.dtype} "
            f"{image.shape}"
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

"""What a dual encoder is fine-tuned on: query texts, views and target pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import Compose

from daitir.data.gallery import read_image
from daitir.models.encoder import Encoder, in_order


@dataclass(frozen=True)
class FinetuneData:
    """Drawn rounds of dialogues with pictures.

    A picture is a uint8 array (size, size, 3) of the encoder's size, or the path of a file of any
    size. Dialogues may have different numbers of views; with lists the shapes below are ragged.
    """

    texts: list[list[str]]  # `texts[dialogue][view]`, the query of each drawn round
    rounds: Tensor | list[list[int]]  # (num_dialogues, num_views), which rounds those are
    views: np.ndarray | list[list[Path | None]]  # of the same shape, None where there is none
    gallery: np.ndarray | list[Path]  # (num_images,)
    targets: Tensor | None = None  # (num_dialogues,), places in the gallery; None: i looks for i

    def first(self, number: int | None) -> FinetuneData:
        """The data of the first dialogues alone, with the whole gallery."""
        names = ["texts", "rounds", "views"] + ["targets"] * (self.targets is not None)
        return replace(self, **{name: getattr(self, name)[:number] for name in names})

    @property
    def counts(self) -> Tensor:
        """(num_dialogues,), the number of views of each dialogue."""
        return torch.tensor([len(row) for row in self.texts])

    @property
    def target_indices(self) -> Tensor:
        """`targets`, whether given or not."""
        return torch.arange(len(self.texts)) if self.targets is None else self.targets

    @property
    def num_without_view(self) -> int:
        """How many of the drawn rounds have no view."""
        return sum(view is None for row in self.views for view in row)


def seen_pixels(
    encoder: Encoder, pictures: Sequence[np.ndarray | Path], *, workers: int = 0
) -> Tensor:
    """What an open_clip model sees of pictures, (num_pictures, size, size, 3) uint8.

    Files are cut and resized by the encoder's own preprocessing; arrays are of its size already.
    """
    cut = Compose(encoder.preprocess.transforms[:-2])  # the last two divide by 255 and normalise

    def pixels(picture: np.ndarray | Path) -> np.ndarray:
        return np.asarray(cut(read_image(picture))) if isinstance(picture, Path) else picture

    arrays = in_order(pixels, pictures, workers=workers, ahead=len(pictures))
    return torch.from_numpy(np.stack(list(arrays)))

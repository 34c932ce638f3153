"""What a dual encoder is fine-tuned on: query texts, views and target pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from open_clip.model import get_model_preprocess_cfg
from PIL import Image
from torch import Tensor

from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, query_texts
from daitir.data.gallery import read_image
from daitir.models.encoder import in_order
from daitir.models.encoders import Encoder
from daitir.models.views import ViewGenerator
from daitir.scenes import controlled_view, parse, render_scenes, sample_scenes
from daitir.studies.profiles import EncoderRecipe, Profile
from daitir.studies.queries import (
    SEED,
    SETS,
    load_query_set,
    queries_folder,
    set_dialogues,
    view_files,
)


@dataclass(frozen=True)
class FinetuneData:
    """Drawn rounds of dialogues with pictures.

    A picture is a uint8 array (size, size, 3) of the encoder's size, or the path of a file of any
    size. Dialogues may have different numbers of views; with lists the shapes below are ragged.

    Attributes:
        texts: `texts[dialogue][view]`, the query of each drawn round.
        rounds: (num_dialogues, num_views), which rounds those are.
        views: (num_dialogues, num_views) pictures, None where a round has none.
        gallery: (num_images,) pictures.
        targets: (num_dialogues,), the picture of the gallery that each dialogue looks for; where
            None, dialogue i looks for picture i.
    """

    texts: list[list[str]]
    rounds: Tensor | list[list[int]]
    views: np.ndarray | list[list[Path | None]]
    gallery: np.ndarray | list[Path]
    targets: Tensor | None = None

    def first(self, number: int | None) -> FinetuneData:
        """The data of the first dialogues alone, with the whole gallery."""
        return FinetuneData(
            self.texts[:number],
            self.rounds[:number],
            self.views[:number],
            self.gallery,
            None if self.targets is None else self.targets[:number],
        )

    @property
    def counts(self) -> Tensor:
        """(num_dialogues,), the number of views of each dialogue."""
        return torch.tensor([len(row) for row in self.texts])

    @property
    def target_indices(self) -> Tensor:
        """(num_dialogues,), the picture of the gallery that each dialogue looks for."""
        return torch.arange(len(self.texts)) if self.targets is None else self.targets

    @property
    def num_without_view(self) -> int:
        """How many of the drawn rounds have no view."""
        return sum(view is None for row in self.views for view in row)


def profile_data(
    profile: Profile,
    name: str,
    generator: ViewGenerator,
    encoder: Encoder,
    cache: Path,
    *,
    num_workers: int = 1,
    progress: bool = False,
) -> FinetuneData:
    """A query set of the profile with the pictures of its views and of its gallery.

    The gallery of the training set is its targets alone, of any other set the profile's. The texts
    are the captions that were drawn. What `cache` lacks of the views is drawn anew
    (`daitir.studies.queries.view_files`); `encoder` is the one that encoded the set, and its image
    size that of the pictures.
    """
    files = view_files(profile, name, generator, encoder, cache, progress=progress)
    found = load_query_set(name, encoder, queries_folder(profile))
    number = len(files) if name == "train" else profile.num_gallery
    scenes = sample_scenes(SEED, SETS[name].split, number)
    size = encoder.image_size
    views = np.stack([_pixels(path, size) for row in files for path in row])
    return FinetuneData(
        found.drawn_captions,
        found.rounds,
        views.reshape(*found.rounds.shape, size, size, 3),
        render_scenes(scenes, size=size, num_workers=num_workers, progress=progress),
    )


def as_read(
    data: FinetuneData, profile: Profile, name: str, recipe: EncoderRecipe
) -> FinetuneData:
    """The data of a query set with the texts that the recipe reads, `recipe.text`.

    Raises DataError for texts that are neither the current rewrite nor the raw dialogue.
    """
    if recipe.text == "current_rewrite":
        return data
    if recipe.text != "raw_dialogue":
        raise DataError(f"unknown text {recipe.text!r}; choose current_rewrite or raw_dialogue")
    _, talks = set_dialogues(profile, name)
    said = [Dialogue("", tuple(turn.text for turn in turns)) for turns in talks]
    texts = query_texts(said[: len(data.texts)], convention=recipe.text)
    drawn = zip(texts, data.rounds.tolist(), strict=True)
    return replace(data, texts=[[row[t] for t in rounds] for row, rounds in drawn])


def training_data(
    data: FinetuneData, profile: Profile, recipe: EncoderRecipe, *, num_workers: int = 1
) -> FinetuneData:
    """The training set of the profile as the recipe asks for it: its texts and its views."""
    if recipe.resampled_views:
        data = with_resampled_views(data, num_workers=num_workers)
    return as_read(data, profile, "train", recipe)


def with_resampled_views(data: FinetuneData, *, num_workers: int = 1) -> FinetuneData:
    """Twice the views: for each drawn one a rendered one of the same text.

    The rendered view shows what the text states and draws everything else from the world's prior,
    so that what is hallucinated varies at random while what is supported stays: counterfactuals
    of the drawn view, all of whose targets are the same.
    """
    captions = [caption for row in data.texts for caption in row]
    scenes = [
        controlled_view(parse(caption).facts, broken_share=0, seed=f"resampled/{number}").scene
        for number, caption in enumerate(captions)
    ]
    size = data.views.shape[-2]
    rendered = render_scenes(scenes, size=size, num_workers=num_workers)
    return replace(
        data,
        texts=[row + row for row in data.texts],
        rounds=torch.cat([data.rounds, data.rounds], dim=1),
        views=np.concatenate([data.views, rendered.reshape(data.views.shape)], axis=1),
    )


def seen_pixels(
    encoder: Encoder, pictures: Sequence[np.ndarray | Path], *, workers: int = 0
) -> Tensor:
    """What an open_clip model sees of pictures, (num_pictures, size, size, 3) uint8.

    Files are cut and resized by the encoder's own preprocessing; arrays are of its size already.
    """
    settings = get_model_preprocess_cfg(encoder.model)
    mean, std = (torch.tensor(settings[name]).view(-1, 1, 1) for name in ("mean", "std"))

    def pixels(picture: np.ndarray | Path) -> np.ndarray:
        if not isinstance(picture, Path):
            return picture
        # Its last steps divide by 255 and normalise, which is undone here.
        values = encoder.preprocess(read_image(picture)) * std + mean
        return (values * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

    found = in_order(pixels, pictures, workers=workers, ahead=len(pictures))
    return torch.from_numpy(np.stack(list(found)))


def _pixels(path: Path, size: int) -> np.ndarray:
    """A picture as (size, size, 3) uint8."""
    image = read_image(path)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)

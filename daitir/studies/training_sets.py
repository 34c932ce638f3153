"""The query sets of a profile as what fusions and encoders are trained on and measured by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_tensors
from daitir.data.dialogues import Dialogue, query_texts
from daitir.data.gallery import read_image
from daitir.models import ASSETS
from daitir.models.encoders import Encoder
from daitir.models.views import ViewGenerator
from daitir.recipes.fusion import FusionData
from daitir.recipes.settings import EncoderRecipe
from daitir.recipes.triples import FinetuneData
from daitir.scenes import Scene, controlled_view, parse, render_scenes, sample_scenes
from daitir.studies.profiles import Profile
from daitir.studies.queries import (
    SEED,
    SETS,
    load_query_set,
    manifest_of,
    queries_folder,
    set_dialogues,
    view_files,
)


def fusion_folder(profile: Profile, name: str, seed: int) -> Path:
    """Where the trained fusion of a name and seed of the profile lies, or would lie."""
    return _trained(profile.trained_fusions, "fusions") / name / str(seed)


def encoder_folder(profile: Profile, name: str, seed: int) -> Path:
    """Where the fine-tuned encoder of a name and seed of the profile lies, or would lie."""
    return _trained(profile.trained_encoders, "encoders") / name / str(seed)


def _trained(folder: str, kind: str) -> Path:
    return ASSETS / kind if folder == "mini" else Path(folder)


def encode_queries(
    profile: Profile,
    name: str,
    encoder: Encoder,
    *,
    cache: Path | None = None,
    num_workers: int = 1,
    progress: bool = False,
) -> FusionData:
    """A query set of the profile with its texts and its gallery encoded, kept in `cache`."""
    folder = queries_folder(profile)
    queries = load_query_set(name, encoder, folder)
    scenes = gallery_scenes(profile, name, len(queries.captions))
    # Other sets of the folder may come and go.
    manifest = manifest_of(folder) | {"num_dialogues": len(queries.captions)}
    facts = [manifest, name, len(scenes), profile.image_size]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = None if cache is None else cache / f"{name}_{key}.safetensors"
    if path is not None and path.is_file():
        features, _ = read_tensors(path)
        return FusionData(features["text"], queries.view_features, features["gallery"])
    options = {"num_workers": num_workers, "progress": progress}
    images = render_scenes(scenes, size=profile.image_size, **options)
    captions = [caption for row in queries.drawn_captions for caption in row]
    texts = encoder.encode_texts(captions, progress=progress).view_as(queries.view_features)
    gallery = encoder.encode_images(images, progress=progress)
    if path is not None:
        with atomic_write(path) as temporary:
            save_file({"text": texts, "gallery": gallery}, temporary)
    return FusionData(texts, queries.view_features, gallery)


def gallery_scenes(profile: Profile, name: str, num_targets: int) -> list[Scene]:
    """What a query set searches, its targets first; the training set searches those alone."""
    number = num_targets if name == "train" else profile.num_gallery
    return sample_scenes(SEED, SETS[name].split, number)


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

    The texts are the captions that were drawn. What `cache` lacks of the views is drawn anew.
    `encoder` is the one that encoded the set, and its image size that of the pictures.
    """
    queries, files = view_files(profile, name, generator, encoder, cache, progress=progress)
    scenes = gallery_scenes(profile, name, len(queries.captions))
    size = encoder.image_size
    views = np.stack([_pixels(path, size) for path in files])
    return FinetuneData(
        queries.drawn_captions,
        queries.rounds,
        views.reshape(*queries.rounds.shape, size, size, 3),
        render_scenes(scenes, size=size, num_workers=num_workers, progress=progress),
    )


def as_read(data: FinetuneData, profile: Profile, name: str, recipe: EncoderRecipe) -> FinetuneData:
    """The data of a query set with the texts that the recipe reads. Raises DataError for others."""
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
    """Twice the views: for each drawn one a rendered one of the same text, a counterfactual.

    It shows what the text states and draws everything else from the world's prior, so that what is
    hallucinated varies at random while what is supported stays.
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


def _pixels(path: Path, size: int) -> np.ndarray:
    """A picture as (size, size, 3) uint8."""
    image = read_image(path)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)

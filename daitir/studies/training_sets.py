"""The query sets of a profile, on which fusions and encoders are trained and measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, query_texts
from daitir.models import ASSETS
from daitir.recipes.settings import EncoderRecipe
from daitir.recipes.triples import FinetuneData
from daitir.scenes import controlled_view, parse, render_scenes
from daitir.studies.profiles import Profile
from daitir.studies.queries import set_dialogues


def fusion_folder(profile: Profile, name: str, seed: int) -> Path:
    """Where the trained fusion of a name and seed of the profile lies, or would lie."""
    return _trained(profile.trained_fusions, "fusions") / name / str(seed)


def encoder_folder(profile: Profile, name: str, seed: int) -> Path:
    """Where the fine-tuned encoder of a name and seed of the profile lies, or would lie."""
    return _trained(profile.trained_encoders, "encoders") / name / str(seed)


def _trained(folder: str, kind: str) -> Path:
    return ASSETS / kind if folder == "mini" else Path(folder)


def as_read(
    data: FinetuneData, profile: Profile, name: str, recipe: EncoderRecipe, *, num_workers: int = 1
) -> FinetuneData:
    """The data of a query set as the recipe asks for it: its texts, and in training its views.

    Raises DataError for texts that no encoder is trained on.
    """
    if name == "train" and recipe.resampled_views:
        data = with_resampled_views(data, num_workers=num_workers)
    if recipe.text == "current_rewrite":
        return data
    if recipe.text != "raw_dialogue":
        raise DataError(f"unknown text {recipe.text!r}; choose current_rewrite or raw_dialogue")
    _, talks = set_dialogues(profile, name)
    said = [Dialogue("", tuple(turn.text for turn in turns)) for turns in talks]
    texts = query_texts(said[: len(data.texts)], convention=recipe.text)
    drawn = zip(texts, data.rounds.tolist(), strict=True)
    return replace(data, texts=[[row[t] for t in rounds] for row, rounds in drawn])


def with_resampled_views(data: FinetuneData, *, num_workers: int = 1) -> FinetuneData:
    """Twice the views: for each drawn one a rendered one of the same text, a counterfactual.

    It shows what the text states and draws everything else from the world's prior, so that what is
    hallucinated varies at random while what is supported stays.
    """
    captions = chain.from_iterable(data.texts)
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

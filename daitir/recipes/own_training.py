"""Training on a folder of one's own data: what `daitir train METHOD --data DIR` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from daitir.common.errors import DataError
from daitir.data.datafolder import DataFolder
from daitir.models.features import CachedEncoder
from daitir.recipes.finetune import check_trainable, finetune, needs_views, recalls
from daitir.recipes.fusion import recall, train_fusion
from daitir.recipes.origin import claim
from daitir.recipes.own_data import (
    data_digest,
    describe,
    encode_split,
    read_split,
    sample_gallery,
    with_views,
)
from daitir.recipes.settings import EncoderRecipe, FusionRecipe

VAL_IMAGES = 2000
Texts = dict[str, tuple[Path, str, str]]


def split_texts(data: DataFolder, convention: str | None = None) -> Texts:
    """The file of the texts of train and val, their convention, and how it is known.

    Raises DataError where a split is missing, its dialogues do not show their convention, or the
    two differ in it.
    """
    if lacking := [split for split in ("train", "val") if split not in data.dialogues]:
        files = " and ".join(f"dialogues/{split}.json" for split in lacking)
        raise DataError(f"{data.root}: has no {files}; training needs the splits train and val")
    texts = {}
    for split in ("train", "val"):
        files = data.files(split, text=convention)
        _, *shown = files.read_dialogues(text=convention, allow_duplicate_targets=True)
        texts[split] = (files.dialogues, *shown)
    if texts["train"][1] != texts["val"][1]:
        raise DataError(
            f"{data.root}: one of train and val has rewrites and the other has none; make them "
            "with `daitir refine`, or name --text raw_dialogue"
        )
    return texts


def train_on_data(
    data: DataFolder,
    recipe: FusionRecipe | EncoderRecipe,
    folder: Path,
    encoder: CachedEncoder,
    *,
    texts: Texts | None = None,
    missing_views: str = "error",
    val_images: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 1,
    tell: Callable[[str], object] = print,
) -> float:
    """Train a fusion, or fine-tune the encoder, on the splits train and val of own data.

    The fusion is trained on the features of the encoder. A round without a view is refused, or,
    where `missing_views` is `text`, learnt from by its text alone; a fusion leaves it out. While an
    encoder learns, validation ranks `val_images` pictures, VAL_IMAGES by default. `tell` is called
    with each line about the data.

    Returns R@10 on validation, among all its pictures. Raises DataError where the data are not fit
    for this training, or `folder` holds another run.
    """
    texts = texts or split_texts(data)
    is_encoder = isinstance(recipe, EncoderRecipe)
    if is_encoder:
        check_trainable(encoder.encoder)
    splits = {
        split: read_split(
            data,
            split,
            path,
            convention=convention,
            needs_views=not is_encoder or needs_views(recipe),
            missing_views=missing_views,
        )
        for split, (path, convention, _) in texts.items()
    }
    whole_val = splits["val"]
    if is_encoder:
        # The features of its pictures change with the encoder: each validation embeds them anew.
        splits["val"] = sample_gallery(whole_val, val_images or VAL_IMAGES)
    claim(folder, encoder.encoder, data_digest(splits, data.root))
    for split, rounds in splits.items():
        path, convention, why = texts[split]
        tell(f"{split} texts: {convention} of {path} ({why})")
        tell(describe(split, rounds, encoder.encoder))
    if len(splits["val"].gallery) < len(whole_val.gallery):
        tell(
            f"while it learns, validation ranks {len(splits['val'].gallery):,} of "
            f"{len(whole_val.gallery):,} pictures, the targets among them (--val-images)"
        )
    if is_encoder:
        recipe = replace(recipe, text=texts["train"][1])
        tuned = finetune(
            encoder.encoder, *splits.values(), recipe, folder, seed=seed, workers=workers
        )
        return recalls(tuned, whole_val, workers=workers)[recipe.query]
    features = [
        encode_split(encoder, with_views(rounds), progress=True) for rounds in splits.values()
    ]
    fusion = train_fusion(*features, recipe, folder, seed=seed, device=device)
    return recall(fusion, features[1])

"""Training on a folder of one's own data: what `daitir train METHOD --data DIR` does."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from daitir.common.errors import DataError
from daitir.data.datafolder import DataFolder
from daitir.data.dialogues import query_texts, read_source
from daitir.data.gallery import check_images
from daitir.data.viewfiles import find_views
from daitir.evaluation import check_features
from daitir.models.encoders import Encoder
from daitir.models.features import CachedEncoder
from daitir.recipes.checkpoint import claim
from daitir.recipes.finetune import check_trainable, finetune, needs_views, recalls
from daitir.recipes.fusion import FusionData, recall, train_fusion
from daitir.recipes.settings import EncoderRecipe, FusionRecipe
from daitir.recipes.triples import FinetuneData

logger = logging.getLogger(__name__)
VAL_IMAGES = 2000
Texts = dict[str, tuple[Path, str, str]]


def split_texts(data: DataFolder, convention: str | None = None) -> Texts:
    """For train and val: the file of the texts, their convention, and how it is known.

    Raises DataError where a split is missing, shows no convention, or differs from the other.
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
        fault = "one of train and val has rewrites and the other has none"
        advice = "make them with `daitir refine`, or name --text raw_dialogue"
        raise DataError(f"{data.root}: {fault}; {advice}")
    return texts


def train_on_data(
    data: DataFolder,
    recipe: FusionRecipe | EncoderRecipe,
    folder: Path,
    encoder: CachedEncoder,
    *,
    texts: Texts,
    missing_views: str = "error",
    val_images: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 1,
    tell: Callable[[str], object] = print,
) -> float:
    """Train a fusion, or fine-tune the encoder, on the splits train and val of own data.

    `texts` are as `split_texts` gives them, `missing_views` as in `read_split`; a fusion leaves
    rounds without a view out. While an encoder learns, validation ranks `val_images` pictures,
    VAL_IMAGES by default. `tell` is called with each line about the data.

    Returns R@10 on validation, among all its pictures. Raises DataError where the data are not fit
    for this training, or `folder` holds another run.
    """
    is_encoder = isinstance(recipe, EncoderRecipe)
    if is_encoder:
        check_trainable(encoder.encoder)
    looks = {"needs_views": not is_encoder or needs_views(recipe), "missing_views": missing_views}
    splits = {}
    for split, (path, convention, _) in texts.items():
        splits[split] = read_split(data, split, path, convention=convention, **looks)
    whole_val = splits["val"]
    if is_encoder:
        # The features of its pictures change with the encoder: each validation embeds them anew.
        splits["val"] = sample_gallery(whole_val, val_images or VAL_IMAGES)
    claim(folder, encoder.encoder, data_digest(splits, data.root))
    for split, rounds in splits.items():
        path, convention, why = texts[split]
        said, counts = list(chain(*rounds.texts)), rounds.counts
        tell(f"{split} texts: {convention} of {path} ({why})")
        tell(
            f"{split}: {len(counts):,} dialogues of {int(counts.min())} to {int(counts.max())} "
            f"views, {len(said):,} in all, {rounds.num_without_view:,} of them missing; "
            f"{len(rounds.gallery):,} pictures; "
            f"{encoder.encoder.count_truncated(said):,} texts are cut"
        )
    ranked, number = len(splits["val"].gallery), len(whole_val.gallery)
    if ranked < number:
        share = f"{ranked:,} of {number:,} pictures, the targets among them"
        tell(f"while it learns, validation ranks {share} (--val-images)")
    if is_encoder:
        recipe, options = replace(recipe, text=texts["train"][1]), {"workers": workers}
        tuned = finetune(encoder.encoder, *splits.values(), recipe, folder, seed=seed, **options)
        return recalls(tuned, whole_val, **options)[recipe.query]
    train, val = (encode_split(encoder, rounds, progress=True) for rounds in splits.values())
    return recall(train_fusion(train, val, recipe, folder, seed=seed, device=device), val)


def read_split(
    data: DataFolder,
    split: str,
    dialogues: Path,
    *,
    convention: str,
    needs_views: bool = True,
    missing_views: str = "error",
) -> FinetuneData:
    """The rounds of a split with the files of their views and of the gallery.

    A round with several views appears once with each. The gallery of `train` is its targets alone,
    that of any other split the folder's. The texts come from the file `dialogues`, the split's
    dialogues or its rewrites. Where `needs_views` is false every round is there once, with None;
    where `missing_views` is `text` rounds without a view have None, counted in a warning.

    Raises DataError, naming the file, where one does not fit or is missing, and for a training
    split about a single picture.
    """
    gallery = None if split == "train" else data.gallery()
    talks = read_source(
        dialogues, data.dialogue_file(split), gallery=gallery, allow_duplicate_targets=True
    )
    texts = query_texts(talks, convention=convention)
    views: list[list[list[Path | None]]] = [[[None]] * len(row) for row in texts]
    if needs_views:
        folder = data.views_dir(split)
        if not folder.is_dir():
            command = f"`daitir generate --data {data.root} --split {split}` draws some"
            needed = f"views of the split {split!r} are needed"
            raise DataError(f"{folder}: no such folder; {needed}, {command}")
        paths = find_views(folder, talks, missing=missing_views)
        check_images(folder, [path.name for rounds in paths for files in rounds for path in files])
        views = [[files or [None] for files in rounds] for rounds in paths]
    targets = [talk.image for talk in talks]
    if gallery is None:
        gallery = list(dict.fromkeys(targets))
        if len(gallery) < 2:
            about = f"all dialogues are about one picture, {gallery[0]}"
            raise DataError(f"{dialogues}: {about}; training needs two pictures or more")
    check_images(data.images_dir, gallery)
    index_of = {name: index for index, name in enumerate(gallery)}
    rounds = [[t for t, files in enumerate(row) for _ in files] for row in views]
    return FinetuneData(
        texts=[[row[t] for t in drawn] for row, drawn in zip(texts, rounds, strict=True)],
        rounds=rounds,
        views=[list(chain.from_iterable(row)) for row in views],
        gallery=[data.images_dir / name for name in gallery],
        targets=torch.tensor([index_of[name] for name in targets]),
    )


def sample_gallery(data: FinetuneData, number: int) -> FinetuneData:
    """The data with `number` pictures of the gallery: all targets, and others drawn at random.

    The same gallery gives the same draw. Where there are more targets, all of them stay.

    >>> data = FinetuneData([["a"]], [[0]], [[None]], list("stuvwxyz"), torch.tensor([5]))
    >>> few = sample_gallery(data, 3)
    >>> len(few.gallery), few.gallery[few.targets[0]]
    (3, 'x')
    """
    targets, places = data.target_indices.unique(return_inverse=True)
    is_target = torch.zeros(len(data.gallery), dtype=torch.bool)
    is_target[targets] = True
    others = (~is_target).nonzero().flatten()
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
    chosen = others[order[: max(0, number - len(targets))]]
    indices = torch.cat([targets, chosen]).sort().values
    gallery = [data.gallery[i] for i in indices.tolist()]
    return replace(data, gallery=gallery, targets=torch.searchsorted(indices, targets)[places])


def encode_split(encoder: Encoder, data: FinetuneData, *, progress: bool = False) -> FusionData:
    """The features of the rounds that have a view; a warning counts those that have none.

    Raises DataError where no round is left, and for features that are not finite unit vectors.
    """
    with_view = [[k for k, view in enumerate(row) if view is not None] for row in data.views]
    rows = [i for i, places in enumerate(with_view) if places]
    if not rows:
        raise DataError("no round has a view; a fusion cannot be trained")
    if data.num_without_view:
        told = "%d rounds without a view are left out, and with them %d of %d dialogues"
        num_dialogues = len(with_view)
        logger.warning(told, data.num_without_view, num_dialogues - len(rows), num_dialogues)

    def encode(what: str, encoding: Callable[..., Tensor], items: Sequence) -> Tensor:
        features = encoding(items, progress=progress)
        check_features(what, features, (len(items), encoder.dim))
        return features

    pairs = [(i, k) for i in rows for k in with_view[i]]
    texts = encode("texts", encoder.encode_texts, [data.texts[i][k] for i, k in pairs])
    views = encode("views", encoder.encode_images, [data.views[i][k] for i, k in pairs])
    gallery = encode("images", encoder.encode_images, data.gallery)
    counts = torch.tensor([len(with_view[i]) for i in rows])
    # (num_dialogues, num_views): where its views are, the last of each again as padding
    places = torch.minimum(torch.arange(int(counts.max())), counts[:, None] - 1)
    places += (counts.cumsum(0) - counts)[:, None]
    return FusionData(texts[places], views[places], gallery, counts, data.target_indices[rows])


def data_digest(splits: Mapping[str, FinetuneData], root: Path) -> str:
    """A hash of all that a run reads: texts, targets, and names and sizes of the files."""

    def stamp(path: Path | None) -> list | None:
        return None if path is None else [path.relative_to(root).as_posix(), path.stat().st_size]

    digest = hashlib.sha256()
    for name, split in splits.items():
        files = [[stamp(view) for view in row] for row in split.views]
        pictures = [stamp(path) for path in split.gallery]
        facts = [name, split.texts, split.rounds, files, pictures, split.target_indices.tolist()]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()

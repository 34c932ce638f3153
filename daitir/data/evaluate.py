"""Evaluation of files: from dialogues, pictures, views and an encoder to ranks and a table."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import nn

from daitir.common.errors import DataError
from daitir.data.datafolder import DataFolder, SearchData
from daitir.data.dialogues import query_texts, recognise_convention
from daitir.data.gallery import check_images, examples
from daitir.data.viewfiles import find_views
from daitir.evaluation import (
    UNTRAINED_FUSIONS,
    Evaluation,
    check_features,
    query_features,
    result_rows,
)
from daitir.retrieval import target_ranks

if TYPE_CHECKING:
    from daitir.models.encoders import Encoder

logger = logging.getLogger(__name__)


def evaluate(
    data: SearchData | DataFolder,
    *,
    encoder: Encoder,
    fusion: str | nn.Module = "text",
    benchmark: str | None = None,
    method: str | None = None,
    seed: int = 0,
    missing_views: str = "error",
    skip_unreadable: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Rank the gallery after every round of every dialogue, and tabulate the metrics.

    All files are checked before the encoder starts, and views with a manifest are checked against
    the dialogues. Where a round has several views, in one folder or in several, their features are
    averaged, or, with a trained fusion, the fused queries.

    Args:
        data: dialogues, gallery and views; a folder, as `find_data` gives it, stands for its split
            `test`. `data.files("val").read()` gives another split.
        encoder: of texts and pictures; a `CachedEncoder` keeps the features.
        fusion: how the query is made: `text`, `view` (the generated view alone), `dar`, or a
            trained fusion, as `load_fusion` gives it. All but the first need views, and the ranks
            of text alone are computed and tabulated beside them.
        benchmark: the label of the data in the table, by default their name.
        method: the label of the fusion, by default its name; a trained one needs it.
        seed: a label, that of the views or of the encoder.
        missing_views: where a round lacks a view: `error`; `exclude` its dialogue, counted in a
            warning; or rank the round by `text` alone, counted in the result.
        skip_unreadable: leave out gallery images that cannot be decoded, and the dialogues that
            look for them, counted in warnings.

    Returns:
        The table, and the ranks that it is of.

    Raises:
        DataError: a file cannot be used, or the features are no finite unit vectors of the
            encoder's dimension.

    >>> evaluate(find_data("my_pictures"), encoder=load_encoder("mini"))  # doctest: +SKIP
    """
    if isinstance(data, DataFolder):
        data = data.files().read()
    is_trained = isinstance(fusion, nn.Module)
    if is_trained and method is None:
        raise ValueError("a trained fusion has no name of its own; give a method")
    name = method or fusion
    if not is_trained and fusion not in UNTRAINED_FUSIONS:
        raise ValueError(f"unknown fusion {fusion!r}; choose one of {', '.join(UNTRAINED_FUSIONS)}")
    needs_views = fusion != "text"
    if needs_views and not data.views_dirs:
        raise DataError(f"fusion {name!r} needs a folder of views; name it, or use 'text'")
    if needs_views and name == "text":
        raise ValueError("the method's name 'text' is taken by text alone; choose another")
    convention = data.text or recognise_convention(data.dialogues)[0]
    texts = query_texts(data.dialogues, convention=convention)
    indices, gallery, views = _checked_files(
        data, missing_views if needs_views else None, skip_unreadable
    )

    # From here on queries are flat, (dialogue, round) after (dialogue, round): dialogues may differ
    # in length, and no padding has to be encoded.
    lengths = np.array([len(texts[i]) for i in indices])
    rows, rounds = np.nonzero(np.arange(lengths.max()) < lengths[:, None])
    query_text = [text for i in indices for text in texts[i]]
    num_truncated = encoder.count_truncated(query_text)

    def encode(what: str, items: list) -> torch.Tensor:
        encoding = encoder.encode_texts if what == "texts" else encoder.encode_images
        features = encoding(items, progress=progress)
        check_features(what, features, (len(items), encoder.dim))
        return features

    queries = {"text" if views else name: encode("texts", query_text)}
    if views:
        drawn = encode("views", [path for files in views for path in files])
        numbers = torch.tensor([len(files) for files in views])
        queries[name] = query_features(
            fusion, queries["text"], drawn, numbers, torch.from_numpy(rounds)
        )
    gallery_features = encode("images", [Path(data.images_dir) / image for image in gallery])

    index_of = {image: index for index, image in enumerate(gallery)}
    targets = torch.tensor([index_of[data.dialogues[i].image] for i in indices])[rows]
    ranks = {}
    for query, features in queries.items():
        ranks[query] = np.full((len(indices), lengths.max()), -1)
        ranks[query][rows, rounds] = target_ranks(features, gallery_features, targets).numpy()
    tables = [
        result_rows(
            ranks[query],
            benchmark=benchmark or data.name,
            method=query,
            seed=seed,
            lengths=lengths,
            baseline_ranks=None if not views or query == "text" else ranks["text"],
        )
        for query in ranks
    ]
    return Evaluation(
        rows=pd.concat(tables, ignore_index=True),
        ranks=ranks,
        lengths=lengths,
        dialogue_indices=np.array(indices),
        num_images=len(gallery),
        num_texts=len(query_text),
        num_truncated=num_truncated,
        num_without_view=sum(not files for files in views),
    )


def _checked_files(
    data: SearchData, missing_views: str | None, skip_unreadable: bool
) -> tuple[list[int], list[str], list[list[Path]]]:
    """Indices of the dialogues to evaluate, the gallery, and the views of each query.

    `missing_views` is None where no views are needed.
    """
    dialogues, known = data.dialogues, set(data.gallery)
    if len(known) < len(data.gallery):
        raise DataError("the gallery names an image twice; name each once")
    if not dialogues:
        raise DataError("no dialogues to evaluate")
    if absent := [dialogue.image for dialogue in dialogues if dialogue.image not in known]:
        raise DataError(
            f"{len(absent):,} of {len(dialogues):,} dialogues have a target outside the gallery: "
            f"{examples(absent)}"
        )
    folders = data.views_dirs if missing_views else ()
    drawn = [find_views(folder, dialogues, missing=missing_views) for folder in folders]
    with_views = [i for i in range(len(dialogues)) if all(views[i] is not None for views in drawn)]
    gallery = check_images(data.images_dir, data.gallery, skip_unreadable=skip_unreadable)
    readable = set(gallery)
    indices = [i for i in with_views if dialogues[i].image in readable]
    if not indices:
        raise DataError("no dialogue is left that has a readable target and views in every folder")
    if lost := [dialogues[i].image for i in with_views if dialogues[i].image not in readable]:
        summary = f"{len(lost):,} of {len(with_views):,} dialogues have an unreadable target"
        logger.warning("excluded, %s: %s", summary, examples(lost))
    rounds = [(i, t) for i in indices for t in range(len(dialogues[i].rounds))] if drawn else []
    paths = [[path for views in drawn for path in views[i][t]] for i, t in rounds]
    for folder, views in zip(folders, drawn, strict=True):
        check_images(folder, [path.name for i, t in rounds for path in views[i][t]])
    return indices, gallery, paths

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

    All files are checked before the encoder starts. Where a round has several views, in one folder
    or in several, their features are averaged, or, with a trained fusion, the fused queries.

    Args:
        data: dialogues, gallery and views; a folder, as `find_data` gives it, stands for its split
            `test`. `data.files("val").read()` gives another split.
        encoder: of texts and pictures; a `CachedEncoder` keeps the features.
        fusion: how the query is made: `text`, `view` (the generated view alone), `dar`, or a
            trained fusion, as `load_fusion` gives it. All but the first need views, and the ranks
            of text alone are computed and tabulated beside them.
        benchmark, method, seed: labels of data, fusion, and views or encoder; the first two are
            their names by default, but a trained fusion has none.
        missing_views: where a round lacks a view: `error`, or rank it by `text` alone, counted in
            the result.
        skip_unreadable: leave out gallery images that cannot be decoded, and the dialogues that
            look for them, counted in warnings.

    Returns:
        The table, and the ranks that it is of.

    Raises:
        DataError: a file cannot be used, or the features are no finite unit vectors.

    >>> evaluate(find_data("my_pictures"), encoder=load_encoder("mini"))  # doctest: +SKIP
    """
    if isinstance(data, DataFolder):
        data = data.files().read()
    name = method or fusion
    if not isinstance(name, str):
        raise ValueError("a trained fusion has no name of its own; give a method")
    if isinstance(fusion, str) and fusion not in UNTRAINED_FUSIONS:
        raise ValueError(f"unknown fusion {fusion!r}; choose one of {', '.join(UNTRAINED_FUSIONS)}")
    if fusion != "text" and not data.views_dirs:
        raise DataError(f"fusion {name!r} needs a folder of views; name it, or use 'text'")
    if fusion != "text" and name == "text":
        raise ValueError("the method's name 'text' is taken by text alone; choose another")
    convention = data.text or recognise_convention(data.dialogues)[0]
    texts = query_texts(data.dialogues, convention=convention)
    missing = None if fusion == "text" else missing_views
    indices, gallery, views = _checked_files(data, missing, skip_unreadable)

    # From here on queries are flat, (dialogue, round) after (dialogue, round).
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
        counts = torch.tensor([len(files) for files in views])
        places = torch.from_numpy(rounds)
        queries[name] = query_features(fusion, queries["text"], drawn, counts, places)
    gallery_features = encode("images", [Path(data.images_dir) / image for image in gallery])

    index_of = {image: index for index, image in enumerate(gallery)}
    targets = torch.tensor([index_of[data.dialogues[i].image] for i in indices])[rows]
    ranks, tables = {}, []
    labels = {"benchmark": benchmark or data.name, "seed": seed, "lengths": lengths}
    for query, features in queries.items():
        ranks[query] = np.full((len(indices), lengths.max()), -1)
        ranks[query][rows, rounds] = target_ranks(features, gallery_features, targets).numpy()
        # Text alone comes first, and the others are compared with it.
        rival = ranks["text"] if len(ranks) > 1 else None
        tables.append(result_rows(ranks[query], method=query, baseline_ranks=rival, **labels))
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
    """Indices of the dialogues to evaluate, the gallery, and, with `missing_views`, the views."""
    dialogues, known = data.dialogues, set(data.gallery)
    if len(known) < len(data.gallery):
        raise DataError("the gallery names an image twice; name each once")
    if not dialogues:
        raise DataError("no dialogues to evaluate")
    if absent := [dialogue.image for dialogue in dialogues if dialogue.image not in known]:
        share = f"{len(absent):,} of {len(dialogues):,} dialogues"
        raise DataError(f"{share} have a target outside the gallery: {examples(absent)}")
    folders = data.views_dirs if missing_views else ()
    drawn = [find_views(folder, dialogues, missing=missing_views) for folder in folders]
    gallery = check_images(data.images_dir, data.gallery, skip_unreadable=skip_unreadable)
    readable = set(gallery)
    indices = [i for i, dialogue in enumerate(dialogues) if dialogue.image in readable]
    if not indices:
        raise DataError("no dialogue is left that has a readable target")
    if lost := [dialogue.image for dialogue in dialogues if dialogue.image not in readable]:
        share = f"{len(lost):,} of {len(dialogues):,} dialogues"
        logger.warning("excluded, %s have an unreadable target: %s", share, examples(lost))
    rounds = [(i, t) for i in indices for t in range(len(dialogues[i].rounds))] if drawn else []
    for folder, views in zip(folders, drawn, strict=True):
        check_images(folder, [path.name for i, t in rounds for path in views[i][t]])
    return indices, gallery, [[path for views in drawn for path in views[i][t]] for i, t in rounds]

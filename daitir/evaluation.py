"""Evaluation: from dialogues, images and an encoder to ranks and a tidy table of results."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from daitir import metrics
from daitir.common.errors import DataError
from daitir.common.files import atomic_write
from daitir.data.derived import check_views
from daitir.data.dialogues import Dialogue, query_texts, read_json, recognise_convention
from daitir.data.gallery import check_images, examples
from daitir.data.viewfiles import find_views
from daitir.fusion import average_views, dar_fusion
from daitir.retrieval import target_ranks

if TYPE_CHECKING:
    from daitir.models.encoders import Encoder

logger = logging.getLogger(__name__)

FUSIONS = ("text", "view", "dar")
RESULT_COLUMNS = (
    "benchmark", "method", "seed", "round", "metric", "value", "ci_low", "ci_high", "num_queries",
)
NORM_TOLERANCE = 1e-2
FUSED_AT_ONCE = 4096  # a trained fusion's hidden features of more would take much memory


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    `rows` is the tidy table. `ranks` maps a method to its 0-based ranks `(num_queries,
    num_rounds)`, -1 beyond the end of a dialogue; `lengths` `(num_queries,)` is the number of
    rounds of each; `dialogue_indices` `(num_queries,)` tells which of the given dialogues the
    queries are.
    `num_truncated` of `num_texts` query texts were cut off at the encoder's context length, and
    `num_without_view` had no view and were ranked by text alone.
    """

    rows: pd.DataFrame
    ranks: Mapping[str, np.ndarray]
    lengths: np.ndarray
    dialogue_indices: np.ndarray
    num_images: int
    num_texts: int
    num_truncated: int
    num_without_view: int = 0


def result_rows(
    ranks: np.ndarray | Tensor,
    *,
    benchmark: str,
    method: str,
    seed: int,
    lengths: Sequence[int] | np.ndarray | None = None,
    baseline_ranks: np.ndarray | Tensor | None = None,
    peer_ranks: Mapping[str, np.ndarray | Tensor] | None = None,
    num_samples: int = 1000,
) -> pd.DataFrame:
    """The results of one method as tidy rows with the columns RESULT_COLUMNS.

    `ranks` `(num_queries, num_rounds)` are 0-based; `lengths` `(num_queries,)` is the number of
    rounds of each dialogue where they differ. Metrics `hits_at_10`, `recall_at_10`, `recall_at_1`,
    `mrr` per round, as fractions; `bri` at the last round, in natural logarithms. With
    `baseline_ranks`, the ranks of text alone, also per round `degradation_rate`, the same with a
    margin of ln 2 in log-rank as `degradation_rate_ln2`, `rank_drop`, the mean number of places
    that degraded queries lose (no row where none is degraded), and `hits_at_10_gain` and
    `recall_at_10_gain`, the differences to text alone, query by query. With `peer_ranks`, those of
    other methods by name, the differences to each, for example `hits_at_10_gain_over_dar` and
    `recall_at_10_gain_over_dar`. `ci_low` and `ci_high` are the interval of
    `metrics.bootstrap_interval` over queries, NaN for `bri` and `rank_drop` where all queries have
    one value; `seed` labels the run and does not touch it. `num_queries` counts the dialogues that
    have the round, for `hits_at_10` all.
    `book/notation.md`, Metrics. Raises as the functions of `daitir.metrics` do.
    """
    values = {
        "hits_at_10": metrics.hit_values(ranks, 10, lengths=lengths),
        "recall_at_10": metrics.recall_values(ranks, 10, lengths=lengths),
        "recall_at_1": metrics.recall_values(ranks, 1, lengths=lengths),
        "mrr": metrics.reciprocal_rank_values(ranks, lengths=lengths),
        "bri": metrics.best_log_rank_integral_values(ranks, lengths=lengths)[:, None],
    }
    known = {}  # where a method is its rival, nothing of a difference is chance
    if baseline_ranks is not None:
        for metric, margin in (("degradation_rate", 0.0), ("degradation_rate_ln2", math.log(2))):
            values[metric] = metrics.degradation_values(
                ranks, baseline_ranks, margin=margin, lengths=lengths
            )
            known[metric] = metrics.same_ranks(ranks, baseline_ranks)
        values["rank_drop"] = metrics.rank_drop_values(ranks, baseline_ranks, lengths=lengths)
    bounds: dict[str, metrics.Bounds] = {"bri": None, "rank_drop": None}  # the others are shares
    compared = {} if baseline_ranks is None else {"gain": baseline_ranks}
    compared |= {f"gain_over_{name}": others for name, others in (peer_ranks or {}).items()}
    for suffix, others in compared.items():
        for metric, measure in (
            ("hits_at_10", metrics.hit_values), ("recall_at_10", metrics.recall_values),
        ):  # fmt: skip
            change = values[metric] - measure(others, 10, lengths=lengths)
            values[f"{metric}_{suffix}"] = change
            bounds[f"{metric}_{suffix}"] = metrics.DIFFERENCES
            known[f"{metric}_{suffix}"] = metrics.same_ranks(ranks, others)
    last = values["mrr"].shape[1] - 1
    tables = []
    for metric, columns in values.items():
        low, high = metrics.bootstrap_interval(
            columns,
            num_samples=num_samples,
            bounds=bounds.get(metric, metrics.SHARES),
            known=known.get(metric, False),
        )
        columns = pd.DataFrame(columns)  # its mean and count leave NaN out, as the metrics do
        table = {
            "benchmark": benchmark,
            "method": method,
            "seed": seed,
            "round": [last] if metric == "bri" else np.arange(last + 1),
            "metric": metric,
            "value": columns.mean(),
            "ci_low": low,
            "ci_high": high,
            "num_queries": columns.count(),
        }
        tables.append(pd.DataFrame(table, columns=list(RESULT_COLUMNS)))
    rows = pd.concat(tables, ignore_index=True)
    return rows[rows["num_queries"] > 0].reset_index(drop=True)


def write_results(path: Path, rows: pd.DataFrame, notes: Mapping) -> None:
    """Write result rows as CSV after how they came about, as JSON beside it."""
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
    with atomic_write(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def read_results(path: Path) -> tuple[pd.DataFrame, dict]:
    """Rows and notes that `write_results` wrote. Raises DataError where they are damaged."""
    notes = read_json(path.with_suffix(".json"))
    try:
        rows = pd.read_csv(path)
        if list(rows.columns) != list(RESULT_COLUMNS) or not isinstance(notes, dict):
            raise ValueError("other columns")
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: no table of results ({line}); remove it") from error
    return rows, notes


def evaluate(
    dialogues: Sequence[Dialogue],
    *,
    images_dir: str | Path,
    gallery: Sequence[str],
    encoder: Encoder,
    fusion: str | nn.Module = "text",
    views_dir: str | Path | Sequence[str | Path] | None = None,
    text_convention: str | None = None,
    benchmark: str,
    method: str | None = None,
    seed: int = 0,
    missing_views: str = "error",
    skip_unreadable: bool = False,
    num_samples: int = 1000,
    progress: bool = False,
) -> Evaluation:
    """Rank the gallery after every round of every dialogue, and tabulate the metrics.

    `gallery` names images below `images_dir` and holds every dialogue's target. `fusion` is how
    the query is made: `text`, `view` (the generated view alone), `dar`, or a trained fusion, as
    `daitir.recipes.fusion.load_fusion` gives it; all but the first need `views_dir`, and the ranks
    of text alone are computed and tabulated beside them. Where a round has several views, in one
    folder or in several, their features are averaged, with a trained fusion those of the fused
    queries. `method` is the name in the table, by default `fusion`, and must be given for a trained
    one; `benchmark` and `seed` are labels.

    With `missing_views="exclude"` dialogues that lack a view, and with `skip_unreadable` gallery
    images that cannot be decoded and the dialogues that look for them, are left out and counted in
    warnings; with `missing_views="text"` rounds without a view are ranked by text alone and counted
    in the result; otherwise all raise DataError. All files are checked before the encoder starts,
    and views with a manifest are checked against the dialogues (`daitir.data.derived.check_views`).

    Without `text_convention`, one of `daitir.data.dialogues.TEXT_CONVENTIONS`, the dialogues must
    show which it is (`daitir.data.dialogues.recognise_convention`).

    Raises DataError too for features that are not finite unit vectors of the encoder's dimension.
    """
    is_trained = isinstance(fusion, nn.Module)
    if is_trained and method is None:
        raise ValueError("a trained fusion has no name of its own; give a method")
    name = method or fusion
    if not is_trained and fusion not in FUSIONS:
        raise ValueError(f"unknown fusion {fusion!r}; choose one of {', '.join(FUSIONS)}")
    if fusion == "text":
        views_dir = None
    elif views_dir is None:
        raise DataError(f"fusion {name!r} needs a folder of views; name it, or use 'text'")
    elif name == "text":
        raise ValueError("the method's name 'text' is taken by text alone; choose another")
    folders = [views_dir] if isinstance(views_dir, str | Path) else list(views_dir or ())
    texts = query_texts(
        dialogues, convention=text_convention or recognise_convention(dialogues)[0]
    )
    kept, gallery, views = _checked_files(
        dialogues, images_dir, gallery, folders, missing_views, skip_unreadable
    )

    # From here on queries are flat, (dialogue, round) after (dialogue, round): dialogues may differ
    # in length, and no padding has to be encoded.
    lengths = np.array([len(texts[i]) for i in kept])
    rows, rounds = np.nonzero(np.arange(lengths.max()) < lengths[:, None])
    query_text = [text for i in kept for text in texts[i]]
    num_truncated = encoder.count_truncated(query_text)

    def encode(what: str, encoding: Callable, items: list) -> Tensor:
        features = encoding(items, progress=progress)
        check_features(what, features, (len(items), encoder.dim))
        return features

    queries = {"text" if views else name: encode("texts", encoder.encode_texts, query_text)}
    if views:
        paths = [path for files in views for path in files]
        view_features = encode("views", encoder.encode_images, paths)
        queries[name] = _fused(
            fusion,
            queries["text"],
            view_features,
            torch.tensor([len(files) for files in views]),
            torch.from_numpy(rounds),
        )
    image_paths = [Path(images_dir) / image for image in gallery]
    gallery_features = encode("images", encoder.encode_images, image_paths)

    index_of = {image: index for index, image in enumerate(gallery)}
    targets = torch.tensor([index_of[dialogues[i].image] for i in kept])[rows]
    ranks = {}
    for query, features in queries.items():
        ranks[query] = np.full((len(kept), lengths.max()), -1)
        ranks[query][rows, rounds] = target_ranks(features, gallery_features, targets).numpy()
    tables = [
        result_rows(
            ranks[query],
            benchmark=benchmark,
            method=query,
            seed=seed,
            lengths=lengths,
            baseline_ranks=None if not views or query == "text" else ranks["text"],
            num_samples=num_samples,
        )
        for query in ranks
    ]
    return Evaluation(
        rows=pd.concat(tables, ignore_index=True),
        ranks=ranks,
        lengths=lengths,
        dialogue_indices=np.array(kept),
        num_images=len(gallery),
        num_texts=len(query_text),
        num_truncated=num_truncated,
        num_without_view=sum(not files for files in views),
    )


def _checked_files(
    dialogues: Sequence[Dialogue],
    images_dir: str | Path,
    gallery: Sequence[str],
    views_dirs: Sequence[str | Path],
    missing_views: str,
    skip_unreadable: bool,
) -> tuple[list[int], list[str], list[list[Path]]]:
    """Indices of the dialogues to evaluate, the gallery, and the views of each query."""
    known = set(gallery)
    if len(known) < len(gallery):
        raise DataError("the gallery names an image twice; name each once")
    absent = [dialogue.image for dialogue in dialogues if dialogue.image not in known]
    if absent or not dialogues:
        raise DataError(
            f"{len(absent):,} of {len(dialogues):,} dialogues have a target outside the gallery: "
            f"{examples(absent)}"
            if absent
            else "no dialogues to evaluate"
        )
    kept = list(range(len(dialogues)))
    lengths = [len(d.rounds) for d in dialogues]
    found = [find_views(folder, lengths, missing=missing_views) for folder in views_dirs]
    for folder, views in zip(views_dirs, found, strict=True):
        check_views(folder, dialogues, views)
    kept = [i for i in kept if all(views[i] is not None for views in found)]
    if not kept:
        raise DataError("no dialogue has its views in every folder")
    gallery = check_images(images_dir, gallery, skip_unreadable=skip_unreadable)
    readable = set(gallery)
    lost = [dialogues[i].image for i in kept if dialogues[i].image not in readable]
    if lost:
        summary = f"{len(lost):,} of {len(kept):,} dialogues have an unreadable target"
        kept = [i for i in kept if dialogues[i].image in readable]
        if not kept:
            raise DataError(f"{images_dir}: {summary}, none is left")
        logger.warning("excluded, %s: %s", summary, examples(lost))
    rounds = [(i, t) for i in kept for t in range(lengths[i])] if found else []
    paths = [[path for views in found for path in views[i][t]] for i, t in rounds]
    for folder, views in zip(views_dirs, found, strict=True):
        check_images(folder, [path.name for i, t in rounds for path in views[i][t]])
    return kept, gallery, paths


@torch.no_grad()
def _fused(
    fusion: str | nn.Module,
    text_features: Tensor,
    view_features: Tensor,
    counts: Tensor,
    rounds: Tensor,
) -> Tensor:
    """The queries, (num_queries, dim); one without a view is its text.

    Args:
        text_features: (num_queries, dim).
        view_features: (num_views, dim), those of the first query first.
        counts: (num_queries,), how many views each query has.
        rounds: (num_queries,).
    """
    if isinstance(fusion, nn.Module):
        texts = text_features.repeat_interleave(counts, dim=0)
        pairs = zip(texts.split(FUSED_AT_ONCE), view_features.split(FUSED_AT_ONCE), strict=True)
        view_features = torch.cat([fusion(text, view)[0] for text, view in pairs])
    queries, viewed = text_features.clone(), counts > 0
    queries[viewed] = _averaged(view_features, counts[viewed])
    if fusion == "dar":
        queries[viewed] = dar_fusion(text_features[viewed], queries[viewed], round=rounds[viewed])
    return queries


def _averaged(view_features: Tensor, counts: Tensor) -> Tensor:
    """One feature a query, (num_queries, dim), of views that lie one after the other.

    Args:
        view_features: (num_views, dim), those of the first query first.
        counts: (num_queries,), how many views each query has, at least one.
    """
    starts = counts.cumsum(0) - counts
    averaged = view_features.new_empty(len(counts), view_features.shape[-1])
    for number in counts.unique():
        rows = counts == number
        averaged[rows] = average_views(view_features[starts[rows, None] + torch.arange(number)])
    return averaged


def check_features(what: str, features: Tensor, shape: tuple[int, int]) -> None:
    """Raises DataError unless `features` are finite unit vectors of the expected shape."""
    if tuple(features.shape) != shape:
        raise DataError(
            f"the encoder gave features of shape {tuple(features.shape)} for {shape[0]:,} {what} "
            f"of dimension {shape[1]}; use an encoder whose weights fit its configuration"
        )
    norms = features.norm(dim=1)
    bad = ~((norms - 1).abs() <= NORM_TOLERANCE)  # NaN is bad as well
    if bad.any():
        raise DataError(
            f"the encoder gave NaN, infinite or unnormalised features for {int(bad.sum()):,} of "
            f"{len(features):,} {what}, the first is number {int(bad.nonzero()[0])}; "
            "check its weights"
        )

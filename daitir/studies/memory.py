"""An improvement of our own: the views of earlier rounds are remembered instead of thrown away.

Every round draws a view of the same target, from other noise and other words. What is invented
differs from one to the next, what is true does not, so a mean of the views so far is a better
view, and nothing more is drawn for it. DAR can use it as it is; ADaFuSE is trained on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from daitir.book.provenance import versions
from daitir.evaluation import RESULT_COLUMNS, write_results
from daitir.fusion import dar_fusion, remembered_views
from daitir.metrics import DIFFERENCES, SHARES, bootstrap_interval
from daitir.models.encoders import Encoder
from daitir.recipes.fusion import FusionData, load_fusion, recall_values, train_fusion
from daitir.retrieval import target_ranks
from daitir.scenes import NUM_QUESTIONS
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.profiles import Profile
from daitir.studies.queries import load_query_set, manifest_of, queries_folder
from daitir.studies.robustness import condition_rows, fused_queries, method_ranks
from daitir.studies.training_sets import encode_queries, fusion_folder

logger = logging.getLogger(__name__)
DECAYS = (0.5, 0.75, 1.0)  # 0 remembers nothing: the shipped fusions


def run_memory(
    profile: Profile,
    encoder: Encoder,
    *,
    work_dir: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Train ADaFuSE on remembered views and write `results/<profile>_memory.csv` and `.json`.

    Every decay of `DECAYS` is trained with every seed. Validation alone chooses one decay for
    ADaFuSE and one for DAR: `recall_at_10_val` is R@10 over all drawn rounds, at the last round.
    On every source of the test split, at every round, there are `dar` and `adafuse` without memory,
    `dar_memory` and `adafuse_memory` with it, and `adafuse_shown_memory`, trained without memory
    and shown it. `recall_at_10_change` is the paired difference to the same without memory.

    Returns the path of the table. `work_dir` keeps features and trained fusions, so that an
    interrupted run continues. Raises DataError where a query set or a fusion is missing.
    """
    began = time.perf_counter()
    options = {"cache": work_dir / "features", "num_workers": num_workers, "progress": progress}
    train, val = (encode_queries(profile, name, encoder, **options) for name in ("train", "val"))
    rounds = load_query_set("val", encoder, queries_folder(profile)).rounds
    recipe, seeds = profile.fusions["adafuse"], range(profile.num_fusion_seeds)
    folders = [fusion_folder(profile, "adafuse", seed) for seed in seeds]
    models = {0.0: [load_fusion(folder, dim=encoder.dim) for folder in folders]}
    for decay in DECAYS:
        data = [remembering(some, decay) for some in (train, val)]
        models[decay] = [
            train_fusion(*data, recipe, work_dir / f"decay_{decay:g}" / str(seed), seed=seed,
                         device=device, progress=progress)
            for seed in seeds
        ]  # fmt: skip
    hits = validation_hits(val, rounds, models)
    chosen = {
        method: max(models, key=lambda decay, method=method: hits[method, decay].mean())
        for method in ("dar", "adafuse")
    }
    tables = [validation_rows(hits)]
    for name in BENCHMARKS:
        logger.warning("%s: measuring", name)
        data = encode_queries(profile, name, encoder, **options)
        tables.append(memory_rows(name, data, models, chosen))
    path = results_dir / f"{profile.name}_memory.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "chosen_decay": chosen,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_results(path, pd.concat(tables), notes)
    return path


def remembering(data: FusionData, decay: float) -> FusionData:
    """The same data with remembered views; drawn rounds count as neighbours."""
    return replace(data, view_features=remembered_views(data.view_features, decay=decay))


def validation_hits(
    val: FusionData, rounds: Tensor, models: Mapping[float, Sequence[nn.Module]]
) -> dict[tuple[str, float], np.ndarray]:
    """(num_dialogues,) R@10 over the drawn rounds, by method and decay, averaged over seeds.

    `rounds` `(num_dialogues, num_views)` tells which rounds `val` holds; `models` are the ADaFuSE
    of each decay.
    """
    hits = {}
    for decay, trained in models.items():
        data = remembering(val, decay)
        query = dar_fusion(data.text_features, data.view_features, round=rounds)
        ranks = target_ranks(query, data.gallery_features, torch.arange(len(query)))
        hits["dar", decay] = (ranks < 10).double().mean(dim=1).numpy()
        of_seeds = [recall_values(model, data) for model in trained]
        hits["adafuse", decay] = torch.stack(of_seeds).mean(dim=0).numpy()
    return hits


def validation_rows(hits: Mapping[tuple[str, float], np.ndarray]) -> pd.DataFrame:
    """Tidy rows `recall_at_10_val` of validation hits, and their paired change by memory."""
    rows = []
    for (method, decay), values in hits.items():
        change = values - hits[method, 0.0]
        for metric, columns, bounds, known in (
            ("recall_at_10_val", values, SHARES, False),
            ("recall_at_10_val_change", change, DIFFERENCES, decay == 0),
        ):
            low, high = bootstrap_interval(columns, bounds=bounds, known=known)
            rows.append(("human_val", f"{method}_decay_{decay:g}", "mean", NUM_QUESTIONS, metric,
                         columns.mean(), low, high, len(columns)))  # fmt: skip
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))


def memory_rows(
    benchmark: str,
    data: FusionData,
    models: Mapping[float, Sequence[nn.Module]],
    chosen: Mapping[str, float],
) -> pd.DataFrame:
    """Tidy rows of a test set, all its rounds drawn, with and without memory.

    `models` are the ADaFuSE of each decay, 0 among them; `chosen` is the decay of `dar` and of
    `adafuse`.
    """
    text, view = data.text_features, data.view_features
    rounds = range(text.shape[1])
    shown = {method: remembered_views(view, decay=decay) for method, decay in chosen.items()}

    def adaptive(some: Sequence[nn.Module]) -> Tensor:
        return fused_queries(text, shown["adafuse"], rounds, some)["adafuse"]

    plain = fused_queries(text, view, rounds, models[0.0])
    queries = plain | {
        "dar_memory": fused_queries(text, shown["dar"], rounds, models[0.0])["dar"],
        "adafuse_shown_memory": adaptive(models[0.0]),
        "adafuse_memory": adaptive(models[chosen["adafuse"]]),
    }
    ranks = method_ranks(queries, data.gallery_features)
    usual = {method: ranks[method.split("_")[0]] for method in ranks}
    return condition_rows(benchmark, ranks, list(rounds), usual=usual)

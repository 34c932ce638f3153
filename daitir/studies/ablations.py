"""Which part of ADaFuSE matters: the fusion with one part changed, trained and measured anew."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch

from daitir.book.provenance import versions
from daitir.evaluation import RESULT_COLUMNS, result_rows, write_results
from daitir.fusion import dar_fusion
from daitir.metrics import bootstrap_interval
from daitir.models.encoders import Encoder
from daitir.recipes.fusion import recall_values, train_fusion
from daitir.recipes.settings import FusionRecipe
from daitir.retrieval import target_ranks
from daitir.studies.profiles import Profile
from daitir.studies.queries import manifest_of, queries_folder
from daitir.studies.training_sets import encode_queries

NUM_SEEDS = 3
WITHOUT_VIEW = "without_view"
METRICS = ("recall_at_10", "recall_at_10_gain", "recall_at_10_gain_over_dar", "bri",
           "degradation_rate_ln2")  # fmt: skip


def variants(recipe: FusionRecipe) -> dict[str, FusionRecipe]:
    """The recipe of ADaFuSE, whole and with one thing changed, by name.

    `published_size` has the published step size too. `without_view` is whole, but is shown the text
    in the place of the view.
    """
    return {
        "whole": recipe,
        "without_gate": replace(recipe, use_gate=False),
        "without_residual": replace(recipe, use_residual=False),
        "1_expert": replace(recipe, num_experts=1),
        "2_experts": replace(recipe, num_experts=2),
        "8_experts": replace(recipe, num_experts=8),
        "without_dropout": replace(recipe, dropout=0.0),
        "half_width": replace(
            recipe, projection_dim=recipe.projection_dim // 2, hidden_dim=recipe.hidden_dim // 2
        ),
        "published_size": replace(
            recipe, projection_dim=512, hidden_dim=2048, learning_rate=5e-5
        ),
        WITHOUT_VIEW: recipe,
    }


def run_ablations(
    profile: Profile,
    encoder: Encoder,
    *,
    work_dir: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Train and measure every variant and write `results/<profile>_ablations.csv` and `.json`.

    On the test split the metrics are those of the benchmark. `recall_at_10_val` is R@10 over all
    drawn rounds of validation, by which a variant may be chosen; it stands at the last round.

    Returns the path of the table. `work_dir` keeps features and trained variants, so that an
    interrupted run continues. Raises DataError where a query set is missing.
    """
    began = time.perf_counter()
    options = {"cache": work_dir / "features", "num_workers": num_workers, "progress": progress}
    train, val, test = (
        encode_queries(profile, name, encoder, **options) for name in ("train", "val", "human")
    )
    targets = torch.arange(len(test.text_features))
    last = test.text_features.shape[1] - 1

    def test_ranks(query: torch.Tensor) -> torch.Tensor:
        return target_ranks(query, test.gallery_features, targets)

    text_ranks = test_ranks(test.text_features)
    dar = dar_fusion(test.text_features, test.view_features, round=torch.arange(last + 1))
    peers = {"dar": test_ranks(dar)}
    tables, sizes = [], {}
    for name, recipe in variants(profile.fusions["adafuse"]).items():
        data = (train, val, test)
        if name == WITHOUT_VIEW:
            data = tuple(replace(some, view_features=some.text_features) for some in data)
        for seed in range(NUM_SEEDS):
            model = train_fusion(
                *data[:2], recipe, work_dir / name / str(seed), seed=seed, device=device,
                progress=progress,
            )  # fmt: skip
            sizes[name] = sum(p.numel() for p in model.parameters())
            with torch.no_grad():
                found = test_ranks(model(data[2].text_features, data[2].view_features)[0])
            about = {"benchmark": "human", "method": name, "seed": seed}
            rows = result_rows(found, **about, baseline_ranks=text_ranks, peer_ranks=peers)
            tables.append(rows[rows["metric"].isin(METRICS)])
            hits = recall_values(model, data[1]).numpy()
            low, high = bootstrap_interval(hits)
            value = ("human_val", name, seed, last, "recall_at_10_val", hits.mean(), low, high,
                     len(hits))  # fmt: skip
            tables.append(pd.DataFrame([value], columns=list(RESULT_COLUMNS)))
    path = results_dir / f"{profile.name}_ablations.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "parameters": sizes,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_results(path, pd.concat(tables), notes)
    return path

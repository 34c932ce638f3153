"""The choices of drawing: how many views, how they are combined, guidance, steps.

Measured on the validation split, since whoever reads the table may choose by it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from daitir import metrics
from daitir.analysis.hallucination import cues
from daitir.book.provenance import versions
from daitir.evaluation import RESULT_COLUMNS, result_rows, write_results
from daitir.fusion import average_views, dar_fusion, dar_weights, fuse_views
from daitir.models.encoders import Encoder
from daitir.models.recogniser import Recogniser
from daitir.models.views import ViewGenerator, view_seed
from daitir.recipes.fusion import load_fusion
from daitir.retrieval import first_equal, target_ranks
from daitir.scenes import Scene, parse, render_scenes, sample_scenes
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, SETS, load_query_set, manifest_of, queries_folder
from daitir.studies.training_sets import fusion_folder

BENCHMARK, QUERY_SET = "human_val", "val"
ROUNDS = (2, 6, 10)
NUM_VIEWS = (1, 2, 4, 8)
GUIDANCES = (1.0, 4.0, 8.0)
STEPS = (2, 4, 20)
METRICS = ("recall_at_10", "recall_at_10_gain", "mrr", "degradation_rate", "degradation_rate_ln2")


def run_choices(
    profile: Profile,
    generator: ViewGenerator,
    encoder: Encoder,
    recogniser: Recogniser,
    *,
    cache: Path,
    results_dir: Path = Path("results"),
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Draw validation dialogues in many ways and write `results/<profile>_choices.csv` and `.json`.

    The captions of the query set `val` at the rounds `ROUNDS` are drawn with other seeds, at other
    guidance and with other numbers of steps than `generator` has, and fused by DAR and by the
    trained ADaFuSE of the profile, view by view. Beside the metrics of the benchmark,
    `false_cue_share` is the share of a view's cues that are invented or contradicted.

    Args:
        generator: draws whatever is not another choice.
        cache: keeps the views, so that an interrupted run continues.

    Returns the path of the table. Raises DataError where the query set does not fit the encoder
    or a fusion is missing.
    """
    began = time.perf_counter()
    captions = load_query_set(QUERY_SET, encoder, queries_folder(profile)).captions
    captions = captions[: profile.num_other_dialogues]
    gallery = sample_scenes(SEED, SETS[QUERY_SET].split, profile.num_gallery)
    images = render_scenes(gallery, size=profile.image_size, num_workers=num_workers,
                           progress=progress)  # fmt: skip
    gallery_features = encoder.encode_images(images, progress=progress)
    targets = torch.arange(len(captions))
    folders = [fusion_folder(profile, "adafuse", s) for s in range(profile.num_fusion_seeds)]
    fusions = [load_fusion(folder, dim=encoder.dim) for folder in folders]
    rounds = torch.tensor(ROUNDS)
    prompts = [row[t] for row in captions for t in ROUNDS]
    text = encoder.encode_texts(prompts).view(len(captions), len(ROUNDS), -1)
    text_ranks = target_ranks(text, gallery_features, targets)

    def drawn(source: ViewGenerator, seed: int) -> tuple[Tensor, np.ndarray]:
        """Features (num_dialogues, num_rounds, dim) and shares of false cues of views."""
        seeds = [view_seed(seed, i, t) for i in range(len(captions)) for t in ROUNDS]
        paths = source.generate(prompts, seeds, cache, progress=progress)
        read = [reading.scene for reading in recogniser.read(paths)]
        found = [gallery[i] for i in range(len(captions)) for _ in ROUNDS]
        return (
            encoder.encode_images(paths).view_as(text),
            np.reshape(false_cue_shares(prompts, read, found), text.shape[:2]),
        )

    def table(method: str, ranks: Tensor, seed: int = SEED) -> pd.DataFrame:
        rows = result_rows(
            ranks, benchmark=BENCHMARK, method=method, seed=seed, baseline_ranks=text_ranks
        )
        rows = rows[rows["metric"].isin(METRICS)]
        return rows.assign(round=rows["round"].map(dict(enumerate(ROUNDS))))

    def adaptive(method: str, several: Tensor) -> Iterator[pd.DataFrame]:
        for seed, model in enumerate(fusions):
            with torch.no_grad():
                fused, _ = fuse_views(model, text, several)
            yield table(method, target_ranks(fused, gallery_features, targets), seed)

    def one_view(method: str, features: Tensor, shares: np.ndarray) -> Iterator[pd.DataFrame]:
        fused = dar_fusion(text, features, round=rounds)
        yield table(method, target_ranks(fused, gallery_features, targets))
        yield from adaptive(method.replace("dar", "adafuse"), features[:, :, None])
        low, high = metrics.bootstrap_interval(shares)
        values = (BENCHMARK, method, SEED, ROUNDS, "false_cue_share", shares.mean(axis=0), low,
                  high, len(shares))  # fmt: skip
        yield pd.DataFrame(dict(zip(RESULT_COLUMNS, values, strict=True)))

    tables, views = [table("text", text_ranks)], []
    sources = choice_sources(generator)
    for seed in range(max(NUM_VIEWS)):
        features, shares = drawn(*sources.pop(f"view_{seed}"))
        views.append(features)
        if seed == 0:
            tables += one_view("dar", features, shares)
    for number in NUM_VIEWS[1:]:
        several = torch.stack(views[:number], dim=2)
        for name, ranks in combined_ranks(text, several, gallery_features, rounds).items():
            tables.append(table(f"dar_{number}_views_{name}", ranks))
        tables += adaptive(f"adafuse_{number}_views", several)
    for name, source in sources.items():
        tables += one_view(f"dar_{name}", *drawn(*source))
    path = results_dir / f"{profile.name}_choices.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_results(path, pd.concat(tables), notes)
    return path


def choice_sources(generator: ViewGenerator) -> dict[str, tuple[ViewGenerator, int]]:
    """What draws each set of views, and the seed: `view_0` and on, `guidance_1`, `steps_2`..."""
    found = {f"view_{seed}": (generator, seed) for seed in range(max(NUM_VIEWS))}
    for name, values in (("guidance", GUIDANCES), ("steps", STEPS)):
        for value in values:
            settings = {"steps": generator.steps, "guidance": generator.guidance} | {name: value}
            other = ViewGenerator(generator.spec, generator.pipeline, **settings)
            found[f"{name}_{value:g}"] = (other, 0)
    return found


def false_cue_shares(
    captions: Sequence[str], readings: Sequence[Scene], targets: Sequence[Scene]
) -> list[float]:
    """For each view the share of its cues that are invented or contradicted."""
    shares = []
    for caption, seen, target in zip(captions, readings, targets, strict=True):
        found = cues(parse(caption).facts, seen, target)
        shown = len(found.kinds) + len(found.extra)
        shares.append((found.count("invented") + found.count("contradicted")) / shown)
    return shares


def combined_ranks(
    text_features: Tensor, view_features: Tensor, gallery_features: Tensor, rounds: Tensor
) -> dict[str, Tensor]:
    """Ranks of the first gallery images by text and several views, combined in three ways.

    Args:
        text_features: (num_queries, num_rounds, dim).
        view_features: (num_queries, num_rounds, num_views, dim).
        gallery_features: (num_images, dim); query i looks for image i.
        rounds: (num_rounds,), which rounds they are, for DAR's weights.

    Returns:
        (num_queries, num_rounds) ranks by `features`, DAR with the average of the views' features
        scaled to unit norm; by `scores`, with the average of their scores; by `best`, with the
        best score that a gallery image has with any of them.
    """
    fused = dar_fusion(text_features, average_views(view_features), round=rounds)
    targets, firsts = torch.arange(len(text_features)), first_equal(gallery_features)
    found = {"features": target_ranks(fused, gallery_features, targets)}
    by_scores, by_best = [], []
    for t, (text_weight, view_weight) in enumerate(zip(*dar_weights(rounds), strict=True)):
        words = text_weight * (text_features[:, t] @ gallery_features.T)
        pictures = view_weight * (view_features[:, t] @ gallery_features.T)
        for ranks, scores in ((by_scores, pictures.mean(dim=1)), (by_best, pictures.amax(dim=1))):
            total = (words + scores)[:, firsts]  # equal pictures tie
            ranks.append((total >= total[targets, targets][:, None]).sum(dim=1) - 1)
    return found | {"scores": torch.stack(by_scores, 1), "best": torch.stack(by_best, 1)}

"""The benchmark of fine-tuned encoders: each on every source of dialogues, alone and fused."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from daitir import metrics
from daitir.analysis.controls import placebo_views
from daitir.book.provenance import versions
from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_tensors
from daitir.evaluation import RESULT_COLUMNS, write_results
from daitir.fusion import dar_fusion, remembered_views
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.finetuned import CONFIG_NAME
from daitir.models.views import ViewGenerator
from daitir.recipes.finetune import encode, finetune
from daitir.recipes.fusion import FusionData, train_fusion
from daitir.recipes.triples import FinetuneData
from daitir.retrieval import target_ranks
from daitir.scenes import sample_scenes, short_caption
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, SETS, manifest_of, queries_folder
from daitir.studies.training_sets import as_read, encoder_folder, profile_data, training_data

logger = logging.getLogger(__name__)
ZERO_SHOT = "zero_shot"
SHORT_CAPTION = "short_caption"
# Whom gains are over: an encoder and what it ranks by.
PEERS = {
    "dar": (ZERO_SHOT, "dar"),
    "adafuse": (ZERO_SHOT, "adafuse"),
    "finetune_text": ("finetune_text", "text"),
}
RIVALS = ("gain_over_dar", "gain_over_finetune_text")  # of the published gain in Hits@10
MEASURES = {
    "recall_at_10": partial(metrics.recall_values, k=10),
    "hits_at_10": partial(metrics.hit_values, k=10),
    "bri": lambda ranks: metrics.best_log_rank_integral_values(ranks)[:, None],
}
COMPARED = ("finetune_text", "dmcl")  # all that the smaller studies measure
IMPROVED = {"dmcl_resampled": "dmcl"}  # encoders that are compared with another, query by query
RANKED = ("text", "dar", "memory", "adafuse")  # the queries that are compared with the peers
MARGINS = {"degradation_rate": 0.0, "degradation_rate_ln2": math.log(2)}
# Validation chose it for DAR (`daitir memory`).
MEMORY_DECAY = 0.75


def run_encoder_benchmark(
    profile: Profile,
    generator: ViewGenerator,
    *,
    cache: Path,
    work_dir: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Measure every encoder of the profile and write `results/<profile>_encoders.csv` and `.json`.

    A method is an encoder and what is ranked, for example `dmcl+dar`: `text`, `view`, `dar`, DAR
    with the views of other dialogues (`placebo`), DAR that remembers earlier views (`memory`), and
    `adafuse`, trained on that encoder. The encoder before training is `zero_shot`. `gain` is over
    the same encoder's text, `gain_over_NAME` over one of `PEERS`, `gain_over_dmcl` over the same
    query under DMCL (`IMPROVED`); only queries of `RANKED` have them. The benchmark `short_caption`
    ranks for one clean short caption of each target, without a dialogue.

    Args:
        generator: drew the query sets; what `cache` lacks of their views is drawn anew.
        cache: keeps the views.
        work_dir: keeps the ranks of each encoder, so that an interrupted run continues. Encoders
            that lie nowhere yet are trained there.

    Returns the path of the table. Raises DataError where the query sets are of other models, or
    where `work_dir` holds the ranks of another encoder.
    """
    base = load_encoder(profile.encoder, device=device)
    options = {"num_workers": num_workers, "progress": progress}
    data = {
        name: profile_data(profile, name, generator, base, cache, **options)
        for name in ("train", "val", *BENCHMARKS)
    }
    found, digests = {}, {}
    for name, seed in _names(profile):
        encoder = _encoder(profile, name, seed, data, work_dir, device, **options)
        digests[f"{name}/{seed}"] = encoder.digest
        path = work_dir / f"{name}_{seed}.safetensors"
        facts = {"encoder": digests[f"{name}/{seed}"]}
        found[name, seed] = kept_ranks(path, facts)
        if found[name, seed] is None:
            logger.warning("%s, seed %d: measuring", name, seed)
            folder = fusion_of(work_dir, name, seed)
            found[name, seed] = _ranks(profile, name, seed, encoder, data, folder, progress)
            with atomic_write(path) as temporary:
                save_file(found[name, seed], temporary, facts)
    ranks = {}
    for name in (ZERO_SHOT, *profile.encoders):
        of_seeds = [kept for (some, _), kept in found.items() if some == name]
        for key in sorted(of_seeds[0]):  # the order in which they are read again
            ranks[name, *key.split("/")] = torch.stack([kept[key] for kept in of_seeds])
    path = results_dir / f"{profile.name}_encoders.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "encoders": digests,
    }
    write_results(path, encoder_rows(ranks), notes)
    return path


def _encoder(
    profile: Profile,
    name: str,
    seed: int,
    data: Mapping[str, FinetuneData],
    work_dir: Path,
    device: str,
    *,
    num_workers: int,
    progress: bool,
) -> Encoder:
    """The encoder of a name and seed; one that lies nowhere yet is trained."""
    encoder = load_encoder(profile.encoder, device=device)
    if name == ZERO_SHOT:
        return encoder
    recipe = profile.encoders[name]
    train = training_data(data["train"], profile, recipe, num_workers=num_workers)
    val = as_read(data["val"], profile, "val", recipe)
    folder = _folder(profile, name, seed, work_dir)
    return finetune(encoder, train, val, recipe, folder, seed=seed, progress=progress)


def _names(profile: Profile) -> list[tuple[str, int]]:
    """Names and seeds of the encoders that are measured, the start first."""
    seeds = range(profile.num_encoder_seeds)
    return [(ZERO_SHOT, 0), *((name, seed) for name in profile.encoders for seed in seeds)]


def _folder(profile: Profile, name: str, seed: int, work_dir: Path) -> Path:
    """Where a trained encoder lies: with those of the profile, or where it is trained."""
    folder = encoder_folder(profile, name, seed)
    if (folder / CONFIG_NAME).is_file():
        return folder
    return work_dir / "encoders" / name / str(seed)


def fusion_of(work_dir: Path, name: str, seed: int) -> Path:
    """Where the benchmark keeps the ADaFuSE that it trained on an encoder."""
    return work_dir / "fusions" / name / str(seed)


def trained_encoders(
    profile: Profile, work_dir: Path, *, names: Collection[str] | None = None, device: str = "cpu"
) -> dict[tuple[str, int], Encoder]:
    """The encoders of the benchmark by name and seed, the start first; of `names`, or all.

    Raises DataError where one was not trained yet.
    """
    specs = {}
    for name, seed in _names(profile):
        if names is not None and name not in (ZERO_SHOT, *names):
            continue
        folder = _folder(profile, name, seed, work_dir)
        specs[name, seed] = profile.encoder if name == ZERO_SHOT else f"finetuned:{folder}"
        if name != ZERO_SHOT and not (folder / CONFIG_NAME).is_file():
            raise DataError(f"{folder}: no trained encoder; run `daitir encoders` first")
    return {key: load_encoder(spec, device=device) for key, spec in specs.items()}


def encode_sets(
    encoder: Encoder, sets: Mapping[str, FinetuneData], *, progress: bool = False
) -> dict[str, FusionData]:
    """The features of query sets by name; a gallery that several of them search is encoded once."""
    found: dict[str, FusionData] = {}
    for name, data in sets.items():
        same = [n for n in found if np.array_equal(sets[n].gallery, data.gallery)]
        gallery = found[same[0]].gallery_features if same else None
        found[name] = FusionData(
            *encode(encoder, data, gallery_features=gallery, progress=progress)
        )
    return found


def _as_read(
    profile: Profile, name: str, data: Mapping[str, FinetuneData], part: str
) -> FinetuneData:
    """A query set with the texts that an encoder was trained to read."""
    recipe = profile.encoders.get(name)
    return data[part] if recipe is None else as_read(data[part], profile, part, recipe)


def kept_ranks(path: Path, facts: Mapping[str, str]) -> dict[str, Tensor] | None:
    """The ranks of an earlier run, None where there are none yet."""
    if not path.is_file():
        return None
    ranks, about = read_tensors(path)
    if about != facts:
        raise DataError(f"{path}: holds the ranks of another encoder; delete the file")
    return ranks


def _ranks(
    profile: Profile,
    name: str,
    seed: int,
    encoder: Encoder,
    data: Mapping[str, FinetuneData],
    folder: Path,
    progress: bool,
) -> dict[str, Tensor]:
    """`ranks["benchmark/query"]` (num_queries, num_rounds) of an encoder, 0-based."""
    read = {part: _as_read(profile, name, data, part) for part in data}
    features = encode_sets(encoder, read, progress=progress)
    recipe = profile.fusions["adafuse"]
    model = train_fusion(
        features["train"], features["val"], recipe, folder, seed=seed, device=encoder.device,
        progress=progress,
    ).cpu()  # fmt: skip
    ranks = {}
    for benchmark in BENCHMARKS:
        some = features[benchmark]
        text, view = some.text_features, some.view_features
        rounds = torch.arange(text.shape[1])
        with torch.no_grad():
            fused, _ = model(text, view)
        queries = {
            "text": text,
            "view": view,
            "dar": dar_fusion(text, view, round=rounds),
            "placebo": dar_fusion(text, placebo_views(view), round=rounds),
            "memory": dar_fusion(
                text, remembered_views(view, decay=MEMORY_DECAY), round=rounds
            ),
            "adafuse": fused,
        }
        targets = torch.arange(len(text))
        for query, vectors in queries.items():
            ranks[f"{benchmark}/{query}"] = target_ranks(vectors, some.gallery_features, targets)
    scenes = sample_scenes(SEED, SETS["human"].split, profile.num_test_dialogues)
    captions = [short_caption(s, random.Random(f"short/{SEED}/{i}")) for i, s in enumerate(scenes)]
    ranks[f"{SHORT_CAPTION}/text"] = target_ranks(
        encoder.encode_texts(captions)[:, None],
        features["human"].gallery_features,
        torch.arange(len(captions)),
    )
    return ranks


def encoder_rows(
    ranks: Mapping[tuple[str, str, str], Tensor],
    *,
    ranked: Collection[str] = RANKED,
    peers: Mapping[str, tuple[str, str]] = PEERS,
) -> pd.DataFrame:
    """Tidy rows of ranks `(num_seeds, num_queries, num_rounds)` by encoder, benchmark and query.

    What is measured is averaged over seeds, dialogue by dialogue, and then put to the bootstrap;
    the column `seed` says how many they were. R@10 of each single seed stands beside, without an
    interval, on the benchmark `human`.
    """
    tables = []
    for (name, benchmark, query), found in ranks.items():
        text = ranks[name, benchmark, "text"]
        others = {} if query == "text" else {"gain": text}
        for label, peer in peers.items():
            if benchmark != SHORT_CAPTION:
                others[f"gain_over_{label}"] = ranks.get((peer[0], benchmark, peer[1]))
        if plain := IMPROVED.get(name):
            others[f"gain_over_{plain}"] = ranks.get((plain, benchmark, query))
        values, known = {}, {}
        for metric, measure in MEASURES.items():
            values[metric] = _mean_over_seeds(measure, found)
            for suffix, other in others.items():
                wanted = metric == "recall_at_10" or metric == "hits_at_10" and suffix in RIVALS
                if other is not None and query in ranked and wanted:
                    change = values[metric] - _mean_over_seeds(measure, other)
                    values[f"{metric}_{suffix}"] = change
                    known[f"{metric}_{suffix}"] = metrics.same_ranks(found, other)
        if query.startswith(("dar", "adafuse")):
            for metric, margin in MARGINS.items():
                harmed = [
                    metrics.degradation_values(one, alone, margin=margin)
                    for one, alone in zip(found, text, strict=True)
                ]
                values[metric] = np.mean(harmed, axis=0)
        last = found.shape[-1] - 1
        for metric, columns in values.items():
            bounds = metrics.DIFFERENCES if "_gain" in metric else metrics.SHARES
            bounds = bounds if metric != "bri" else None
            low, high = metrics.bootstrap_interval(
                columns, bounds=bounds, known=known.get(metric, False)
            )
            rounds = [last] if columns.shape[1] == 1 else range(last + 1)
            row = (benchmark, f"{name}+{query}", f"mean of {len(found)}", rounds, metric,
                   columns.mean(axis=0), low, high, len(columns))  # fmt: skip
            tables.append(pd.DataFrame(dict(zip(RESULT_COLUMNS, row, strict=True))))
        if benchmark == "human":
            for seed, one in enumerate(found):
                recall = metrics.recall_values(one, 10).mean(axis=0)
                row = (benchmark, f"{name}+{query}", seed, range(last + 1), "recall_at_10", recall,
                       np.nan, np.nan, len(one))  # fmt: skip
                tables.append(pd.DataFrame(dict(zip(RESULT_COLUMNS, row, strict=True))))
    # A ten-thousandth is a tenth of one dialogue; more digits would only fill the file.
    return pd.concat(tables, ignore_index=True).round(4)


def _mean_over_seeds(measure: Callable[[Tensor], np.ndarray], ranks: Tensor) -> np.ndarray:
    """(num_queries, num_rounds) or (num_queries, 1)."""
    return np.mean([measure(one) for one in ranks], axis=0)

"""The benchmark of a profile: every method on every source of dialogues, into `results/`.

The book's tables and figures read the files that this writes and nothing else.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from daitir.dialogues import Dialogue, query_texts
from daitir.encoders import Encoder, load_encoder
from daitir.errors import DataError
from daitir.evaluation import result_rows
from daitir.files import atomic_write, weights_digest
from daitir.fusion import dar_fusion
from daitir.profiles import Profile
from daitir.provenance import versions
from daitir.queries import SEED, SETS
from daitir.retrieval import target_ranks
from daitir.scenes import (
    NUM_QUESTIONS,
    SOURCES,
    controlled_view,
    dialogue,
    merge_facts,
    render_scenes,
    rewrites,
    sample_scenes,
)

logger = logging.getLogger(__name__)
BENCHMARKS = (*SOURCES, "heldout")

TEXT_METHODS = {
    "text": "current_rewrite",
    "text_raw_dialogue": "raw_dialogue",
    "text_all_rewrites": "all_rewrites",
}


def run_benchmark(
    profile: Profile,
    *,
    work_dir: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Measure every method on every benchmark and write `results/<profile>.csv` and `.json`.

    A benchmark that is done lies in `work_dir` and is not run again, so that an interrupted run
    continues; delete the folder to measure anew.

    Returns the path of the table. Raises DataError where `work_dir` holds the benchmark of other
    weights or another profile.
    """
    encoder = load_encoder(profile.encoder, device=device)
    _check_manifest(work_dir / "manifest.json", profile, encoder)
    tables, seconds, truncated = [], {}, {}
    for name in BENCHMARKS:
        part, notes = work_dir / f"{name}.csv", work_dir / f"{name}.json"
        if not part.is_file():
            logger.warning("%s: measuring", name)
            began = time.perf_counter()
            counts: dict[str, int] = {}
            rows = pd.concat(_measure(profile, encoder, name, counts, num_workers, progress))
            found = {"seconds": round(time.perf_counter() - began, 1), "truncated": counts}
            _write(notes, json.dumps(found))
            with atomic_write(part) as temporary:
                rows.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        tables.append(pd.read_csv(part))
        found = json.loads(notes.read_text(encoding="utf-8"))
        seconds[name], truncated[name] = found["seconds"], found["truncated"]
    path = results_dir / f"{profile.name}.csv"
    with atomic_write(path) as temporary:
        pd.concat(tables).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    provenance = {
        "profile": asdict(profile),
        "encoder_sha256": weights_digest(encoder.model),
        "versions": versions(),
        "seconds": seconds,
        "truncated_query_texts": truncated,
        "query_texts": profile.num_test_dialogues * (NUM_QUESTIONS + 1),
    }
    _write(path.with_suffix(".json"), json.dumps(provenance, indent=1) + "\n")
    return path


def _measure(
    profile: Profile,
    encoder: Encoder,
    benchmark: str,
    truncated: dict[str, int],
    num_workers: int,
    progress: bool,
) -> Iterator[pd.DataFrame]:
    """The rows of one benchmark, a table a method; `truncated` gets the counts of cut-off texts."""
    draw = {"size": profile.image_size, "num_workers": num_workers, "progress": progress}
    recipe = SETS[benchmark]
    scenes = sample_scenes(SEED, recipe.split, profile.num_gallery)
    gallery_features = encoder.encode_images(render_scenes(scenes, **draw), progress=progress)
    talks = [
        dialogue(recipe.source, scene, seed=SEED)
        for scene in scenes[: profile.num_test_dialogues]
    ]
    targets = torch.arange(len(talks))
    label = {"benchmark": benchmark, "seed": SEED}

    def ranks(queries: Tensor) -> Tensor:
        return target_ranks(queries, gallery_features, targets)

    features = {}
    for method, convention in TEXT_METHODS.items():
        rounds = [
            tuple(turn.text for turn in turns)
            if convention == "raw_dialogue"
            else tuple(rewrites(turns, seed=index))
            for index, turns in enumerate(talks)
        ]
        texts = query_texts([Dialogue("", r) for r in rounds], convention=convention)
        flat = [text for row in texts for text in row]
        truncated[method] = encoder.count_truncated(flat)
        encoded = encoder.encode_texts(flat, progress=progress)
        features[method] = encoded.view(len(talks), -1, encoder.dim)
        yield result_rows(ranks(features[method]), method=method, **label)

    text_features = features["text"]
    text_ranks = ranks(text_features)
    rounds = torch.arange(text_features.shape[1])
    known = [[merge_facts(turns[: t + 1]) for t in range(len(turns))] for turns in talks]
    for share in profile.broken_shares:
        views = [
            controlled_view(facts, broken_share=share, seed=f"{index}/{t}").scene
            for index, row in enumerate(known)
            for t, facts in enumerate(row)
        ]
        view_features = encoder.encode_images(render_scenes(views, **draw), progress=progress)
        view_features = view_features.view_as(text_features)
        queries = {
            "view": view_features,
            "dar": dar_fusion(text_features, view_features, round=rounds),
        }
        for method, query in queries.items():
            yield result_rows(
                ranks(query),
                method=f"{method}_controlled_{round(100 * share):02d}",
                baseline_ranks=text_ranks,
                **label,
            )


def _check_manifest(path: Path, profile: Profile, encoder: Encoder) -> None:
    manifest = {"profile": asdict(profile), "encoder_sha256": weights_digest(encoder.model)}
    text = json.dumps(manifest, indent=1)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise DataError(
            f"{path.parent}: holds a benchmark of another profile or encoder; delete the folder"
        )
    _write(path, text)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

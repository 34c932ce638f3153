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

from daitir.controls import noise_views, placebo_views
from daitir.dialogues import Dialogue, query_texts
from daitir.encoders import Encoder, load_encoder
from daitir.errors import DataError
from daitir.evaluation import result_rows, write_results
from daitir.files import atomic_write, weights_digest
from daitir.fusion import dar_fusion
from daitir.profiles import Profile
from daitir.provenance import versions
from daitir.queries import (
    SEED,
    SETS,
    load_query_set,
    manifest_of,
    queries_folder,
    set_dialogues,
)
from daitir.retrieval import target_ranks
from daitir.scenes import (
    NUM_QUESTIONS,
    SOURCES,
    controlled_view,
    merge_facts,
    render_scenes,
    rewrites,
    sample_scenes,
)

logger = logging.getLogger(__name__)
BENCHMARKS = (*SOURCES, "heldout")


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
        part = work_dir / f"{name}.csv"
        if not part.is_file():
            logger.warning("%s: measuring", name)
            began = time.perf_counter()
            counts: dict[str, int] = {}
            rows = pd.concat(_measure(profile, encoder, name, counts, num_workers, progress))
            found = {"seconds": round(time.perf_counter() - began, 1), "truncated": counts}
            write_results(part, rows, found)
        tables.append(pd.read_csv(part))
        found = json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))
        seconds[name], truncated[name] = found["seconds"], found["truncated"]
    path = results_dir / f"{profile.name}.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "seconds": seconds,
        "truncated_query_texts": truncated,
    }
    write_results(path, pd.concat(tables), notes)
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
    folder = queries_folder(profile)
    queries = load_query_set(benchmark, encoder, folder)
    _, talks = set_dialogues(profile, benchmark)
    if len(queries.captions) != len(talks):
        raise DataError(
            f"{folder}: the query set {benchmark} has {len(queries.captions):,} dialogues, the "
            f"profile {len(talks):,}; make it again with `daitir queries`"
        )
    draw = {"size": profile.image_size, "num_workers": num_workers, "progress": progress}
    gallery = sample_scenes(SEED, SETS[benchmark].split, profile.num_gallery)  # the targets first
    gallery_features = encoder.encode_images(render_scenes(gallery, **draw), progress=progress)
    targets = torch.arange(len(talks))
    rounds = torch.arange(NUM_QUESTIONS + 1)

    def ranks(features: Tensor) -> Tensor:
        return target_ranks(features, gallery_features, targets)

    def rows(method: str, found: Tensor, baseline: Tensor | None = None) -> pd.DataFrame:
        return result_rows(
            found, benchmark=benchmark, method=method, seed=SEED, baseline_ranks=baseline
        )

    said = [[turn.text for turn in turns] for turns in talks]
    exact = [rewrites(turns, seed=index) for index, turns in enumerate(talks)]
    features, text_ranks = {}, {}
    for method, words, convention in (
        ("text", queries.captions, "current_rewrite"),
        ("text_controlled", exact, "current_rewrite"),
        ("text_raw_dialogue", said, "raw_dialogue"),
        ("text_all_rewrites", queries.captions, "all_rewrites"),
    ):
        texts = query_texts([Dialogue("", tuple(row)) for row in words], convention=convention)
        flat = [text for row in texts for text in row]
        truncated[method] = encoder.count_truncated(flat)
        encoded = encoder.encode_texts(flat, progress=progress)
        features[method] = encoded.view(len(talks), -1, encoder.dim)
        text_ranks[method] = ranks(features[method])
        yield rows(method, text_ranks[method])

    def with_views(suffix: str, view_features: Tensor) -> Iterator[pd.DataFrame]:
        text = "text_controlled" if suffix else "text"
        fused = dar_fusion(features[text], view_features, round=rounds)
        yield rows(f"view{suffix}", ranks(view_features), text_ranks[text])
        yield rows(f"dar{suffix}", ranks(fused), text_ranks[text])

    yield from with_views("", queries.view_features)
    for name in ("human_again", "human_fixed_noise") if benchmark == "human" else ():
        other = load_query_set(name, encoder, folder)
        number = len(other.captions)
        fused = dar_fusion(features["text"][:number], other.view_features, round=rounds)
        found = target_ranks(fused, gallery_features, targets[:number])
        yield rows(name.replace("human", "dar"), found, text_ranks["text"][:number])
    for name, stand_in in (
        ("placebo", placebo_views(queries.view_features)),
        ("noise", noise_views(features["text"], queries.view_features, seed=SEED)),
    ):
        fused = dar_fusion(features["text"], stand_in, round=rounds)
        yield rows(f"dar_{name}", ranks(fused), text_ranks["text"])
    known = [[merge_facts(turns[: t + 1]) for t in range(len(turns))] for turns in talks]
    for share in profile.broken_shares:
        views = [
            controlled_view(facts, broken_share=share, seed=f"{index}/{t}").scene
            for index, row in enumerate(known)
            for t, facts in enumerate(row)
        ]
        encoded = encoder.encode_images(render_scenes(views, **draw), progress=progress)
        suffix = f"_controlled_{round(100 * share):02d}"
        yield from with_views(suffix, encoded.view_as(features["text"]))


def _check_manifest(path: Path, profile: Profile, encoder: Encoder) -> None:
    manifest = {
        "profile": asdict(profile),
        "encoder": weights_digest(encoder.model),
        "queries": manifest_of(queries_folder(profile)),
    }
    text = json.dumps(manifest, indent=1)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise DataError(
            f"{path.parent}: holds a benchmark of another profile or other models; "
            "delete the folder"
        )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""The benchmark of a profile: every method on every source of dialogues, into `results/`.

The book's tables and figures read the files that this writes and nothing else.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.analysis.controls import noise_views, placebo_views
from daitir.book.provenance import versions
from daitir.common.errors import DataError
from daitir.common.files import atomic_write
from daitir.data.dialogues import Dialogue, query_texts
from daitir.evaluation import RESULT_COLUMNS, read_results, result_rows, write_results
from daitir.fusion import dar_fusion
from daitir.metrics import bootstrap_interval
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.reformulation import load_reformulator
from daitir.models.views import load_view_generator
from daitir.recipes.fusion import CONFIG_NAME, load_fusion, train_fusion, tuned_weights
from daitir.retrieval import reciprocal_rank_fusion, target_ranks
from daitir.scenes import (
    NUM_QUESTIONS,
    SOURCES,
    controlled_view,
    merge_facts,
    render_scenes,
    rewrites,
    sample_scenes,
)
from daitir.studies.costs import method_seconds, part_seconds
from daitir.studies.profiles import Profile
from daitir.studies.queries import (
    SEED,
    SETS,
    load_query_set,
    manifest_of,
    queries_folder,
    set_dialogues,
)
from daitir.studies.training_sets import encode_queries, fusion_folder

logger = logging.getLogger(__name__)
BENCHMARKS = (*SOURCES, "heldout")
NUM_TIMED = 20  # queries whose cost is timed


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
    options = {"num_workers": num_workers, "progress": progress}
    fusions = _fusions(profile, encoder, work_dir, device, **options)
    tables, seconds, truncated = [], {}, {}
    for name in BENCHMARKS:
        part = work_dir / f"{name}.csv"
        if not part.is_file():
            logger.warning("%s: measuring", name)
            began = time.perf_counter()
            counts: dict[str, int] = {}
            rows = pd.concat(_measure(profile, encoder, fusions, name, counts, **options))
            found = {"seconds": round(time.perf_counter() - began, 1), "truncated": counts}
            write_results(part, rows, found)
        rows, found = read_results(part)
        tables.append(rows)
        seconds[name], truncated[name] = found["seconds"], found["truncated"]
    part = work_dir / "costs.csv"
    if not part.is_file():
        rows, found = _costs(profile, encoder, fusions, device)
        write_results(part, rows, found)
    rows, costs = read_results(part)
    tables.append(rows)
    path = results_dir / f"{profile.name}.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "seconds": seconds,
        "truncated_query_texts": truncated,
        "tuned_weights_of_the_view": fusions.tuned_weights,
        "cost_of_a_round": costs,
    }
    write_results(path, pd.concat(tables), notes)
    return path


@dataclass(frozen=True)
class _Fusions:
    """What was learned from training and validation dialogues.

    Attributes:
        models: the trained fusion of each name and seed.
        tuned_weights: of the view, at rounds 0 and 1 and later.
    """

    models: dict[tuple[str, int], nn.Module]
    tuned_weights: tuple[float, float]


def _fusions(
    profile: Profile,
    encoder: Encoder,
    work_dir: Path,
    device: str,
    *,
    num_workers: int,
    progress: bool,
) -> _Fusions:
    """The fusions of the profile; those that lie nowhere yet are trained in `work_dir`."""
    names = itertools.product(profile.fusions, range(profile.num_fusion_seeds))
    folders = {key: fusion_folder(profile, *key) for key in names}
    missing = [key for key, folder in folders.items() if not (folder / CONFIG_NAME).is_file()]
    options = {"cache": work_dir / "features", "num_workers": num_workers, "progress": progress}
    val_data = encode_queries(profile, "val", encoder, **options)
    models = {
        (name, seed): load_fusion(
            folder, dim=encoder.dim, seed=seed, recipe=profile.fusions[name]
        )
        for (name, seed), folder in folders.items()
        if (name, seed) not in missing
    }
    if missing:
        train_data = encode_queries(profile, "train", encoder, **options)
    for name, seed in missing:
        models[name, seed] = train_fusion(
            train_data, val_data, profile.fusions[name], work_dir / "fusions" / name / str(seed),
            seed=seed, device=device, progress=progress,
        )  # fmt: skip
    rounds = load_query_set("val", encoder, queries_folder(profile)).rounds
    return _Fusions({key: models[key] for key in folders}, tuned_weights(val_data, rounds))


def _measure(
    profile: Profile,
    encoder: Encoder,
    fusions: _Fusions,
    benchmark: str,
    truncated: dict[str, int],
    *,
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

    def rows(
        method: str,
        found: Tensor,
        baseline: Tensor | None = None,
        dar: Tensor | None = None,
        seed: int = SEED,
    ) -> pd.DataFrame:
        about = {"benchmark": benchmark, "method": method, "seed": seed}
        peers = None if dar is None else {"dar": dar}
        return result_rows(found, **about, baseline_ranks=baseline, peer_ranks=peers)

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
    words, alone = features["text"], text_ranks["text"]

    def dar_ranks(view_features: Tensor) -> Tensor:
        number = len(view_features)
        fused = dar_fusion(words[:number], view_features, round=rounds)
        return target_ranks(fused, gallery_features, targets[:number])

    def trained(
        view_features: Tensor, names: Iterable[str], dar: Tensor, suffix: str = ""
    ) -> Iterator[pd.DataFrame]:
        number = len(view_features)
        for (name, seed), model in fusions.models.items():
            if name in names:
                with torch.no_grad():
                    query, _ = model(words[:number], view_features)
                found = target_ranks(query, gallery_features, targets[:number])
                yield rows(f"{name}{suffix}", found, alone[:number], dar, seed)

    dar = dar_ranks(queries.view_features)
    yield from trained(queries.view_features, profile.fusions, dar)
    early, late = fusions.tuned_weights
    weight = torch.where(rounds < 2, early, late)[:, None]
    tuned = F.normalize((1 - weight) * words + weight * queries.view_features, dim=-1)
    yield rows("dar_tuned", ranks(tuned), alone, dar)
    by_place = reciprocal_rank_fusion(words, queries.view_features, gallery_features, targets)
    yield rows("rank_fusion", by_place, alone, dar)
    best = torch.minimum(alone, ranks(queries.view_features))
    yield rows("best_of_text_and_view", best, alone, dar)
    others = {
        "placebo": placebo_views(queries.view_features),
        "noise": noise_views(words, queries.view_features, seed=SEED),
    }
    if benchmark == "human":
        for name in ("again", "fixed_noise"):
            others[name] = load_query_set(f"human_{name}", encoder, folder).view_features
    for name, stand_in in others.items():
        found = dar_ranks(stand_in)
        yield rows(f"dar_{name}", found, alone[: len(stand_in)])
        if name != "noise":
            yield from trained(stand_in, ("adafuse",), found, f"_{name}")
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


def _costs(
    profile: Profile, encoder: Encoder, fusions: _Fusions, device: str
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Seconds of a query and parameters added, by method; and the seconds of each part."""
    _, talks = set_dialogues(profile, "val")
    said = [[turn.text for turn in turns] for turns in talks[: NUM_TIMED + 1]]
    gallery = sample_scenes(SEED, "val", profile.num_gallery)
    models = {name: model for (name, seed), model in fusions.models.items() if seed == SEED}
    parts = part_seconds(
        said,
        encoder.encode_images(render_scenes(gallery, size=profile.image_size)),
        load_reformulator(profile.reformulator, device=device),
        load_view_generator(profile.generator, device=device),
        encoder,
        models,
    )
    added = dict.fromkeys(("text", "view", "dar"), 0)
    added |= {n: sum(p.numel() for p in model.parameters()) for n, model in models.items()}
    rows = []
    for method, seconds in method_seconds(parts, tuple(models)).items():
        low, high = bootstrap_interval(seconds, bounds=None)
        about = ("human", method, SEED, NUM_QUESTIONS)
        rows.append((*about, "seconds_per_query", seconds.mean(), low, high, len(seconds)))
        count = added[method]
        rows.append((*about, "parameters_added", count, count, count, len(seconds)))
    means = {part: round(float(seconds.mean()), 6) for part, seconds in parts.items()}
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS)), means


def _check_manifest(path: Path, profile: Profile, encoder: Encoder) -> None:
    manifest = {
        "profile": asdict(profile),
        "encoder": encoder.digest,
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

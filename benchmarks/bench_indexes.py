"""Measure approximate indexes against exact search: recall, bytes, build and query time.

    python benchmarks/bench_indexes.py [--sizes N N ...]

The gallery is drawn around real features: those of `--anchors` scenes by the profile's encoder,
each picture an anchor plus a little of the anchors' own spread, so that clusters and directions are
the encoder's. Queries are real too: texts of the last round, and DAR's sums of text and view, which
lie apart from pictures. Exact search and an index are timed in alternation, one query after the
other as in live search, on one thread; a ratio is the median of the ratios within a pair. The last
rows of a kind carry recall on to larger galleries along a line over log size: a guess.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.analysis.geometry import effective_rank
from daitir.common.versions import versions
from daitir.data.indexes import (
    Flat,
    Hnsw,
    IvfPq,
    at_size,
    build_index,
    recall_against_exact,
    search_index,
    set_effort,
)
from daitir.evaluation import write_results
from daitir.fusion import dar_fusion
from daitir.metrics import bootstrap_interval
from daitir.models.encoders import load_encoder
from daitir.scenes import render_scenes, sample_scenes
from daitir.studies.profiles import get_profile
from daitir.studies.queries import load_query_set, queries_folder

K = 10
SPREAD = 0.3  # of a picture around its anchor, as a share of the anchors' own spread
PAPER_SIZES = (10_000_000, 1_000_000_000)


def real_features(num_anchors: int) -> tuple[Tensor, Tensor]:
    """Features of scenes, and of the queries of the test set's last round, by the encoder."""
    profile = get_profile()
    encoder = load_encoder(profile.encoder)
    scenes = sample_scenes(0, "train", num_anchors)
    anchors = [
        encoder.encode_images(render_scenes(scenes[start : start + 1000], size=profile.image_size))
        for start in range(0, num_anchors, 1000)
    ]
    found = load_query_set("human", encoder, queries_folder(profile))
    text = encoder.encode_texts([captions[-1] for captions in found.captions])
    last = torch.full((len(text),), len(found.captions[0]) - 1)
    dar = dar_fusion(text, found.view_features[:, -1], round=last)
    return torch.cat(anchors), torch.cat([text[::2], dar[1::2]])


def make_gallery(anchors: Tensor, number: int, *, seed: int) -> Tensor:
    """(number, dim) unit features around the anchors, made in parts to spare memory."""
    spread = torch.linalg.cholesky(torch.cov(anchors.T) + 1e-7 * torch.eye(anchors.shape[1]))
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.empty(number, anchors.shape[1])
    for part in gallery.split(50_000):
        noise = torch.randn(part.shape, generator=generator) @ spread.T
        chosen = torch.randint(len(anchors), (len(part),), generator=generator)
        part.copy_(F.normalize(anchors[chosen] + SPREAD * noise, dim=1))
    return gallery


def nearest(queries: Tensor, gallery: Tensor) -> float:
    """The mean cosine of queries to the best of a gallery."""
    return (queries @ gallery.T).max(dim=1).values.mean().item()


def seconds(function, *arguments, **options) -> float:
    began = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - began


def measure(spec, index, flat, queries: Tensor, exact: Tensor, options: dict, pairs: int) -> dict:
    set_effort(index, spec)
    recalls = recall_against_exact(search_index(index, queries, k=K, **options)[1], exact).numpy()
    low, high = bootstrap_interval(recalls)
    times = []
    for query in queries[:pairs].split(1):
        approximate = seconds(search_index, index, query, k=K, **options)
        times.append((approximate, seconds(search_index, flat, query, k=K)))
    return {
        "recall": recalls.mean(), "ci_low": float(low), "ci_high": float(high),
        "query_ms": 1e3 * statistics.median(approximate for approximate, _ in times),
        "exact_ms": 1e3 * statistics.median(whole for _, whole in times),
        "speedup": statistics.median(whole / approximate for approximate, whole in times),
    }  # fmt: skip


def settings(code_bytes: tuple[int, ...], probes, efforts) -> dict:
    kinds = {f"ivf_pq_{number}": (IvfPq(number), "probes", probes) for number in code_bytes}
    return kinds | {"hnsw": (Hnsw(), "effort", efforts)}


def measure_size(gallery: Tensor, queries: Tensor, options: argparse.Namespace) -> list[dict]:
    import faiss

    number, dim = gallery.shape
    flat = build_index(Flat(), [gallery])
    exact = search_index(flat, queries, k=K)[1]
    common = {"num_images": number, "num_queries": len(queries)}
    rows = [
        common | {"index": "flat", "effort": 0, "candidates": 0, "recall": 1.0, "speedup": 1.0,
                  "bytes_per_image": 4 * dim, "bytes_read": Flat().bytes_read(number, dim)}
    ]  # fmt: skip
    for name, (spec, knob, values) in settings(
        tuple(options.code_bytes), options.probes, options.efforts
    ).items():
        began = time.perf_counter()
        index = build_index(spec, gallery.split(100_000))
        built = time.perf_counter() - began
        size = faiss.serialize_index(index).nbytes / number
        print(f"{number:,} {name}: built in {built:.0f} s, {size:.1f} bytes an image", flush=True)
        for value in values:
            tuned = replace(spec, **{knob: value})
            for candidates in (0, options.candidates) if name != "hnsw" else (0,):
                again = {"candidates": candidates, "rows": gallery.__getitem__}
                found = measure(
                    tuned, index, flat, queries, exact, again if candidates else {}, options.pairs
                )
                rows.append(
                    common | {"index": name, "effort": value, "candidates": candidates,
                              "build_seconds": built, "bytes_per_image": size,
                              "bytes_read": tuned.bytes_read(number, dim)} | found
                )  # fmt: skip
                print({k: round(v, 3) for k, v in found.items()}, value, candidates, flush=True)
    return rows


def carried_on(table: pd.DataFrame, dim: int, code_bytes: tuple[int, ...]) -> list[dict]:
    """Rows for galleries that were not built: bytes by formula, recall along a line."""
    rows = []
    specs = settings(code_bytes, (), ())
    for (name, effort, candidates), part in table.groupby(["index", "effort", "candidates"]):
        kind, knob, _ = specs.get(name, (Flat(), None, ()))
        spec = replace(kind, **{knob: effort}) if knob else kind
        for size in PAPER_SIZES:
            recall = at_size(part["num_images"], part["recall"], size) if knob else 1.0
            rows.append({
                "num_images": size, "index": name, "effort": effort, "candidates": candidates,
                "recall": min(max(recall, 0.0), 1.0), "num_queries": 0,
                "bytes_per_image": spec.bytes_per_image(size, dim),
                "bytes_read": spec.bytes_read(size, dim),
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[62_500, 250_000, 1_000_000])
    parser.add_argument("--code-bytes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--probes", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--efforts", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=25, help="queries that are timed")
    parser.add_argument("--anchors", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/indexes.csv"))
    options = parser.parse_args()
    import faiss

    began, made_with = time.perf_counter(), versions() | {"faiss": faiss.__version__}
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    anchors, queries = real_features(options.anchors)
    gallery = make_gallery(anchors, max(options.sizes), seed=0)
    held_out, rest = anchors[:500], anchors[500:]
    cosines = {
        "anchor to the nearest other anchor": nearest(held_out, rest),
        "made to the nearest of as many made": nearest(gallery[:500], gallery[500 : len(anchors)]),
        "query to the nearest anchor": nearest(queries, anchors),
        "query to the nearest of as many made": nearest(queries, gallery[: len(anchors)]),
    }
    print(cosines, flush=True)
    rows = []
    for size in options.sizes:
        rows += measure_size(gallery[:size], queries, options)
    table = pd.DataFrame(rows).assign(kind="measured")
    guesses = pd.DataFrame(carried_on(table, gallery.shape[1], tuple(options.code_bytes)))
    table = pd.concat([table, guesses.assign(kind="carried on")], ignore_index=True)
    notes = {
        "dim": gallery.shape[1], "k": K, "threads": 1, "spread": SPREAD,
        "hnsw": {k: v for k, v in asdict(Hnsw()).items() if k != "effort"},
        "anchors": options.anchors,
        "effective_rank": round(float(effective_rank(gallery[:20_000])), 1),
        "cosines": {name: round(value, 4) for name, value in cosines.items()},
        "versions": made_with,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    write_results(options.out, table.round(4), notes)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()

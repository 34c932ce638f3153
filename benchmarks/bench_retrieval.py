"""Time `target_ranks` against the bare matrix product and against sorting every row.

    python benchmarks/bench_retrieval.py [--queries N] [--gallery M] [--device cuda]

The bare product has the same chunks and writes into one buffer. Sorting is timed on the first
`--sort-queries` queries and scaled to all of them. The three are timed in alternation, so that
other work on the machine slows all; every figure is a median over repeats, and a ratio is the
median of the ratios within a repeat. Peak extra memory is the growth of the process's peak during
the first call, or of the GPU's allocations.
"""

import argparse
import csv
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from daitir.common.files import atomic_write
from daitir.retrieval import chunk_rows, target_ranks


def unit_features(num_rows: int, dim: int, *, seed: int, device: str) -> Tensor:
    features = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed))
    features /= features.norm(dim=1, keepdim=True)  # in place: a copy would hide the later peak
    return features.to(device)


def bare_product(queries: Tensor, gallery: Tensor) -> None:
    rows = chunk_rows(len(queries), len(gallery))
    scores = torch.empty(rows, len(gallery), device=queries.device)
    for chunk in queries.split(rows):
        torch.mm(chunk, gallery.T, out=scores[: len(chunk)])


def ranks_by_sorting(queries: Tensor, gallery: Tensor, targets: Tensor) -> Tensor:
    rows = chunk_rows(len(queries), len(gallery))
    ranks = []
    for chunk, chunk_targets in zip(queries.split(rows), targets.split(rows), strict=True):
        order = (chunk @ gallery.T).argsort(dim=1, descending=True)
        ranks.append((order == chunk_targets[:, None]).int().argmax(dim=1))
    return torch.cat(ranks)


def seconds(function: Callable, *arguments: Tensor) -> float:
    is_cuda = arguments[0].is_cuda
    if is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    function(*arguments)
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_megabytes(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(options: argparse.Namespace) -> dict[str, float]:
    queries = unit_features(options.queries, options.dim, seed=0, device=options.device)
    gallery = unit_features(options.gallery, options.dim, seed=1, device=options.device)
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(options.gallery, (options.queries,), generator=generator)
    targets = targets.to(options.device)

    peak_before = peak_megabytes(options.device)
    ranks = target_ranks(queries, gallery, targets)
    peak_extra = peak_megabytes(options.device) - peak_before

    num_sorted = min(options.sort_queries, options.queries)
    sort_arguments = (queries[:num_sorted], gallery, targets[:num_sorted])
    num_different = int((ranks_by_sorting(*sort_arguments) != ranks[:num_sorted]).sum())
    scale = options.queries / num_sorted

    times = []
    for _ in range(options.repeats):
        product = seconds(bare_product, queries, gallery)
        ranking = seconds(target_ranks, queries, gallery, targets)
        sorting = seconds(ranks_by_sorting, *sort_arguments) * scale
        times.append((product, ranking, sorting, ranking / product, sorting / ranking))
    names = ("product_seconds", "target_ranks_seconds", "sort_seconds_scaled",
             "ratio_to_product", "speedup_over_sort")
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return {
        **dict(zip(names, medians, strict=True)),
        "sort_queries_timed": num_sorted,
        "sort_ranks_that_differ": num_different,  # ties and near-ties, rounded another way
        "peak_extra_megabytes": peak_extra,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=22_704)
    parser.add_argument("--gallery", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--sort-queries", type=int, default=668)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/retrieval.csv"))
    options = parser.parse_args()

    measures = measure(options)
    setting = {
        "device": options.device,
        "threads": torch.get_num_threads(),
        "num_queries": options.queries,
        "num_images": options.gallery,
        "dim": options.dim,
        "repeats": options.repeats,
    }
    print("  ".join(f"{name} {value}" for name, value in setting.items()))
    for name, value in measures.items():
        print(f"{name:24} {value:12.3f}")
    with atomic_write(options.out) as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*setting, "measure", "value"])
        writer.writerows([*setting.values(), name, f"{v:.4g}"] for name, v in measures.items())


if __name__ == "__main__":
    main()

"""Time an evaluation from kept features, end to end, against the naive way.

    python benchmarks/bench_evaluate.py [--dialogues N] [--gallery M] [--dim D]

The size is the field's: 2,064 dialogues of 11 rounds, which are 22,704 queries, among 50,000
pictures, with a view of every round. `evaluate` looks at all files, reads the features of pictures,
views and texts from their shards, fuses them by DAR, ranks text alone and the fusion, computes
every metric with its bootstrap interval, and writes the table. The features are made up, a text's
and a view's near its target's; the pictures are of one pixel.

The naive way reads the same shards, scores and sorts the gallery for one query after the other, and
resamples for one interval after the other. Its ranking is timed on the first `--naive-queries`
queries, its intervals on the first `--naive-intervals`, and both are scaled to all; what is scaled
stands in the table. The ways are timed in alternation; figures are medians over repeats, of the
clock on the wall and of processor time, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from daitir.common.files import atomic_write
from daitir.data.datafolder import SearchData
from daitir.data.dialogues import Dialogue
from daitir.data.evaluate import evaluate
from daitir.data.shards import read_shard
from daitir.evaluation import Evaluation, write_rows
from daitir.fusion import dar_fusion
from daitir.models.features import CachedEncoder

NUM_ROUNDS, NUM_SAMPLES = 11, 1000


class MadeUp:
    """Stands for an encoder: features from a seed."""

    spec, digest, context_length = "made-up", "0" * 64, 256

    def __init__(self, options: argparse.Namespace):
        self.dim = options.dim
        generator = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return F.normalize(torch.randn(*shape, self.dim, generator=generator), dim=-1)

        self.gallery = noise(options.gallery)
        targets = self.gallery[: options.dialogues, None]
        # Words come nearer from round to round, views stay where they are.
        nearer = torch.linspace(0.1, 0.25, NUM_ROUNDS)[:, None]
        texts = F.normalize(nearer * targets + noise(options.dialogues, NUM_ROUNDS), dim=-1)
        views = F.normalize(0.2 * targets + noise(options.dialogues, NUM_ROUNDS), dim=-1)
        self.texts, self.views = texts.flatten(0, 1), views.flatten(0, 1)

    def image_batches(self, paths: Iterable[Path], *, batch_size: int, workers: int):
        names = iter(paths)
        while batch := [self._feature(path.stem) for path in islice(names, batch_size)]:
            yield torch.stack(batch)

    def _feature(self, stem: str) -> Tensor:
        dialogue, _, t = stem.partition("_")
        return self.views[int(dialogue) * NUM_ROUNDS + int(t)] if t else self.gallery[int(stem)]

    def encode_texts(self, texts: list[str], **options) -> Tensor:
        return self.texts[[int(text) for text in texts]]

    def count_truncated(self, texts: list[str]) -> int:
        return 0


def write_pictures(root: Path, options: argparse.Namespace) -> tuple[list[str], list[Dialogue]]:
    """A gallery and a view of each round, all the same one pixel; the dialogues about them."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    gallery = [f"{i:06}.png" for i in range(options.gallery)]
    views = [f"{i}_{t}.png" for i in range(options.dialogues) for t in range(NUM_ROUNDS)]
    for folder, names in (("images", gallery), ("views", views)):
        (root / folder).mkdir()
        for name in names:
            (root / folder / name).write_bytes(buffer.getvalue())
    return gallery, [
        Dialogue(name, tuple(str(i * NUM_ROUNDS + t) for t in range(NUM_ROUNDS)))
        for i, name in enumerate(gallery[: options.dialogues])
    ]


def run_evaluate(root: Path, encoder: MadeUp, gallery: list[str], talks: list) -> Evaluation:
    views = [root / "views"]
    data = SearchData(talks, root / "images", gallery, views, "current_rewrite", name="made_up")
    found = evaluate(
        data,
        encoder=CachedEncoder(encoder, root, root / "features"),
        fusion="dar",
    )
    write_rows(root / "table.csv", found.rows)
    return found


def naive_features(root: Path) -> dict[str, Tensor]:
    features = {}
    for path in (root / "features").glob("pictures-*.safetensors"):
        shard = read_shard(path)
        features |= dict(zip(shard.names, shard.features, strict=True))
    return features


def naive_ranks(
    features: dict[str, Tensor], texts: Tensor, gallery: list[str], number: int
) -> np.ndarray:
    """The ranks of text alone and of DAR's sum, (2, number), of the first queries."""
    ranks = np.empty((2, number), dtype=int)
    pictures = torch.stack([features[f"images/{name}"] for name in gallery])
    for query in range(number):
        i, t = divmod(query, NUM_ROUNDS)
        view = features[f"views/{i}_{t}.png"]
        pair = texts[query], dar_fusion(texts[query], view, round=torch.tensor(t))
        for row, vector in zip(ranks, pair, strict=True):
            order = (pictures @ vector).argsort(descending=True)
            row[query] = int((order == i).nonzero())
    return ranks


def naive_intervals(ranks: np.ndarray, number: int) -> list[tuple[float, float]]:
    """Bootstrap intervals of R@10 over dialogues, one interval and one sample after the other."""
    rng, found = np.random.default_rng(0), []
    for t in range(number):
        hits = (ranks[:, t % NUM_ROUNDS] < 10).astype(float)
        means = [rng.choice(hits, len(hits)).mean() for _ in range(NUM_SAMPLES)]
        found.append(tuple(np.quantile(means, (0.025, 0.975))))
    return found


def timed(function: Callable, *arguments) -> tuple[np.ndarray, object]:
    """Seconds by the clock and of processor time, and what the function gives."""
    start = np.array([time.perf_counter(), time.process_time()])
    found = function(*arguments)
    return np.array([time.perf_counter(), time.process_time()]) - start, found


def measure(root: Path, options: argparse.Namespace) -> dict[str, object]:
    encoder = MadeUp(options)
    gallery, talks = write_pictures(root, options)
    paths = [path for name in ("images", "views") for path in sorted((root / name).iterdir())]
    CachedEncoder(encoder, root, root / "features").embed(paths)
    num_queries = options.dialogues * NUM_ROUNDS
    num_naive = min(options.naive_queries, num_queries)
    times = []
    for _ in range(options.repeats):
        fast, found = timed(run_evaluate, root, encoder, gallery, talks)
        reading, features = timed(naive_features, root)
        ranking, ranks = timed(naive_ranks, features, encoder.texts, gallery, num_naive)
        resampling, _ = timed(naive_intervals, found.ranks["dar"], options.naive_intervals)
        naive = reading + ranking * num_queries / num_naive
        naive = naive + resampling * len(found.rows) / options.naive_intervals
        times.append((*fast, *naive, *(naive / fast)))
    expected = [found.ranks[name].flatten()[:num_naive] for name in ("text", "dar")]
    wall, processor, naive, naive_processor, ratio, ratio_processor = (
        statistics.median(column) for column in zip(*times, strict=True)
    )
    return {
        "threads": torch.get_num_threads(), "dialogues": options.dialogues, "queries": num_queries,
        "images": options.gallery, "dim": options.dim, "rows": len(found.rows),
        "repeats": options.repeats, "evaluate_seconds": round(wall, 1),
        "evaluate_processor_seconds": round(processor, 1), "naive_seconds": round(naive, 1),
        "naive_processor_seconds": round(naive_processor, 1), "ratio": round(ratio, 1),
        "ratio_processor": round(ratio_processor, 1), "naive_queries_timed": num_naive,
        "naive_intervals_timed": options.naive_intervals,
        # Near-ties that a product of a matrix rounds another way than one of a vector.
        "naive_ranks_that_differ": int((ranks != np.array(expected)).sum()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=2064)
    parser.add_argument("--gallery", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--naive-queries", type=int, default=330)
    parser.add_argument("--naive-intervals", type=int, default=11)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/evaluate.csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame([measure(Path(folder), options)])
    print(table.T.to_string(header=False))
    with atomic_write(options.out) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()

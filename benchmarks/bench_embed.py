"""Time embedding a folder of photographs against a plain loop over the same model.

    python benchmarks/bench_embed.py [--encoders mini open_clip:ViT-B-32] [--images N]

The plain loop reads, preprocesses and encodes one picture after the other. Embedding decodes in
threads, encodes batches and keeps the features in a folder; a second run finds them there. The
weights need not be trained. The ways are timed in alternation, so that other work on the machine
slows all; a ratio is the median of the ratios within a repeat. The photographs are made: smooth
colours with grain, saved as JPEG.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from daitir.common.files import atomic_write
from daitir.data.gallery import read_image
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.features import CachedEncoder


def make_photographs(folder: Path, number: int, size: tuple[int, int]) -> list[Path]:
    paths = []
    for index in range(number):
        rng = np.random.default_rng(index)
        colours = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        values = np.asarray(colours.resize(size, Image.Resampling.BICUBIC)).astype(int)
        values = values + rng.normal(0, 10, (*values.shape[:2], 1)).astype(int)
        paths.append(folder / f"{index:04}.jpg")
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=88)
    return paths


@torch.no_grad()
def plain_loop(encoder: Encoder, paths: list[Path]) -> torch.Tensor:
    rows = []
    for path in paths:
        pixels = encoder.preprocess(read_image(path))[None].to(encoder.device)
        features = encoder.model.encode_image(pixels).float().cpu()
        rows.append(features / features.norm(dim=-1, keepdim=True))
    return torch.cat(rows)


def timed(function, *arguments) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    found = function(*arguments)
    return time.perf_counter() - start, found


def measure(spec: str, paths: list[Path], options: argparse.Namespace) -> dict:
    encoder = load_encoder(spec, device=options.device)
    root, kept = paths[0].parent, paths[0].parent / "features"
    plain_loop(encoder, paths[:4])
    times = []
    for _ in range(options.repeats):
        shutil.rmtree(kept, ignore_errors=True)

        def embed() -> torch.Tensor:
            cached = CachedEncoder(
                encoder, root, kept, batch_size=options.batch_size, workers=options.workers
            )
            return cached.encode_images(paths)

        loop, expected = timed(plain_loop, encoder, paths)
        first, found = timed(embed)
        again, _ = timed(embed)
        difference = (found - expected).abs().max().item()
        times.append((loop, first, again, loop / first, loop / again))
    loop, first, again, ratio, ratio_again = (
        statistics.median(column) for column in zip(*times, strict=True)
    )
    return {
        "encoder": spec, "device": options.device, "threads": torch.get_num_threads(),
        "workers": options.workers, "batch_size": options.batch_size, "images": len(paths),
        "plain_images_per_second": round(len(paths) / loop, 1),
        "embed_images_per_second": round(len(paths) / first, 1),
        "kept_images_per_second": round(len(paths) / again),
        "ratio": round(ratio, 2), "ratio_kept": round(ratio_again, 1),
        "max_difference": f"{difference:.1e}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", nargs="+", default=["mini", "open_clip:ViT-B-32"])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/embed.csv"))
    options = parser.parse_args()
    logging.getLogger("daitir").setLevel(logging.ERROR)  # random weights are meant here
    with tempfile.TemporaryDirectory() as folder:
        paths = make_photographs(Path(folder), options.images, tuple(options.size))
        table = pd.DataFrame([measure(spec, paths, options) for spec in options.encoders])
    print(table.T.to_string(header=False))
    with atomic_write(options.out) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()

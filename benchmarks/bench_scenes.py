"""How many scenes a second one core samples and draws, against redrawing everything each time.

The naive way rasterises the sprites and paints the background anew for every scene; `render` keeps
both. Run: python benchmarks/bench_scenes.py
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from daitir.common.files import atomic_write
from daitir.scenes import render, sample_scene
from daitir.scenes.render import background, sprite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--naive-scenes", type=int, default=50)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/scenes.csv"))
    arguments = parser.parse_args()
    rows = []
    for size in arguments.sizes:
        for index in range(500):  # fills the caches of sprites and backgrounds
            render(sample_scene(1, "train", index), size)
        began = time.perf_counter()
        for index in range(arguments.scenes):
            render(sample_scene(0, "train", index), size)
        fast = arguments.scenes / (time.perf_counter() - began)
        began = time.perf_counter()
        for index in range(arguments.naive_scenes):
            sprite.cache_clear()
            background.cache_clear()
            render(sample_scene(0, "train", index), size)
        naive = arguments.naive_scenes / (time.perf_counter() - began)
        rows.append(
            {
                "size": size,
                "scenes_per_second": round(fast),
                "naive_scenes_per_second": round(naive, 1),
                "ratio": round(fast / naive, 1),
            }
        )
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    with atomic_write(arguments.out) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()

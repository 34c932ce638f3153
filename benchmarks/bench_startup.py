"""Time `daitir --help` against the bare interpreter and against importing torch.

    python benchmarks/bench_startup.py [--repeats N]

The three are timed in alternation; figures are medians over repeats, of the clock on the wall and
of processor time, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from daitir.common.files import atomic_write

COMMANDS = {
    "python": ["-c", "pass"],
    "daitir --help": ["-m", "daitir.cli", "--help"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/startup.csv"))
    options = parser.parse_args()
    runs = {name: [] for name in COMMANDS}
    for _ in range(options.repeats):
        for name, arguments in COMMANDS.items():
            runs[name].append(seconds(arguments))
    rows = []
    for name, times in runs.items():
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append(
            {
                "command": name,
                "wall_seconds": round(wall, 3),
                "fastest_wall_seconds": round(min(times)[0], 3),
                "processor_seconds": round(processor, 3),
            }
        )
    table = pd.DataFrame(rows)
    bare = table["processor_seconds"][0]
    table["ratio_to_python"] = (table["processor_seconds"] / bare).round(1)
    print(table.to_string(index=False))
    with atomic_write(options.out) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()

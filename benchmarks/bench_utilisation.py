"""What share of this machine's matrix products the papers' classes reach.

    python benchmarks/bench_utilisation.py [--device cuda] [--repeats N]

The peak is the fastest of large square products. Models have random weights: ViT-B/32 of CLIP, and
Stable Diffusion 2.1's U-Net at half its width on 32 × 32 latents. The operations of a pass
(`count_operations.operations`) over its seconds, over those of the product timed beside it,
is the share; the median over repeats is written. On a CPU it says nothing of a GPU but that such
models do not reach the peak.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from count_operations import SD21_UNET, operations

from daitir.common.versions import versions
from daitir.evaluation import write_results

HALF_WIDTH = SD21_UNET | {
    "sample_size": 32, "block_out_channels": (160, 320, 640, 640),
    "attention_head_dim": (5, 10, 20, 20),
}  # fmt: skip


def seconds(function: Callable, device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def passes(device: str, batch: int) -> dict[str, tuple[Callable, int, str]]:
    """What is timed, by name, with its operations and the class it stands for."""
    import open_clip
    from diffusers import UNet2DConditionModel

    clip = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-32")).eval().to(device)
    unet = UNet2DConditionModel(**HALF_WIDTH).eval().to(device)
    pixels = torch.randn(batch, 3, 224, 224, device=device)
    step = (torch.randn(1, 4, 32, 32, device=device), torch.ones(1, device=device),
            torch.randn(1, 77, 1024, device=device))  # fmt: skip
    runs = {
        f"ViT-B/32, batch of {batch}": (lambda: clip.encode_image(pixels), clip),
        "U-Net step at half width": (lambda: unet(*step), unet),
    }
    return {
        name: (run, operations(run), type(model).__name__)
        for name, (run, model) in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--product", type=int, default=1536, help="side of the square product")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/utilisation.csv"))
    options = parser.parse_args()
    made_with = versions()
    side = options.product
    a, b = (torch.randn(side, side, device=options.device) for _ in range(2))
    into = torch.empty_like(a)
    rows = []
    with torch.no_grad():
        for name, (run, number, kind) in passes(options.device, options.batch).items():
            run(), torch.mm(a, b, out=into)  # warm up
            pairs = [
                (seconds(lambda: torch.mm(a, b, out=into), options.device),
                 seconds(run, options.device))
                for _ in range(options.repeats)
            ]  # fmt: skip
            rates = [(2 * side**3 / product, number / taken) for product, taken in pairs]
            rows.append({
                "class": kind, "pass": name, "device": options.device,
                "threads": torch.get_num_threads(), "operations": number,
                "gflops_product": statistics.median(p for p, _ in rates) / 1e9,
                "gflops": statistics.median(m for _, m in rates) / 1e9,
                "share": statistics.median(m / p for p, m in rates),
                "share_low": min(m / p for p, m in rates),
                "share_high": max(m / p for p, m in rates),
            })  # fmt: skip
    table = pd.DataFrame(rows)
    print(table.T.to_string(header=False))
    notes = {"product_side": side, "repeats": options.repeats, "versions": made_with}
    write_results(options.out, table, notes)


if __name__ == "__main__":
    main()

"""What a view costs, drawn in several ways in one run, and whether it says the same.

Ways that change no arithmetic: batches, two processes of one thread each, a compiled U-Net. Ways
that do less of it: guidance in the first steps alone, fewer steps. Each is compared with the usual
way by what the recogniser reads off its views, and by R@10 of DAR's sum on validation dialogues,
with a paired interval. Run on a quiet machine: python benchmarks/bench_drawing.py
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from daitir import dar_fusion, get_profile, load_encoder, metrics, target_ranks
from daitir.common.files import atomic_write
from daitir.models.recogniser import load_recogniser, to_values
from daitir.models.views import load_view_generator, view_seed
from daitir.scenes import render_scenes, sample_scenes
from daitir.studies.queries import load_query_set, queries_folder


def guided_first(share: float):
    """Ends guidance after a share of the steps: half of the rows of each later step are saved."""

    def after_step(pipeline, step: int, timestep, tensors: dict) -> dict:
        if step + 1 == round(share * pipeline.num_timesteps):
            pipeline._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors

    return after_step


def draw(prompts, seeds, batch_size=32, share=1.0, steps=8, threads=None, compiled=False):
    """Pictures (num_views, size, size, 3) uint8, and the seconds of drawing without loading."""
    if threads:
        torch.set_num_threads(threads)
    pipeline = load_view_generator(steps=steps).pipeline
    pipeline.set_progress_bar_config(disable=True)
    if compiled:
        pipeline.unet = torch.compile(pipeline.unet, dynamic=False)

    guided = {"callback_on_step_end": guided_first(share)} if share < 1 else {}
    guided |= {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]} if guided else {}

    def batch(start: int) -> list:
        chosen = [i % len(prompts) for i in range(start, start + batch_size)]
        return pipeline(
            [prompts[i] for i in chosen], num_inference_steps=steps, guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(seeds[i]) for i in chosen],
            **guided,
        ).images  # fmt: skip

    batch(0)  # loads and compiles
    began = time.perf_counter()
    images = [image for start in range(0, len(prompts), batch_size) for image in batch(start)]
    seconds = time.perf_counter() - began
    return np.stack([np.asarray(image) for image in images[: len(prompts)]]), seconds


def two_processes(prompts, seeds):
    """The same by two processes of one thread each."""
    halves = [slice(0, len(prompts) // 2), slice(len(prompts) // 2, None)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(draw, prompts[half], seeds[half], threads=1) for half in halves]
        parts = [job.result() for job in jobs]
    return np.concatenate([images for images, _ in parts]), max(seconds for _, seconds in parts)


WAYS = {
    "batches of 32": draw,
    "batches of 8": partial(draw, batch_size=8),
    "one by one": partial(draw, batch_size=1),
    "two processes of one thread": two_processes,
    "compiled": partial(draw, compiled=True),
    "guidance in the first half": partial(draw, share=0.5),
    "guidance in the first quarter": partial(draw, share=0.25),
    "6 steps": partial(draw, steps=6),
    "6 steps, guidance in the first half": partial(draw, steps=6, share=0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=160, help="of validation, one view each")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/drawing.csv"))
    arguments = parser.parse_args()
    profile, encoder, recogniser = get_profile(), load_encoder("mini"), load_recogniser()
    queries, number = load_query_set("val", encoder, queries_folder(profile)), arguments.dialogues
    prompts = [row[-1] for row in queries.drawn_captions[:number]]
    rounds = queries.rounds[:number, -1]
    seeds = [view_seed(0, index, t) for index, t in enumerate(rounds.tolist())]
    gallery = render_scenes(sample_scenes(0, "val", profile.num_gallery), size=profile.image_size)
    gallery, text = encoder.encode_images(gallery), encoder.encode_texts(prompts)
    rows, usual = [], None
    for name, way in WAYS.items():
        pictures, seconds = way(prompts, seeds)
        values = to_values(recogniser.read(pictures))
        read = torch.cat([column.view(len(prompts), -1) for column in values.values()], dim=1)
        query = dar_fusion(text, encoder.encode_images(pictures), round=rounds)
        hits = (target_ranks(query, gallery, torch.arange(len(text))) < 10).double().numpy()
        usual = usual or (read, hits, seconds)
        change = metrics.paired_bootstrap(usual[1], hits)
        rows.append({
            "way": name, "num_views": len(prompts),
            "ms_per_view": round(1000 * seconds / len(prompts), 1),
            "times_faster": round(usual[2] / seconds, 2),
            "read_the_same": round((read == usual[0]).double().mean().item(), 4),
            "recall_at_10_change": round(change.difference, 4),
            "ci_low": round(change.low, 4), "ci_high": round(change.high, 4),
        })  # fmt: skip
        print(rows[-1], flush=True)
    with atomic_write(arguments.out) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()

"""How the gain of fine-tuned encoders grows with the diffusion model: less and fully trained.

Measured on the validation split, as `daitir.studies.encoder_choices` is.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from daitir import metrics
from daitir.common.versions import versions
from daitir.evaluation import RESULT_COLUMNS, write_results
from daitir.models.recogniser import Recogniser
from daitir.models.views import ViewGenerator, load_view_generator
from daitir.recipes.diffusion import retrain_unet
from daitir.scenes import sample_scenes
from daitir.studies.choices import ROUNDS, false_cue_shares
from daitir.studies.encoder_benchmark import COMPARED, ZERO_SHOT, trained_encoders
from daitir.studies.encoder_choices import (
    BENCHMARK,
    QUERY_SET,
    asked_and_searched,
    choice_rows,
    dose_rows,
    ranks_by_encoder,
    seeds_by_round,
    with_rounds,
)
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, SETS, manifest_of, queries_folder

DIVISORS = (20, 5)  # of the steps in which the U-Net of the profile was trained


def run_encoder_checkpoints(
    profile: Profile,
    generator: ViewGenerator,
    recogniser: Recogniser,
    *,
    cache: Path,
    work_dir: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Draw with less trained U-Nets and write `results/<profile>_encoder_checkpoints.csv`.

    A method is an encoder, what is ranked and the steps in which the U-Net was trained, for example
    `dmcl+dar_trained_200`. Beside the metrics of `daitir.studies.encoder_choices`,
    `recall_at_10_drop` is what R@10 loses with the least trained U-Net, and the method
    `trained_200` has `false_cue_share`, the share of a view's cues that are invented or
    contradicted.

    Args:
        generator: the fully trained pipeline, whose autoencoder and text encoder all share.
        cache: keeps the views.
        work_dir: of the benchmark of encoders, which left there the encoders and fusions that are
            measured; gets the less trained pipelines. An interrupted run continues.

    Returns the path of the table. Raises DataError where an encoder or a fusion is missing.
    """
    began = time.perf_counter()
    encoders = trained_encoders(profile, work_dir, names=COMPARED, device=device)
    generators = {}
    for divisor in DIVISORS:
        recipe = replace(profile.diffusion, steps=profile.diffusion.steps // divisor)
        folder = work_dir / "diffusion" / str(recipe.steps)
        retrain_unet(
            recipe, generator.pipeline, folder, latents=folder.parent / "latents.safetensors",
            device=device, num_workers=num_workers, progress=progress,
        )  # fmt: skip
        generators[recipe.steps] = load_view_generator(
            str(folder), steps=generator.steps, guidance=generator.guidance, device=device
        )
    generators[profile.diffusion.steps] = generator
    prompts, gallery = asked_and_searched(
        profile, encoders[ZERO_SHOT, 0], num_workers=num_workers, progress=progress
    )
    scenes = sample_scenes(SEED, SETS[QUERY_SET].split, len(prompts) // len(ROUNDS))
    targets = [scene for scene in scenes for _ in ROUNDS]
    seeds = seeds_by_round(len(prompts), SEED)
    drawn, shares = {}, []
    for steps, source in generators.items():
        name = f"trained_{steps}"
        drawn[name] = source.generate(prompts, seeds, cache, progress=progress)
        read = [reading.scene for reading in recogniser.read(drawn[name])]
        false = np.reshape(false_cue_shares(prompts, read, targets), (-1, len(ROUNDS)))
        values = (BENCHMARK, name, SEED, range(len(ROUNDS)), "false_cue_share", false.mean(axis=0),
                  *metrics.bootstrap_interval(false), len(false))  # fmt: skip
        shares.append(pd.DataFrame(dict(zip(RESULT_COLUMNS, values, strict=True))).round(4))
    ranks = ranks_by_encoder(
        encoders, work_dir, prompts, drawn, gallery,
        lambda features: {f"_{name}": some[:, :, None] for name, some in features.items()},
        progress=progress,
    )  # fmt: skip
    least, *_, most = drawn
    table = pd.concat([*shares, choice_rows(ranks), dose_rows(ranks, most, least)])
    path = results_dir / f"{profile.name}_encoder_checkpoints.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "encoders": {f"{n}/{s}": e.digest for (n, s), e in encoders.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_results(path, with_rounds(table), notes)
    return path

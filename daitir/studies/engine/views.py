"""What stands in the place of the view: pictures, or features, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from daitir.analysis.controls import noise_views, placebo_views
from daitir.fusion import remembered_views
from daitir.models.views import ViewGenerator, load_view_generator
from daitir.recipes.diffusion import retrain_unet
from daitir.recipes.run import Run
from daitir.scenes import NUM_QUESTIONS, controlled_view, merge_facts, parse
from daitir.studies.engine.conditions import Condition
from daitir.studies.engine.encoders import KEPT_UNDER
from daitir.studies.engine.names import named
from daitir.studies.perturbations import last_views
from daitir.studies.queries import SEED

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

MISSING_SHARE = 0.5


def _kept_views(bench: Bench, condition: Condition, argument: str) -> Tensor:
    """Those of the query set, or of the set that is named with it (`kept:again`)."""
    name = f"{condition.queries}_{argument}" if argument else condition.queries
    queries = bench.query_set(name)
    features = queries.view_features[: condition.number]
    if condition.rounds is not None:
        features = features[:, list(condition.rounds)]
    return named(KEPT_UNDER, condition.encoder, "encoder of kept views")(bench, features)


def _other_noise(bench: Bench, condition: Condition, argument: str) -> list[Path]:
    return bench.draw(condition, seed=int(argument))


def _first_views(bench: Bench, condition: Condition, argument: str) -> Tensor:
    views = [replace(condition, views=f"view_{seed}") for seed in range(int(argument))]
    return torch.stack([bench.view_features(one) for one in views], dim=2)


def _other_setting(
    bench: Bench, condition: Condition, argument: str, *, setting: str
) -> list[Path]:
    usual = bench.generator
    settings = {"steps": usual.steps, "guidance": usual.guidance}
    settings[setting] = type(settings[setting])(argument)
    return bench.draw(condition, generator=ViewGenerator(usual.spec, usual.pipeline, **settings))


def _less_trained(bench: Bench, condition: Condition, argument: str) -> list[Path]:
    """Views of a pipeline whose U-Net was trained for fewer steps."""
    recipe = replace(bench.profile.diffusion, steps=int(argument))
    if recipe == bench.profile.diffusion:
        return bench.draw(condition)
    folder = bench.work_dir / "diffusion" / argument
    if not (folder / "model_index.json").is_file():
        options = {"num_workers": bench.num_workers, "progress": bench.progress}
        run = Run(folder, device=bench.device, **options)
        latents = folder.parent / "latents.safetensors"
        retrain_unet(recipe, bench.generator.pipeline, run, latents=latents)
    usual = bench.generator
    generator = load_view_generator(
        str(folder), steps=usual.steps, guidance=usual.guidance, device=bench.device
    )
    return bench.draw(condition, generator=generator)


def _redrawn(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """What the recogniser reads off each kept view, rendered: drawn well, of the same content."""
    readings = bench.query_set(condition.queries).readings[: condition.number]
    rounds = bench.rounds(condition)
    return bench.draw_scenes(
        [row[t] for row, chosen in zip(readings, rounds, strict=True) for t in chosen]
    )


def _controlled(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """Rendered views of what was said, a share of it false (in percent)."""
    talks, rounds = bench.talks(condition), bench.rounds(condition)
    share = int(argument) / 100
    return bench.draw_scenes([
        controlled_view(merge_facts(turns[: t + 1]), broken_share=share, seed=f"{i}/{t}").scene
        for i, (turns, chosen) in enumerate(zip(talks, rounds, strict=True))
        for t in chosen
    ])  # fmt: skip


def _controlled_captions(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """Rendered views of what the captions state, a share of it false (in percent)."""
    share = int(argument) / 100
    return bench.draw_scenes([
        controlled_view(parse(prompt).facts, broken_share=share, seed=str(index)).scene
        for index, prompt in enumerate(bench.prompts(condition))
    ])  # fmt: skip


def _stand_in(
    bench: Bench, condition: Condition, argument: str, *, make: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What is made of texts and views: `placebo:kept` of the kept views."""
    views = bench.view_features(replace(condition, views=argument))
    return make(bench.text_features(condition), views)


def _remembered(bench: Bench, condition: Condition, argument: str) -> Tensor:
    decay, _, views = argument.partition(":")
    features = bench.view_features(replace(condition, views=views))
    return remembered_views(features, decay=float(decay))


def _half(bench: Bench, condition: Condition, argument: str, *, stand_in: str) -> Tensor:
    """Half of the kept views are missing; text, or the view before, stands in, or nothing (NaN)."""
    everything = bench.query_set(condition.queries).view_features[: condition.number]
    generator = torch.Generator().manual_seed(SEED)
    gone = torch.rand(len(everything), NUM_QUESTIONS + 1, generator=generator) < MISSING_SHARE
    rounds = list(condition.rounds or range(NUM_QUESTIONS + 1))
    earlier, none = (some[:, rounds] for some in last_views(everything, gone))
    gone, views = gone[:, rounds, None], everything[:, rounds]
    if stand_in == "nothing":
        return torch.where(gone, torch.nan, views)
    if stand_in == "text":
        return torch.where(gone, bench.text_features(condition), views)
    return torch.where(none[..., None], torch.nan, earlier)


VIEWS: dict[str, Callable[[Bench, Condition, str], Tensor | np.ndarray | list[Path]]] = {
    "kept": _kept_views,
    "drawn": lambda bench, condition, argument: bench.draw(condition),
    "view": _other_noise,
    "first": _first_views,
    "guidance": partial(_other_setting, setting="guidance"),
    "steps": partial(_other_setting, setting="steps"),
    "trained": _less_trained,
    "redrawn": _redrawn,
    "controlled": _controlled,
    "controlled_captions": _controlled_captions,
    "text": lambda bench, condition, argument: bench.text_features(condition),
    "placebo": partial(_stand_in, make=lambda text, view: placebo_views(view)),
    "noise": partial(_stand_in, make=partial(noise_views, seed=SEED)),
    "remembered": _remembered,
    "half_nothing": partial(_half, stand_in="nothing"),
    "half_text": partial(_half, stand_in="text"),
    "half_previous": partial(_half, stand_in="previous"),
}
"""`kept` with the query set, `drawn` anew, in other ways, rendered, and stand-ins of features."""

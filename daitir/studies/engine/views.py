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
from daitir.studies.engine.conditions import Condition, named
from daitir.studies.engine.encoders import KEPT_UNDER
from daitir.studies.queries import SEED

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

MISSING_SHARE = 0.5


def _kept_views(bench: Bench, condition: Condition, argument: str) -> Tensor:
    """Those of the query set, or of the set that is named with it (`kept:again`)."""
    name = f"{condition.queries}_{argument}" if argument else condition.queries
    features = bench.kept_features(name)[: condition.number]
    if condition.rounds is not None:
        features = features[:, list(condition.rounds)]
    return named(KEPT_UNDER, condition.encoder, "encoder of kept views")(bench, features)


def _drawn(bench: Bench, condition: Condition, argument: str) -> list[Path]:
    """From the noise of the set, or `drawn:fixed_noise` from one noise a dialogue."""
    return bench.draw(condition, **({argument: True} if argument else {}))


def _both_noises(bench: Bench, condition: Condition, argument: str) -> Tensor:
    conditions = [replace(condition, views=name) for name in ("drawn", "drawn:fixed_noise")]
    return torch.stack([bench.view_features(c) for c in conditions], dim=2)


def _first_views(bench: Bench, condition: Condition, argument: str) -> Tensor:
    conditions = [replace(condition, views=f"view_{seed}") for seed in range(int(argument))]
    return torch.stack([bench.view_features(c) for c in conditions], dim=2)


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
    usual, folder = bench.generator, bench.work_dir / "diffusion" / argument
    if not (folder / "model_index.json").is_file():
        run = Run(folder, device=bench.device, **bench.drawing)
        latents = folder.parent / "latents.safetensors"
        retrain_unet(recipe, usual.pipeline, run, latents=latents)
    generator = load_view_generator(
        str(folder), steps=usual.steps, guidance=usual.guidance, device=bench.device
    )
    return bench.draw(condition, generator=generator)


def _redrawn(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """Each kept view's reading by the recogniser, rendered: drawn well, with the same content."""
    readings = bench.query_set(condition.queries).readings[: condition.number]
    return bench.draw_scenes(bench.asked(readings, condition))


def _controlled(
    bench: Bench, condition: Condition, argument: str, *, of_captions: bool = False
) -> np.ndarray:
    """Rendered views of what was said, or what captions state, a share of it false (in percent)."""
    talks, rounds = bench.talks(condition), bench.rounds(condition)
    if of_captions:
        facts = {str(i): parse(p).facts for i, p in enumerate(bench.prompts(condition))}
    else:
        asked = [(i, t) for i, chosen in enumerate(rounds) for t in chosen]
        facts = {f"{i}/{t}": merge_facts(talks[i][: t + 1]) for i, t in asked}
    share = int(argument) / 100
    views = [controlled_view(f, broken_share=share, seed=seed) for seed, f in facts.items()]
    return bench.draw_scenes([view.scene for view in views])


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


def last_views(view_features: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """At every round the latest view that is there, and where there is none yet.

    `view_features` are (num_queries, num_rounds, dim) of all rounds, `missing` (num_queries,
    num_rounds) bool, as is the second result.
    """
    rounds = torch.arange(missing.shape[1]).expand_as(missing)
    latest = torch.where(missing, -1, rounds).cummax(dim=1).values
    queries = torch.arange(len(missing))[:, None]
    return view_features[queries, latest.clamp(min=0)], latest < 0


def _half(bench: Bench, condition: Condition, argument: str, *, stand_in: str) -> Tensor:
    """Half of the kept views are missing; text, or the view before, stands in, or nothing (NaN)."""
    everything = bench.query_set(condition.queries).view_features[: condition.number]
    generator = torch.Generator().manual_seed(SEED)
    gone = torch.rand(len(everything), NUM_QUESTIONS + 1, generator=generator) < MISSING_SHARE
    rounds = list(condition.rounds or range(NUM_QUESTIONS + 1))
    earlier, none = (whole[:, rounds] for whole in last_views(everything, gone))
    gone, views = gone[:, rounds, None], everything[:, rounds]
    if stand_in == "nothing":
        return torch.where(gone, torch.nan, views)
    if stand_in == "text":
        return torch.where(gone, bench.text_features(condition), views)
    return torch.where(none[..., None], torch.nan, earlier)


VIEWS: dict[str, Callable[[Bench, Condition, str], Tensor | np.ndarray | list[Path]]] = {
    "kept": _kept_views,
    "drawn": _drawn,
    "both_noises": _both_noises,
    "view": lambda bench, condition, argument: bench.draw(condition, seed=int(argument)),
    "first": _first_views,
    "guidance": partial(_other_setting, setting="guidance"),
    "steps": partial(_other_setting, setting="steps"),
    "trained": _less_trained,
    "redrawn": _redrawn,
    "controlled": _controlled,
    "controlled_captions": partial(_controlled, of_captions=True),
    "text": lambda bench, condition, argument: bench.text_features(condition),
    "placebo": partial(_stand_in, make=lambda text, view: placebo_views(view)),
    "noise": partial(_stand_in, make=partial(noise_views, seed=SEED)),
    "remembered": _remembered,
    "half_nothing": partial(_half, stand_in="nothing"),
    "half_text": partial(_half, stand_in="text"),
    "half_previous": partial(_half, stand_in="previous"),
}
"""`kept` with the query set, `drawn` anew, in other ways, rendered, and stand-ins of features."""

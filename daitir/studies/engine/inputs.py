"""What is asked with, by name: the words of a dialogue, and what stands in the place of the view.

A perturbation is what may happen to a dialogue on the way to the system: a function of what was
said, round by round, and a seed. Views are pictures, or features.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from daitir import scenes
from daitir.analysis.controls import noise_views, placebo_views
from daitir.fusion import remembered_views
from daitir.models.reformulation import Reformulator
from daitir.models.views import ViewGenerator, load_view_generator
from daitir.recipes.diffusion import retrain_unet
from daitir.recipes.run import Run
from daitir.studies.engine.conditions import Condition, named
from daitir.studies.engine.models import KEPT_UNDER
from daitir.studies.queries import SEED, SETS

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

LONG_DIALOGUES = 20  # questions
MISSING_SHARE = 0.5
Said = list[str | None]  # None where nothing of a round arrived


def typos(said: Sequence[str], seed: int | str, *, share: float) -> Said:
    """A share of the words of three letters and more with letters swapped, lost or doubled.

    >>> typos(["a red sailboat"], 0, share=1)
    ['a rde saliboat']
    """
    rng = random.Random(f"typos/{seed}")

    def mistyped(match: re.Match) -> str:
        word = match[0]
        if rng.random() >= share:
            return word
        kind = rng.choice(("lost", "doubled", "swapped"))
        differ = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
        if kind == "swapped" and differ:
            i = rng.choice(differ)
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        i = rng.randrange(len(word))
        return word[:i] + ("" if kind == "lost" else 2 * word[i]) + word[i + 1 :]

    return [re.sub(r"[^\W\d_]{3,}", mistyped, text) for text in said]


def dropped_rounds(said: Sequence[str], seed: int | str, *, share: float) -> Said:
    """Each question with its answer is lost with probability `share`; the caption never is."""
    rng = random.Random(f"dropped/{seed}")
    return [said[0], *(None if rng.random() < share else text for text in said[1:])]


def shuffled_rounds(said: Sequence[str], seed: int | str) -> Said:
    """The questions with their answers in another order; the caption stays the first."""
    rest = list(said[1:])
    random.Random(f"shuffled/{seed}").shuffle(rest)
    return [said[0], *rest]


def refine_arrived(
    reformulator: Reformulator, dialogues: Sequence[Said], *, progress: bool = False
) -> list[list[str]]:
    """`captions[dialogue][round]`, refined from what arrived: a lost round changes nothing."""
    arrived = [[text for text in said if text is not None] for said in dialogues]
    refined = reformulator.refine(arrived, progress=progress).captions
    counts = [np.cumsum([text is not None for text in said]) for said in dialogues]
    return [[row[n - 1] for n in ns] for row, ns in zip(refined, counts, strict=True)]


def _said(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return [[turn.text for turn in turns] for turns in bench.talks(condition)]


def _refined(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    if SETS[condition.queries].shipped:
        return bench.query_set(condition.queries).captions[: condition.number]
    said = _said(bench, condition, argument)
    return bench.reformulator.refine(said, progress=bench.progress).captions


def _exact(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return [
        scenes.rewrites(turns, seed=index) for index, turns in enumerate(bench.talks(condition))
    ]


def _perturbed(
    bench: Bench, condition: Condition, argument: str, *, perturb: Callable[..., Said]
) -> list[list[str]]:
    """Captions refined from perturbed dialogues; the argument is a share in percent."""
    share = {"share": int(argument) / 100} if argument else {}
    said = enumerate(_said(bench, condition, argument))
    arrived = [perturb(rounds, seed, **share) for seed, rounds in said]
    return refine_arrived(bench.reformulator, arrived, progress=bench.progress)


def _longer(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    source, options = SETS[condition.queries].source, {"num_questions": LONG_DIALOGUES}
    talks = [scenes.dialogue(source, s, seed=SEED, **options) for s in bench.targets(condition)]
    said = [[turn.text for turn in turns] for turns in talks]
    return bench.reformulator.refine(said, progress=bench.progress).captions


def _short(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    targets = enumerate(bench.targets(condition))
    return [[scenes.short_caption(s, random.Random(f"short/{SEED}/{i}"))] for i, s in targets]


WORDS: dict[str, Callable[[Bench, Condition, str], list[list[str]]]] = {
    "refined": _refined,
    "exact": _exact,
    "said": _said,
    "longer": _longer,
    "short_caption": _short,
    "typos": partial(_perturbed, perturb=typos),
    "dropped_rounds": partial(_perturbed, perturb=dropped_rounds),
    "shuffled_rounds": partial(_perturbed, perturb=shuffled_rounds),
}
"""`refined` captions, `exact` ones of the facts themselves, what was `said`; other dialogues."""


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


def _other(bench: Bench, condition: Condition, views: str) -> Tensor:
    return bench.view_features(replace(condition, views=views))


def _several(bench: Bench, condition: Condition, *names: str) -> Tensor:
    """Views of several names, side by side."""
    return torch.stack([_other(bench, condition, name) for name in names], dim=2)


def _other_setting(
    bench: Bench, condition: Condition, argument: str, *, setting: str
) -> list[Path]:
    usual = bench.generator
    settings = {"steps": usual.steps, "guidance": usual.guidance}
    settings[setting] = type(settings[setting])(argument)
    return bench.draw_with(ViewGenerator(usual.spec, usual.pipeline, **settings), condition)


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
    settings = {"steps": usual.steps, "guidance": usual.guidance, "device": bench.device}
    return bench.draw_with(load_view_generator(str(folder), **settings), condition)


def _redrawn(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """Each kept view's reading by the recogniser, rendered: drawn well, with the same content."""
    readings = bench.query_set(condition.queries).readings[: condition.number]
    return bench.draw_scenes(bench.asked(readings, condition))


def _controlled(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """Rendered views of what was said, a share of it false (in percent).

    A second percentage is the share of what was not said that is right all the same.
    """
    return bench.draw_scenes(controlled_scenes(bench, condition, argument))


def said_facts(bench: Bench, condition: Condition) -> list[tuple[scenes.Fact, ...]]:
    """What was said by each round that is asked, dialogue by dialogue."""
    talks = bench.talks(condition)
    known = [[scenes.merge_facts(turns[: t + 1]) for t in range(len(turns))] for turns in talks]
    return bench.asked(known, condition)


def controlled_scenes(bench: Bench, condition: Condition, argument: str) -> list[scenes.Scene]:
    """What the controlled views of a condition show, dialogue by dialogue."""
    first, _, second = argument.partition("_")
    broken, right = int(first) / 100, int(second or 0) / 100
    rounds = bench.rounds(condition)
    places = [(i, t) for i, asked in enumerate(rounds) for t in asked]
    targets, shown = bench.targets(condition), []
    for (i, t), said in zip(places, said_facts(bench, condition), strict=True):
        seed = f"{i}/{t}"
        known = scenes.foreseen(targets[i], said, share=right, seed=seed)
        view = scenes.controlled_view(said, broken_share=broken, seed=seed, foreseen=known)
        shown.append(view.scene)
    return shown


def _noise(bench: Bench, condition: Condition, views: str) -> Tensor:
    return noise_views(bench.text_features(condition), _other(bench, condition, views), seed=SEED)


def _remembered(bench: Bench, condition: Condition, argument: str) -> Tensor:
    decay, _, views = argument.partition(":")
    return remembered_views(_other(bench, condition, views), decay=float(decay))


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
    views = bench.query_set(condition.queries).view_features[: condition.number]
    generator = torch.Generator().manual_seed(SEED)
    gone = torch.rand(len(views), scenes.NUM_QUESTIONS + 1, generator=generator) < MISSING_SHARE
    if stand_in == "previous":
        views, gone = last_views(views, gone)
    rounds = list(condition.rounds or range(scenes.NUM_QUESTIONS + 1))
    instead = bench.text_features(condition) if stand_in == "text" else torch.nan
    return torch.where(gone[:, rounds, None], instead, views[:, rounds])


VIEWS: dict[str, Callable[[Bench, Condition, str], Tensor | np.ndarray | list[Path]]] = {
    "kept": _kept_views,
    "drawn": _drawn,
    "both_noises": lambda bench, condition, _: _several(
        bench, condition, "drawn", "drawn:fixed_noise"
    ),
    "view": lambda bench, condition, seed: bench.draw(condition, seed=int(seed)),
    "first": lambda bench, condition, number: _several(
        bench, condition, *(f"view_{seed}" for seed in range(int(number)))
    ),
    "guidance": partial(_other_setting, setting="guidance"),
    "steps": partial(_other_setting, setting="steps"),
    "trained": _less_trained,
    "redrawn": _redrawn,
    "controlled": _controlled,
    "text": lambda bench, condition, _: bench.text_features(condition),
    "placebo": lambda bench, condition, views: placebo_views(_other(bench, condition, views)),
    "noise": _noise,
    "remembered": _remembered,
    "half_nothing": partial(_half, stand_in="nothing"),
    "half_text": partial(_half, stand_in="text"),
    "half_previous": partial(_half, stand_in="previous"),
}
"""`kept` with the query set, `drawn` anew, in other ways, rendered, and stand-ins of features."""

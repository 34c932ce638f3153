"""`daitir train`: a fusion or an encoder learns from query sets or from own data.

All that can be checked at once is checked first, and what is heavy is imported only then.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from daitir.cli import inputs
from daitir.cli.options import EMBEDDED_AT_ONCE, add_command, named
from daitir.common.errors import DataError, naming
from daitir.common.files import check_output, claimed
from daitir.common.terminal import say
from daitir.recipes.settings import EncoderRecipe, FusionRecipe, with_settings
from daitir.studies.profiles import Profile, check_models, get_profile

FOR_DATA = ("encoder", "text", "features", "missing_views", "val_images")


def add_train(commands) -> None:
    parser = add_command(
        commands,
        train,
        "daitir train adafuse --out runs/adafuse",
        "daitir train adafuse --data my_pictures/ --encoder hf:models/siglip --out runs/a",
    )
    option, recipes = parser.option, get_profile("classroom")
    option(
        "method METHOD",
        f"a fusion of the frozen encoder ({', '.join(recipes.fusions)}, or another that is "
        f"registered) or an encoder ({', '.join(recipes.encoders)})",
    )
    parser.folder(
        "folder of own data with dialogues/train.json and val.json, and views/train and val, "
        "instead of the query sets; right behind METHOD",
        dest="data", required=False,
    )  # fmt: skip
    parser.profile("recipe, sizes and models")
    option(
        "--set NAME=VALUE",
        "numbers of the recipe to change, for example steps=1000 batch_size=64",
        type=partial(named, what="VALUE"), nargs="+", action="extend",
    )  # fmt: skip
    parser.encoder(required=False)
    parser.text("the query text")
    parser.options({
        "--missing-views {error,text}": "where a round of --data lacks a view: refuse, or train an "
        "encoder with its text alone and a fusion without it (default: error)",
        "--val-images N": "pictures of --data that validation ranks while an encoder learns: all "
        "targets, and others drawn once (default: 2000)",
    })  # fmt: skip
    parser.features()
    parser.set_defaults(batch_size=EMBEDDED_AT_ONCE, dtype="float32")
    parser.seed()
    option("--cache DIR", "keeps the views of the query sets", default=Path("runs/cache"))
    option("--out DIR", "gets weights, log and checkpoint", required=True)
    parser.machine()


def train(arguments: argparse.Namespace) -> None:
    """Train a fusion, or fine-tune an encoder."""
    profile, method = inputs.chosen_profile(arguments.profile), arguments.method
    recipe = _recipe(profile, method)
    with naming("--set"):
        recipe = with_settings(recipe, dict(arguments.set or ()))
    inputs.check_run_folder(arguments.out)
    inputs.check_device(arguments.device)
    if arguments.data is not None:
        if getattr(recipe, "resampled_views", False):
            raise DataError(
                f"{method}: views are rendered anew in the embedded world alone; with --data "
                "choose dmcl, or add --set resampled_views=false"
            )
        with claimed(arguments.out):
            _train_on_data(arguments, recipe)
        return
    if given := [name for name in FOR_DATA if getattr(arguments, name) is not None]:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise DataError(f"{flags}: for --data DIR alone; without it the profile decides")
    check_output(arguments.cache / "features")
    with claimed(arguments.out):
        _train_on_profile(arguments, profile, recipe)


def _recipe(profile: Profile, method: str) -> FusionRecipe | EncoderRecipe:
    """The profile's recipe of a method; a fusion from outside has the usual settings."""
    recipes = {**profile.fusions, **profile.encoders}
    if method in recipes:
        return recipes[method]
    from daitir.fusion import TRAINED_FUSIONS  # late: it loads torch

    if method not in TRAINED_FUSIONS:
        known = ", ".join(recipes)
        raise DataError(f"unknown method {method!r}; the profile {profile.name} has {known}")
    return FusionRecipe(method)


def _train_on_profile(
    arguments: argparse.Namespace, profile: Profile, recipe: FusionRecipe | EncoderRecipe
) -> None:
    """Train by a recipe on the query sets of a profile."""
    is_encoder, out = isinstance(recipe, EncoderRecipe), arguments.out
    check_models(profile, "clip", *(["diffusion"] if is_encoder else []))
    from daitir.recipes.origin import claim
    from daitir.studies.engine.bench import Bench

    on = {"device": arguments.device, "num_workers": arguments.workers, "progress": True}
    bench = Bench(profile, None, out, arguments.cache, **on)
    claim(out, bench.base, None)
    if is_encoder:
        from daitir.recipes.finetune import finetune, recalls

        train, val = (bench.finetune_data(name, recipe) for name in ("train", "val"))
        tuned = finetune(bench.base, train, val, recipe, out, seed=arguments.seed)
        reached = recalls(tuned, val)[recipe.query]
    else:
        from daitir.recipes.fusion import recall, train_fusion
        from daitir.studies.engine.conditions import Condition

        sets = (Condition("", "", queries=name) for name in ("train", "val"))
        train, val = map(bench.fusion_data, sets)
        options = {"seed": arguments.seed, "device": arguments.device}
        reached = recall(train_fusion(train, val, recipe, out, **options), val)
    say(f"R@10 on validation: {reached:.1%}; written to {out}")


def _train_on_data(arguments: argparse.Namespace, recipe: FusionRecipe | EncoderRecipe) -> None:
    """Train by a recipe on the splits train and val of a folder of own data."""
    is_encoder, out = isinstance(recipe, EncoderRecipe), arguments.out
    if arguments.encoder is None:
        raise DataError("--data needs --encoder SPEC")
    if arguments.val_images and not is_encoder:
        raise DataError("--val-images: for an encoder; a fusion's pictures are embedded once")
    from daitir.data.datafolder import find_data
    from daitir.recipes.own_training import split_texts, train_on_data

    data = find_data(arguments.data)
    texts = split_texts(data, arguments.text)
    reached = train_on_data(
        data,
        recipe,
        out,
        inputs.cached_encoder(arguments, data.root),
        texts=texts,
        missing_views=arguments.missing_views or "error",
        val_images=arguments.val_images,
        seed=arguments.seed,
        device=arguments.device,
        workers=arguments.workers,
        tell=say,
    )
    hint = f"--encoder finetuned:{out}" if is_encoder else f"--fusion {recipe.kind}:{out}"
    say(f"R@10 on validation: {reached:.1%}; written to {out}, use it with {hint}")

"""`daitir train`: a fusion or an encoder learns from query sets or from own data."""

import argparse
from pathlib import Path

from daitir.cli import inputs
from daitir.cli.options import (
    BATCH_SIZE,
    DTYPE,
    FEATURES,
    MACHINE,
    command,
    profile_of,
    required,
    seed_of,
    text_of,
)
from daitir.common.errors import DataError, naming
from daitir.common.files import check_output, claimed
from daitir.common.terminal import say
from daitir.models.registry import encoder_forms
from daitir.recipes.settings import EncoderRecipe, FusionRecipe, Recipe, with_settings
from daitir.studies.profiles import Profile, check_models, get_profile

FOR_DATA = ("encoder", "text", "features", "missing_views", "val_images")
_RECIPES = get_profile("classroom")


def _setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


@command(
    "daitir train adafuse --out runs/adafuse",
    "daitir train adafuse --data my_pictures/ --encoder hf:models/siglip --out runs/a",
    options={
        "method METHOD": f"a fusion of the frozen encoder ({', '.join(_RECIPES.fusions)}, or "
        f"another that is registered) or an encoder ({', '.join(_RECIPES.encoders)})",
        "data --data DIR": "folder of own data with dialogues/train.json and val.json, and "
        "views/train and val, instead of the query sets; right behind METHOD",
        **profile_of("recipe, sizes and models"),
        "--set NAME=VALUE": {
            "help": "numbers of the recipe to change, for example steps=1000 batch_size=64",
            "type": _setting, "nargs": "+", "action": "extend",
        },
        "--encoder SPEC": encoder_forms,
        **text_of("the query text"),
        "--missing-views {error,text}": "where a round of --data lacks a view: refuse, or train an "
        "encoder with its text alone and a fusion without it (default: error)",
        "--val-images N": "pictures of --data that validation ranks while an encoder learns: all "
        "targets, and others drawn once (default: 2000)",
        **FEATURES,
        **seed_of(),
        "--cache DIR": ("keeps the views of the query sets", Path("runs/cache")),
        "--out DIR": required("gets weights, log and checkpoint"),
        **MACHINE,
    },
)  # fmt: skip
def train(arguments: argparse.Namespace) -> None:
    """Train a fusion, or fine-tune an encoder."""
    profile, method = inputs.chosen_profile(arguments.profile), arguments.method
    recipe = _recipe(profile, method)
    with naming("--set"):
        recipe = with_settings(recipe, dict(arguments.set or ()))
    inputs.check_run_folder(arguments.out)
    inputs.check_device(arguments.device)
    if arguments.data is None:
        if given := [name for name in FOR_DATA if getattr(arguments, name) is not None]:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise DataError(f"{flags}: for --data DIR alone; without it the profile decides")
        check_output(arguments.cache / "features")
    elif getattr(recipe, "resampled_views", False):
        raise DataError(
            f"{method}: views are rendered anew in the embedded world alone; with --data choose "
            "dmcl, or add --set resampled_views=false"
        )
    elif arguments.encoder is None:
        raise DataError("--data needs --encoder SPEC")
    elif arguments.val_images and not isinstance(recipe, EncoderRecipe):
        raise DataError("--val-images: for an encoder; a fusion's pictures are embedded once")
    learn = _learn_from_profile if arguments.data is None else _learn_from_data
    with claimed(arguments.out):
        reached = learn(arguments, profile, recipe)
    is_fusion = isinstance(recipe, FusionRecipe)
    spec = f"--fusion {recipe.kind}" if is_fusion else "--encoder finetuned"
    written = f"written to {arguments.out}, use it with {spec}:{arguments.out}"
    say(f"R@10 on validation: {reached:.1%}; {written}")


def _recipe(profile: Profile, method: str) -> Recipe:
    """The profile's recipe of a method; a fusion from outside has the usual settings."""
    recipes = {**profile.fusions, **profile.encoders}
    if method in recipes:
        return recipes[method]
    from daitir.fusion import TRAINED_FUSIONS  # late: it loads torch

    if method not in TRAINED_FUSIONS:
        known = ", ".join(recipes)
        raise DataError(f"unknown method {method!r}; the profile {profile.name} has {known}")
    return FusionRecipe(method)


def _learn_from_profile(arguments: argparse.Namespace, profile: Profile, recipe: Recipe) -> float:
    """Train on the query sets of a profile; returns R@10 on validation, as the next one does."""
    is_encoder, out = isinstance(recipe, EncoderRecipe), arguments.out
    check_models(profile, "clip", *(["diffusion"] if is_encoder else []))
    from daitir.recipes.checkpoint import claim
    from daitir.studies.engine.bench import Bench

    on = {"device": arguments.device, "num_workers": arguments.workers, "progress": True}
    bench = Bench(profile, None, out, arguments.cache, **on)
    claim(out, bench.base, None)
    if is_encoder:
        from daitir.recipes.finetune import finetune, recalls

        train, val = (bench.finetune_data(name, recipe) for name in ("train", "val"))
        tuned = finetune(bench.base, train, val, recipe, out, seed=arguments.seed)
        return recalls(tuned, val)[recipe.query]
    from daitir.recipes.fusion import recall, train_fusion
    from daitir.studies.engine.conditions import Condition

    sets = (Condition("", "", queries=name) for name in ("train", "val"))
    train, val = map(bench.fusion_data, sets)
    options = inputs.given(arguments, "seed", "device")
    return recall(train_fusion(train, val, recipe, out, **options), val)


def _learn_from_data(arguments: argparse.Namespace, profile: Profile, recipe: Recipe) -> float:
    from daitir.data.datafolder import find_data
    from daitir.recipes.own_training import split_texts, train_on_data

    data = find_data(arguments.data)
    texts = split_texts(data, arguments.text)
    arguments.batch_size, arguments.dtype = BATCH_SIZE, DTYPE
    return train_on_data(
        data,
        recipe,
        arguments.out,
        inputs.cached_encoder(arguments, data.root),
        texts=texts,
        missing_views=arguments.missing_views or "error",
        **inputs.given(arguments, "val_images", "seed", "device", "workers"),
        tell=say,
    )

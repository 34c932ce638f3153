"""What the commands that train models and measure their quality do.

As in `daitir.cli.commands`, all that can be checked at once is checked first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from daitir.cli.data_commands import check_device, chosen_profile, train_on_folder
from daitir.common.errors import DataError, naming
from daitir.common.files import begins_with, check_output, claimed
from daitir.common.terminal import say
from daitir.recipes.settings import EncoderRecipe, FusionRecipe, with_settings
from daitir.studies.profiles import Profile, check_models

# What models of any origin are kept in, and what only a run of ours leaves.
MODEL_FILES = ("config.json", "model_index.json", "open_clip_config.json", "model.safetensors")
RUN_FILES = ("log.csv", "checkpoint.safetensors", "work", "origin.json", "card.json")


def pretrain(arguments: argparse.Namespace) -> None:
    """Train a model of the package from scratch."""
    profile = chosen_profile(arguments)
    check_run_folder(arguments.out, trains=arguments.model != "tokenizer")
    check_device(arguments.device)
    if arguments.model == "tokenizer":
        from daitir.recipes.tokenizer import train_tokenizer

        train_tokenizer().save_pretrained(arguments.out)
        say(f"written to {arguments.out}")
        return
    if arguments.model == "clip":
        from daitir.recipes.clip import train_clip as train
    elif arguments.model == "recogniser":
        from daitir.recipes.recogniser import train_recogniser as train
    elif arguments.model == "lm":
        from daitir.recipes.lm import train_lm as train
    elif arguments.model == "lit":
        from daitir.recipes.lit import train_lit as train
    else:
        from daitir.recipes.diffusion import train_diffusion as train

    with claimed(arguments.out):
        train(
            getattr(profile, arguments.model),
            arguments.out,
            seed=arguments.seed,
            device=arguments.device,
            num_workers=arguments.workers,
        )
    kinds = {"clip": "open_clip", "lit": "lit"}
    hint = f"; load it with --encoder {kinds.get(arguments.model)}:{arguments.out}"
    hint *= arguments.model in kinds
    say(f"written to {arguments.out}{hint}")


def quality(arguments: argparse.Namespace) -> None:
    """Measure a model on the validation split."""
    profile = chosen_profile(arguments)
    is_clip = arguments.model == "clip"
    if is_clip and arguments.folder:
        raise DataError("--folder is not for clip; name its encoder with --encoder SPEC")
    if not is_clip and arguments.encoder:
        raise DataError(f"--encoder is for clip; name the {arguments.model} with --folder DIR")
    if arguments.folder and not arguments.folder.is_dir():
        raise DataError(f"--folder {arguments.folder}: no such folder")
    check_output(arguments.out, is_ours=_is_quality)
    check_device(arguments.device)
    if is_clip and not arguments.encoder:
        check_models(profile, "clip")
    from daitir.studies import quality as measures

    options = {"num_workers": arguments.workers, "progress": True}
    if is_clip:
        from daitir.models.encoders import load_encoder

        encoder = load_encoder(arguments.encoder or profile.encoder, device=arguments.device)
        table = measures.clip_quality(
            encoder,
            image_size=profile.image_size,
            num_dialogues=profile.num_test_dialogues,
            num_gallery=profile.num_gallery,
            **options,
        )
    elif arguments.model == "recogniser":
        from daitir.models.recogniser import load_recogniser
        from daitir.recipes.recogniser import degraded

        spec = str(arguments.folder or "mini")
        recogniser = load_recogniser(spec, device=arguments.device)
        table = measures.recogniser_quality(recogniser, degrade=degraded, **options)
    elif arguments.model == "lm":
        from daitir.models.reformulation import load_reformulator

        spec = str(arguments.folder or "mini")
        reformulator = load_reformulator(spec, device=arguments.device)
        table = measures.lm_quality(reformulator, progress=True)
    else:
        from daitir.models.recogniser import load_recogniser
        from daitir.models.views import load_view_generator

        generator = load_view_generator(str(arguments.folder or "mini"), device=arguments.device)
        recogniser = load_recogniser(device=arguments.device)
        table = measures.pipeline_quality(generator, recogniser, progress=True)
    measures.update_table(arguments.out, table)
    say(*table.to_string(index=False).split("\n"))
    say(f"written to {arguments.out}")


def train(arguments: argparse.Namespace) -> None:
    """Train a fusion of the profile, or fine-tune an encoder, on its query sets or own data."""
    profile = chosen_profile(arguments)
    name, out = arguments.method, arguments.out
    recipe = {**profile.fusions, **profile.encoders}.get(name)
    if recipe is None:
        from daitir.fusion import TRAINED_FUSIONS  # late: it loads torch

        if name not in TRAINED_FUSIONS:
            raise DataError(
                f"unknown method {name!r}; the profile {profile.name} has "
                + ", ".join((*profile.fusions, *profile.encoders))
            )
        recipe = FusionRecipe(name)
    with naming("--set"):
        recipe = with_settings(recipe, dict(arguments.set or ()))
    check_run_folder(out)
    check_device(arguments.device)
    if arguments.data is not None:
        if getattr(recipe, "resampled_views", False):
            raise DataError(
                f"{name}: views are rendered anew in the embedded world alone; with --data choose "
                "dmcl, or add --set resampled_views=false"
            )
        with claimed(out):
            train_on_folder(arguments, recipe)
        return
    others = [name for name in ("encoder", "text", "features", "missing_views", "val_images")
              if getattr(arguments, name) is not None]  # fmt: skip
    if others:
        flags = ", ".join("--" + name.replace("_", "-") for name in others)
        raise DataError(f"{flags}: for --data DIR alone; without it the profile decides")
    check_output(arguments.cache / "features")
    with claimed(out):
        _train_on_profile(arguments, profile, recipe)


def _train_on_profile(
    arguments: argparse.Namespace, profile: Profile, recipe: FusionRecipe | EncoderRecipe
) -> None:
    name, out = arguments.method, arguments.out
    from daitir.models.encoders import load_encoder
    from daitir.recipes.origin import claim

    check_models(profile, "clip", *(["diffusion"] if name in profile.encoders else []))
    encoder = load_encoder(profile.encoder, device=arguments.device)
    claim(out, encoder, None)
    options = {"num_workers": arguments.workers, "progress": True}
    if name in profile.encoders:
        from daitir.models.views import load_view_generator
        from daitir.recipes.finetune import finetune, recalls
        from daitir.studies.training_sets import as_read, profile_data, training_data

        generator = load_view_generator(profile.generator, device=arguments.device)
        train_part, val_part = (
            profile_data(profile, part, generator, encoder, arguments.cache, **options)
            for part in ("train", "val")
        )
        data = [
            training_data(train_part, profile, recipe, num_workers=arguments.workers),
            as_read(val_part, profile, "val", recipe),
        ]
        tuned = finetune(encoder, *data, recipe, out, seed=arguments.seed)
        found = recalls(tuned, data[1])[recipe.query]
    else:
        from daitir.recipes.fusion import recall, train_fusion
        from daitir.studies.training_sets import encode_queries

        data = [
            encode_queries(profile, part, encoder, cache=arguments.cache, **options)
            for part in ("train", "val")
        ]
        model = train_fusion(*data, recipe, out, seed=arguments.seed, device=arguments.device)
        found = recall(model, data[1])
    say(f"R@10 on validation: {found:.1%}; written to {out}")


def check_run_folder(folder: Path, *, trains: bool = True) -> None:
    """Raises DataError unless a training may write into a folder: its own run, or no model.

    Without `trains` only a tokeniser is written, into a folder that no run owns.
    """
    for name in RUN_FILES[:1] if trains else MODEL_FILES:
        check_output(folder / name, is_ours=lambda path: trains and begins_with(path, "step,"))
    is_run = any((folder / name).exists() for name in RUN_FILES)
    others = [name for name in MODEL_FILES if (folder / name).exists()]
    if others and not is_run:
        raise DataError(f"{folder}: holds a model of another origin; name another folder")


def _is_quality(path: Path) -> bool:
    from daitir.studies.quality import QUALITY_COLUMNS  # late: it loads torch

    return begins_with(path, ",".join(QUALITY_COLUMNS))

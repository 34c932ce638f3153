"""Commands for one's own data, and the files that `--data DIR` stands for in all commands."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from daitir.common.errors import DataError, naming
from daitir.common.files import check_output
from daitir.common.terminal import say
from daitir.data.dialogues import read_dialogues, recognise_convention
from daitir.data.names import is_utf8
from daitir.studies.profiles import get_profile

VAL_IMAGES = 2000
_SEARCH_HELP = "/undo takes a round back, /new begins anew, /quit ends."

if TYPE_CHECKING:
    from daitir.data.datafolder import DataFolder
    from daitir.models.features import CachedEncoder
    from daitir.recipes.settings import EncoderRecipe, FusionRecipe
    from daitir.studies.profiles import Profile


def lint(arguments: argparse.Namespace) -> None:
    """Print everything that is wrong with a folder of own data.

    Raises DataError, after the report, where the other commands would refuse the data.
    """
    from daitir.data.lint import lint_data

    encoder = None
    if arguments.encoder:
        from daitir.models.encoders import load_encoder

        encoder = load_encoder(arguments.encoder)
    report = lint_data(
        arguments.folder,
        decode=not arguments.quick,
        encoder=encoder,
        progress=not arguments.json,
    )
    if arguments.json:
        say(*json.dumps(report.as_dict(), indent=1).split("\n"))
    else:
        say(", ".join(f"{name} {size:,}" for name, size in report.sizes.items()))
        say("suffixes: " + ", ".join(f"{name} {n:,}" for name, n in report.suffixes.items()))
        for finding in report.findings:
            level = "error" if finding.is_error else "warning"
            say(f"{level}: {finding.where}: {finding.count:,} × {finding.kind}")
            say(*(f"    {message}" for message in finding.examples))
            if finding.count > len(finding.examples):
                say(f"    … and {finding.count - len(finding.examples):,} more")
        if not report.findings:
            say("nothing is wrong")
    if report.num_errors:
        number = report.num_errors
        raise DataError(f"{arguments.folder}: {number:,} error{'s' * (number > 1)}; mend the files")


def embed(arguments: argparse.Namespace) -> None:
    """Embed the pictures and views of a folder of own data, and keep the features."""
    from daitir.data.datafolder import find_data
    from daitir.data.gallery import check_images

    check_device(arguments.device)
    data = find_data(arguments.folder)
    gallery, views = check_images(data.images_dir, data.gallery(tell=say)), []
    for split, file in data.dialogues.items():
        if data.views_dir(split).is_dir():
            from daitir.data.rewrites import read_source
            from daitir.data.viewfiles import check_views, list_views

            dialogues = read_dialogues(file, allow_duplicate_targets=True)
            lengths = [len(dialogue.rounds) for dialogue in dialogues]
            found = list_views(data.views_dir(split), lengths).views
            path, raw = _texts(data, split, None)
            also = read_source(path, raw, allow_duplicate_targets=True) if raw else ()
            check_views(data.views_dir(split), dialogues, found, also=also)
            drawn = [path for rounds in found for files in rounds for path in files]
            check_images(data.views_dir(split), [path.name for path in drawn])
            views += drawn
    from daitir.models.processes import processes

    with processes(arguments.device) as (group, arguments.device):
        cached = cached_encoder(arguments, data.root)
        pictures = (data.images_dir / name for name in gallery)
        number = cached.embed(chain(pictures, views), group=group, progress=True)
    if group.is_main_process:
        say(
            f"{len(gallery):,} pictures and {len(views):,} views, "
            f"{number:,} embedded now; written to {cached.folder}"
        )


def search(arguments: argparse.Namespace) -> None:
    """Hold a dialogue in the terminal over a folder of pictures."""
    check_device(arguments.device)
    from daitir.book.live import LiveSearch
    from daitir.data.gallery import check_images, list_gallery

    root = arguments.folder
    images_dir = root / "images" if (root / "images").is_dir() else root
    listed = root / "gallery.json"
    names = list_gallery(images_dir, listed if listed.exists() else None, tell=say)
    names = check_images(images_dir, names, skip_unreadable=arguments.skip_unreadable)
    reformulator = generator = None
    if arguments.model:
        from daitir.models.reformulation import load_reformulator

        reformulator = load_reformulator(arguments.model, device=arguments.device)
    if arguments.pipeline:
        from daitir.models.views import load_view_generator

        generator = load_view_generator(arguments.pipeline, device=arguments.device)
    is_own_data = (root / "dialogues.json").exists() or (root / "dialogues").is_dir()
    cached = cached_encoder(arguments, root, is_own_data=is_own_data)
    features = cached.encode_images([images_dir / name for name in names], progress=True)
    encoder = cached.encoder  # what is said is kept nowhere
    search = LiveSearch(features, encoder, reformulator, generator)
    say(f"features are kept in {cached.folder}")
    say(f"{len(names):,} pictures. Describe one; then add what is missing. {_SEARCH_HELP}")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # else odd bytes end the search
    while True:
        try:
            words = input(f"round {len(search.rounds)}> ").strip()
        except EOFError:
            say("")
            return
        if words == "/quit":
            return
        if words in ("/undo", "/new"):
            search.undo()
            while words == "/new" and search.rounds:
                search.undo()
        elif not words or words.startswith("/"):
            say(_SEARCH_HELP)
        elif not is_utf8(words):
            say("(this cannot be read as text; say it again)")
        else:
            found = search.say(words)
            if encoder.count_truncated([found.caption]):
                say(f"(too long: the encoder reads {encoder.context_length} tokens, no more)")
            if reformulator:
                say(f"searched for: {found.caption}")
            for place, index in enumerate(found.ranking[: arguments.top].tolist(), 1):
                say(f"{place:>4}  {found.scores[index]:.3f}  {names[index]}")


def train_on_folder(arguments: argparse.Namespace, recipe: FusionRecipe | EncoderRecipe) -> None:
    """Train by a recipe on the splits train and val of a folder of own data."""
    from daitir.data.datafolder import find_data
    from daitir.recipes.settings import EncoderRecipe

    if arguments.encoder is None:
        raise DataError("--data needs --encoder SPEC")
    data, splits = find_data(arguments.data), ("train", "val")
    if lacking := [split for split in splits if split not in data.dialogues]:
        files = " and ".join(f"dialogues/{split}.json" for split in lacking)
        raise DataError(f"{data.root}: has no {files}; training needs the splits train and val")
    from daitir.data.rewrites import read_source

    texts = {}
    for split in splits:
        path, raw = _texts(data, split, arguments.text)
        talks = read_source(path, raw, allow_duplicate_targets=True)
        texts[split] = (path, *recognise_convention(talks, path=path, named=arguments.text))
    if texts["train"][1] != texts["val"][1]:
        raise DataError(
            f"{data.root}: one of train and val has rewrites and the other has none; make them "
            "with `daitir refine`, or name --text raw_dialogue"
        )
    is_encoder = isinstance(recipe, EncoderRecipe)
    if arguments.val_images and not is_encoder:
        raise DataError("--val-images: for an encoder; a fusion's pictures are embedded once")
    from daitir.recipes import own_data
    from daitir.recipes.origin import claim

    cached = cached_encoder(arguments, data.root)
    if is_encoder:
        from daitir.recipes.finetune import check_trainable, finetune, needs_views, recalls

        check_trainable(cached.encoder)
    parts = {
        split: own_data.read_split(
            data,
            split,
            texts[split][0],
            convention=texts[split][1],
            needs_views=not is_encoder or needs_views(recipe),
            missing_views=arguments.missing_views or "error",
        )
        for split in splits
    }
    whole_val = parts["val"]
    if is_encoder:
        # The features of its pictures change with the encoder: each validation embeds them anew.
        parts["val"] = own_data.sample_gallery(whole_val, arguments.val_images or VAL_IMAGES)
    claim(arguments.out, cached.encoder, own_data.data_digest(parts, data.root))
    for split, part in parts.items():
        path, convention, why = texts[split]
        say(f"{split} texts: {convention} of {path} ({why})")
        say(own_data.describe(split, part, cached.encoder))
    if len(parts["val"].gallery) < len(whole_val.gallery):
        say(
            f"while it learns, validation ranks {len(parts['val'].gallery):,} of "
            f"{len(whole_val.gallery):,} pictures, the targets among them (--val-images)"
        )
    if is_encoder:
        recipe = replace(recipe, text=texts["train"][1])
        options = {"workers": arguments.workers}
        tuned = finetune(
            cached.encoder, *parts.values(), recipe, arguments.out, seed=arguments.seed, **options
        )
        found = recalls(tuned, whole_val, **options)[recipe.query]
        hint = f"--encoder finetuned:{arguments.out}"
    else:
        from daitir.recipes.fusion import recall, train_fusion

        features = [
            own_data.encode_split(cached, own_data.with_views(part), progress=True)
            for part in parts.values()
        ]
        options = {"seed": arguments.seed, "device": arguments.device}
        model = train_fusion(*features, recipe, arguments.out, **options)
        found = recall(model, features[1])
        hint = f"--fusion {recipe.kind}:{arguments.out}"
    say(
        f"R@10 on validation: {found:.1%} among {len(whole_val.gallery):,} pictures; written to "
        f"{arguments.out}, use it with {hint}"
    )


def cached_encoder(
    arguments: argparse.Namespace, root: Path, *, is_own_data: bool = True
) -> CachedEncoder:
    """The encoder of `--encoder`, which keeps features in `--features`, or else below `root`.

    Where `root` is not a folder of own data they are kept in the user's cache instead. Raises
    DataError where nothing can be written there.
    """
    import torch

    from daitir.models.encoders import load_encoder
    from daitir.models.features import CachedEncoder, features_folder, users_features_folder

    encoder = load_encoder(
        arguments.encoder, device=arguments.device, dtype=getattr(torch, arguments.dtype)
    )
    folder = arguments.features
    if folder is None and is_own_data:
        folder = features_folder(root, encoder.spec, encoder.digest)
    elif folder is None:  # somebody's pictures are not ours to write to
        folder = users_features_folder(root, encoder.digest)
    try:
        check_output(folder / "pictures.safetensors", inputs=[root / "images", root / "views"])
    except (DataError, OSError) as error:
        raise DataError(
            f"{folder}: features cannot be kept there ({error}); name another folder with "
            "--features DIR"
        ) from error
    return CachedEncoder(
        encoder, root, folder, batch_size=arguments.batch_size, workers=arguments.workers
    )


def check_device(name: str) -> None:
    """Raises DataError unless torch can compute on the device of `--device`.

    Of several processes that `accelerate launch` started, each takes a CUDA device of its own.
    """
    import torch

    try:
        if name == "cuda" and "LOCAL_RANK" in os.environ:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.empty(1, device=name)
        if torch.device(name).type == "meta":  # torch's own, which computes shapes alone
            raise RuntimeError
    except (RuntimeError, AssertionError) as error:  # the latter where torch lacks CUDA
        here = ["cpu"]
        here += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
        raise DataError(f"--device {name}: not available here; use {' or '.join(here)}") from error


def chosen_profile(arguments: argparse.Namespace) -> Profile:
    """The profile of `--profile`, or that of the environment. Raises DataError, naming which."""
    with naming("--profile") if arguments.profile else nullcontext():
        return get_profile(arguments.profile)


def fill_in_files(arguments: argparse.Namespace, *names: str) -> None:
    """Set those of the arguments `names` that are missing to the files of `--data`.

    Names are `dialogues`, `images`, `gallery`, `views`, and `out_rewrites` or `out_views` for
    where results go. `text`, where the command has it, tells whether rewrites are read; without
    it they are where there are some. `raw` is set to the dialogues that they are the rewrites of,
    and `inputs` to all files and folders of data that the command must not write over. Raises
    DataError where files are named in two ways or not at all.
    """
    arguments.raw = None
    if arguments.data is None:
        absent = [name for name in ("dialogues", "images") if name in names]
        absent = [f"--{name}" for name in absent if getattr(arguments, name) is None]
        if any(name.startswith("out_") for name in names) and arguments.out is None:
            absent.append("--out")
        if absent:
            raise DataError(f"{' and '.join(absent)} must be named, or instead of them --data DIR")
        if arguments.split is not None:
            raise DataError("--split is of a folder of own data; name it with --data DIR")
        given = [getattr(arguments, name, None) for name in ("dialogues", "images", "gallery")]
        arguments.inputs = [*given, *(getattr(arguments, "views", None) or ())]
        return
    from daitir.data.datafolder import find_data  # late: it loads what reads pictures

    data = find_data(arguments.data)
    split = arguments.split or "test"
    for name in names:
        if getattr(arguments, name, None) is not None:
            raise DataError(f"--{name} and --data both name it; leave one of them out")
    found = {
        "dialogues": data.dialogue_file(split),
        "images": data.images_dir,
        "gallery": data.gallery_file,
        "views": [data.views_dir(split)] if data.views_dir(split).is_dir() else None,
    }
    if "text" in arguments:
        found["dialogues"], arguments.raw = _texts(data, split, arguments.text)
    arguments.inputs = [data.dialogue_file(split), data.images_dir, data.gallery_file]
    if "out_rewrites" not in names:
        arguments.inputs.append(data.rewrites_file(split))
    if "out_views" not in names:
        arguments.inputs.append(data.root / "views")
    for name in names:
        if name in found:
            setattr(arguments, name, found[name])
    if "out_rewrites" in names:
        arguments.out = arguments.out or data.rewrites_file(split)
    if "out_views" in names:
        arguments.out = arguments.out or data.views_dir(split)
    if "benchmark" in arguments:
        arguments.benchmark = arguments.benchmark or data.root.resolve().name


def _texts(data: DataFolder, split: str, convention: str | None) -> tuple[Path, Path | None]:
    """The file that query texts come from, and the raw dialogues where it has rewrites."""
    raw, rewrites = data.dialogue_file(split), data.rewrites_file(split)
    if convention == "raw_dialogue" or not rewrites.exists():
        return raw, None
    return rewrites, raw

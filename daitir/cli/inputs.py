"""What options of several commands stand for: files, texts, an encoder, a profile, a device."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daitir.common.errors import DataError, naming
from daitir.common.files import begins_with, check_output
from daitir.studies.profiles import Profile, get_profile

# The files that hold models of any origin, and those that only a run of ours leaves.
KEPT_BY_MODELS = ("config.json", "model_index.json", "open_clip_config.json", "model.safetensors")
LEFT_BY_RUNS = ("log.csv", "checkpoint.safetensors", "work", "origin.json", "card.json")

if TYPE_CHECKING:
    from daitir.data.datafolder import DataFolder, SearchFiles
    from daitir.models.features import CachedEncoder


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The values of some arguments by their names."""
    return {name: getattr(arguments, name) for name in names}


def find_own_data(
    arguments: argparse.Namespace, *flags: str, text: str | None, out: str = ""
) -> tuple[DataFolder | None, str, SearchFiles, list[Path | None]]:
    """The folder of `--data`, its split, the files to search, and all that the command reads.

    Without `--data` the options `flags` name the files, and the folder is None. Of a folder the
    command writes what `out` names. Raises DataError where both or not enough are named.
    """
    from daitir.data.datafolder import SearchFiles, find_data  # late: it loads what reads pictures

    values, split = given(arguments, *flags), arguments.split or "test"
    if arguments.data is None:
        needed = [name for name in ("dialogues", "images") if name in flags] + ["out"] * bool(out)
        if absent := [f"--{name}" for name in needed if getattr(arguments, name) is None]:
            raise DataError(f"{' and '.join(absent)} must be named, or instead of them --data DIR")
        if arguments.split is not None:
            raise DataError("--split is of a folder of own data; name it with --data DIR")
        views = values.pop("views", None) or ()
        named = list(values.values())
        return None, split, SearchFiles(*named, views_dirs=views), [*named, *views]
    for name, value in values.items():
        if value is not None:
            raise DataError(f"--{name} and --data both name it; leave one of them out")
    data = find_data(arguments.data)
    places = {
        "dialogues": data.dialogue_file(split),
        "images": data.images_dir,
        "gallery": data.gallery_file,
        "rewrites": data.rewrites_file(split),
        "views": data.root / "views",
    }
    reads = [place for name, place in places.items() if name != out]
    return data, split, data.files(split, text=text), reads


def cached_encoder(
    arguments: argparse.Namespace, root: Path, *, is_own_data: bool = True, device: str = ""
) -> CachedEncoder:
    """The encoder of `--encoder`, which keeps features in `--features`, or else below `root`.

    Where `root` is not a folder of own data they are kept in the user's cache instead.
    """
    import torch

    from daitir.models.encoders import load_encoder
    from daitir.models.features import CachedEncoder, features_folder, users_features_folder

    dtype = getattr(torch, arguments.dtype)
    encoder = load_encoder(arguments.encoder, device=device or arguments.device, dtype=dtype)
    folder = arguments.features
    if folder is None and is_own_data:
        folder = features_folder(root, encoder.spec, encoder.digest)
    elif folder is None:  # somebody's pictures are not ours to write to
        folder = users_features_folder(root, encoder.digest)
    with naming(f"{folder}: features cannot be kept there; name another with --features DIR"):
        check_output(folder / "pictures.safetensors", inputs=[root / "images", root / "views"])
    return CachedEncoder(encoder, root, folder, **given(arguments, "batch_size", "workers"))


def check_device(name: str) -> None:
    """Raises DataError unless torch can compute on the device of `--device`.

    Each of several processes that `accelerate launch` started takes a CUDA device of its own.
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


def check_run_folder(folder: Path, *, trains: bool = True) -> None:
    """Raises DataError unless a training may write into a folder: its own run, or no model.

    Without `trains` only a tokeniser is written, into a folder that no run owns.
    """
    check_output(folder / LEFT_BY_RUNS[0], is_ours=lambda path: begins_with(path, "step,"))
    is_run = trains and any((folder / name).exists() for name in LEFT_BY_RUNS)
    if not is_run and any((folder / name).exists() for name in KEPT_BY_MODELS):
        raise DataError(f"{folder}: holds a model of another origin; name another folder")


def chosen_profile(name: str | None) -> Profile:
    """The profile of `--profile`, or that of the environment. Raises DataError, naming which."""
    with naming("--profile") if name else nullcontext():
        return get_profile(name)

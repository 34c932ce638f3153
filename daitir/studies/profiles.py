"""Profiles: the sizes and names that a run uses. They never select other code.

Each is a TOML file in `profile_files/`. `DAITIR_PROFILE` names one of them, or a file of one's own;
`classroom` is the default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from daitir.common.errors import DataError, naming
from daitir.recipes import settings

FOLDER = Path(__file__).parent / "profile_files"


@dataclass(frozen=True)
class Profile:
    """Sizes and names of one profile; what each means is said beside it in `classroom.toml`."""

    name: str
    image_size: int
    encoder: str
    clip: settings.ClipRecipe
    recogniser: settings.RecogniserRecipe
    diffusion: settings.DiffusionRecipe
    lm: settings.LmRecipe
    num_train_dialogues: int
    num_val_dialogues: int
    num_test_dialogues: int
    num_other_dialogues: int
    num_sealed_dialogues: int
    num_sealed_gallery: int
    num_gallery: int
    reformulator: str
    generator: str
    queries: str
    fusions: Mapping[str, settings.FusionRecipe]
    trained_fusions: str
    encoders: Mapping[str, settings.EncoderRecipe]
    trained_encoders: str
    views_per_dialogue: int = 4
    broken_shares: tuple[float, ...] = (0.05, 0.15, 0.30)
    num_fusion_seeds: int = 5
    num_encoder_seeds: int = 3
    lit: settings.LitRecipe = settings.LitRecipe()


def read_profile(path: Path) -> Profile:
    """The profile of a TOML file, which gives it its name.

    Raises DataError, naming the file and the key, for what is unknown, missing or of another type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # of the encoding, too
        raise DataError(f"{path}: no sound TOML ({error})") from error
    with naming(str(path)):
        return _typed("", content | {"name": path.stem}, Profile)


def _typed(key: str, value: Any, kind: Any) -> Any:
    """A value of TOML as the type of its field has it: tables are recipes, lists are tuples."""
    inner = get_args(kind)
    if get_origin(kind) is UnionType:  # a value or None, which TOML lacks
        return _typed(key, value, inner[0])
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise DataError(f"{key} is a list, not {value!r}")
        return tuple(settings.check_setting(key, entry, inner[0]) for entry in value)
    if get_origin(kind) is not Mapping and not is_dataclass(kind):
        return settings.check_setting(key, value, kind)
    if not isinstance(value, dict):
        raise DataError(f"{key} is a table, not {value!r}")
    prefix = f"{key}." if key else ""
    if get_origin(kind) is Mapping:
        return {name: _typed(prefix + name, entry, inner[1]) for name, entry in value.items()}
    types = _types(kind)
    for name in value:
        if name not in types:
            raise DataError(f"{prefix}{name} is unknown; there are {', '.join(types)}")
    for field in fields(kind):
        if field.default is MISSING and field.name not in value:
            raise DataError(f"{prefix}{field.name} is missing")
    return kind(**{name: _typed(prefix + name, value[name], types[name]) for name in value})


_types = cache(get_type_hints)
PROFILES = {path.stem: read_profile(path) for path in sorted(FOLDER.glob("*.toml"))}


def get_profile(name: str | None = None) -> Profile:
    """The profile of a name.

    Args:
        name: of a profile, or a TOML file; by default what `DAITIR_PROFILE` names, or `classroom`.

    Returns:
        Its sizes, and the names of its models.

    Raises:
        DataError: the name is unknown, the file is wrong (`read_profile`), or it is `paper`, whose
            data are files and no scenes (`daitir.studies.paper`).

    >>> get_profile("classroom").num_gallery
    5000
    """
    if not name and os.environ.get("DAITIR_PROFILE"):
        with naming("DAITIR_PROFILE"):
            return get_profile(os.environ["DAITIR_PROFILE"])
    name = name or "classroom"
    if name.endswith(".toml"):
        return read_profile(Path(name))
    if name == "paper":
        raise DataError("the profile paper has no scenes; `make run-gpu PROFILE=paper` runs it")
    if name not in PROFILES:
        raise DataError(
            f"unknown profile {name!r}; there are {', '.join(PROFILES)}, or name a FILE.toml"
        )
    return PROFILES[name]


def check_models(profile: Profile, *kinds: str) -> None:
    """Raises DataError where a folder of `clip`, `lm` or `diffusion` was not made yet."""
    specs = {"clip": profile.encoder.removeprefix("open_clip:"), "lm": profile.reformulator,
             "diffusion": profile.generator}  # fmt: skip
    for kind in kinds:
        folder = specs[kind]
        if "/" in folder and "@" not in folder and not Path(folder).is_dir():
            raise DataError(
                f"{folder}: no such folder; the profile {profile.name} reads it, and `daitir "
                f"pretrain {kind} --profile {profile.name} --out {folder}` makes it"
            )

"""Reading models safely: code that comes with one is never run, and an absent hub is not asked."""

from __future__ import annotations

import json
import logging
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from unittest.mock import patch
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, errors, snapshot_download

from daitir.common.errors import DataError
from daitir.models.identity import PIPELINE_INDEX

logger = logging.getLogger(__name__)
HUB_TIMEOUT = 5.0  # seconds
NO_CODE = {"trust_remote_code": False}
"""What every loader of transformers and diffusers is told."""

# Words of a vocabulary are no settings, whatever they spell.
_NO_SETTINGS = (
    "tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", ".index.json",
)  # fmt: skip


def check_source(source: str | Path, revision: str | None = None) -> Path | None:
    """The folder that a model is read from: `source`, or what the hub's cache holds of that name.

    None where it holds nothing. Raises DataError where settings ask for code that comes with the
    model to be run (`auto_map`, a pipeline of other classes than the libraries').
    """
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(source), revision=revision, local_files_only=True))
        except (ValueError, errors.LocalEntryNotFoundError):  # ValueError: no name of a hub's form
            return None
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if path.name.endswith(_NO_SETTINGS) or not path.is_file():  # a pipe would be waited for
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            key = _asks_for_code(settings)
        except (OSError, ValueError, RecursionError):
            continue  # whatever needs the file cannot read it either, and says so
        if path.name == PIPELINE_INDEX and isinstance(settings, dict):
            key = key or _foreign_class(folder, settings)
        if key:
            fault = f"{key} asks to run code that comes with the model, which is never done"
            raise DataError(f"{path}: {fault}; use a model of the libraries' own classes")
    return folder


def find_source(
    spec: str, shipped: Path, needs: Mapping[str, Sequence[str]], *, kind: str, recipe: str
) -> tuple[str, str | None]:
    """Where the model of a spec (`mini`, a folder or a hub's name) lies, and `local` for `reading`.

    `needs` maps each part that a folder must have to its files, of which one is enough; `daitir
    pretrain RECIPE` writes one. Raises DataError for a missing part, and as `check_source`.
    """
    folder = shipped if spec == "mini" else Path(spec)
    if spec != "mini" and not folder.is_dir():
        check_source(spec)
        return spec, "FOLDER"
    for part, files in needs.items():
        if not any((folder / file).is_file() for file in files):
            told = f"name the folder of {kind}"
            if spec == "mini" or (folder / "log.csv").is_file():
                told = f"`daitir pretrain {recipe} --out {folder}` writes it"
            which = f" ({', '.join(files[:-1])} or {files[-1]})" if len(files) > 1 else ""
            raise DataError(f"{folder}: has no {part}{which}; {told}")
    check_source(folder)
    return str(folder), None


def _asks_for_code(settings: object) -> str | None:
    """The key that asks for code to be run, at any depth."""
    nested = settings if isinstance(settings, list) else []
    if isinstance(settings, dict):
        nested = settings.values()
        for key, value in settings.items():
            if key in ("auto_map", "trust_remote_code", "custom_pipeline") and value:
                return repr(key)
            # A kernel of the hub is code too; the libraries' own ways have plain names.
            if key.endswith("attn_implementation") and "/" in str(value):
                return repr(key)
    return next((key for key in map(_asks_for_code, nested) if key), None)


def _foreign_class(folder: Path, index: dict) -> str | None:
    """The component of a pipeline whose class is none of diffusers or transformers."""
    from diffusers import pipelines  # late: it takes seconds to load

    own = {path.name for path in Path(pipelines.__file__).parent.iterdir() if path.is_dir()}
    own |= {"diffusers", "transformers"}
    if not isinstance(index.get("_class_name", ""), str):
        return "'_class_name'"
    for name, value in index.items():
        library = value[0] if isinstance(value, list) and value else None
        if not isinstance(library, str) or name.startswith("_"):
            continue
        if library not in own or (folder / name / f"{library}.py").is_file():
            return f"the component {name!r} of {library!r}"
    return None


_REASONS = (
    (errors.HFValidationError, "nor can a model of the hub be named so"),
    (errors.GatedRepoError, "and the hub gives it to those alone whom its owner admits"),
    (errors.RepositoryNotFoundError, "and the hub has no model of this name"),
    (errors.RevisionNotFoundError, "and the hub has no such revision of it"),
    ((errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError),
     "the hub cannot be reached, and it was not fetched before"),
)  # fmt: skip
"""Why a model cannot be had, by the errors of the hub's library: the first that fits."""


@contextmanager
def reading(
    spec: object, what: str, *, local: str | None = None, advice: str = ""
) -> Iterator[None]:
    """Within it a model is read: whatever fails is one line, no code runs and no absent hub stalls.

    Where the hub may be asked, `local` is the form of a spec for files here, such as `hf:FOLDER`.
    `advice` follows the reason of a failure that has nothing to do with the hub. Raises DataError
    where the model could not be loaded; a log of level INFO has what the library raised.
    """
    from transformers import dynamic_module_utils  # late: it takes seconds to load

    is_offline = constants.HF_HUB_OFFLINE or (local is not None and not _hub_answers())
    try:
        with (
            patch.object(constants, "HF_HUB_OFFLINE", is_offline),
            # How many seconds transformers waits for an answer: it would ask whether code may be
            # run, and open_clip calls it without saying so.
            patch.object(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0),
            warnings.catch_warnings(),  # about options that one library gives another
        ):
            warnings.filterwarnings("ignore", category=UserWarning, module="huggingface_hub")
            yield
    except DataError:
        raise
    except Exception as error:  # a damaged file raises nearly anything, deep in the libraries
        logger.info("%s: %s", spec, error)
        reason = _why_missing(error) if local else None
        if reason:
            place = "file" if local.endswith("FILE") else "folder"
            advice = f"without a network download the model elsewhere and name its {place}, {local}"
            fault = f"there is no such {place}, {reason}"
            raise DataError(f"{spec}: no {what}: {fault}; {advice}") from error
        if isinstance(error, UnpicklingError):
            advice = "; the file is damaged, or a pickle of more than plain tensors, which could "
            advice += "run any code; save the weights as safetensors"
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"{spec}: no {what}: could not be loaded ({line}){advice}") from error


def _why_missing(error: BaseException | None) -> str | None:
    """Why the hub did not give a model, in our words; None where the error is another."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    reasons = (r for kinds, r in _REASONS if any(isinstance(cause, kinds) for cause in causes))
    return next(reasons, None)


def _hub_answers() -> bool:
    """Whether the hub can be reached: the libraries would ask five times for each file."""
    if getproxies():  # only the proxy can tell
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=HUB_TIMEOUT).close()
    except OSError:
        told = "%s cannot be reached: only what was fetched before is used"
        logger.warning(told, constants.ENDPOINT)
        return False
    return True


def read_weights(kind: type, spec: str, source: str, **options):
    """A model of a class of transformers, from safetensors that fill it; else a DataError."""
    model, report = kind.from_pretrained(
        source, use_safetensors=True, output_loading_info=True, **NO_CODE | options
    )
    if wrong := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        fault = f"weights are missing or misshapen, {wrong[0]} is one"
        raise DataError(f"{spec}: its weights do not fill a {type(model).__name__}: {fault}")
    return model

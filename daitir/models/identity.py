"""What names a model, and what is kept of it: one hash of everything that decides what it gives.

It is made of the files that a model was loaded from and of the settings of its loader, never of
numbers that were computed, which differ between machines and versions of libraries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from daitir.common.errors import DataError
from daitir.common.files import read_json

# What libraries read of a folder beside the weights. Other files may come and go.
TOKENIZER_FILES = (
    "config.json", "tokenizer*.json", "*vocab*", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "*.model", "*.spm", "*.tiktoken", "*.tokenizer", "bpe.codes", "dict.txt",
    "emoji.json", "byte_maps.json", "word_*.json", "tekken.json", "chat_template*",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
_FOLDER_FILES = (
    *TOKENIZER_FILES, "config.*.json", "generation_config.json", "preprocessor_config.json",
    "processor_config.json", "scheduler_config.json",
    *(f"{stem}{rest}"
      for stem in ("model", "diffusion_pytorch_model", "adapter_model")
      for rest in (".safetensors", ".safetensors.index.json")),
    "adapter_config.json",
)  # fmt: skip
CONFIG_NAME, PIPELINE_INDEX = "config.json", "model_index.json"


def identity(**facts: object) -> str:
    """A hash of facts: values that JSON can hold, and paths, each standing for its file's content.

    In a configuration (`*config.json`) the settings count, not their layout.

    >>> identity(width=3, names=["a"]) == identity(names=("a",), width=3) != identity(width=4)
    True
    """
    text = json.dumps(facts, sort_keys=True, default=_content)
    return hashlib.sha256(text.encode()).hexdigest()


def model_files(folder: Path, patterns: Sequence[str] = _FOLDER_FILES) -> dict[str, Path]:
    """The files of a folder that make a model, and the weights that they name, by their names."""
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    for end in ("config.json", ".safetensors.index.json"):
        for path in [path for path in paths if path.name.endswith(end)]:
            settings = _settings(path)  # the first may name an unusual file, the second shards
            names = [*settings.get("weight_map", {}).values(), settings.get("transformers_weights")]
            paths.update(folder / name for name in names if name and (folder / name).is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def pipeline_files(folder: Path) -> dict[str, Path]:
    """The files of a diffusers pipeline's folder: its index and those of every component."""
    files = {PIPELINE_INDEX: folder / PIPELINE_INDEX}
    for component, value in _settings(files[PIPELINE_INDEX]).items():
        if isinstance(value, list):
            parts = model_files(folder / component)
            files |= {f"{component}/{name}": path for name, path in parts.items()}
    return files


def _settings(path: Path) -> dict:
    """What a file of settings says. Raises DataError where it is damaged."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise DataError(f"{path}: holds no settings; fetch the model again")
    return settings


def _content(path: object) -> str:
    if not isinstance(path, Path):
        raise TypeError(f"{type(path).__name__} is no fact of a model")
    if path.name.endswith("config.json") or path.name == PIPELINE_INDEX:
        return hashlib.sha256(json.dumps(_settings(path), sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

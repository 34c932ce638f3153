"""What a training keeps in its folder: a checkpoint, a log, the best weights, and its origin."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import AdamW

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_json, read_tensors, write_json
from daitir.models.encoders import Encoder

logger = logging.getLogger(__name__)
CHECKPOINT_NAME, LOG_NAME, BEST_NAME = "checkpoint.safetensors", "log.csv", "best.safetensors"
ORIGIN_NAME = "origin.json"


def save_half(path: Path, model: nn.Module) -> None:
    """Write the weights of a trained model, fractions in half precision."""
    weights = {
        name: (t.half() if t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in model.state_dict().items()
    }
    with atomic_write(path) as temporary:
        save_file(weights, temporary)


def parameters_of(optimizer: AdamW) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def save(
    path: Path, model: nn.Module, optimizer: AdamW, config: Mapping[str, object], step: int
) -> None:
    """Weights, AdamW state and step number in one safetensors file, written atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(v) for key, v in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {"step": str(step), "config": json.dumps(config)})


def load(path: Path, model: nn.Module, optimizer: AdamW, config: Mapping[str, object]) -> int:
    """Restore model and optimiser in place; returns the number of steps done, 0 without a file.

    Raises DataError where the file is damaged, or of another model or configuration.
    """
    if not path.is_file():
        return 0
    tensors, metadata = read_tensors(path, then="training begins anew")
    try:
        step, saved = int(metadata["step"]), dict(json.loads(metadata["config"]))
        if step < 0:
            raise ValueError(f"step {step}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        fault = f"not a readable checkpoint ({type(error).__name__}: {error})"
        raise DataError(f"{path}: {fault}; remove it, and training begins anew") from error
    wanted = json.loads(json.dumps(config))
    if differing := ", ".join(name for name in wanted if saved.get(name) != wanted[name]):
        raise DataError(f"{path}: written with another {differing}; choose another folder")
    parameters, weights, state = parameters_of(optimizer), {}, {}
    try:
        for name, tensor in tensors.items():
            kind, _, key = name.partition(".")
            if kind == "model":
                weights[key] = tensor
                continue
            index, key = key.split(".")
            state.setdefault(int(index), {})[key] = tensor
            if tensor.ndim and tensor.shape != parameters[int(index)].shape:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
        model.load_state_dict(weights)
    except (RuntimeError, ValueError, IndexError) as error:
        fault = "the checkpoint or its optimiser's state is of another model"
        line = str(error).splitlines()[0]
        raise DataError(f"{path}: {fault} ({line}); choose another folder") from error
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    logger.info("%s: continuing after step %d", path, step)
    return step


def trim_log(path: Path, step: int) -> float:
    """Drop rows that a killed run logged after its last checkpoint; returns the seconds before.

    A row that is not whole, as a full disk or a power cut leaves one, is dropped with a warning.
    """
    if not path.is_file():
        return 0.0
    *lines, torn = path.read_bytes().decode(errors="replace").split("\n")
    header, *rows = [line.rstrip("\r").split(",") for line in lines] or [[]]
    whole = [dict(zip(header, row, strict=True)) for row in rows if _is_whole(header, row)]
    num_torn = len(rows) - len(whole) + bool(torn)
    if num_torn:
        logger.warning("%s: %d damaged rows are dropped", path, num_torn)
    before = [row for row in whole if float(row["step"]) <= step]
    if not before:
        path.unlink()
        return 0.0
    if num_torn or len(before) < len(rows):
        with atomic_write(path) as temporary:
            for row in before:
                append_row(temporary, row)
    return float(before[-1]["seconds"])


def _is_whole(header: list[str], row: list[str]) -> bool:
    """Whether a row of the log has a number for each column."""
    try:
        numbers = dict(zip(header, map(float, row), strict=True))
        return numbers["step"].is_integer() and math.isfinite(numbers["seconds"])
    except (KeyError, ValueError):
        return False


def append_row(path: Path, row: dict) -> None:
    """Add a row to a log, which begins with the names of its columns."""
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(row)
        writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in row.values())


def keep_best(
    model: nn.Module, measure: Callable[[], float], path: Path, done: int, patience: float
) -> bool:
    """Write the weights where their measure is higher than ever, with the number of steps done.

    Returns whether `patience` steps have brought no higher one. Raises as `read_best` does.
    """
    best_step, best = read_best(path)
    value = measure()
    if value > best:
        with atomic_write(path) as temporary:
            save_file(model.state_dict(), temporary, {"step": str(done), "measure": repr(value)})
        return False
    return done - best_step >= patience


def read_best(path: Path, model: nn.Module | None = None) -> tuple[int, float]:
    """The step and the measure of the best weights so far; (0, -1.0) before there are any.

    With `model` they are loaded into it, and must be there. Raises DataError for damaged ones.
    """
    if model is None and not path.is_file():
        return 0, -1.0
    try:
        with safe_open(path, framework="pt") as file:
            step, measure = int(file.metadata()["step"]), float(file.metadata()["measure"])
        if not math.isfinite(measure):
            raise ValueError(f"measure {measure}")
        if model is not None:
            model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        fault = f"the weights that were best so far are lost ({line}), and no checkpoint holds them"
        raise DataError(f"{path}: {fault}; remove {path.parent} and train again") from error
    return step, measure


def claim(folder: Path, encoder: Encoder, data: str | None) -> None:
    """Note in a training folder which encoder and data its run was begun with; DataError on others.

    `data` is their `data_digest`, None for the query sets of a profile.
    """
    path = folder / ORIGIN_NAME
    if path.is_file():
        _, digest, data_before = _read_origin(path)
        differing = ["another encoder"] * (digest != encoder.digest)
        differing += ["other data"] * (data_before != data)
        if differing:
            run = f"holds a run with {' and '.join(differing)}"
            raise DataError(f"{folder}: {run}; choose another folder")
    facts = {"encoder": {"spec": encoder.spec, "digest": encoder.digest}, "data": data}
    write_json(path, facts)


def check_origin(folder: Path, encoder: Encoder) -> None:
    """Raises DataError where a folder holds what was trained on another encoder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `daitir train` writes it")
    path = folder / ORIGIN_NAME
    if not path.is_file():
        logger.warning("%s: does not say which encoder it was trained on", folder)
        return
    spec, digest, _ = _read_origin(path)
    if digest != encoder.digest:
        fault = f"was trained on another encoder ({spec}) than {encoder.spec} as it is now"
        advice = "name that encoder, or train the fusion on this one"
        raise DataError(f"{folder}: {fault}; {advice}")


def _read_origin(path: Path) -> tuple[str | None, str, str | None]:
    """The spec and the digest of the encoder, and the digest of the data."""
    facts = read_json(path)
    try:
        return facts["encoder"].get("spec"), facts["encoder"]["digest"], facts.get("data")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: names no encoder; train again in another folder") from error

"""One training loop for every model of the book: seeded, logged, resumable, interruptible.

The data of step t depend on the seed and on t alone, so a run that is killed and started again
gives the same weights as one that was not.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW
from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, claimed, read_tensors
from daitir.common.terminal import printable

logger = logging.getLogger(__name__)
CHECKPOINT_NAME = "checkpoint.safetensors"
LOG_NAME = "log.csv"


@dataclass(frozen=True)
class LoopConfig:
    """Optimisation of one run: AdamW, linear warm-up, cosine decay to zero, gradient clipping."""

    steps: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    clip_norm: float
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 100
    betas: tuple[float, float] = (0.9, 0.98)

    @classmethod
    def of(cls, recipe: object, *, seed: int, **changes) -> LoopConfig:
        """The optimisation of a recipe: its fields of the same names, save for the changes."""
        given = {f.name: getattr(recipe, f.name) for f in fields(cls) if hasattr(recipe, f.name)}
        return cls(**(given | {"seed": seed} | changes))


def learning_rate_at(step: int, config: LoopConfig) -> float:
    """The learning rate of a step: linear warm-up from 0, then a cosine down to 0.

    >>> config = LoopConfig(
    ...     steps=10, learning_rate=1.0, weight_decay=0, warmup_steps=2, clip_norm=1
    ... )
    >>> [round(learning_rate_at(step, config), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def draw_views(counts: Tensor, generator: torch.Generator) -> Tensor:
    """A random view of each dialogue of a batch, numbered from 0.

    `counts` `(batch,)`, on the CPU, says how many views each has.

    >>> draw_views(torch.tensor([1, 1]), torch.Generator())
    tensor([0, 0])
    """
    if (counts == counts[0]).all():
        return torch.randint(int(counts[0]), counts.shape, generator=generator)
    draws = torch.rand(counts.shape, dtype=torch.float64, generator=generator)
    return (draws * counts).long()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices only: not for gains, biases and the logit scale."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def train(
    model: nn.Module,
    step_loss: Callable[[int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    *,
    groups: list[dict] | None = None,
    after_backward: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    stop_after: Callable[[int], bool] | None = None,
    is_main: bool = True,
    progress: bool = True,
) -> float:
    """Train a model in place, or continue where the folder's checkpoint stopped.

    Args:
        step_loss: maps a step number to named scalar losses; `"loss"` is minimised. Its data must
            depend on the step number alone.
        folder: gets `checkpoint.safetensors` (weights, optimiser state, step) and `log.csv`.
        groups: parameter groups of the optimiser, by default those of `parameter_groups`; a
            group's learning rate is the schedule's times its `"scale"`, where it has one.
        after_backward, after_step: called before and after each update, for example to average
            gradients and to clamp a logit scale.
        stop_after: told how many steps are done, after each; true ends the training early.
        is_main: whether this process writes; only one of several that train together does.

    Returns the seconds that all steps took, those before an interruption included.

    Raises DataError where the folder's checkpoint is unreadable or of another model or
    configuration, or another run works in the folder; FloatingPointError where a loss is not
    finite, and the last checkpoint is kept.
    """
    with claimed(folder):
        optimizer = AdamW(
            groups or parameter_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
        )
        checkpoint, log = folder / CHECKPOINT_NAME, folder / LOG_NAME
        start = load_checkpoint(checkpoint, model, optimizer, config) if checkpoint.is_file() else 0
        began = time.perf_counter() - (_trim_log(log, start) if is_main else 0.0)
        model.train()
        bar = tqdm(
            range(start, config.steps),
            initial=start,
            total=config.steps,
            desc=f"training {printable(folder.name)}",
            unit="step",
            disable=not (progress and is_main),
        )
        for step in bar:
            rate = learning_rate_at(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)
            torch.manual_seed(config.seed * 1_000_003 + step)
            losses = step_loss(step)
            if not torch.isfinite(losses["loss"]):
                raise FloatingPointError(
                    f"the loss is {losses['loss'].item()} at step {step}; the last good checkpoint "
                    f"is {checkpoint}: lower the learning rate or raise the warm-up"
                )
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            if after_backward is not None:
                after_backward()
            norm = nn.utils.clip_grad_norm_(_parameters(optimizer), config.clip_norm).item()
            optimizer.step()
            if after_step is not None:
                after_step()
            done = step + 1
            is_last = (stop_after is not None and stop_after(done)) or done == config.steps
            if is_main and (done % config.log_every == 0 or is_last):
                row = {"step": done, "learning_rate": rate, "gradient_norm": norm}
                row |= {name: value.item() for name, value in losses.items()}
                _append_row(log, row | {"seconds": time.perf_counter() - began})
                bar.set_postfix(loss=f"{row['loss']:.3f}")
            if is_main and (done % config.checkpoint_every == 0 or is_last):
                save_checkpoint(checkpoint, model, optimizer, config, done)
            if is_last:
                break
        model.eval()
        return time.perf_counter() - began


def _parameters(optimizer: AdamW) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: AdamW, config: LoopConfig, step: int
) -> None:
    """Weights, AdamW state and step number in one safetensors file, written atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(v) for key, v in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"step": str(step), "config": json.dumps(asdict(config))}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_checkpoint(path: Path, model: nn.Module, optimizer: AdamW, config: LoopConfig) -> int:
    """Restore model and optimiser in place; returns the number of steps done.

    Raises DataError where the file is damaged, or of another model or configuration.
    """
    tensors, metadata = read_tensors(path, then="training begins anew")
    try:
        step, saved = int(metadata["step"]), dict(json.loads(metadata["config"]))
        if step < 0:
            raise ValueError(f"step {step}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {error}); remove it, and "
            "training begins anew"
        ) from error
    wanted = json.loads(json.dumps(asdict(config)))
    differing = [name for name in wanted if saved.get(name) != wanted[name]]
    if differing:
        raise DataError(
            f"{path}: written with another {', '.join(differing)}; choose another folder"
        )
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    parameters, state = _parameters(optimizer), {}
    try:
        model.load_state_dict(weights)
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
                if tensor.ndim and tensor.shape != parameters[int(index)].shape:
                    raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
    except (RuntimeError, ValueError, IndexError) as error:
        line = str(error).splitlines()[0]
        raise DataError(
            f"{path}: the checkpoint or its optimiser's state is of another model ({line}); "
            "choose another folder"
        ) from error
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    logger.info("%s: continuing after step %d", path, step)
    return step


def _trim_log(path: Path, step: int) -> float:
    """Drop rows that a killed run logged after its last checkpoint; returns the seconds before.

    A row that is not whole, as a full disk or a power cut leaves one, is dropped with a warning.
    """
    if not path.is_file():
        return 0.0
    lines = path.read_bytes().decode(errors="replace").split("\n")
    header, *rows = [line.rstrip("\r").split(",") for line in lines[:-1]] or [[]]
    whole = [dict(zip(header, row, strict=True)) for row in rows if _is_whole(header, row)]
    num_torn = len(rows) - len(whole) + bool(lines[-1])
    if num_torn:
        logger.warning("%s: %d damaged rows are dropped", path, num_torn)
    before = [row for row in whole if float(row["step"]) <= step]
    if not before:
        path.unlink()
    elif num_torn or len(before) < len(rows):
        with atomic_write(path) as temporary:
            for row in before:
                _append_row(temporary, row)
    return float(before[-1]["seconds"]) if before else 0.0


def _is_whole(header: list[str], row: list[str]) -> bool:
    """Whether a row of the log has a number for each column."""
    if not {"step", "seconds"} <= set(header) or len(row) != len(header):
        return False
    try:
        numbers = dict(zip(header, map(float, row), strict=True))
    except ValueError:
        return False
    return numbers["step"].is_integer() and math.isfinite(numbers["seconds"])


def _append_row(path: Path, row: dict) -> None:
    is_new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(
            {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()}
        )

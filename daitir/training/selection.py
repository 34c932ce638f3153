"""Keeping the weights that are best on validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from daitir.files import atomic_write


def keep_best(
    model: nn.Module,
    measure: Callable[[], float],
    path: Path,
    *,
    steps: int,
    eval_every: int,
    patience: int | None = None,
) -> Callable[[int], bool]:
    """A `stop_after` of the training loop that keeps the weights with the highest measure.

    Every `eval_every` steps, and after the last of `steps`, `measure` is called and the weights
    are written to `path` where it is higher than ever. After `patience` evaluations without a
    higher one training ends; None never ends it.
    """

    def stop_after(done: int) -> bool:
        if done % eval_every and done != steps:
            return False
        best_step, best = read_best(path)
        found = measure()
        if found > best:
            metadata = {"step": str(done), "measure": repr(found)}
            with atomic_write(path) as temporary:
                save_file(model.state_dict(), temporary, metadata)
            return False
        return patience is not None and done - best_step >= patience * eval_every

    return stop_after


def read_best(path: Path) -> tuple[int, float]:
    """The step and the measure of the best weights so far; (0, -1.0) before there are any."""
    if not path.is_file():
        return 0, -1.0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]), float(metadata["measure"])

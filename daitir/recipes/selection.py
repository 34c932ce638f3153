"""Keeping the weights that are best on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daitir.common.errors import DataError
from daitir.common.files import atomic_write

BEST_NAME = "best.safetensors"


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

    Raises DataError where the weights that an earlier run kept at `path` are damaged.
    """
    read_best(path)

    def stop_after(done: int) -> bool:
        if done % eval_every and done != steps:
            return False
        best_step, best = read_best(path)
        value = measure()
        if value > best:
            with atomic_write(path) as temporary:
                about = {"step": str(done), "measure": repr(value)}
                save_file(model.state_dict(), temporary, about)
            return False
        return patience is not None and done - best_step >= patience * eval_every

    return stop_after


def read_best(path: Path) -> tuple[int, float]:
    """The step and the measure of the best weights so far; (0, -1.0) before there are any.

    Raises DataError where the file is damaged.
    """
    if not path.is_file():
        return 0, -1.0
    with _reading(path), safe_open(path, framework="pt") as file:
        step, measure = int(file.metadata()["step"]), float(file.metadata()["measure"])
        if not math.isfinite(measure):
            raise ValueError(f"measure {measure}")
        return step, measure


def load_best(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Load the best weights into their model, and return them.

    Raises DataError where they are missing, damaged or of another model.
    """
    with _reading(path):
        weights = load_file(path)
        model.load_state_dict(weights)
        return weights


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"{path}: the weights that were best so far are lost ({line}), and no checkpoint "
            f"holds them; remove {path.parent} and train again"
        ) from error

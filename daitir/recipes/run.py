"""What the trainings of all models of the package share: options, data by steps, the card."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daitir.common.files import write_json
from daitir.recipes.loop import LoopConfig, train
from daitir.scenes import Scene, render_scenes

CARD_NAME = "card.json"


@dataclass(frozen=True)
class Run:
    """One training; one that was interrupted continues in its folder.

    Attributes:
        folder: gets checkpoints and logs, and at the end the model and its card.
        seed: of weights, data and chance.
        device: where it runs.
        num_workers: processes that render scenes.
        progress: whether bars show how far it is.
    """

    folder: Path
    seed: int = 0
    device: str = "cpu"
    num_workers: int = 1
    progress: bool = True

    def batch(self, step: int, number: int, size: int) -> np.ndarray:
        """The indices, below `number`, of the items that a step sees."""
        return np.random.default_rng([self.seed, step]).choice(number, size, replace=False)

    def render(self, scenes: Sequence[Scene], size: int) -> np.ndarray:
        """Pictures of scenes, (num_scenes, size, size, 3) uint8."""
        options = {"num_workers": self.num_workers, "progress": self.progress}
        return render_scenes(scenes, size=size, **options)

    def train(
        self,
        model: nn.Module,
        step_loss: Callable[[int], dict[str, Tensor]],
        recipe: object,
        *,
        stage: str = "",
        after_step: Callable[[], None] | None = None,
        **changes: Any,
    ) -> float:
        """Train a model in place as `daitir.recipes.loop.train` does; returns its seconds.

        The recipe has the fields of `LoopConfig`, save for the changes. `stage` is the subfolder of
        one of several trainings.
        """
        config, folder = LoopConfig.of(recipe, seed=self.seed, **changes), self.folder / stage
        options = {"after_step": after_step, "progress": self.progress}
        return train(model, step_loss, config, folder, **options)

    def write_card(self, seconds: float, **facts: object) -> None:
        """Write `card.json`: what the model is and was trained on, on what hardware, how long."""
        card = {
            **facts,
            "seed": self.seed,
            "hardware": _hardware(self.device),
            "hours": round(seconds / 3600, 2),
            "torch": torch.__version__,
            "licence": "CC BY-SA 4.0",
        }
        write_json(self.folder / CARD_NAME, card)


def _hardware(device: str) -> str:
    """The device in words, such as `NVIDIA H200` or `x86_64, 2 threads`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def half_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored: on the CPU, fractions in half precision."""
    return {
        name: (t.half() if t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in weights.items()
    }

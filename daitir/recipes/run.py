"""One training for every model of the book: seeded, logged, resumable, interruptible; and its card.

The data of step t depend on the seed and on t alone, so a run that is killed and started again
gives the same weights as one that was not.
"""

from __future__ import annotations

import math
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW
from tqdm import trange

from daitir.common.files import atomic_write, claimed, write_json
from daitir.common.terminal import printable
from daitir.recipes import checkpoint
from daitir.recipes.checkpoint import BEST_NAME, CHECKPOINT_NAME, LOG_NAME, parameters_of
from daitir.scenes import Scene, render_scenes

CARD_FIELDS = (
    "autoencoder_steps", "text_steps", "steps", "answer_steps", "batch_size", "num_captions",
    "num_answers",
)  # fmt: skip


@dataclass(frozen=True)
class LoopConfig:
    """Optimisation of one run: AdamW, linear warm-up, cosine decay to zero, gradient clipping."""

    steps: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    clip_norm: float = 1.0
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

    >>> config = LoopConfig(steps=10, learning_rate=1.0, weight_decay=0, warmup_steps=2)
    >>> [round(learning_rate_at(step, config), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def draw_views(counts: Tensor, generator: torch.Generator) -> Tensor:
    """A random view of each dialogue of a batch, of which each has `counts` (batch,), from 0 on."""
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


@dataclass(frozen=True)
class Run:
    """One training; one that was interrupted continues in its folder."""

    folder: Path  # gets checkpoints and logs, and at the end the model and its card
    seed: int = 0  # of weights, data and chance
    device: str = "cpu"
    num_workers: int = 1  # processes that render scenes
    progress: bool = True

    def batch(self, step: int, number: int, size: int) -> np.ndarray:
        """The indices, below `number`, of the items that a step sees."""
        return np.random.default_rng([self.seed, step]).choice(number, size, replace=False)

    def dialogues(self, step: int, counts: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """At most `size` dialogues that a step sees, and one of the `counts` views of each."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen = torch.randperm(len(counts), generator=generator)[:size]
        return chosen, draw_views(counts[chosen], generator)

    def render(self, scenes: Sequence[Scene], size: int) -> np.ndarray:
        """Pictures of scenes, (num_scenes, size, size, 3) uint8."""
        options = {"num_workers": self.num_workers, "progress": self.progress}
        return render_scenes(scenes, size=size, **options)

    def train(
        self,
        model: nn.Module,
        step_loss: Callable[[int], dict[str, Tensor]],
        recipe: Any,
        *,
        stage: str = "",
        groups: list[dict] | None = None,
        after_step: Callable[[], None] | None = None,
        measure: Callable[[], float] | None = None,
        measured: nn.Module | None = None,
        **changes: Any,
    ) -> float:
        """Train a model in place, or continue where the folder's checkpoint stopped.

        Of several processes of `torch.distributed` each updates by the mean of their gradients, and
        the first writes.

        Args:
            step_loss: maps a step number to named scalar losses; `"loss"` is minimised. Its data
                must depend on the step number alone.
            recipe: has the fields of `LoopConfig`, save for the `changes`.
            stage: the subfolder of one of several trainings.
            groups: parameter groups of the optimiser, by default those of `parameter_groups`; a
                group's learning rate is the schedule's times its `"scale"`, where it has one.
            after_step: called after each update.
            measure: what validation says. Every `recipe.eval_every` steps it decides whether the
                weights of `measured`, the model by default, are kept; after `recipe.patience`
                evaluations without better ones training ends. The best are loaded at the end.

        Returns the seconds that all steps took, those before an interruption included. Raises
        DataError where the folder holds another run, or is damaged, or another process works in
        it; FloatingPointError where a loss is not finite, and the last checkpoint is kept.
        """
        folder, measured = self.folder / stage, measured or model
        path, log, best = (folder / name for name in (CHECKPOINT_NAME, LOG_NAME, BEST_NAME))
        if measure is not None:
            every = recipe.eval_every
            patience = every * getattr(recipe, "patience", math.inf)
            changes = {"log_every": every, "checkpoint_every": every} | changes
            checkpoint.read_best(best)  # those of an earlier run may be damaged
        config = LoopConfig.of(recipe, seed=self.seed, **changes)
        is_main = not dist.is_initialized() or dist.get_rank() == 0
        with claimed(folder):
            groups = groups or parameter_groups(model, config.weight_decay)
            optimizer = AdamW(groups, lr=config.learning_rate, betas=config.betas)
            start = checkpoint.load(path, model, optimizer, asdict(config))
            began = time.perf_counter() - (checkpoint.trim_log(log, start) if is_main else 0.0)
            model.train()
            words = {"desc": f"training {printable(folder.name)}", "unit": "step"}
            shown = {"total": config.steps, "disable": not (self.progress and is_main)}
            bar = trange(start, config.steps, initial=start, **shown, **words)
            for step in bar:
                rate = learning_rate_at(step, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("scale", 1.0)
                torch.manual_seed(self.seed * 1_000_003 + step)
                losses = step_loss(step)
                if not torch.isfinite(losses["loss"]):
                    fault = f"the loss is {losses['loss'].item()} at step {step}"
                    advice = f"the last good checkpoint is {path}: lower the learning rate"
                    raise FloatingPointError(f"{fault}; {advice} or raise the warm-up")
                norm = _update(optimizer, losses["loss"], config.clip_norm)
                if after_step is not None:
                    after_step()
                if not is_main:
                    continue
                done = step + 1
                is_last = done == config.steps
                if measure is not None and (is_last or done % every == 0):
                    is_last |= checkpoint.keep_best(measured, measure, best, done, patience)
                if done % config.log_every == 0 or is_last:
                    row = {"step": done, "learning_rate": rate, "gradient_norm": norm}
                    row |= {name: value.item() for name, value in losses.items()}
                    checkpoint.append_row(log, row | {"seconds": time.perf_counter() - began})
                    bar.set_postfix(loss=f"{row['loss']:.3f}")
                if done % config.checkpoint_every == 0 or is_last:
                    checkpoint.save(path, model, optimizer, asdict(config), done)
                if is_last:
                    break
            model.eval()
            seconds = time.perf_counter() - began
        if measure is not None and is_main:
            checkpoint.read_best(best, measured)
        return seconds

    def write_card(
        self, seconds: float, recipe: object = None, *, stage: str = "", **facts: object
    ) -> None:
        """Write `card.json`, with the `CARD_FIELDS` of the recipe, and the log of the last `stage`.

        It tells what the model is and was trained on, on what hardware, and how long.
        """
        if stage:
            with atomic_write(self.folder / LOG_NAME) as temporary:
                shutil.copyfile(self.folder / stage / LOG_NAME, temporary)
        facts |= {name: getattr(recipe, name) for name in CARD_FIELDS if hasattr(recipe, name)}
        hardware = f"{platform.machine()}, {torch.get_num_threads()} threads"
        if torch.device(self.device).type == "cuda":
            hardware = torch.cuda.get_device_name(self.device)
        facts |= {"seed": self.seed, "hardware": hardware, "hours": round(seconds / 3600, 2)}
        facts |= {"torch": torch.__version__, "licence": "CC BY-SA 4.0"}
        write_json(self.folder / "card.json", facts)


def _update(optimizer: AdamW, loss: Tensor, clip_norm: float) -> float:
    """One step against the gradient, the mean of all processes'; returns its norm."""
    parameters = parameters_of(optimizer)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if dist.is_initialized():
        for gradient in [p.grad for p in parameters if p.grad is not None]:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm).item()
    optimizer.step()
    return norm


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())

"""The recipe of a trained fusion: cached features of a frozen encoder, selection on validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.common.errors import DataError, reading_trained
from daitir.common.files import atomic_write, read_json, write_json
from daitir.fusion import Fusion, build_fusion
from daitir.recipes.loop import LoopConfig, draw_views, train
from daitir.recipes.run import half_weights
from daitir.recipes.selection import BEST_NAME, keep_best, load_best
from daitir.recipes.settings import FusionRecipe
from daitir.retrieval import target_ranks

FUSION_WEIGHTS, FUSION_CONFIG = "fusion.safetensors", "config.json"


@dataclass(frozen=True)
class FusionData:
    """Features of drawn rounds and of a gallery.

    Attributes:
        text_features, view_features: (num_dialogues, num_views, dim), of captions and drawings.
        gallery_features: (num_images, dim).
        counts: (num_dialogues,), how many views each dialogue has, where they differ; what is
            beyond them is padding by unit vectors.
        targets: (num_dialogues,), the gallery image that each dialogue looks for; where None,
            dialogue i looks for image i.
    """

    text_features: Tensor
    view_features: Tensor
    gallery_features: Tensor
    counts: Tensor | None = None
    targets: Tensor | None = None

    def to(self, device: str | torch.device) -> FusionData:
        values = (getattr(self, field.name) for field in fields(self))
        return FusionData(*(None if v is None else v.to(device) for v in values))


@torch.no_grad()
def recall_values(model: nn.Module, data: FusionData, k: int = 10) -> Tensor:
    """(num_dialogues,) R@k of the fused queries of each dialogue, over its drawn rounds."""
    was_training = model.training
    fused, _ = model.eval()(data.text_features, data.view_features)
    model.train(was_training)
    targets = torch.arange(len(fused)) if data.targets is None else data.targets
    hits = (target_ranks(fused, data.gallery_features, targets) < k).double()
    if data.counts is None:
        return hits.mean(dim=1)
    is_drawn = torch.arange(hits.shape[1], device=hits.device) < data.counts[:, None]
    return (hits * is_drawn).sum(dim=1) / data.counts


def recall(model: nn.Module, data: FusionData, k: int = 10) -> float:
    """R@k of the fused queries, averaged over all drawn rounds of all dialogues."""
    values = recall_values(model, data, k)
    if data.counts is None:
        return values.mean().item()
    return ((values * data.counts).sum() / data.counts.sum()).item()


def tuned_weights(data: FusionData, rounds: Tensor) -> tuple[float, float]:
    """The best weights of the view on validation: for rounds 0 and 1, and for later ones.

    Each is the one of 0, 0.05, … 1 with the highest R@10 of the normalised weighted sum, the
    smallest of equals. `rounds` (num_dialogues, num_views) tells which rounds `data` holds.
    """
    text, view = data.text_features, data.view_features
    recalls = []
    for weight in torch.linspace(0, 1, 21):
        fused = F.normalize((1 - weight) * text + weight * view, dim=-1)
        ranks = target_ranks(fused, data.gallery_features, torch.arange(len(fused)))
        recalls.append([(ranks < 10)[mask].double().mean() for mask in (rounds < 2, rounds >= 2)])
    early, late = torch.tensor(recalls).argmax(dim=0).tolist()
    return early / 20, late / 20


def train_fusion(
    train_data: FusionData,
    val_data: FusionData,
    recipe: FusionRecipe,
    folder: Path,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Fusion:
    """Train a fusion and keep the weights that are best on validation.

    Each step takes a batch of dialogues and one drawn round of each, so that every target is once
    in a batch; where several dialogues look for one, it is no negative of its own. Every
    `recipe.eval_every` steps `recall` on validation decides whether the weights are kept. The
    folder gets checkpoint, `log.csv`, `best.safetensors`, and at the end weights and config.

    Raises DataError for an unknown kind, or where the folder holds another run; FloatingPointError
    for a loss that is not finite.
    """
    dim = train_data.view_features.shape[-1]
    if not (folder / FUSION_CONFIG).is_file():
        torch.manual_seed(seed)
        model = build_fusion(dim, recipe).to(device)
        val_data = val_data.to(device)
        stop_after = keep_best(
            model,
            lambda: recall(model, val_data),
            folder / BEST_NAME,
            steps=recipe.steps,
            eval_every=recipe.eval_every,
            patience=recipe.patience,
        )
        step_loss = _step_loss(model, train_data.to(device), recipe.batch_size, seed)
        every = {"log_every": recipe.eval_every, "checkpoint_every": recipe.eval_every}
        config = LoopConfig.of(recipe, seed=seed, **every)
        train(model, step_loss, config, folder, stop_after=stop_after, progress=progress)
        with atomic_write(folder / FUSION_WEIGHTS) as temporary:
            save_file(half_weights(load_best(folder / BEST_NAME, model)), temporary)
        settings = {"dim": dim, "seed": seed, "recipe": asdict(recipe)}
        write_json(folder / FUSION_CONFIG, settings)
    return load_fusion(folder, dim=dim, seed=seed, recipe=recipe)


def _step_loss(
    model: Fusion, data: FusionData, batch_size: int, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """The loss of each step, on a batch of dialogues with one drawn round of each."""
    number, num_views = data.view_features.shape[:2]
    counts = torch.full((number,), num_views) if data.counts is None else data.counts.cpu()

    def step_loss(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randperm(number, generator=generator)[:batch_size]
        rounds = draw_views(counts[chosen], generator)
        labels = None if data.targets is None else data.targets[chosen]
        target = data.gallery_features[chosen if labels is None else labels]
        text, view = data.text_features[chosen, rounds], data.view_features[chosen, rounds]
        return {"loss": model.training_loss(text, view, target, labels=labels)}

    return step_loss


def load_fusion(
    folder: Path,
    *,
    dim: int | None = None,
    seed: int | None = None,
    recipe: FusionRecipe | None = None,
    kind: str | None = None,
) -> Fusion:
    """A fusion that `train_fusion` wrote.

    Args:
        folder: where it was written.
        dim: the length of features that it must have.
        seed: the seed that it must have been trained with.
        recipe: the recipe that it must have been trained by.
        kind: the kind, of `daitir.fusion.TRAINED_FUSIONS`, that it must be of.

    Returns:
        The fusion, in eval mode, on the CPU.

    Raises:
        DataError: a file is missing or damaged, or the fusion is another one than is asked for.
    """
    config, weights = folder / FUSION_CONFIG, folder / FUSION_WEIGHTS
    with reading_trained("fusion", config, weights, command="daitir train"):
        settings = read_json(config)
        trained = FusionRecipe(**settings["recipe"])
        facts = settings | {"recipe": trained, "kind": trained.kind}
        model = build_fusion(settings["dim"], trained)
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
        asked = {"dim": dim, "seed": seed, "recipe": recipe, "kind": kind}
        for name, wanted in asked.items():
            if wanted is not None and facts[name] != wanted:
                raise DataError(f"{config}: a fusion of another {name}; choose another folder")
    return model.eval()

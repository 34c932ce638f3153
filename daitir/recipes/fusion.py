"""The recipe of a trained fusion: cached features of a frozen encoder, selection on validation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.common.errors import DataError, reading_trained
from daitir.common.files import read_json, write_json
from daitir.fusion import Fusion, build_fusion
from daitir.recipes.checkpoint import save_half
from daitir.recipes.run import Run
from daitir.recipes.settings import FusionRecipe
from daitir.retrieval import target_ranks

FUSION_WEIGHTS, FUSION_CONFIG = "fusion.safetensors", "config.json"


@dataclass(frozen=True)
class FusionData:
    """Features of drawn rounds and of a gallery."""

    text_features: Tensor  # (num_dialogues, num_views, dim), of captions
    view_features: Tensor  # of the same shape, of drawings
    gallery_features: Tensor  # (num_images, dim)
    # (num_dialogues,), how many views each has; what is beyond them is padding by unit vectors.
    counts: Tensor | None = None
    targets: Tensor | None = None  # (num_dialogues,), places in the gallery; None: i looks for i

    def to(self, device: str | torch.device) -> FusionData:
        values = (getattr(self, field.name) for field in fields(self))
        return FusionData(*(None if v is None else v.to(device) for v in values))


@torch.no_grad()
def recall(model: nn.Module, data: FusionData, k: int = 10) -> float:
    """R@k of the fused queries, averaged over all drawn rounds of all dialogues."""
    was_training = model.training
    fused, _ = model.eval()(data.text_features, data.view_features)
    model.train(was_training)
    targets = torch.arange(len(fused)) if data.targets is None else data.targets
    hits = (target_ranks(fused, data.gallery_features, targets) < k).double()
    if data.counts is None:
        return hits.mean(dim=1).mean().item()
    is_drawn = torch.arange(hits.shape[1], device=hits.device) < data.counts[:, None]
    values = (hits * is_drawn).sum(dim=1) / data.counts  # of each dialogue
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
    """Train a fusion and keep the weights whose `recall` on validation is best.

    Each step takes a batch of dialogues and one drawn round of each. Where several dialogues look
    for one target, it is no negative of its own. Raises as `Run.train` does, and DataError for an
    unknown kind.
    """
    dim = train_data.view_features.shape[-1]
    if not (folder / FUSION_CONFIG).is_file():
        torch.manual_seed(seed)
        model = build_fusion(dim, recipe).to(device)
        data, val_data = train_data.to(device), val_data.to(device)
        number, num_views = data.view_features.shape[:2]
        counts = torch.full((number,), num_views) if data.counts is None else data.counts.cpu()
        run = Run(folder, seed, progress=progress)

        def step_loss(step: int) -> dict[str, Tensor]:
            chosen, rounds = run.dialogues(step, counts, recipe.batch_size)
            labels = None if data.targets is None else data.targets[chosen]
            target = data.gallery_features[chosen if labels is None else labels]
            text, view = data.text_features[chosen, rounds], data.view_features[chosen, rounds]
            return {"loss": model.training_loss(text, view, target, labels=labels)}

        run.train(model, step_loss, recipe, measure=lambda: recall(model, val_data))
        save_half(folder / FUSION_WEIGHTS, model)
        write_json(folder / FUSION_CONFIG, {"dim": dim, "seed": seed, "recipe": asdict(recipe)})
    return load_fusion(folder, dim=dim, seed=seed, recipe=recipe)


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
        dim, seed, recipe, kind: what it must be of, where given: the length of features, the seed
            and the recipe of its training, and one of `daitir.fusion.TRAINED_FUSIONS`.

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

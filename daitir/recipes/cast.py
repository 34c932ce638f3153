"""CAST, a neighbour that draws no views: the dialogue changes the space in which it searches.

Of a dialogue's text u and its first caption c two networks make the directions A(u), B(u)
(dim, rank) and one a strength s in (0, 1); every feature x, of the text and of each picture of the
gallery, becomes LayerNorm(x + s (x B) Aᵀ), and cosines rank. So the gallery is another for every
query, and a query costs a pass over it (CVPR 2026, released code).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.common.errors import reading_trained
from daitir.common.files import read_json, write_json
from daitir.models.identity import CONFIG_NAME
from daitir.recipes.checkpoint import save_half
from daitir.recipes.run import Run
from daitir.retrieval import first_equal

CHUNK = 8  # queries that are ranked at once


@dataclass(frozen=True)
class CastRecipe:
    """The published values; the weight of the penalty and the selection are ours."""

    rank: int = 8
    temperature: float = 0.03
    bounds: tuple[float, float] = (0.1, 0.2)  # of s, at the first round and at the last
    penalty: float = 1.0
    steps: int = 600  # 50 epochs of 3,000 dialogues
    batch_size: int = 256
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    warmup_steps: int = 60
    clip_norm: float = 3.0
    eval_every: int = 100


class Cast(nn.Module):
    """What CAST learns of features of length `dim`."""

    def __init__(self, dim: int, rank: int):
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim * rank))
            for _ in range(2)
        )
        self.strength = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.GELU(),
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 1),
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)

    def change(self, text: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A and B (n, dim, rank), of unit columns, and s (n, 1), of texts and first captions."""
        made = (net(text).unflatten(1, (text.shape[1], -1)) for net in (self.left, self.right))
        left, right = (F.normalize(columns, dim=1) for columns in made)
        return left, right, self.strength(torch.cat([text, first], dim=1)).sigmoid()

    def forward(self, text: Tensor, first: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n, num_images), cosines, and strengths (n, 1).

        No changed picture y is written down: of x the products with few columns are enough, since
        what a layer norm takes out and divides by is linear and quadratic in y.
        """
        left, right, strength = self.change(text, first)
        gain, shift = self.norm.weight, self.norm.bias
        moved = (text[:, None] @ right).mul(strength[..., None]) @ left.mT
        query = F.normalize(self.norm(text + moved[:, 0]), dim=1)

        wanted, shifted = _centred(gain * query, 1), _centred(gain * shift, 0)
        plain = _centred(left, 1)
        scaled = _centred(gain[:, None] ** 2 * plain, 1)
        steps = strength[..., None] * (images @ right)  # (n, num_images, rank): y = x + A steps

        def linear(weights: Tensor) -> Tensor:  # (n, dim): products with every y
            along = (left.mT @ weights[..., None])[..., 0]
            return weights @ images.T + (steps @ along[..., None])[..., 0]

        def quadratic(of_images: Tensor, columns: Tensor) -> Tensor:
            with_images = images @ columns
            return of_images + ((2 * with_images + steps @ (left.mT @ columns)) * steps).sum(dim=2)

        centred = _centred(images, 1)
        variance = quadratic(centred.square().sum(dim=1), plain) / text.shape[1] + self.norm.eps
        deviation = variance.clamp(min=self.norm.eps).sqrt()
        squared = quadratic((gain * centred).square().sum(dim=1), scaled) / deviation**2
        squared = squared + 2 * linear(shifted.expand_as(text)) / deviation + shift @ shift
        scores = linear(wanted) / deviation + (query @ shift)[:, None]
        return scores / squared.clamp(min=1e-12).sqrt(), strength


def _centred(features: Tensor, axis: int) -> Tensor:
    return features - features.mean(dim=axis, keepdim=True)


@torch.no_grad()
def cast_ranks(model: Cast, text: Tensor, gallery: Tensor, targets: Tensor) -> Tensor:
    """0-based ranks (num_queries, num_rounds) of texts of that shape; ties count against them.

    The first round's text is the first caption.
    """
    number, num_rounds = text.shape[:2]
    first = text[:, :1].expand_as(text).flatten(0, 1)
    asked, firsts = text.flatten(0, 1), first_equal(gallery)
    places = targets.repeat_interleave(num_rounds)[:, None]
    ranks = []
    for rows in torch.arange(len(asked)).split(CHUNK):
        scores = model(asked[rows], first[rows], gallery)[0][:, firsts]
        own = scores.gather(1, places[rows])
        ranks.append((scores >= own).sum(dim=1) - 1)
    return torch.cat(ranks).view(number, num_rounds)


def train_cast(
    train_text: Tensor,
    train_images: Tensor,
    val_text: Tensor,
    val_gallery: Tensor,
    folder: Path,
    recipe: CastRecipe = CastRecipe(),
    *,
    seed: int = 0,
    progress: bool = True,
) -> Cast:
    """Train on texts (num_dialogues, num_rounds, dim) and their targets (num_dialogues, dim).

    R@10 on validation, whose targets come first in its gallery, chooses the weights. A folder that
    holds them is loaded. Raises DataError where it holds another run, or is damaged.
    """
    config, weights = folder / CONFIG_NAME, folder / "cast.safetensors"
    num_dialogues, num_rounds, dim = train_text.shape
    facts = {"dim": dim, "seed": seed, "recipe": asdict(recipe) | {"bounds": list(recipe.bounds)}}
    torch.manual_seed(seed)
    model, run = Cast(dim, recipe.rank), Run(folder, seed, progress=progress)
    counts, targets = torch.full((num_dialogues,), num_rounds), torch.arange(len(val_text))

    def recall() -> float:
        return (cast_ranks(model, val_text, val_gallery, targets) < 10).double().mean().item()

    def step_loss(step: int) -> dict[str, Tensor]:
        chosen, rounds = run.dialogues(step, counts, recipe.batch_size)
        text, first = train_text[chosen, rounds], train_text[chosen, 0]
        scores, strength = model(text, first, train_images[chosen])
        low, high = recipe.bounds
        bound = low + (high - low) * rounds[:, None] / max(1, num_rounds - 1)
        loss = F.cross_entropy(scores / recipe.temperature, torch.arange(len(chosen)))
        return {"loss": loss + recipe.penalty * (strength - bound).relu().mean()}

    if not config.is_file():
        run.train(model, step_loss, recipe, measure=recall)
        save_half(weights, model)
        write_json(config, facts)
    with reading_trained("CAST", config, weights, command="daitir study leaderboard"):
        if read_json(config) != facts:
            raise ValueError("another recipe, seed or encoder")
        model.load_state_dict({name: t.float() for name, t in load_file(weights).items()})
    return model.eval()

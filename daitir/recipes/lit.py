"""The recipe of the text head of the locked-image encoder: names of classes to their directions.

There is no caption among the data. The classifier of the locked image network holds one direction
for each of the 1,000 ImageNet classes, and their names and definitions are WordNet's, from timm and
open_clip. The head learns to send what is said about a class to its direction.
"""

from __future__ import annotations

import logging
import random
import time

import torch
from open_clip import IMAGENET_CLASSNAMES
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from daitir.metrics import bootstrap_interval
from daitir.models.lit_encoder import LitEncoder, build_lit, class_directions, save_head
from daitir.recipes.run import Run, count_parameters
from daitir.recipes.settings import LitRecipe
from daitir.retrieval import target_ranks

logger = logging.getLogger(__name__)

SENTENCES = (
    "a photo of {}.",
    "a picture of {}, seen from close by",
    "{} on a table",
    "{} outdoors on a sunny day",
    "a man with {}",
    "a woman who holds {} and smiles",
    "there is {} in the background",
    "an old black and white photo of {}",
    "is there {}? yes, quite large",
    "{} in front of a house",
    "{} in the street with people around",
    "{} on the grass",
)
VAL_SENTENCES = (
    "a photograph that shows {}",
    "{} near the water, with trees behind it",
    "can you see {}? yes, it is on the left",
    "a child looks at {}",
)
"""Sentences for held-out classes only, so that these are new in name and in wording."""

QUERY_KINDS = ("name", "sentence", "definition")
DECIDING = "R@10, sentence"
SCALES = tuple(range(5, 55, 5))

Texts = list[tuple[str, int]]
"""What is said, and the class that it is said of."""


def class_names() -> list[list[str]]:
    """Names of the 1,000 ImageNet classes in the classifier's order, the clearest first.

    >>> class_names()[2][:3]
    ['great white shark', 'white shark', 'man-eater']
    """
    lemmas = ImageNetInfo("imagenet-1k").label_descriptions()
    pairs = zip(IMAGENET_CLASSNAMES, lemmas, strict=True)
    return [list(dict.fromkeys([clear, *said.split(", ")])) for clear, said in pairs]


def definitions() -> list[str]:
    """WordNet's definitions of the classes, in the same order."""
    info = ImageNetInfo("imagenet-1k")
    return [text.split(": ", 1)[1] for text in info.label_descriptions(detailed=True)]


def with_article(name: str) -> str:
    """
    >>> with_article("Egyptian Mau"), with_article("goldfish")
    ('an Egyptian Mau', 'a goldfish')
    """
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def training_texts(recipe: LitRecipe, *, seed: int) -> Texts:
    """All names and the definition of each class, and sentences with one of its names."""
    draw = random.Random(f"lit/{seed}")
    texts, defined = [], definitions()
    for index, names in enumerate(class_names()[: recipe.num_classes]):
        said = [*names, defined[index]]
        for sentence in draw.sample(SENTENCES, recipe.sentences_per_class):
            said.append(sentence.format(with_article(draw.choice(names))))
        texts += [(text, index) for text in said]
    return texts


def held_out_texts(classes: list[int], *, seed: int) -> dict[str, Texts]:
    """For each kind of `QUERY_KINDS` one text of each class."""
    draw = random.Random(f"lit/held-out/{seed}")
    names, defined = class_names(), definitions()
    texts: dict[str, Texts] = {kind: [] for kind in QUERY_KINDS}
    for index in classes:
        name = names[index][0]
        sentence = draw.choice(VAL_SENTENCES).format(with_article(name))
        for kind, text in zip(QUERY_KINDS, (name, sentence, defined[index]), strict=True):
            texts[kind].append((text, index))
    return texts


def split_classes(recipe: LitRecipe, *, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Classes for training, validation and test, disjoint."""
    order = list(range(recipe.num_classes))
    random.Random(f"lit/classes/{seed}").shuffle(order)
    held_out = recipe.num_val + recipe.num_test
    return order[held_out:], order[: recipe.num_val], order[recipe.num_val : held_out]


def fit_ridge(inputs: Tensor, targets: Tensor, *, penalty: float) -> nn.Linear:
    """The ridge regression of targets (num_texts, out_dim) on inputs (num_texts, in_dim)."""
    inputs, targets = inputs.double(), targets.double()
    centre, level = inputs.mean(dim=0), targets.mean(dim=0)
    inputs = inputs - centre
    gram = inputs.T @ inputs + penalty * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = torch.linalg.solve(gram, inputs.T @ (targets - level))
    head = nn.Linear(*weights.shape).requires_grad_(False)
    head.weight.copy_(weights.T)
    head.bias.copy_(level - centre @ weights)
    return head


def fit_contrastive(
    inputs: Tensor, classes: Tensor, directions: Tensor, recipe: LitRecipe, *, seed: int
) -> nn.Linear:
    """The linear map of the contrastive loss, as LiT's text side learns against locked images.

    Each text is told from the directions of all other `classes` (num_texts,) that occur.
    """
    seen, targets = classes.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(inputs.shape[1], directions.shape[1])
    nn.init.zeros_(head.bias)
    nn.init.normal_(head.weight, std=inputs.shape[1] ** -0.5, generator=generator)
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    optimiser = torch.optim.AdamW(head.parameters(), **options)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    for _ in range(recipe.steps):
        batch = torch.randint(len(inputs), (recipe.batch_size,), generator=generator)
        scores = F.normalize(head(inputs[batch]), dim=-1) @ directions[seen].T
        loss = F.cross_entropy(scores / recipe.temperature, targets[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    return head.requires_grad_(False)


@torch.no_grad()
def embed(encoder: LitEncoder, texts: Texts, *, progress: bool = False) -> tuple[Tensor, Tensor]:
    """MiniLM's embeddings (num_texts, 384) of texts, and their classes (num_texts,)."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index][0]))
    embeddings = torch.empty(len(texts), encoder.model.head.in_features)
    for begin in tqdm(range(0, len(order), 256), desc="embedding names", disable=not progress):
        batch = order[begin : begin + 256]
        tokens = encoder.tokens([texts[index][0] for index in batch])
        embeddings[batch] = encoder.model.sentence_embeddings(**tokens).cpu()
    return embeddings, torch.tensor([index for _, index in texts])


def train_lit(recipe: LitRecipe, run: Run) -> None:
    """Choose a head on validation classes, measure it on test classes, and train it on all.

    Training sees neither texts nor direction of a held-out class, whose direction stands in the
    gallery beside the others of its split. The card tells what was measured. A run that was
    interrupted begins anew. Raises DataError where the packages of the parts are missing.
    """
    begin, seed = time.monotonic(), run.seed
    encoder = build_lit(recipe.dim, device=run.device)
    directions = class_directions(encoder.model).cpu()
    train_classes, val_classes, test_classes = split_classes(recipe, seed=seed)
    inputs, classes = embed(encoder, training_texts(recipe, seed=seed), progress=run.progress)
    penalties = {f"ridge, penalty {penalty:g}": penalty for penalty in recipe.ridges}

    def fit(name: str, among: list[int]) -> nn.Linear:
        rows = torch.isin(classes, torch.tensor(among))
        x, y = inputs[rows], classes[rows]
        if name in penalties:
            return fit_ridge(x, directions[y], penalty=penalties[name])
        return fit_contrastive(x, y, directions, recipe, seed=seed)

    def embedded(among: list[int]) -> dict[str, tuple[Tensor, Tensor]]:
        texts = held_out_texts(among, seed=seed)
        return {kind: embed(encoder, said) for kind, said in texts.items()}

    heads = {name: fit(name, train_classes) for name in (*penalties, "contrastive")}
    val = embedded(val_classes)
    measured = {name: _recalls(head, val, directions)[DECIDING] for name, head in heads.items()}
    chosen = max(measured, key=lambda name: measured[name]["value"])
    logger.info("%s is best on validation classes", chosen)
    head = fit(chosen, train_classes + val_classes)

    encoder.model.head.load_state_dict(fit(chosen, list(range(recipe.num_classes))).state_dict())
    scale = _calibrated(heads[chosen], val["sentence"], directions)
    encoder.model.logit_scale.fill_(scale).log_()
    save_head(encoder.model, run.folder)
    facts = {
        "parameters_of_the_head": count_parameters(encoder.model.head),
        "dim": recipe.dim,
        "classes": recipe.num_classes,
        "texts": len(inputs),
        "chosen": chosen,
        "val_classes": len(val_classes),
        f"val, {DECIDING}": measured,
        "test_classes": len(test_classes),
        "test": _recalls(head, embedded(test_classes), directions),
        "chance_R@10": round(10 / len(test_classes), 4),
        "logit_scale": scale,
    }
    run.write_card(time.monotonic() - begin, model="daitir-lit", **facts)


def _recalls(
    head: nn.Linear, queries: dict[str, tuple[Tensor, Tensor]], directions: Tensor
) -> dict[str, dict[str, float]]:
    """R@1 and R@10 of unseen classes among each other, with 95% bootstrap intervals."""
    table = {}
    for kind, (inputs, classes) in queries.items():
        texts = F.normalize(head(inputs), dim=-1)  # one of each class
        ranks = target_ranks(texts, directions[classes], torch.arange(len(texts)))
        for k in (1, 10):
            hits = (ranks < k).double()
            low, high = bootstrap_interval(hits.numpy())
            values = {"value": hits.mean().item(), "ci_low": low, "ci_high": high}
            table[f"R@{k}, {kind}"] = {name: round(v, 4) for name, v in values.items()}
    return table


def _calibrated(head: nn.Linear, queries: tuple[Tensor, Tensor], directions: Tensor) -> float:
    """The factor on similarities with the least cross-entropy over unseen classes."""
    inputs, classes = queries
    scores = F.normalize(head(inputs), dim=-1) @ directions[classes].T
    targets = torch.arange(len(scores))
    return float(min(SCALES, key=lambda scale: F.cross_entropy(scores * scale, targets)))

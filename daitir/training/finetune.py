"""Fine-tuning a dual encoder on triples of query text, generated view and target image."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from open_clip.model import get_model_preprocess_cfg
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from daitir.dialogues import Dialogue, query_texts
from daitir.encoders import Encoder, load_encoder, shortened_context
from daitir.errors import DataError
from daitir.finetuned import CONFIG_NAME, load_finetuned, save_finetuned
from daitir.fusion import dar_fusion
from daitir.gallery import read_image
from daitir.objectives import DMCL_WEIGHTS, DMCLLoss
from daitir.profiles import EncoderRecipe, Profile
from daitir.queries import SEED, SETS, load_query_set, queries_folder, set_dialogues, view_files
from daitir.retrieval import target_ranks
from daitir.scenes import render_scenes, sample_scenes
from daitir.training.card import write_card
from daitir.training.clip import MAX_LOGIT_SCALE, augment, mixed_precision
from daitir.training.loop import LoopConfig, train
from daitir.training.selection import keep_best
from daitir.views import ViewGenerator

ENCODERS_FOLDER = Path(__file__).parents[1] / "assets" / "encoders"
BEST_NAME = "best.safetensors"


@dataclass(frozen=True)
class FinetuneData:
    """Drawn rounds of dialogues with pictures; dialogue i looks for picture i of the gallery.

    Attributes:
        texts: `texts[dialogue][view]`, the query of each drawn round.
        rounds: (num_dialogues, num_views), which rounds those are.
        views: (num_dialogues, num_views, size, size, 3) uint8.
        gallery: (num_images, size, size, 3) uint8, the targets first.
    """

    texts: list[list[str]]
    rounds: Tensor
    views: np.ndarray
    gallery: np.ndarray

    def first(self, number: int | None) -> FinetuneData:
        """The data of the first dialogues alone, with the whole gallery."""
        return FinetuneData(
            self.texts[:number], self.rounds[:number], self.views[:number], self.gallery
        )


def profile_data(
    profile: Profile,
    name: str,
    generator: ViewGenerator,
    encoder: Encoder,
    cache: Path,
    *,
    num_workers: int = 1,
    progress: bool = False,
) -> FinetuneData:
    """A query set of the profile with the pictures of its views and of its gallery.

    The gallery of the training set is its targets alone, of any other set the profile's. The texts
    are the captions that were drawn. What `cache` lacks of the views is drawn anew
    (`daitir.queries.view_files`); `encoder` is the one that encoded the set, and its image size
    that of the pictures.
    """
    files = view_files(profile, name, generator, encoder, cache, progress=progress)
    found = load_query_set(name, encoder, queries_folder(profile))
    number = len(files) if name == "train" else profile.num_gallery
    scenes = sample_scenes(SEED, SETS[name].split, number)
    size = encoder.image_size
    views = np.stack([_pixels(path, size) for row in files for path in row])
    return FinetuneData(
        found.drawn_captions,
        found.rounds,
        views.reshape(*found.rounds.shape, size, size, 3),
        render_scenes(scenes, size=size, num_workers=num_workers, progress=progress),
    )


def as_read(
    data: FinetuneData, profile: Profile, name: str, recipe: EncoderRecipe
) -> FinetuneData:
    """The data of a query set with the texts that the recipe reads, `recipe.text`.

    Raises DataError for texts that are neither the current rewrite nor the raw dialogue.
    """
    if recipe.text == "current_rewrite":
        return data
    if recipe.text != "raw_dialogue":
        raise DataError(f"unknown text {recipe.text!r}; choose current_rewrite or raw_dialogue")
    _, talks = set_dialogues(profile, name)
    said = [Dialogue("", tuple(turn.text for turn in turns)) for turns in talks]
    texts = query_texts(said[: len(data.texts)], convention=recipe.text)
    drawn = zip(texts, data.rounds.tolist(), strict=True)
    return replace(data, texts=[[row[t] for t in rounds] for row, rounds in drawn])


@torch.no_grad()
def encode(
    encoder: Encoder, data: FinetuneData, *, progress: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the texts and views, (num_dialogues, num_views, dim), and of the gallery.

    The model is in eval mode meanwhile.
    """
    was_training = encoder.model.training
    encoder.model.eval()
    shape = (*data.rounds.shape, encoder.dim)
    texts = encoder.encode_texts([text for row in data.texts for text in row], progress=progress)
    views = encoder.encode_images(data.views.reshape(-1, *data.views.shape[2:]), progress=progress)
    gallery = encoder.encode_images(data.gallery, progress=progress)
    encoder.model.train(was_training)
    return texts.view(shape), views.view(shape), gallery


def recalls(encoder: Encoder, data: FinetuneData, k: int = 10) -> dict[str, float]:
    """R@k over all drawn rounds by text alone, by view alone, and by DAR's sum (`dar`)."""
    texts, views, gallery = encode(encoder, data)
    queries = {"text": texts, "view": views, "dar": dar_fusion(texts, views, round=data.rounds)}
    targets = torch.arange(len(texts))
    return {
        name: (target_ranks(features, gallery, targets) < k).double().mean().item()
        for name, features in queries.items()
    }


def finetune(
    encoder: Encoder,
    train_data: FinetuneData,
    val_data: FinetuneData,
    recipe: EncoderRecipe,
    folder: Path,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Encoder:
    """Fine-tune an encoder, and give back what the folder keeps of the weights best on validation.

    Each step takes a batch of dialogues and one drawn round of each. Started by `accelerate
    launch` on several devices, each process encodes its share of every batch, and the objective
    sees the features of all of them, so that the result is that of one process up to rounding.

    Args:
        encoder: the start, on the device where it is to be trained. Its weights change.
        recipe: the objective and its optimisation.
        folder: gets checkpoint, `log.csv`, `best.safetensors`, and at the end a card and the files
            of `save_finetuned`. A run that was interrupted continues; one that is done is read.

    Raises DataError for a folder that holds another run, an unknown query or term, a batch without
    a negative or that the processes cannot share, and where memory runs out; FloatingPointError
    for a loss that is not finite.
    """
    facts = {"recipe": asdict(recipe) | {"terms": list(recipe.terms)}, "seed": seed}
    if (folder / CONFIG_NAME).is_file():
        return _done(folder, facts, encoder.device)
    group = PartialState(cpu=encoder.device.type == "cpu")
    train_data = train_data.first(recipe.num_dialogues)
    size = min(recipe.batch_size, len(train_data.texts))
    _check(recipe, size, group.num_processes)
    torch.manual_seed(seed)
    model = encoder.model
    objective = DMCLLoss(
        weights={name: DMCL_WEIGHTS[name] for name in recipe.terms},
        hard_negatives=recipe.hard_negatives,
        learnable_weights=recipe.learnable_weights,
    ).to(encoder.device)
    learner = nn.ModuleDict({"model": model, "objective": objective})
    model.logit_scale.requires_grad_(recipe.learnable_scale)
    has_views = recipe.terms != ("text_target",)
    settings = get_model_preprocess_cfg(model)
    jitter = partial(augment, mean=settings["mean"], std=settings["std"])
    share = slice(group.process_index, None, group.num_processes)

    def features_of(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Unit features of the whole batch, of which this process computes its share."""
        parts = inputs[share].to(encoder.device).split(recipe.micro_batch_size)
        if len(parts) == 1:
            found = function(parts[0])
        else:
            # Gradient caching: each part is computed once more when its gradient is due.
            found = torch.cat([checkpoint(function, part, use_reentrant=False) for part in parts])
        found = F.normalize(found.float(), dim=-1)
        if group.num_processes == 1:
            return found
        return torch.stack(all_gather(found), dim=1).flatten(0, 1)  # back in the batch's order

    def step_loss(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randperm(len(train_data.texts), generator=generator)[:size].tolist()
        drawn = torch.randint(train_data.rounds.shape[1], (size,), generator=generator).tolist()
        pairs = list(zip(chosen, drawn, strict=True))
        tokens = encoder.tokenizer([train_data.texts[i][k] for i, k in pairs])
        used = int((tokens != 0).sum(dim=1).max())
        targets = jitter(torch.from_numpy(train_data.gallery[chosen]))
        text = features_of(partial(_encode_texts, model, used), tokens)
        target = features_of(partial(_encode_images, model), targets)
        view = None
        if has_views:
            views = np.stack([train_data.views[i, k] for i, k in pairs])
            view = features_of(partial(_encode_images, model), jitter(torch.from_numpy(views)))
        loss, terms = objective(text, view, target, model.logit_scale.exp())
        weights = objective.weights / objective.weights.sum()
        shares = {f"weight_{name}": w for name, w in zip(DMCL_WEIGHTS, weights, strict=True)}
        scale = {"logit_scale": model.logit_scale.exp()}
        return {"loss": loss} | terms | scale | (shares if recipe.learnable_weights else {})

    def average_gradients() -> None:
        for parameter in learner.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= group.num_processes

    def clamp_logit_scale() -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(MAX_LOGIT_SCALE)))

    config = LoopConfig.of(recipe, seed=seed, log_every=10, checkpoint_every=recipe.eval_every)
    best_path = folder / BEST_NAME
    measure = keep_best(
        model,
        lambda: recalls(encoder, val_data)[recipe.query],
        best_path,
        steps=config.steps,
        eval_every=recipe.eval_every,
    )
    try:
        seconds = train(
            learner,
            step_loss,
            config,
            folder,
            groups=layer_groups(learner, recipe.weight_decay, recipe.layer_decay),
            after_backward=average_gradients if group.num_processes > 1 else None,
            after_step=clamp_logit_scale,
            stop_after=measure if group.is_main_process else None,
            is_main=group.is_main_process,
            progress=progress,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DataError(
            f"out of memory; lower micro_batch_size (now {recipe.micro_batch_size}), which leaves "
            "the result as it is, or batch_size, which does not"
        ) from error
    group.wait_for_everyone()
    if group.is_main_process:
        model.load_state_dict(load_file(best_path))
        base = load_encoder(encoder.spec)
        about = {"base": encoder.spec, "dialogues": len(train_data.texts), "steps": recipe.steps}
        write_card(folder, about, seed=seed, device=str(encoder.device), seconds=seconds)
        save_finetuned(encoder, base, folder, rank=recipe.rank, facts=facts)
    group.wait_for_everyone()
    return load_finetuned(folder, device=encoder.device)


def encoder_folder(profile: Profile, name: str, seed: int) -> Path:
    """Where the fine-tuned encoder of a name and seed of the profile lies, or would lie."""
    mini = profile.trained_encoders == "mini"
    return (ENCODERS_FOLDER if mini else Path(profile.trained_encoders)) / name / str(seed)


def layer_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict]:
    """Parameter groups in which a layer learns `layer_decay` times as fast as the one above it.

    The layers of a tower are what comes before its blocks, each block, and what comes after; a
    group's `scale` is `layer_decay` to the power of the layers above. Only matrices get weight
    decay. Works for the names of open_clip's towers, timm's trunks among them.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tops: dict[str, int] = {}
    for name, _ in named:
        tower, block = _place(name)
        tops[tower] = max(tops.get(tower, -1), block)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        tower, block = _place(name)
        if block < 0:  # outside the blocks
            block = -1 if _BEFORE_BLOCKS.search(name) else tops[tower] + 1
        scale = layer_decay ** (tops[tower] + 1 - block)
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "scale": scale}
        for (scale, decay), parameters in groups.items()
    ]


_BLOCK = re.compile(r"\b(?:resblocks|blocks|layers?)\.(\d+)\.")
_BEFORE_BLOCKS = re.compile(r"embed|conv1|ln_pre|norm_pre|cls_token")


def _place(name: str) -> tuple[str, int]:
    """The tower of a parameter and its block, -1 outside the blocks."""
    found = _BLOCK.search(name)
    return "image" if "visual." in name else "text", int(found[1]) if found else -1


def _done(folder: Path, facts: dict, device: torch.device) -> Encoder:
    """The encoder of a finished run, if the run is the one that is asked for."""
    found = load_finetuned(folder, device=device)
    kept = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    differing = [name for name, value in facts.items() if kept.get(name) != value]
    if differing:
        raise DataError(
            f"{folder / CONFIG_NAME}: a run with another {' and '.join(differing)}; "
            "choose another folder"
        )
    return found


def _check(recipe: EncoderRecipe, size: int, num_processes: int) -> None:
    if recipe.query not in ("text", "view", "dar"):
        raise DataError(f"unknown query {recipe.query!r}; choose text, view or dar")
    unknown = sorted(set(recipe.terms) - set(DMCL_WEIGHTS))
    if unknown or not recipe.terms:
        raise DataError(f"unknown terms {unknown}; choose among {', '.join(DMCL_WEIGHTS)}")
    if size < 2:
        raise DataError(f"a batch of {size} has no negatives; use two dialogues or more")
    if size % num_processes:
        raise DataError(f"{num_processes} processes cannot share a batch of {size} evenly")


def _pixels(path: Path, size: int) -> np.ndarray:
    """A picture as (size, size, 3) uint8."""
    image = read_image(path)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _encode_texts(model: nn.Module, used: int, tokens: Tensor) -> Tensor:
    with shortened_context(model, used) as length, mixed_precision(tokens.device):
        return model.encode_text(tokens[:, :length])


def _encode_images(model: nn.Module, pixels: Tensor) -> Tensor:
    with mixed_precision(pixels.device):
        return model.encode_image(pixels)

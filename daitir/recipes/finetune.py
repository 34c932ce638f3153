"""Fine-tuning a dual encoder on triples of query text, generated view and target image."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.distributed as dist
from accelerate import PartialState
from open_clip.model import get_model_preprocess_cfg
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from daitir.common.errors import DataError
from daitir.common.files import read_json
from daitir.fusion import dar_fusion
from daitir.models import ASSETS
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.finetuned import CONFIG_NAME, save_finetuned
from daitir.models.open_clip_encoders import length_read, shortened_context
from daitir.objectives import DMCL_WEIGHTS, DMCLLoss
from daitir.recipes.card import write_card
from daitir.recipes.clip import MAX_LOGIT_SCALE, augment, mixed_precision
from daitir.recipes.loop import LoopConfig, draw_views, train
from daitir.recipes.selection import keep_best, load_best
from daitir.recipes.triples import FinetuneData, seen_pixels
from daitir.retrieval import target_ranks
from daitir.studies.profiles import EncoderRecipe, Profile

ENCODERS_FOLDER = ASSETS / "encoders"
BEST_NAME = "best.safetensors"


@torch.no_grad()
def encode(
    encoder: Encoder,
    data: FinetuneData,
    *,
    gallery_features: Tensor | None = None,
    workers: int = 0,
    progress: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the texts and views, (num_dialogues, num_views, dim), and of the gallery.

    Where dialogues have different numbers of views the first two are (total_views, dim). A view
    that is missing has the features of its text. `gallery_features` are given where the gallery
    was encoded before. `workers` threads decode files. The model is in eval mode meanwhile.
    """
    options = {"workers": workers, "progress": progress}
    was_training = encoder.model.training
    encoder.model.eval()
    texts = encoder.encode_texts([text for row in data.texts for text in row], progress=progress)
    pictures = [view for row in data.views for view in row]
    there = torch.tensor([view is not None for view in pictures])
    views = texts.clone()
    views[there] = encoder.encode_images(
        [view for view in pictures if view is not None], **options
    )
    gallery = gallery_features
    if gallery is None:
        gallery = encoder.encode_images(data.gallery, **options)
    encoder.model.train(was_training)
    if isinstance(data.rounds, Tensor):
        shape = (*data.rounds.shape, encoder.dim)
        texts, views = texts.view(shape), views.view(shape)
    return texts, views, gallery


def recalls(
    encoder: Encoder, data: FinetuneData, k: int = 10, *, workers: int = 0
) -> dict[str, float]:
    """R@k over all drawn rounds by text alone, by view alone, and by DAR's sum (`dar`).

    For a round without a view all three are the text.
    """
    found = encode(encoder, data, workers=workers)
    texts, views, gallery = (features.reshape(-1, encoder.dim) for features in found)
    rounds = torch.tensor([int(t) for row in data.rounds for t in row])
    queries = {"text": texts, "view": views, "dar": dar_fusion(texts, views, round=rounds)}
    targets = data.target_indices.repeat_interleave(data.counts)
    return {
        name: (target_ranks(features, gallery, targets) < k).double().mean().item()
        for name, features in queries.items()
    }


def check_trainable(encoder: Encoder) -> None:
    """Raises DataError unless the encoder is an open_clip model that its spec gives back."""
    if not isinstance(encoder.model, open_clip.CLIP | open_clip.CustomTextCLIP):
        raise DataError(
            f"{encoder.spec}: only open_clip's dual encoders are fine-tuned (mini, "
            "open_clip:NAME@FILE, open_clip:FOLDER, finetuned:FOLDER); on this one train a fusion"
        )
    if encoder.folder is None and encoder.spec.startswith("open_clip:") and "@" not in encoder.spec:
        raise DataError(
            f"{encoder.spec}: its random weights cannot be had again, and what training changes "
            f"is kept relative to them; name a file, {encoder.spec}@FILE"
        )


def finetune(
    encoder: Encoder,
    train_data: FinetuneData,
    val_data: FinetuneData,
    recipe: EncoderRecipe,
    folder: Path,
    *,
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> Encoder:
    """Fine-tune an encoder, and give back what the folder keeps of the weights best on validation.

    Each step takes a batch of dialogues and one drawn round of each. Started by `accelerate
    launch` on several devices, each process encodes its share of every batch, and the objective
    sees the features of all of them, so that the result is that of one process up to rounding.
    Drawn rounds without a view take part in `text_target` alone; `without_view` in the log counts
    them in the batch.

    Args:
        encoder: the start, on the device where it is to be trained. Its weights change.
        recipe: the objective and its optimisation.
        folder: gets checkpoint, `log.csv`, `best.safetensors`, and at the end a card and the files
            of `save_finetuned`. A run that was interrupted continues; one that is done is read.
        workers: threads that decode pictures that are files.

    Raises DataError for an encoder that is not of open_clip or has random weights, a folder that
    holds another run, an unknown query or term, a batch without a negative or that the processes
    cannot share, and where memory runs out; FloatingPointError for a loss that is not finite.
    """
    check_trainable(encoder)
    if (folder / CONFIG_NAME).is_file():
        return load_trained(folder, recipe, seed=seed, device=encoder.device)
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
    counts, places = train_data.counts, train_data.target_indices
    lacks_views = has_views and train_data.num_without_view > 0
    seen = partial(seen_pixels, encoder, workers=workers)

    def features_of(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Unit features of the whole batch, of which this process computes its share."""
        number = len(inputs)
        if number % group.num_processes:  # shares are of one size; some rows are computed twice
            inputs = inputs[torch.arange(number + -number % group.num_processes) % number]
        parts = inputs[share].to(encoder.device).split(recipe.micro_batch_size)
        if len(parts) == 1:
            found = function(parts[0])
        else:
            # Gradient caching: each part is computed once more when its gradient is due.
            found = torch.cat([checkpoint(function, part, use_reentrant=False) for part in parts])
        found = F.normalize(found.float(), dim=-1)
        if group.num_processes == 1:
            return found
        gathered = torch.stack(all_gather(found), dim=1).flatten(0, 1)  # in the batch's order
        return gathered[:number]

    def step_loss(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randperm(len(train_data.texts), generator=generator)[:size]
        drawn = draw_views(counts[chosen], generator)
        pairs = list(zip(chosen.tolist(), drawn.tolist(), strict=True))
        labels = places[chosen]
        tokens = encoder.tokenizer([train_data.texts[i][k] for i, k in pairs])
        used = length_read(model, tokens)
        targets = jitter(seen([train_data.gallery[i] for i in labels.tolist()]))
        text = features_of(partial(_encode_texts, model, used), tokens)
        target = features_of(partial(_encode_images, model), targets)
        view = rows = None
        if has_views:
            views = [train_data.views[i][k] for i, k in pairs]
            if lacks_views:
                rows = torch.tensor([v is not None for v in views]).nonzero()[:, 0]
                views = [v for v in views if v is not None]
                rows = rows if len(labels[rows].unique()) > 1 else rows[:0]  # nothing to contrast
            if rows is None or len(rows):
                view = features_of(partial(_encode_images, model), jitter(seen(views)))
        loss, terms = objective(
            text,
            view,
            target,
            model.logit_scale.exp(),
            labels=None if train_data.targets is None else labels.to(text.device),
            view_rows=rows,
        )
        if lacks_views:  # all columns of the log, whatever the batch
            absent = torch.tensor(float("nan"))
            terms = {name: terms.get(name, absent) for name in DMCL_WEIGHTS}
            terms["without_view"] = torch.tensor(size - len(rows))
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
        lambda: recalls(encoder, val_data, workers=workers)[recipe.query],
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
        load_best(best_path, model)
        base = load_encoder(encoder.spec)
        about = {"base": encoder.spec, "dialogues": len(train_data.texts), "steps": recipe.steps}
        about |= {"validation_images": len(val_data.gallery)}
        write_card(folder, about, seed=seed, device=str(encoder.device), seconds=seconds)
        save_finetuned(encoder, base, folder, rank=recipe.rank, facts=_facts(recipe, seed))
    group.wait_for_everyone()
    return load_encoder(f"finetuned:{folder}", device=encoder.device)


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


def load_trained(
    folder: Path, recipe: EncoderRecipe, *, seed: int = 0, device: str | torch.device = "cpu"
) -> Encoder:
    """The encoder of a finished run. Raises DataError for a run of another recipe or seed."""
    encoder = load_encoder(f"finetuned:{folder}", device=device)
    settings = read_json(folder / CONFIG_NAME)
    differing = [n for n, value in _facts(recipe, seed).items() if settings.get(n) != value]
    if differing:
        raise DataError(
            f"{folder / CONFIG_NAME}: a run with another {' and '.join(differing)}; "
            "choose another folder"
        )
    return encoder


def _facts(recipe: EncoderRecipe, seed: int) -> dict:
    """What the configuration of a trained encoder tells of its training, in the types of JSON."""
    return {"recipe": asdict(recipe) | {"terms": list(recipe.terms)}, "seed": seed}


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


def _encode_texts(model: nn.Module, used: int, tokens: Tensor) -> Tensor:
    with shortened_context(model, used), mixed_precision(tokens.device):
        return model.encode_text(tokens[:, :used])


def _encode_images(model: nn.Module, pixels: Tensor) -> Tensor:
    with mixed_precision(pixels.device):
        return model.encode_image(pixels)

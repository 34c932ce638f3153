"""Fine-tuning a dual encoder on triples of query text, generated view and target image."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

import open_clip
import torch
from accelerate import PartialState
from open_clip.model import get_model_preprocess_cfg
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from daitir.common.errors import DataError
from daitir.common.files import read_json
from daitir.fusion import dar_fusion
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.finetuned import save_finetuned
from daitir.models.identity import CONFIG_NAME
from daitir.models.open_clip_encoders import length_read, shortened_context
from daitir.objectives import Objective, build_objective
from daitir.recipes.clip import augment, clamp_logit_scale, mixed_precision
from daitir.recipes.run import Run
from daitir.recipes.settings import EncoderRecipe
from daitir.recipes.triples import FinetuneData, seen_pixels
from daitir.retrieval import target_ranks


def recalls(
    encoder: Encoder, data: FinetuneData, k: int = 10, *, workers: int = 0
) -> dict[str, float]:
    """R@k over all drawn rounds by text alone, by view alone, and by DAR's sum (`dar`).

    For a round without a view all three are the text. The model is in eval mode meanwhile.
    """
    was_training = encoder.model.training
    encoder.model.eval()
    texts = encoder.encode_texts([text for row in data.texts for text in row])
    pictures = {n: v for n, v in enumerate(chain(*data.views)) if v is not None}
    views = texts.clone()
    views[list(pictures)] = encoder.encode_images(list(pictures.values()), workers=workers)
    gallery = encoder.encode_images(data.gallery, workers=workers)
    encoder.model.train(was_training)
    rounds = torch.tensor([int(t) for row in data.rounds for t in row])
    queries = {"text": texts, "view": views, "dar": dar_fusion(texts, views, round=rounds)}
    targets = data.target_indices.repeat_interleave(data.counts)
    return {
        name: (target_ranks(features, gallery, targets) < k).double().mean().item()
        for name, features in queries.items()
    }


def needs_views(recipe: EncoderRecipe) -> bool:
    """Whether training or its selection looks at views."""
    return build_objective(recipe).needs_views or recipe.query != "text"


def check_trainable(encoder: Encoder) -> None:
    """Raises DataError unless the encoder is an open_clip model that its spec gives back."""
    spec = encoder.spec
    if not isinstance(encoder.model, open_clip.CLIP | open_clip.CustomTextCLIP):
        forms = "mini, open_clip:NAME@FILE, open_clip:FOLDER, finetuned:FOLDER"
        fault = f"only open_clip's dual encoders are fine-tuned ({forms})"
        raise DataError(f"{spec}: {fault}; on this one train a fusion")
    if encoder.folder is None and spec.startswith("open_clip:") and "@" not in spec:
        fault = "its random weights cannot be had again, and what training changes is kept relative"
        raise DataError(f"{spec}: {fault} to them; name a file, {spec}@FILE")


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
    """Fine-tune an encoder; returns it as the folder keeps it, with the weights best on validation.

    Each step takes a batch of dialogues and one drawn round of each. Started by `accelerate
    launch` on several devices, each process encodes its share of every batch, and the objective
    sees the features of all of them, so that the result is that of one process up to rounding.
    Rounds without a view take part in the terms of the text alone; `without_view` in the log
    counts them in the batch. The weights of `encoder` change. A finished run is read.

    Raises as `check_trainable`, `build_objective` and `Run.train` do, and DataError for an unknown
    query, a batch without a negative or that the processes cannot share, and where memory runs out.
    """
    check_trainable(encoder)
    if (folder / CONFIG_NAME).is_file():
        return load_trained(folder, recipe, seed=seed, device=encoder.device)
    model, group = encoder.model, PartialState(cpu=encoder.device.type == "cpu")
    train_data = train_data.first(recipe.num_dialogues)
    size = min(recipe.batch_size, len(train_data.texts))
    if recipe.query not in ("text", "view", "dar"):
        raise DataError(f"unknown query {recipe.query!r}; choose text, view or dar")
    if size < 2:
        raise DataError(f"a batch of {size} has no negatives; use two dialogues or more")
    if size % group.num_processes:
        raise DataError(f"{group.num_processes} processes cannot share a batch of {size} evenly")
    torch.manual_seed(seed)
    objective = build_objective(recipe).to(encoder.device)
    learner = nn.ModuleDict({"model": model, "objective": objective})
    model.logit_scale.requires_grad_(recipe.learnable_scale)
    run = Run(folder, seed, str(encoder.device), progress=progress)
    try:
        seconds = run.train(
            learner,
            _step_loss(encoder, objective, train_data, recipe, run, workers),
            recipe,
            groups=layer_groups(learner, recipe.weight_decay, recipe.layer_decay),
            after_step=lambda: clamp_logit_scale(model),
            measure=lambda: recalls(encoder, val_data, workers=workers)[recipe.query],
            measured=model,
            log_every=10,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        now = f"now {recipe.micro_batch_size}"
        advice = f"lower micro_batch_size ({now}), which leaves the result as it is"
        raise DataError(f"out of memory; {advice}, or batch_size, which does not") from error
    if group.is_main_process:
        facts = {"base": encoder.spec, "dialogues": len(train_data.texts), "steps": recipe.steps}
        run.write_card(seconds, **facts, validation_images=len(val_data.gallery))
        facts = {"recipe": asdict(recipe), "seed": seed}
        save_finetuned(encoder, load_encoder(encoder.spec), folder, rank=recipe.rank, facts=facts)
    group.wait_for_everyone()
    return load_encoder(f"finetuned:{folder}", device=encoder.device)


def _step_loss(
    encoder: Encoder,
    objective: Objective,
    data: FinetuneData,
    recipe: EncoderRecipe,
    run: Run,
    workers: int,
) -> Callable[[int], dict[str, Tensor]]:
    """The losses of each step, of a batch of dialogues with one drawn round of each."""
    model, counts, places = encoder.model, data.counts, data.target_indices
    lacks_views = objective.needs_views and data.num_without_view > 0
    settings = get_model_preprocess_cfg(model)
    features = partial(_features, part_size=recipe.micro_batch_size, device=encoder.device)

    def pictures(chosen: Sequence) -> Tensor:
        pixels = seen_pixels(encoder, chosen, workers=workers)
        return augment(pixels, mean=settings["mean"], std=settings["std"])

    def encode_texts(used: int, tokens: Tensor) -> Tensor:
        with shortened_context(model, used), mixed_precision(tokens.device):
            return model.encode_text(tokens[:, :used])

    def encode_images(pixels: Tensor) -> Tensor:
        with mixed_precision(pixels.device):
            return model.encode_image(pixels)

    def step_loss(step: int) -> dict[str, Tensor]:
        chosen, drawn = run.dialogues(step, counts, recipe.batch_size)
        pairs = list(zip(chosen.tolist(), drawn.tolist(), strict=True))
        labels = places[chosen]
        tokens = encoder.tokenizer([data.texts[i][k] for i, k in pairs])
        targets = pictures([data.gallery[i] for i in labels.tolist()])
        text = features(partial(encode_texts, length_read(model, tokens)), tokens)
        target = features(encode_images, targets)
        view = rows = None
        if objective.needs_views:
            views = [data.views[i][k] for i, k in pairs]
            if lacks_views:
                rows = torch.tensor([v is not None for v in views]).nonzero()[:, 0]
                views = [v for v in views if v is not None]
                if len(labels[rows].unique()) < 2:  # nothing to contrast
                    rows = rows[:0]
            if rows is None or len(rows):
                view = features(encode_images, pictures(views))
        scale = model.logit_scale.exp()
        known = None if data.targets is None else labels.to(text.device)
        loss, terms = objective(text, view, target, scale, labels=known, view_rows=rows)
        absent = torch.tensor(float("nan"))  # the log has all columns, whatever the batch
        logged = {"loss": loss} | {name: terms.get(name, absent) for name in objective.terms}
        if lacks_views:
            logged["without_view"] = torch.tensor(len(pairs) - len(rows))
        return logged | {"logit_scale": scale} | objective.logged()

    return step_loss


def _features(
    function: Callable[[Tensor], Tensor], inputs: Tensor, part_size: int, device: torch.device
) -> Tensor:
    """Unit features of the whole batch, of which each process computes its share in parts."""
    group, number = PartialState(), len(inputs)
    if number % group.num_processes:  # shares are of one size; some rows are computed twice
        inputs = inputs[torch.arange(number + -number % group.num_processes) % number]
    share = inputs[group.process_index :: group.num_processes].to(device)
    parts = share.split(part_size)
    if len(parts) > 1:  # gradient caching: each is computed once more when its gradient is due
        function = partial(checkpoint, function, use_reentrant=False)
    features = F.normalize(torch.cat([function(part) for part in parts]).float(), dim=-1)
    if group.num_processes == 1:
        return features
    # In the batch's order, without the rows that were computed twice.
    return torch.stack(all_gather(features), dim=1).flatten(0, 1)[:number]


def layer_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict]:
    """Parameter groups in which a layer learns `layer_decay` times as fast as the one above it.

    The layers of a tower are what comes before its blocks, each block, and what comes after; a
    group's `scale` is `layer_decay` to the power of the layers above. Only matrices get weight
    decay. Works for the names of open_clip's towers, timm's trunks among them.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    places = [_place(name) for name, _ in named]
    tops = dict(sorted(places))  # of each tower the last
    groups: dict[tuple[float, float], dict] = {}
    for (name, parameter), (tower, block) in zip(named, places, strict=True):
        if block < 0 and not _BEFORE_BLOCKS.search(name):
            block = tops[tower] + 1
        scale = layer_decay ** (tops[tower] + 1 - block)
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        group = {"params": [], "weight_decay": decay, "scale": scale}
        groups.setdefault((scale, decay), group)["params"].append(parameter)
    return list(groups.values())


_BLOCK = re.compile(r"\b(?:resblocks|blocks|layers?)\.(\d+)\.")
_BEFORE_BLOCKS = re.compile(r"embed|conv1|ln_pre|norm_pre|cls_token")


def _place(name: str) -> tuple[str, int]:
    """The tower of a parameter and its block, -1 outside the blocks."""
    block = _BLOCK.search(name)
    return "image" if "visual." in name else "text", int(block[1]) if block else -1


def load_trained(
    folder: Path, recipe: EncoderRecipe, *, seed: int = 0, device: str | torch.device = "cpu"
) -> Encoder:
    """The encoder of a finished run. Raises DataError for a run of another recipe or seed."""
    tuned, path = load_encoder(f"finetuned:{folder}", device=device), folder / CONFIG_NAME
    settings, wanted = read_json(path), json.loads(json.dumps(asdict(recipe)))
    try:
        trained = asdict(EncoderRecipe(**settings["recipe"]))  # an older file lacks new settings
    except (KeyError, TypeError):
        trained = None
    if settings.get("seed") != seed or trained != wanted:
        differing = "recipe" if settings.get("seed") == seed else "seed"
        raise DataError(f"{path}: a run with another {differing}; choose another folder")
    return tuned

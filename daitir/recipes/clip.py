"""The recipe of the dual encoder: contrastive training on short captions of scenes."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, write_json
from daitir.models import TOKENIZER_FOLDER
from daitir.models.hub import NO_CODE
from daitir.models.open_clip_encoders import OWN_ARCHITECTURES, shortened_context
from daitir.objectives import info_nce
from daitir.recipes.checkpoint import save_half
from daitir.recipes.run import Run, count_parameters
from daitir.recipes.settings import ClipRecipe
from daitir.scenes import sample_scenes, short_caption

MEAN = STD = 0.5


def train_clip(recipe: ClipRecipe, run: Run) -> None:
    """Train a dual encoder from scratch; `load_encoder("open_clip:FOLDER")` reads its folder.

    Each step takes a random batch of scenes, rendered once, with captions written anew, so that a
    scene is seldom described twice alike. Raises DataError for an unknown architecture.
    """
    if recipe.model not in OWN_ARCHITECTURES:
        known = f"daitir/models/configs; choose one of {', '.join(OWN_ARCHITECTURES)}"
        raise DataError(f"{recipe.model!r} has no config in {known}")
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER, **NO_CODE)
    torch.manual_seed(run.seed)
    model = open_clip.create_model(recipe.model).to(run.device)
    scenes = sample_scenes(run.seed, "train", recipe.num_scenes)
    images = run.render(scenes, model.visual.image_size[0])

    def step_loss(step: int) -> dict[str, Tensor]:
        chosen = run.batch(step, len(scenes), recipe.batch_size)
        draws = {i: random.Random(f"caption/{run.seed}/{step}/{i}") for i in chosen}
        captions = [short_caption(scenes[i], draw) for i, draw in draws.items()]
        pixels = augment(torch.from_numpy(images[chosen]).to(run.device))
        tokens = tokenizer(captions, padding=True, return_tensors="pt").to(run.device).input_ids
        with shortened_context(model, tokens.shape[1]), mixed_precision(run.device):
            image_features, text_features, logit_scale = model(pixels, tokens)
        loss = info_nce(image_features.float(), text_features.float(), logit_scale)
        return {"loss": loss, "logit_scale": logit_scale}

    seconds = run.train(model, step_loss, recipe, after_step=lambda: clamp_logit_scale(model))
    export(model, open_clip.get_model_config(recipe.model), run.folder)
    facts = {"parameters": count_parameters(model), "training_scenes": recipe.num_scenes}
    run.write_card(seconds, recipe, model=recipe.model, **facts)


@torch.no_grad()
def clamp_logit_scale(model: nn.Module) -> None:
    """Keep the logit scale of an open_clip model at 100 or below, as CLIP does."""
    model.logit_scale.clamp_(max=math.log(100))


@contextmanager
def mixed_precision(device: str | torch.device) -> Iterator[None]:
    """Products in bfloat16 where the device has instructions for them, else in single precision."""
    kind, attention = torch.device(device).type, nullcontext()
    if kind == "cpu":
        # Without the instructions bfloat16 is emulated; older versions of torch do not tell.
        able = getattr(torch.cpu, "get_capabilities", dict)()
        if not (able.get("avx512_bf16") or able.get("amx_bf16")):
            yield
            return
        # The fused attention's backward pass in bfloat16 is slower than plain products.
        attention = sdpa_kernel(SDPBackend.MATH)
    with torch.autocast(kind, torch.bfloat16), attention:
        yield


def augment(
    images: Tensor, *, mean: float | Sequence[float] = MEAN, std: float | Sequence[float] = STD
) -> Tensor:
    """Pixels (batch, size, size, 3) uint8 to a normalised (batch, 3, size, size) float batch.

    `mean` and `std` are those of the encoder, one number or one a channel. Brightness and
    contrast vary by a tenth, half of the batches are blurred by scaling down and up, and a little
    noise is added, so that the encoder also reads pictures that are not crisp.
    """
    pixels = images.permute(0, 3, 1, 2).float() / 255
    shape = (len(pixels), 1, 1, 1)
    gain = 1 + 0.1 * (2 * torch.rand(shape, device=pixels.device) - 1)
    shift = 0.1 * (2 * torch.rand(shape, device=pixels.device) - 1)
    pixels = ((pixels - 0.5) * gain + 0.5 + shift).clamp(0, 1)
    if torch.rand(()).item() < 0.5:
        size = pixels.shape[-1]
        smaller = int(size * (0.6 + 0.4 * torch.rand(()).item()))
        pixels = F.interpolate(pixels, smaller, mode="bilinear", antialias=True)
        pixels = F.interpolate(pixels, size, mode="bilinear")
    pixels = pixels + 0.02 * torch.randn_like(pixels)
    mean, std = (torch.as_tensor(v, device=pixels.device).view(-1, 1, 1) for v in (mean, std))
    return (pixels - mean) / std


def export(model, architecture: dict, folder: Path) -> None:
    """Write a model as the folder that open_clip reads, weights in half precision."""
    preparation = {"mean": [MEAN] * 3, "std": [STD] * 3}
    preparation |= {"interpolation": "bicubic", "resize_mode": "squash"}
    save_half(folder / "open_clip_model.safetensors", model)
    for path in TOKENIZER_FOLDER.glob("*.json"):
        with atomic_write(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    settings = {"model_cfg": architecture, "preprocess_cfg": preparation}
    write_json(folder / "open_clip_config.json", settings)

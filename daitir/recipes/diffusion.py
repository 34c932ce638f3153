"""The recipe of the mini diffusion pipeline: autoencoder, text encoder, U-Net on latents.

What comes out is a folder that `diffusers.AutoPipelineForText2Image.from_pretrained` loads.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_tensors, weights_digest
from daitir.recipes.autoencoder import encode, train_autoencoder
from daitir.recipes.run import Run, count_parameters
from daitir.recipes.settings import DiffusionRecipe
from daitir.recipes.text_encoder import prompt_tokenizer, tokenize, train_text_encoder, write_prompt
from daitir.scenes import Scene, sample_scenes

DROPPED_PROMPTS = 0.1
MAX_SNR = 5.0
PROMPT_WIDTH = 128  # numbers of a token, those of the mini text tower


def train_diffusion(recipe: DiffusionRecipe, run: Run) -> None:
    """Train a text-to-image pipeline from scratch; `work` gets the checkpoints of its parts."""
    autoencoder, autoencoder_seconds = train_autoencoder(recipe, run)
    autoencoder.requires_grad_(False)
    text_encoder, text_seconds = train_text_encoder(recipe, run)
    latents = run.folder / "work" / "latents.safetensors"
    denoiser, seconds = train_unet(recipe, run, latents, autoencoder, text_encoder, "work/unet")
    parts = {"autoencoder": autoencoder, "text_encoder": text_encoder, "unet": denoiser.unet}
    parameters = {name: count_parameters(part) for name, part in parts.items()}
    facts = {"model": "daitir-diffusion", "training_scenes": recipe.num_scenes}
    seconds += autoencoder_seconds + text_seconds
    run.write_card(seconds, recipe, stage="work/unet", parameters=parameters, **facts)


def retrain_unet(
    recipe: DiffusionRecipe, pipeline: StableDiffusionPipeline, run: Run, *, latents: Path
) -> None:
    """Train only the U-Net of a pipeline anew, for example for fewer steps, into a folder.

    The file `latents` keeps the latents of the training scenes for further runs. Raises DataError
    for a pipeline of other parts than those of the recipe.
    """
    sizes = (pipeline.vae.config.latent_channels, pipeline.text_encoder.config.hidden_size)
    if sizes != (recipe.latent_channels, PROMPT_WIDTH):
        fault = f"latents of {sizes[0]} channels and prompts of {sizes[1]} numbers do not fit"
        wanted = f"the recipe's {recipe.latent_channels} and {PROMPT_WIDTH}"
        raise DataError(f"{fault} {wanted}; give it a pipeline of `daitir pretrain diffusion`")
    autoencoder, text_encoder = (
        copy.deepcopy(part).float().to(run.device).requires_grad_(False)
        for part in (pipeline.vae, pipeline.text_encoder)
    )
    train_unet(recipe, run, latents, autoencoder, text_encoder, "work")


class Denoiser(nn.Module):
    """The U-Net that is trained, and the moving average of its weights that is used."""

    def __init__(self, unet: UNet2DConditionModel, decay: float):
        super().__init__()
        self.unet, self.decay = unet, decay
        self.average = copy.deepcopy(unet).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the weights; early on faster, so that it forgets the start."""
        self.updates += 1
        count = self.updates.item()
        decay = min(self.decay, (1 + count) / (10 + count))
        averages, weights = list(self.average.parameters()), list(self.unet.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)


def build_unet(recipe: DiffusionRecipe) -> UNet2DConditionModel:
    """An untrained U-Net of the recipe, with cross-attention to the prompt on every level."""
    levels = len(recipe.unet_channels)
    return UNet2DConditionModel(
        sample_size=recipe.image_size // 2 ** (len(recipe.autoencoder_channels) - 1),
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        block_out_channels=recipe.unet_channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=PROMPT_WIDTH,
        attention_head_dim=4,  # the number of heads, by an old name of diffusers
        addition_embed_type="text",  # the whole prompt also enters where the noise level does
        addition_embed_type_num_heads=4,
        norm_num_groups=8,
    )


def noise_schedule() -> diffusers.DDPMScheduler:
    """A cosine schedule of 1,000 noise levels; the U-Net predicts velocity."""
    kind = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    return diffusers.DDPMScheduler(**kind)


def train_unet(
    recipe: DiffusionRecipe,
    run: Run,
    latents: Path,
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    stage: str,
) -> tuple[Denoiser, float]:
    """Train the U-Net on latents, and write the pipeline; returns it and the seconds.

    Every prompt is written anew whenever its scene is used; a tenth is left empty, so that the
    pipeline can be guided away from what it would draw without a prompt.
    """
    scenes = sample_scenes(run.seed, "train", recipe.num_scenes)
    clean_latents = cached_latents(latents, recipe, autoencoder, scenes, run)
    torch.manual_seed(run.seed)
    model = Denoiser(build_unet(recipe), recipe.ema_decay)
    model.to(run.device, memory_format=torch.channels_last)
    text_encoder = text_encoder.to(run.device).eval()
    kind, repeats = torch.device(run.device).type, recipe.num_noises
    tokenizer, schedule = prompt_tokenizer(), noise_schedule()
    num_levels = schedule.config.num_train_timesteps
    signal_to_noise = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    # What a picture shows is settled where noise is strong, so weak noise weighs less.
    weights = (signal_to_noise.clamp(max=MAX_SNR) + 1) / (signal_to_noise + 1)

    def prompt(step: int, index: int) -> str:
        rng = random.Random(f"prompt/{run.seed}/{step}/{index}")
        return "" if rng.random() < DROPPED_PROMPTS else write_prompt(scenes[index], rng)

    def step_loss(step: int) -> dict[str, Tensor]:
        chosen = run.batch(step, len(scenes), recipe.batch_size // repeats)
        tokens = tokenize(tokenizer, [prompt(step, index) for index in chosen])
        with torch.no_grad():
            states = text_encoder(tokens.to(run.device)).last_hidden_state.repeat(repeats, 1, 1)
        clean = clean_latents[chosen].float().repeat(repeats, 1, 1, 1).to(run.device)
        noise = torch.randn_like(clean)
        # One level from each of equal slices of the schedule: the loss varies less.
        slices = torch.randperm(len(clean)) + torch.rand(len(clean))
        levels = (slices * (num_levels / len(clean))).long().clamp(max=num_levels - 1)
        there = levels.to(run.device)
        noisy = schedule.add_noise(clean, noise, there)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        velocity = schedule.get_velocity(clean, noise, there)
        # On a CPU bfloat16 is emulated, a hundred times slower.
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            predicted = model.unet(noisy, there, encoder_hidden_states=states).sample
        errors = F.mse_loss(predicted.float(), velocity, reduction="none").mean(dim=(1, 2, 3))
        loss = (errors * weights[levels].to(run.device)).mean() / weights.mean()
        return {"loss": loss, "noisy": errors[there > 0.7 * num_levels].mean()}

    options = {"stage": stage, "after_step": model.update_average, "betas": (0.9, 0.99)}
    seconds = run.train(model, step_loss, recipe, **options)
    export(run.folder, vae=autoencoder, text_encoder=text_encoder, unet=model.average)
    return model, seconds


def cached_latents(
    path: Path, recipe: DiffusionRecipe, autoencoder: AutoencoderKL, scenes: list[Scene], run: Run
) -> Tensor:
    """The latents of all scenes in half precision, kept in a file that names its autoencoder."""
    maker = {"autoencoder": weights_digest(autoencoder), "scenes": str(len(scenes))}
    if path.is_file():
        tensors, about = read_tensors(path)
        if about == maker:
            return tensors["latents"]
    chunks = []
    for start in range(0, len(scenes), 10_000):  # so many pictures are in memory at a time
        images = run.render(scenes[start : start + 10_000], recipe.image_size)
        chunks.append(encode(autoencoder, images, run.device).half())
    latents = torch.cat(chunks)
    with atomic_write(path) as temporary:
        save_file({"latents": latents}, temporary, metadata=maker)
    return latents


def export(folder: Path, **parts: nn.Module) -> None:
    """Write the parts as a pipeline folder, weights in half precision."""
    halves = {name: copy.deepcopy(part).cpu().half() for name, part in parts.items()}
    spacing = {"timestep_spacing": "trailing", "steps_offset": 1}
    schedule = noise_schedule().config
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(schedule, **spacing)
    without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    tools = {"tokenizer": prompt_tokenizer(), "scheduler": scheduler}
    StableDiffusionPipeline(**halves, **tools, **without).save_pretrained(folder)

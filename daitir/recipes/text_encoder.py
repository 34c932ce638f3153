"""The recipe of the pipeline's text encoder: the mini dual encoder's text tower learns to spell.

A tower that was trained by pictures knows the words, but not which colour belongs to which object
and where it stands. So that the U-Net need not find that out pixel by pixel, the encoder first
learns to spell the scene of a prompt in the last seven of its places, which are padding: one for
each cell, one for place, time and weather.
"""

from __future__ import annotations

import random

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from daitir.models import TOKENIZER_FOLDER
from daitir.models.hub import NO_CODE
from daitir.models.open_clip_encoders import CLIP_FOLDER
from daitir.models.recogniser import SCENE_ATTRIBUTES, VALUES, to_values, value_heads
from daitir.recipes.recogniser import reading_losses
from daitir.recipes.run import Run
from daitir.recipes.settings import DiffusionRecipe
from daitir.scenes import Scene, describe, dialogue, merge_facts, sample_scenes, short_caption

PROMPT_LENGTH = 80
FULLY_STATED = 0.75  # what is not said cannot be learned
NUM_PLACES = 7  # for place, time and weather, and for each of the six cells
TOWER_NAMES = {
    "token_embedding": "embeddings.token_embedding", "transformer.resblocks": "encoder.layers",
    "positional_embedding": "embeddings.position_embedding.weight", "ln_final": "final_layer_norm",
    "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
"""The names of open_clip's weights, and those of transformers."""


def prompt_tokenizer() -> PreTrainedTokenizerFast:
    """The package's tokeniser, which pads prompts to `PROMPT_LENGTH` and cuts them there."""
    options = {"model_max_length": PROMPT_LENGTH, **NO_CODE}
    return AutoTokenizer.from_pretrained(TOKENIZER_FOLDER, **options)


def tokenize(tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> Tensor:
    """Token numbers (num_prompts, PROMPT_LENGTH), padded as a pipeline does it."""
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return tokenizer(prompts, **options)["input_ids"]


def clip_text_model() -> CLIPTextModel:
    """The text tower of the mini encoder as transformers has it, without the last projection."""
    weights = {}
    for name, tensor in load_file(CLIP_FOLDER / "open_clip_model.safetensors").items():
        for theirs, ours in TOWER_NAMES.items():
            name = name.replace(theirs, ours)
        if name.startswith("text.") and not name.endswith("projection"):
            weights[name.removeprefix("text.")] = tensor.float()
    for name in [name for name in weights if "attn.in_proj_" in name]:
        for part, projection in zip("qkv", weights.pop(name).chunk(3), strict=True):
            weights[name.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = projection
    positions = "embeddings.position_embedding.weight"
    weights[positions] = weights[positions][:PROMPT_LENGTH]
    vocab_size, width = weights["embeddings.token_embedding.weight"].shape
    tokenizer = prompt_tokenizer()
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=len(weights["encoder.layers.0.mlp.fc1.bias"]),
        num_hidden_layers=sum(name.endswith("mlp.fc1.bias") for name in weights),
        num_attention_heads=4,
        max_position_embeddings=PROMPT_LENGTH,
        hidden_act="gelu",
        projection_dim=width,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = CLIPTextModel(config)
    getattr(model, "text_model", model).load_state_dict(weights)  # in it before transformers 5
    return model


class Speller(nn.Module):
    """A text encoder and the heads that read the scene off its last seven places."""

    def __init__(self, encoder: CLIPTextModel):
        super().__init__()
        self.encoder = encoder
        self.heads = value_heads(VALUES, encoder.config.hidden_size)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Logits as `RecogniserNet` gives them, of tokens (num_prompts, PROMPT_LENGTH).

        And `number` (num_prompts, 7, 7): the first features of each place tell which of the seven
        it is. A U-Net that cannot tell which cell is spelled has no use for the spelling.
        """
        places = self.encoder(tokens).last_hidden_state[:, -NUM_PLACES:]
        logits = {}
        for name, head in self.heads.items():
            logits[name] = head(places[:, 0] if name in SCENE_ATTRIBUTES else places[:, 1:])
        return logits | {"number": places[..., :NUM_PLACES]}


def train_text_encoder(recipe: DiffusionRecipe, run: Run) -> tuple[CLIPTextModel, float]:
    """The mini dual encoder's text tower, taught to spell, and the seconds it took."""
    torch.manual_seed(run.seed)
    model = Speller(clip_text_model()).to(run.device)
    tokenizer, size = prompt_tokenizer(), recipe.text_batch_size

    def step_loss(step: int) -> dict[str, Tensor]:
        scenes = sample_scenes(run.seed, "train", size, start=step * size)
        draws = (random.Random(f"spell/{run.seed}/{step}/{i}") for i in range(size))
        prompts = list(map(write_prompt, scenes, draws))
        logits = model(tokenize(tokenizer, prompts).to(run.device))
        truth = to_values(scenes) | {"number": torch.arange(NUM_PLACES).repeat(size, 1)}
        losses = reading_losses({name: logits[name] for name in truth}, truth)
        return {"loss": sum(losses.values()), **losses}

    changes = {"steps": recipe.text_steps, "learning_rate": recipe.text_learning_rate}
    seconds = run.train(model, step_loss, recipe, stage="work/text_encoder", **changes)
    return model.encoder.requires_grad_(False), seconds


def write_prompt(scene: Scene, rng: random.Random) -> str:
    """A prompt as the book's methods write them about a scene.

    A share `FULLY_STATED` states all facts, the rest are refined dialogues after a random round,
    negations included, and short captions.
    """
    if rng.random() < FULLY_STATED:
        order = rng.sample(range(len(scene.objects)), len(scene.objects))
        rank = {scene.objects[i].category: place for place, i in enumerate(order)}
        return describe(sorted(scene.own_facts, key=lambda f: rank.get(f.subject, -1)), rng)
    if rng.random() < 0.7:
        turns = dialogue("human", scene, seed=rng.randrange(1 << 30))
        return describe(merge_facts(turns[: rng.randint(1, len(turns))]), rng)
    return short_caption(scene, rng)

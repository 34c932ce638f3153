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
from daitir.models.recogniser import CELL_ATTRIBUTES, SCENE_ATTRIBUTES, VALUES, to_values
from daitir.recipes.recogniser import reading_losses
from daitir.recipes.run import Run
from daitir.recipes.settings import DiffusionRecipe
from daitir.scenes import (
    Scene,
    describe,
    dialogue,
    merge_facts,
    sample_scenes,
    short_caption,
    world,
)

PROMPT_LENGTH = 80
FULLY_STATED = 0.75  # what is not said cannot be learned
NUM_PLACES = 1 + len(world.CELLS)


def prompt_tokenizer() -> PreTrainedTokenizerFast:
    """The package's tokeniser, which pads prompts to `PROMPT_LENGTH` and cuts them there."""
    return AutoTokenizer.from_pretrained(
        TOKENIZER_FOLDER, model_max_length=PROMPT_LENGTH, **NO_CODE
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> Tensor:
    """Token numbers (num_prompts, PROMPT_LENGTH), padded as a pipeline does it."""
    return tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")[
        "input_ids"
    ]


def clip_text_model() -> CLIPTextModel:
    """The text tower of the mini encoder as transformers has it.

    The features of tokens are those of the tower after its last normalisation; the projection to
    the space of pictures is left out.
    """
    tower = {
        name.removeprefix("text."): tensor.float()
        for name, tensor in load_file(CLIP_FOLDER / "open_clip_model.safetensors").items()
        if name.startswith("text.")
    }
    vocab_size, width = tower["token_embedding.weight"].shape
    layers = 1 + max(int(name.split(".")[2]) for name in tower if name.startswith("transformer."))
    tokenizer = prompt_tokenizer()
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=tower["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_LENGTH,
        hidden_act="gelu",
        projection_dim=width,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = CLIPTextModel(config)
    prefix = "text_model." if hasattr(model, "text_model") else ""  # transformers before 5
    renamed = {
        "embeddings.token_embedding.weight": tower["token_embedding.weight"],
        "embeddings.position_embedding.weight": tower["positional_embedding"][:PROMPT_LENGTH],
        "final_layer_norm.weight": tower["ln_final.weight"],
        "final_layer_norm.bias": tower["ln_final.bias"],
    }
    for layer in range(layers):
        old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            projections = tower[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, projection in zip(("q_proj", "k_proj", "v_proj"), projections, strict=True):
                renamed[f"{new}.self_attn.{name}.{kind}"] = projection.clone()
            for theirs, ours in (
                ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):  # fmt: skip
                renamed[f"{new}.{ours}.{kind}"] = tower[f"{old}.{theirs}.{kind}"]
    missing, unexpected = model.load_state_dict(
        {prefix + name: tensor for name, tensor in renamed.items()}, strict=False
    )
    if unexpected or any("position_ids" not in name for name in missing):
        raise RuntimeError(f"the text tower does not fit: {missing}, {unexpected}")
    return model


class Speller(nn.Module):
    """A text encoder and the heads that read the scene off its last seven places."""

    def __init__(self, encoder: CLIPTextModel):
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(values)) for name, values in VALUES.items()}
        )

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Logits as `RecogniserNet` gives them, of tokens (num_prompts, PROMPT_LENGTH).

        And `number` (num_prompts, 7, 7): the first features of each place tell which of the seven
        it is. A U-Net that cannot tell which cell is spelled has no use for the spelling.
        """
        places = self.encoder(tokens).last_hidden_state[:, -NUM_PLACES:]
        logits = {name: self.heads[name](places[:, 0]) for name in SCENE_ATTRIBUTES}
        logits |= {name: self.heads[name](places[:, 1:]) for name in CELL_ATTRIBUTES}
        return logits | {"number": places[..., :NUM_PLACES]}


def train_text_encoder(recipe: DiffusionRecipe, run: Run) -> tuple[CLIPTextModel, float]:
    """The mini dual encoder's text tower, taught to spell, and the seconds it took.

    Raises DataError for a checkpoint of another run.
    """
    torch.manual_seed(run.seed)
    model = Speller(clip_text_model()).to(run.device)
    tokenizer = prompt_tokenizer()

    def step_loss(step: int) -> dict[str, Tensor]:
        size = recipe.text_batch_size
        scenes = sample_scenes(run.seed, "train", size, start=step * size)
        prompts = [
            write_prompt(scene, random.Random(f"spell/{run.seed}/{step}/{i}"))
            for i, scene in enumerate(scenes)
        ]
        logits = model(tokenize(tokenizer, prompts).to(run.device))
        truth = to_values(scenes) | {"number": torch.arange(NUM_PLACES).repeat(size, 1)}
        losses = reading_losses({name: logits[name] for name in truth}, truth)
        return {"loss": sum(losses.values()), **losses}

    seconds = run.train(
        model,
        step_loss,
        recipe,
        stage="text_encoder",
        steps=recipe.text_steps,
        learning_rate=recipe.text_learning_rate,
        clip_norm=1.0,
    )
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

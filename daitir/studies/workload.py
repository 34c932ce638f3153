"""What the papers' models cost: parameters and operations, counted on their real classes.

The models are built from their public configurations on torch's `meta` device: shapes without
numbers, so that nothing is downloaded and nothing is computed. An operation is a multiplication or
an addition of matrix products and convolutions; the rest, a few percent, is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PROMPT_TOKENS = 77  # that CLIP's text towers read
DIALOGUE_TOKENS = 256  # that BLIP and BEiT-3 read in ChatIR and DMCL


@dataclass(frozen=True)
class ModelCost:
    """One forward pass.

    Attributes:
        parameters: of the part that is run.
        operations: of one item.
        item: what is counted.
        source: whose configuration it is.
    """

    parameters: int
    operations: float
    item: str
    source: str


def operations(module: nn.Module, run: Callable[[nn.Module], Any]) -> int:
    """The operations of `run(module)`, which must not depend on values.

    >>> operations(nn.Linear(3, 2), lambda layer: layer(torch.zeros(5, 3)))
    60
    """
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation that the counter does not know
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(module)
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
    return counter.get_total_flops()


def num_parameters(module: nn.Module) -> int:
    """How many numbers a module has learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def model_costs() -> dict[str, ModelCost]:
    """The costs of all models of the plan, by name; about ten seconds.

    `clip_*` are CLIP's ViT-B/32, `blip_*` BLIP base for image–text retrieval, `vit_b16_*` the tower
    of DMCL's size (BEiT-3 base is in none of the libraries), `sd21_*` and `sdxl_*` the parts of
    Stable Diffusion 2.1 and SDXL-Turbo at 512 pixels, `lm` one token of an 8 B language model.
    """
    with torch.device("meta"):
        return dict(_costs())


def _costs() -> Iterator[tuple[str, ModelCost]]:
    yield from _clip()
    yield from _blip("base", hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    yield from _blip("large", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
    yield from _diffusion()
    yield "lm", _language_model()


def _cost(module: nn.Module, run: Callable, item: str, source: str) -> ModelCost:
    return ModelCost(num_parameters(module), operations(module, run), item, source)


def _clip() -> Iterator[tuple[str, ModelCost]]:
    import open_clip

    for key, name in (("clip", "ViT-B-32"), ("vit_b16", "ViT-B-16")):
        model = open_clip.model.CLIP(**open_clip.get_model_config(name)).eval()
        source, side = f"open_clip {name}", model.visual.image_size[0]
        yield f"{key}_image", ModelCost(
            num_parameters(model.visual),
            operations(model, lambda m, side=side: m.encode_image(torch.empty(1, 3, side, side))),
            f"picture of {side} pixels", source,
        )  # fmt: skip
        text = num_parameters(model) - num_parameters(model.visual)
        ids = torch.zeros(1, model.context_length, dtype=torch.long)
        yield f"{key}_text", ModelCost(
            text, operations(model, lambda m, ids=ids: m.encode_text(ids)),
            f"text of {model.context_length} tokens", source,
        )  # fmt: skip


def _blip(size: str, **vision: int) -> Iterator[tuple[str, ModelCost]]:
    from transformers import BlipConfig, BlipForImageTextRetrieval

    vision = vision | {"image_size": 384, "intermediate_size": 4 * vision["hidden_size"]}
    config = BlipConfig(vision_config=vision, text_config={"num_attention_heads": 12})
    model = BlipForImageTextRetrieval(config).eval()
    source, ids = f"BLIP {size} for retrieval", torch.zeros(1, DIALOGUE_TOKENS, dtype=torch.long)
    yield f"blip_{size}_image", _cost(
        model.vision_model, lambda m: m(torch.empty(1, 3, 384, 384)),
        "picture of 384 pixels", source,
    )  # fmt: skip
    # Without a mask, whose values the meta device does not have: every token counts.
    yield f"blip_{size}_text", _cost(
        model.text_encoder, lambda m: m(input_ids=ids), f"text of {DIALOGUE_TOKENS} tokens", source
    )  # fmt: skip


SD21_UNET = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024,
    "use_linear_projection": True,
}  # fmt: skip
SDXL_UNET = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT_TOWERS: Mapping[str, tuple[int, int]] = {  # width and layers that are run
    "sd21": (1024, 23),  # of OpenCLIP ViT-H
    "sdxl": (1280, 32),  # of OpenCLIP bigG; the ViT-L beside it is a tenth of it
}


def _diffusion() -> Iterator[tuple[str, ModelCost]]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    sources = {"sd21": "Stable Diffusion 2.1", "sdxl": "SDXL-Turbo"}
    for key, config in (("sd21", SD21_UNET), ("sdxl", SDXL_UNET)):
        unet = UNet2DConditionModel(**config).eval()
        more = {
            "added_cond_kwargs": {
                "text_embeds": torch.empty(1, 1280), "time_ids": torch.zeros(1, 6)
            }
        } if key == "sdxl" else {}  # fmt: skip
        words = torch.empty(1, PROMPT_TOKENS, config["cross_attention_dim"])
        step = (torch.empty(1, 4, 64, 64), torch.zeros(1), words)
        yield f"{key}_step", _cost(
            unet, lambda m, step=step, more=more: m(*step, **more),
            "evaluation on 64 × 64 latents", sources[key],
        )  # fmt: skip
        width, layers = TEXT_TOWERS[key]
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
                num_attention_heads=width // 64, vocab_size=49_408,
            )
        ).eval()  # fmt: skip
        # A text tower without its mask of the future: a token's products, times the tokens.
        inside = num_parameters(text) - (49_408 + PROMPT_TOKENS) * width
        yield f"{key}_text", ModelCost(
            num_parameters(text), token_operations(inside) * PROMPT_TOKENS,
            f"prompt of {PROMPT_TOKENS} tokens", sources[key],
        )  # fmt: skip
    vae = AutoencoderKL(**VAE).eval()
    run = vae.decode
    yield "vae_decode", _cost(
        vae, lambda _: run(torch.empty(1, 4, 64, 64)), "view of 512 pixels", "Stable Diffusion"
    )


def _language_model() -> ModelCost:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**LLAMA)
    number = num_parameters(LlamaForCausalLM(config))
    # The table of tokens is looked up, not multiplied.
    inside = number - config.vocab_size * config.hidden_size
    return ModelCost(number, token_operations(inside), "token", "Llama 3.1 8B")


LLAMA = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}  # fmt: skip


def token_operations(parameters: float) -> float:
    """Operations of a transformer for one token: two a weight, attention among tokens left out.

    >>> token_operations(8e9)
    16000000000.0
    """
    return 2 * parameters

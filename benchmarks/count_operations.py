"""Count parameters and operations of the papers' models on their real classes.

`daitir.studies.plan.MODELS` holds what comes out; this script says whether it still does. The
models are built from their public configurations on torch's `meta` device: shapes without numbers,
so that nothing is downloaded and nothing is computed; about ten seconds. An operation is a
multiplication or an addition of matrix products and convolutions; the rest, a few percent, is not
counted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from daitir.studies.plan import MODELS, ModelCost

PROMPT_TOKENS = 77  # that CLIP's text towers read
DIALOGUE_TOKENS = 256  # that BLIP and BEiT-3 read in ChatIR and DMCL

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
LLAMA = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}  # fmt: skip


def operations(run: Callable[[], object]) -> int:
    """The operations of `run()`, which must not depend on values.

    >>> layer = nn.Linear(3, 2)
    >>> operations(lambda: layer(torch.zeros(5, 3)))
    60
    """
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation that the counter does not know
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
    return counter.get_total_flops()


def num_parameters(module: nn.Module) -> int:
    """How many numbers a module has learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def model_costs() -> dict[str, ModelCost]:
    """The costs of all models of the plan, by name.

    `clip_*` are CLIP's ViT-B/32, `blip_*` BLIP base for image–text retrieval, `vit_b16_*` the tower
    of DMCL's size (BEiT-3 base is in none of the libraries), `sd21_*` and `sdxl_*` the parts of
    Stable Diffusion 2.1 and SDXL-Turbo at 512 pixels, `lm` one token of an 8 B language model.
    """
    with torch.device("meta"):
        return {
            **_clip("clip", "ViT-B-32"),
            **_clip("vit_b16", "ViT-B-16"),
            **_blip("base", hidden_size=768, num_hidden_layers=12, num_attention_heads=12),
            **_blip("large", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
            # Text towers: OpenCLIP's ViT-H, and its bigG without the small ViT-L beside it.
            **_diffusion("sd21", "Stable Diffusion 2.1", SD21_UNET, width=1024, layers=23),
            **_diffusion("sdxl", "SDXL-Turbo", SDXL_UNET, width=1280, layers=32),
            "vae_decode": _decoder(),
            "lm": _language_model(),
        }


def _clip(key: str, name: str) -> dict[str, ModelCost]:
    import open_clip

    model = open_clip.model.CLIP(**open_clip.get_model_config(name)).eval()
    side, length, image = model.visual.image_size[0], model.context_length, model.visual
    pixels, ids = torch.empty(1, 3, side, side), torch.zeros(1, length, dtype=torch.long)
    return {
        f"{key}_image": ModelCost(
            num_parameters(image), operations(lambda: model.encode_image(pixels)),
            f"picture of {side} pixels", f"open_clip {name}",
        ),
        f"{key}_text": ModelCost(
            num_parameters(model) - num_parameters(image),
            operations(lambda: model.encode_text(ids)),
            f"text of {length} tokens", f"open_clip {name}",
        ),
    }  # fmt: skip


def _blip(size: str, **vision: int) -> dict[str, ModelCost]:
    from transformers import BlipConfig, BlipForImageTextRetrieval

    vision = vision | {"image_size": 384, "intermediate_size": 4 * vision["hidden_size"]}
    config = BlipConfig(vision_config=vision, text_config={"num_attention_heads": 12})
    model = BlipForImageTextRetrieval(config).eval()
    image, text, source = model.vision_model, model.text_encoder, f"BLIP {size} for retrieval"
    pixels, ids = torch.empty(1, 3, 384, 384), torch.zeros(1, DIALOGUE_TOKENS, dtype=torch.long)
    return {
        f"blip_{size}_image": ModelCost(
            num_parameters(image), operations(lambda: image(pixels)),
            "picture of 384 pixels", source,
        ),
        # Without a mask, whose values the meta device does not have: every token counts.
        f"blip_{size}_text": ModelCost(
            num_parameters(text), operations(lambda: text(input_ids=ids)),
            f"text of {DIALOGUE_TOKENS} tokens", source,
        ),
    }  # fmt: skip


def _diffusion(
    key: str, source: str, config: dict, *, width: int, layers: int
) -> dict[str, ModelCost]:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(**config).eval()
    words = torch.empty(1, PROMPT_TOKENS, config["cross_attention_dim"])
    # SDXL alone reads these; the others ignore them.
    more = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.zeros(1, 6)}
    latents, time = torch.empty(1, 4, 64, 64), torch.zeros(1)
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, vocab_size=49_408,
            num_hidden_layers=layers, num_attention_heads=width // 64,
        )
    )  # fmt: skip
    # Embeddings are looked up. The tower's mask of the future has no values on the meta device, so
    # that a token's products are counted and taken times the tokens.
    multiplied = num_parameters(text) - (49_408 + PROMPT_TOKENS) * width
    return {
        f"{key}_step": ModelCost(
            num_parameters(unet),
            operations(lambda: unet(latents, time, words, added_cond_kwargs=more)),
            "evaluation on 64 × 64 latents", source,
        ),
        f"{key}_text": ModelCost(
            num_parameters(text), 2 * multiplied * PROMPT_TOKENS,
            f"prompt of {PROMPT_TOKENS} tokens", source,
        ),
    }  # fmt: skip


def _decoder() -> ModelCost:
    from diffusers import AutoencoderKL

    vae, latents = AutoencoderKL(**VAE).eval(), torch.empty(1, 4, 64, 64)
    counted = operations(lambda: vae.decode(latents))
    return ModelCost(num_parameters(vae), counted, "view of 512 pixels", "Stable Diffusion")


def _language_model() -> ModelCost:
    from transformers import LlamaConfig, LlamaForCausalLM

    number = num_parameters(LlamaForCausalLM(LlamaConfig(**LLAMA)))
    # Two operations a weight, attention among tokens left out; the table of tokens is looked up.
    multiplied = number - LLAMA["vocab_size"] * LLAMA["hidden_size"]
    return ModelCost(number, 2 * multiplied, "token", "Llama 3.1 8B")


def main() -> None:
    for name, cost in model_costs().items():
        planned = "as planned" if cost == MODELS[name] else f"planned was {MODELS[name]}"
        print(f"{name}: {cost.parameters:,} parameters, {cost.operations:,} operations, {planned}")


if __name__ == "__main__":
    main()

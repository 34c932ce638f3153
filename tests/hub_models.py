"""Tiny models of the real classes with random weights, saved in the hub's folder format."""

import string

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    T5Config,
    T5EncoderModel,
)

from daitir.models import TOKENIZER_FOLDER

PROMPTS = ["a dog", "a red car at the beach", "un château la nuit", "🐶🏖️"]
SEEDS = [1, 2, 3, 4]
PIXELS = 32
LAYER = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
SQUARE = {"height": PIXELS, "width": PIXELS}


def tiny_tokenizer(kind, length):
    """The tokeniser of a kind of model, as its library has it, over single characters."""
    if kind == "clip":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        symbols = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
        symbols += ["<|startoftext|>", "<|endoftext|>"]
        vocab = {symbol: number for number, symbol in enumerate(symbols)}
        return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)
    if kind == "siglip2":
        symbols = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *string.ascii_lowercase, "▁"]
        symbols += [f"<0x{number:02X}>" for number in range(256)]
        vocab = {symbol: number for number, symbol in enumerate(symbols)}
        return Siglip2Tokenizer(vocab=vocab, merges=[], model_max_length=length)
    if kind == "blip":
        symbols = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.printable[:94]]
        symbols += [f"##{letter}" for letter in string.ascii_lowercase]
        vocab = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
        return BertTokenizer(vocab=vocab, model_max_length=length)
    # SiglipTokenizer needs sentencepiece, which is no dependency.
    return AutoTokenizer.from_pretrained(TOKENIZER_FOLDER, model_max_length=length)


def save_encoder(kind, folder, *, seed=0, **options):
    """A tiny `clip`, `siglip`, `siglip2` or `blip` model, with tokeniser and image processor."""
    torch.manual_seed(seed)
    length = 40
    tokenizer = tiny_tokenizer(kind, length)
    text = LAYER | {
        "vocab_size": len(tokenizer), "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = LAYER | {"image_size": PIXELS, "patch_size": 8}
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
        processor = CLIPImageProcessor(
            size={"shortest_edge": PIXELS}, crop_size=SQUARE, do_center_crop=True
        )
    elif kind == "siglip":
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        processor = SiglipImageProcessor(size=SQUARE)
    elif kind == "siglip2":
        vision = LAYER | {"num_patches": 16, "patch_size": 8}
        model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
        processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    else:
        text |= {"encoder_hidden_size": 32, "sep_token_id": tokenizer.eos_token_id}
        vision["initializer_range"] = 0.2  # its own leaves random pictures all alike
        config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=24)
        model = BlipForImageTextRetrieval(config)
        processor = BlipImageProcessor(size=SQUARE)
    model.eval().save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def _clip_text(tokenizer, *, seed, projected=True):
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        **LAYER | {"hidden_size": 16}, vocab_size=len(tokenizer), projection_dim=16,
        max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def tiny_pipeline(seed=0):
    """A tiny pipeline of Stable Diffusion 1 and 2, whose views have 8 pixels a side."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        norm_num_groups=4,
    )
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER, model_max_length=32)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(config).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_pipeline(kind, folder):
    """A tiny `sdxl` or `sd3` pipeline; `tiny_pipeline` is that of SD 1 and 2."""
    torch.manual_seed(0)
    clip = tiny_tokenizer("clip", 40)
    autoencoder = {
        "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4,
    }  # fmt: skip
    parts = {
        "text_encoder": _clip_text(clip, seed=1, projected=kind == "sd3"), "tokenizer": clip,
        "text_encoder_2": _clip_text(clip, seed=2), "tokenizer_2": clip,
    }  # fmt: skip
    if kind == "sdxl":
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16),
            layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 2),
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16, cross_attention_dim=32,
            norm_num_groups=4,
        )  # fmt: skip
        pipeline = StableDiffusionXLPipeline(
            vae=AutoencoderKL(**autoencoder), unet=unet, scheduler=EulerDiscreteScheduler(), **parts
        )
    else:
        transformer = SD3Transformer2DModel(
            sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=1,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32,
            caption_projection_dim=16, pooled_projection_dim=32,
        )  # fmt: skip
        t5 = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER, model_max_length=512)
        config = T5Config(
            vocab_size=len(t5), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        )  # fmt: skip
        pipeline = StableDiffusion3Pipeline(
            vae=AutoencoderKL(
                **autoencoder, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06,
                scaling_factor=1.5,
            ),
            transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder_3=T5EncoderModel(config).eval(), tokenizer_3=t5, **parts,
        )  # fmt: skip
    pipeline.save_pretrained(folder)


def save_chat_model(folder):
    """A tiny Llama with a chat template: it writes what its random weights say."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), **LAYER, max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

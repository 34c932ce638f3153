"""Operations of the papers' models: against published sizes, hand formulas and real numbers."""

import runpy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from daitir.studies.plan import MODELS

ROOT = Path(__file__).resolve().parents[2]
script = runpy.run_path(str(ROOT / "benchmarks" / "count_operations.py"))
operations, num_parameters = script["operations"], script["num_parameters"]


@pytest.mark.slow
def test_the_plan_has_what_the_real_classes_give():
    assert script["model_costs"]() == MODELS


@pytest.mark.parametrize(
    ("names", "published"),
    [
        (("clip_image", "clip_text"), 151_277_313),  # open_clip's own count of ViT-B/32
        (("sd21_step",), 865_910_724),
        (("sdxl_step",), 2_567_463_684),
        (("vae_decode",), 83_653_863),
        (("lm",), 8_030_261_248),
    ],
)
def test_the_classes_have_the_published_sizes(names, published):
    assert sum(MODELS[name].parameters for name in names) == published


def transformer(tokens, width, layers, hidden=4):
    """Two operations a weight and token; scores and sums of attention, which sees all tokens."""
    return 2 * layers * tokens * (4 + 2 * hidden) * width**2 + 4 * layers * tokens**2 * width


def test_towers_are_counted_as_by_hand():
    patches = 7 * 7
    by_hand = transformer(patches + 1, 768, 12) + 2 * patches * 3 * 32**2 * 768 + 2 * 768 * 512
    assert MODELS["clip_image"].operations == pytest.approx(by_hand, rel=1e-6)
    assert MODELS["clip_text"].operations == pytest.approx(transformer(77, 512, 12), rel=1e-3)
    assert MODELS["blip_base_text"].operations == transformer(256, 768, 12)
    patches = 24 * 24
    by_hand = transformer(patches + 1, 1024, 24) + 2 * patches * 3 * 16**2 * 1024
    assert MODELS["blip_large_image"].operations == pytest.approx(by_hand, rel=1e-6)
    assert MODELS["lm"].operations == 2 * (8_030_261_248 - 128_256 * 4096)


def test_meta_and_real_numbers_give_one_count():
    options = {
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 16,
        "attention_head_dim": (2, 2), "norm_num_groups": 4,
    }  # fmt: skip

    def step(unet):
        return unet(torch.ones(1, 4, 8, 8), torch.ones(1), torch.ones(1, 5, 16))

    real = UNet2DConditionModel(**options).eval()
    with torch.device("meta"):
        shadow = UNet2DConditionModel(**options).eval()
        counted = operations(lambda: step(shadow))
    assert counted == operations(lambda: step(real)) > 0
    assert num_parameters(shadow) == num_parameters(real)


def test_attention_counts_on_a_real_device_too():
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    found = operations(lambda: layer(torch.zeros(1, 5, 16)))
    assert found == 2 * 5 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * 5 * 5 * 16
    assert torch.backends.mha.get_fastpath_enabled()


def test_every_item_costs_something():
    assert all(cost.operations > 0 and cost.parameters > 0 for cost in MODELS.values())
    assert MODELS["sdxl_step"].operations > MODELS["sd21_step"].operations

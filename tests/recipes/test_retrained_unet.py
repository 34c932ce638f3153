"""A U-Net trained anew shares everything else with the pipeline that it is of."""

import dataclasses

import pytest
from hub_models import tiny_pipeline

from daitir.common.errors import DataError
from daitir.models.views import ViewGenerator, load_view_generator
from daitir.recipes.diffusion import retrain_unet
from daitir.recipes.run import Run
from daitir.studies.profiles import PROFILES


@pytest.fixture
def small():
    profile = PROFILES["classroom"]
    diffusion = dataclasses.replace(
        profile.diffusion, steps=40, num_scenes=16, batch_size=4, unet_channels=(16, 24),
        warmup_steps=1,
    )  # fmt: skip
    return dataclasses.replace(
        profile, name="small", num_other_dialogues=3, num_gallery=12, num_encoder_seeds=1,
        diffusion=diffusion,
    )  # fmt: skip


@pytest.mark.slow
def test_the_retrained_pipeline_shares_all_but_the_unet(small, tmp_path):
    whole = load_view_generator("mini").pipeline
    recipe = dataclasses.replace(small.diffusion, steps=2)
    run = Run(tmp_path / "other", progress=False)
    retrain_unet(recipe, whole, run, latents=tmp_path / "latents.safetensors")
    other = load_view_generator(str(tmp_path / "other")).pipeline
    for part in ("vae", "text_encoder"):
        theirs = getattr(other, part).state_dict()
        for name, tensor in getattr(whole, part).state_dict().items():
            assert tensor.equal(theirs[name]), (part, name)
    assert other.unet.config.block_out_channels == [16, 24]


def test_a_pipeline_of_other_parts_is_refused(small, tmp_path):
    pipeline = ViewGenerator("tiny", tiny_pipeline()).pipeline
    with pytest.raises(DataError, match="do not fit the recipe.*daitir pretrain diffusion"):
        retrain_unet(small.diffusion, pipeline, Run(tmp_path), latents=tmp_path / "x.safetensors")

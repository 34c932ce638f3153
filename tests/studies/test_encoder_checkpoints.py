"""Less trained diffusion models with fine-tuned encoders: the whole table, and going on."""

import dataclasses
import shutil

import pandas as pd
import pytest
from test_view_generation import tiny_pipeline

from daitir.common.errors import DataError
from daitir.evaluation import RESULT_COLUMNS
from daitir.models.recogniser import load_recogniser
from daitir.models.views import ViewGenerator, load_view_generator
from daitir.recipes.diffusion import retrain_unet
from daitir.studies.choices import ROUNDS
from daitir.studies.encoder_benchmark import fusion_of
from daitir.studies.encoder_checkpoints import run_encoder_checkpoints
from daitir.studies.profiles import PROFILES
from daitir.studies.training_sets import fusion_folder


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


def test_the_table_has_every_encoder_and_checkpoint(small, tmp_path):
    work = tmp_path / "work"
    for name in ("zero_shot", "finetune_text", "dmcl"):
        shutil.copytree(fusion_folder(small, "adafuse", 0), fusion_of(work, name, 0))

    def table():
        generator, recogniser = load_view_generator("mini", steps=1), load_recogniser()
        folders = {"cache": tmp_path / "views", "work_dir": work, "results_dir": tmp_path}
        return pd.read_csv(run_encoder_checkpoints(small, generator, recogniser, **folders))

    rows = table()
    assert tuple(rows.columns) == RESULT_COLUMNS
    assert set(rows["round"]) == set(ROUNDS) and set(rows["benchmark"]) == {"human_val"}
    value = rows.set_index(["method", "metric", "round"])["value"]
    for steps in (2, 8, 40):
        assert 0 <= value[f"trained_{steps}", "false_cue_share", 6] <= 1
        assert 0 <= value[f"dmcl+adafuse_trained_{steps}", "recall_at_10", 10] <= 1
    least, most = (value[f"dmcl+dar_trained_{steps}", "recall_at_10", 10] for steps in (2, 40))
    drop = value["dmcl+dar_trained_2", "recall_at_10_drop", 10]
    assert drop == pytest.approx(most - least, abs=2e-4)
    log = work / "diffusion" / "8" / "work" / "log.csv"
    trained = log.read_text()
    assert len(trained.splitlines()) == 2
    pd.testing.assert_frame_equal(rows, table())
    assert log.read_text() == trained


def test_the_retrained_pipeline_shares_all_but_the_unet(small, tmp_path):
    whole = load_view_generator("mini").pipeline
    options = {"latents": tmp_path / "latents.safetensors", "progress": False}
    recipe = dataclasses.replace(small.diffusion, steps=2)
    retrain_unet(recipe, whole, tmp_path / "other", **options)
    other = load_view_generator(str(tmp_path / "other")).pipeline
    for part in ("vae", "text_encoder"):
        theirs = getattr(other, part).state_dict()
        for name, tensor in getattr(whole, part).state_dict().items():
            assert tensor.equal(theirs[name]), (part, name)
    assert other.unet.config.block_out_channels == [16, 24]


def test_a_pipeline_of_other_parts_is_refused(small, tmp_path):
    pipeline = ViewGenerator("tiny", tiny_pipeline()).pipeline
    with pytest.raises(DataError, match="do not fit the recipe.*daitir pretrain diffusion"):
        retrain_unet(small.diffusion, pipeline, tmp_path, latents=tmp_path / "x.safetensors")

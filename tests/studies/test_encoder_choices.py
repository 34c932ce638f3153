"""The choices of drawing for fine-tuned encoders: ranks against loops, and the whole table."""

import dataclasses
import shutil

import pandas as pd
import pytest
from test_view_generation import tiny_pipeline

from daitir.common.errors import DataError
from daitir.evaluation import RESULT_COLUMNS
from daitir.fusion import dar_weights
from daitir.models.encoders import load_encoder
from daitir.models.views import ViewGenerator
from daitir.recipes.fusion import load_fusion
from daitir.scenes import render_scenes, sample_scenes
from daitir.studies import choices, encoder_choices
from daitir.studies.choices import ROUNDS, choice_sources
from daitir.studies.encoder_benchmark import fusion_of
from daitir.studies.encoder_choices import (
    choice_ranks,
    drawn_choices,
    encode_by_round,
    run_encoder_choices,
)
from daitir.studies.profiles import PROFILES
from daitir.studies.training_sets import fusion_folder


@pytest.fixture
def small(monkeypatch):
    for name, value in (("NUM_VIEWS", (1, 2)), ("GUIDANCES", (1.0,)), ("STEPS", (2,))):
        monkeypatch.setattr(choices, name, value)
    monkeypatch.setattr(encoder_choices, "NUM_VIEWS", (1, 2))
    profile = PROFILES["classroom"]
    kept = {name: profile.encoders[name] for name in ("finetune_text", "dmcl")}
    return dataclasses.replace(
        profile, name="small", num_other_dialogues=3, num_gallery=12, num_encoder_seeds=1,
        encoders=kept,
    )  # fmt: skip


@pytest.fixture
def work_dir(small, tmp_path):
    """A folder with a fusion for every encoder, as the benchmark leaves it."""
    for name in ("zero_shot", *small.encoders):
        shutil.copytree(fusion_folder(small, "adafuse", 0), fusion_of(tmp_path / "work", name, 0))
    return tmp_path / "work"


def test_ranks_agree_with_a_loop(small):
    encoder = load_encoder("mini")
    scenes = sample_scenes(0, "val", 8)
    gallery = render_scenes(scenes, size=64)
    captions = ["a red dog", "a dog", "a dog at the beach", "a cat", "a cat at night", "two cats"]
    drawn = {
        name: list(render_scenes(sample_scenes(seed, "train", 6), size=64))
        for seed, name in enumerate(choice_sources(ViewGenerator("tiny", tiny_pipeline())))
    }
    fusion = load_fusion(fusion_folder(small, "adafuse", 0), dim=encoder.dim)
    features = {name: encode_by_round(encoder, views) for name, views in drawn.items()}
    found = choice_ranks(
        fusion, encode_by_round(encoder, captions), drawn_choices(features),
        encoder.encode_images(gallery),
    )  # fmt: skip
    choices_there = ("", "_2_views", "_guidance_1", "_steps_2")
    assert set(found) == {"text"} | {q + c for q in ("dar", "adafuse") for c in choices_there}
    pictures = encoder.encode_images(gallery).double()
    for row, caption in enumerate(captions):
        i, t = divmod(row, len(ROUNDS))
        (text,) = encoder.encode_texts([caption]).double()
        both = [encoder.encode_images([drawn[f"view_{k}"][row]])[0].double() for k in range(2)]
        view = (both[0] + both[1]) / (both[0] + both[1]).norm()
        a, b = (float(weight) for weight in dar_weights(ROUNDS[t]))
        scores = pictures @ (a * text + b * view)
        assert found["dar_2_views"][i, t] == (scores > scores[i]).sum()
        fused = sum(fusion(text.float(), one.float())[0] for one in both)
        scores = pictures @ fused.double()
        assert found["adafuse_2_views"][i, t] == (scores > scores[i]).sum()


def test_the_table_has_every_encoder_and_choice(small, work_dir, tmp_path):
    generator = ViewGenerator("tiny", tiny_pipeline(), steps=1)
    folders = {"cache": tmp_path / "views", "work_dir": work_dir, "results_dir": tmp_path}
    rows = pd.read_csv(run_encoder_choices(small, generator, **folders))
    assert tuple(rows.columns) == RESULT_COLUMNS
    assert set(rows["round"]) == set(ROUNDS) and set(rows["benchmark"]) == {"human_val"}
    assert {f"dmcl+{query}" for query in ("text", "dar", "dar_2_views", "dar_controlled_30")} < set(
        rows["method"]
    )
    value = rows[rows["seed"] == "mean of 1"].set_index(["method", "metric", "round"])["value"]
    over = value["dmcl+dar_2_views", "recall_at_10", 6] - value["finetune_text+text",
                                                                "recall_at_10", 6]  # fmt: skip
    gain = value["dmcl+dar_2_views", "recall_at_10_gain_over_finetune_text", 6]
    assert gain == pytest.approx(over, abs=2e-4)
    none, most = (value[f"dmcl+dar_controlled_{share}", "recall_at_10", 10] for share in ("00", 30))
    drop = value["dmcl+dar_controlled_30", "recall_at_10_drop", 10]
    assert drop == pytest.approx(none - most, abs=2e-4)
    start = value["zero_shot+dar_controlled_30", "recall_at_10_drop", 10]
    over = value["dmcl+dar_controlled_30", "recall_at_10_drop_over_zero_shot", 10]
    assert over == pytest.approx(drop - start, abs=2e-4)


def test_encoders_that_were_not_trained_are_named(small, tmp_path):
    other = dataclasses.replace(small, num_encoder_seeds=2)
    generator = ViewGenerator("tiny", tiny_pipeline(), steps=1)
    folders = {"cache": tmp_path / "views", "work_dir": tmp_path, "results_dir": tmp_path}
    with pytest.raises(DataError, match="finetune_text.1: no trained encoder.*daitir encoders"):
        run_encoder_choices(other, generator, **folders)

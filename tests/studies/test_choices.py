"""The choices of drawing: combinations against loops, and the table of a tiny pipeline."""

import dataclasses
import json
import random

import pandas as pd
import pytest
import torch
from hub_models import tiny_pipeline

from daitir.evaluation import RESULT_COLUMNS
from daitir.fusion import dar_weights
from daitir.models.encoders import load_encoder
from daitir.models.recogniser import load_recogniser
from daitir.models.views import ViewGenerator
from daitir.scenes import sample_scenes, short_caption
from daitir.studies import choices
from daitir.studies.choices import combined_ranks, false_cue_shares, run_choices
from daitir.studies.profiles import PROFILES


def test_combinations_agree_with_a_loop_over_queries_and_images():
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    text, views = unit(torch.randn(3, 2, 8), dim=-1), unit(torch.randn(3, 2, 4, 8), dim=-1)
    gallery, rounds = unit(torch.randn(20, 8), dim=-1), torch.tensor([0, 6])
    found = combined_ranks(text, views, gallery, rounds)
    combine = {
        "features": lambda some, image: torch.dot(unit(some.mean(0), dim=0), image),
        "scores": lambda some, image: sum(view @ image for view in some) / len(some),
        "best": lambda some, image: max(view @ image for view in some),
    }
    for name, of_views in combine.items():
        for i in range(3):
            for t, round in enumerate(rounds.tolist()):
                word_weight, view_weight = dar_weights(round)
                scores = [
                    word_weight * (text[i, t] @ image) + view_weight * of_views(views[i, t], image)
                    for image in gallery
                ]
                assert found[name][i, t] == sum(score > scores[i] for score in scores)


def test_one_view_is_the_same_by_any_combination():
    torch.manual_seed(1)
    unit = torch.nn.functional.normalize
    text, views = unit(torch.randn(5, 1, 8), dim=-1), unit(torch.randn(5, 1, 1, 8), dim=-1)
    found = combined_ranks(text, views, unit(torch.randn(9, 8), dim=-1), torch.tensor([3]))
    assert found["features"].equal(found["scores"]) and found["scores"].equal(found["best"])


@pytest.mark.parametrize("number", range(1, 12))
def test_equal_pictures_tie_in_any_combination(number):
    torch.manual_seed(number)
    unit = torch.nn.functional.normalize
    text = unit(torch.randn(number, 1, 64), dim=-1)
    views = unit(torch.randn(number, 1, 3, 64), dim=-1)
    gallery = unit(torch.randn(1, 64), dim=-1).repeat(number, 1)
    for ranks in combined_ranks(text, views, gallery, torch.tensor([3])).values():
        assert (ranks == number - 1).all()


def test_a_perfect_drawing_has_no_false_cue_and_another_place_has():
    scenes = sample_scenes(0, "val", 4)
    moved = [dataclasses.replace(s, place="beach" if s.place != "beach" else "city")
             for s in scenes]  # fmt: skip
    captions = [short_caption(s, random.Random(0)) for s in scenes]
    assert false_cue_shares(captions, scenes, scenes) == [0, 0, 0, 0]
    assert all(0 < share < 1 for share in false_cue_shares(captions, moved, scenes))


@pytest.fixture
def small(monkeypatch):
    for name, value in (("NUM_VIEWS", (1, 2)), ("GUIDANCES", (1.0,)), ("STEPS", (2,))):
        monkeypatch.setattr(choices, name, value)
    return dataclasses.replace(
        PROFILES["classroom"], name="small", num_other_dialogues=3, num_gallery=12
    )


@pytest.mark.slow
def test_the_table_has_every_choice_and_a_second_run_draws_nothing(small, tmp_path, monkeypatch):
    models = (
        ViewGenerator("tiny", tiny_pipeline(), steps=1), load_encoder("mini"), load_recogniser()
    )  # fmt: skip
    path = run_choices(small, *models, cache=tmp_path / "views", results_dir=tmp_path)
    rows = pd.read_csv(path)
    assert tuple(rows.columns) == RESULT_COLUMNS
    assert set(rows["benchmark"]) == {"human_val"} and set(rows["round"]) == {2, 6, 10}
    combined = {f"dar_2_views_{name}" for name in ("features", "scores", "best")}
    learned = {"adafuse", "adafuse_guidance_1", "adafuse_steps_2", "adafuse_2_views"}
    dar = {"dar", "dar_guidance_1", "dar_steps_2"}
    assert set(rows["method"]) == {"text"} | dar | combined | learned
    seeds = rows[rows["method"].isin(learned)].groupby("method")["seed"].nunique()
    assert (seeds == small.num_fusion_seeds).all()
    shares = rows.query("metric == 'false_cue_share'")
    assert set(shares["method"]) == dar
    assert (rows["num_queries"] == 3).all()
    assert not rows.duplicated(["method", "seed", "metric", "round"]).any()
    assert json.loads(path.with_suffix(".json").read_text())["profile"]["name"] == "small"

    monkeypatch.setattr(ViewGenerator, "draw", None)
    again = run_choices(small, *models, cache=tmp_path / "views", results_dir=tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()

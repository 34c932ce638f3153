"""Studies of single cues: pairs by hand, masks, differences of means, tables of small runs."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from daitir import cue_attention, cue_geometry
from daitir.cue_attention import object_masks, occluded, run_attention
from daitir.cue_geometry import (
    COLUMNS,
    CueTable,
    Rows,
    compared_encoders,
    difference_of_means,
    run_geometry,
)
from daitir.encoders import load_encoder
from daitir.errors import DataError
from daitir.geometry import pairs as cue_pairs_module
from daitir.geometry import unit
from daitir.geometry.pairs import before_projection, cue_pairs
from daitir.profiles import PROFILES
from daitir.scenes import Fact, Scene, SceneObject, render, render_scenes, sample_scenes
from daitir.views import load_view_generator

DOG = SceneObject("dog", None, "small", "left", "back")
CAR = SceneObject("car", "red", "large", "right", "front")
KITE = SceneObject("kite", "blue", "small", "middle", "back")
TARGET = Scene("beach", "day", "clear", (DOG, dataclasses.replace(CAR, colour="blue")))


def test_pairs_are_sorted_by_what_is_said_and_what_is_true():
    seen = Scene("beach", "night", "clear", (DOG, CAR, KITE))
    views, found = cue_pairs(["a dog at the beach"], [seen], [TARGET])
    kinds = {(pair.fact.subject, pair.cue): pair.kind for pair in found}
    assert kinds["scene", "place"] == "supported" and kinds["dog", "object"] == "supported"
    assert kinds["scene", "time"] == "hallucinated" and kinds["kite", "object"] == "hallucinated"
    assert kinds["car", "colour"] == "hallucinated" and kinds["car", "object"] == "lucky"
    assert kinds["scene", "weather"] == "lucky"
    for pair in found:
        assert pair.fact in views[0].own_facts and pair.fact not in pair.scene.own_facts
    day = next(pair for pair in found if pair.cue == "time")
    assert day.scene == dataclasses.replace(seen, time="day")
    without = next(pair for pair in found if pair.fact == Fact("kite", "present", True))
    assert without.scene == dataclasses.replace(seen, objects=(DOG, CAR))


def test_views_without_a_cue_and_lists_of_other_lengths_are_refused():
    with pytest.raises(DataError, match="needs all three"):
        cue_pairs(["a dog"], [TARGET], [])
    with pytest.raises(DataError, match="none of the 0 views"):
        cue_pairs([], [], [])


def test_the_last_projection_is_taken_out_and_put_back():
    mini = load_encoder("mini")
    images = render_scenes(sample_scenes(0, "val", 3))
    projection = mini.model.visual.proj
    raw = before_projection(mini, images, batch_size=2)
    assert mini.model.visual.proj is projection and raw.shape == (3, projection.shape[0])
    expected = mini.encode_images(images)
    assert torch.allclose(unit(raw @ projection.detach()), expected, atol=1e-5)


def test_masks_of_what_is_named_false_and_empty():
    seen = Scene("beach", "day", "clear", (DOG, CAR, KITE))
    found = object_masks("a dog, no kite", seen, TARGET, size=64)
    dog, _, kite = torch.from_numpy(render(seen).masks)
    assert torch.equal(found["named"], dog) and torch.equal(found["false"], kite)
    every = torch.from_numpy(render(seen).masks.any(axis=0))
    assert torch.equal(found["background"], ~every)


def test_what_is_occluded_has_the_colour_of_its_surroundings():
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[:, 8:] = 200
    mask = np.zeros((16, 16), dtype=bool)
    mask[7:9, 1:3] = True
    image[mask] = 99
    filled = occluded(image, mask)
    assert (filled[mask] == 0).all() and (filled[~mask] == image[~mask]).all()


def test_a_difference_of_means_keeps_rows_with_one_value_and_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 200), rng.normal(0, 1, 200)
    a[:80], b[150:] = np.nan, np.nan
    value, low, high = difference_of_means(a, b)
    assert value == pytest.approx(np.nanmean(a) - np.nanmean(b))
    draws = (rng.integers(0, 200, 200) for _ in range(1000))
    means = [np.nanmean(a[d]) - np.nanmean(b[d]) for d in draws]
    assert [low, high] == pytest.approx(list(np.quantile(means, [0.025, 0.975])), abs=0.03)


def test_rows_are_means_over_views_and_a_cue_that_is_absent_gives_none():
    rows = Rows()
    rows.add("share", "before", np.array([1.0, 3.0, np.nan]), kind="named")
    rows.add("share", "before", np.array([np.nan, 3.0, np.nan]), kind="false")
    table = rows.frame()
    assert tuple(table.columns) == COLUMNS and len(table) == 1
    assert table.loc[0, ["value", "num_views"]].tolist() == [2.0, 2]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cue_geometry, "NUM_PROBE_SCENES", 660)
    monkeypatch.setattr(cue_geometry, "NUM_DERIVED", 2)
    monkeypatch.setattr(cue_geometry, "SPANS", 3)
    monkeypatch.setattr(cue_attention, "NUM_CURVES", 3)
    return dataclasses.replace(
        PROFILES["classroom"], name="small", num_gallery=140, num_fusion_seeds=1
    )


def shorter(function, number):
    return lambda *arguments, **options: function(*arguments, **(options | {"num_views": number}))


def test_the_control_and_dmcl_are_compared_unless_others_are_named():
    specs = compared_encoders(PROFILES["classroom"])
    assert list(specs) == ["before", "finetune_text", "dmcl"]
    assert specs["dmcl"].startswith("finetuned:") and specs["dmcl"].endswith("dmcl/0")
    assert compared_encoders(PROFILES["gpu"], {"x": "mini"})["x"] == "mini"


def test_an_encoder_compared_with_itself_has_changed_nothing(small, tmp_path, monkeypatch):
    plain = cue_geometry.sample_cues

    def few_pairs(*arguments, **options):
        """Enough views for a spectrum, and the pairs of the first ten of them, in their order."""
        sample = plain(*arguments, **options, num_views=140)
        number = sum(pair.view < 10 for pair in sample.pairs)
        false = int(sample.chosen("hallucinated")[:number].sum())
        return dataclasses.replace(
            sample, pairs=sample.pairs[:number], changed=sample.changed[:number],
            noise=sample.noise[:false], noise_inside=sample.noise_inside[:false],
        )  # fmt: skip

    monkeypatch.setattr(cue_geometry, "sample_cues", few_pairs)
    options = {"work_dir": tmp_path / "work", "results_dir": tmp_path}
    path = run_geometry(small, {"same": "mini"}, **options)
    rows = pd.read_csv(path, keep_default_na=False)
    assert tuple(rows.columns) == COLUMNS
    assert not rows.duplicated(list(COLUMNS[:5])).any()
    ratio = rows[rows["measure"].str.startswith("attenuation") & (rows["kind"] != "supported")
                 & ((rows["measure"] == "attenuation") | (rows["kind"] != "lucky"))]  # fmt: skip
    assert set(ratio["encoder"]) == {"same"} and set(ratio["where"]) == {"before"}
    assert ratio["value"].to_numpy() == pytest.approx(1)
    assert rows[rows["measure"] == "cka"]["value"].to_numpy() == pytest.approx(1)
    keys = ["measure", "where", "cue", "kind"]
    sides = [rows[rows["encoder"] == name].set_index(keys)["value"] for name in ("before", "same")]
    both = pd.concat(sides, axis=1, join="inner", keys=["before", "same"])
    for measure in ("share_in_span", "slope", "share_in_null_space", "readable", "undo_log_rank"):
        some = both.loc[measure]
        assert len(some) and some["before"].to_numpy() == pytest.approx(some["same"].to_numpy())
    assert rows.query("measure == 'readable'")["value"].between(0, 1).all()
    monkeypatch.setattr(cue_geometry, "encode_cues", None)  # the features are kept
    for name in ("spaces", "attenuation", "directions", "removal", "linear", "probes", "fusions"):
        monkeypatch.setattr(cue_geometry, f"add_{name}", lambda *arguments: None)
    assert run_geometry(small, {"same": "mini"}, **options) == path


def test_attention_of_an_encoder_and_itself(small, tmp_path, monkeypatch):
    monkeypatch.setattr(cue_attention, "seen_views", shorter(cue_attention.seen_views, 24))
    generator = load_view_generator(steps=8)
    path = run_attention(
        small, generator, {"same": "mini"}, cache=tmp_path / "v", results_dir=tmp_path
    )
    rows = pd.read_csv(path, keep_default_na=False)
    assert tuple(rows.columns) == COLUMNS
    assert (rows[rows["measure"] == "share_change_over_before"]["value"] == 0).all()
    keys = ["measure", "encoder", "where", "kind"]
    assert not rows.duplicated(keys).any()
    found = rows.set_index(keys)["value"].to_dict()
    assert found["occlusion_attenuation", "same", "before", "named"] == pytest.approx(1)
    area = found["area", "none", "", "named"]
    assert found["share", "before", "relevance", "named"] > area
    assert set(rows["encoder"]) >= {"before", "same", "randomised"}


def test_the_table_of_cues_averages_within_views_first():
    sample = cue_pairs_module.CueSample(
        [""] * 2, torch.zeros(2),
        [cue_pairs_module.CuePair(v, "time", "lucky", None, None) for v in (0, 0, 1)],
        [TARGET] * 2, *[np.zeros(0)] * 4, 0,
    )  # fmt: skip
    table = CueTable(sample)
    table.add_pairs("length", "before", torch.tensor([1.0, 3.0, 6.0]))
    assert set(table.frame()["value"]) == {4.0}

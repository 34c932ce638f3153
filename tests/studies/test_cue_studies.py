"""Studies of single cues: pairs by hand, masks, differences of means, tables of small runs."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from daitir.analysis.geometry import cue_jacobian
from daitir.analysis.geometry.nullspace import before_projection
from daitir.analysis.geometry.pairs import CuePair, cue_pairs
from daitir.analysis.geometry.spaces import unit
from daitir.common.errors import DataError
from daitir.metrics import bootstrap_interval, paired_bootstrap
from daitir.models import ASSETS
from daitir.models.encoders import load_encoder
from daitir.models.finetuned import CONFIG_NAME
from daitir.models.views import load_view_generator
from daitir.scenes import Fact, Scene, SceneObject, render, render_scenes, sample_scenes
from daitir.studies.cues import attention as cue_attention
from daitir.studies.cues import geometry as cue_geometry
from daitir.studies.cues import tables as cue_tables
from daitir.studies.cues.attention import object_masks, occluded
from daitir.studies.cues.samples import CueSample, cue_slopes, sample_cues
from daitir.studies.cues.tables import (
    CUE_COLUMNS,
    CueTable,
    Rows,
    compared_encoders,
    difference_of_means,
)
from daitir.studies.engine.run import run_instrument
from daitir.studies.profiles import PROFILES

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
    with pytest.raises(DataError, match="none of the 0 views"):
        cue_pairs([], [], [])


def test_the_last_projection_is_taken_out_and_put_back():
    mini = load_encoder("mini")
    images = render_scenes(sample_scenes(0, "val", 3))
    projection = mini.model.visual.proj
    raw = before_projection(mini, images)
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
    assert tuple(table.columns) == CUE_COLUMNS and len(table) == 1
    assert table.loc[0, ["value", "num_views"]].tolist() == [2.0, 2]


def test_seeds_are_averaged_view_by_view_before_the_bootstrap():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (3, 50))
    values[:, 7] = values[1, 9] = np.nan  # a view that one seed lacks counts for none
    rows = Rows()
    rows.add("length", "dmcl", values)
    row = rows.frame().loc[0]
    kept = [view for view in range(50) if view not in (7, 9)]
    means = [sum(values[seed, view] for seed in range(3)) / 3 for view in kept]
    singles = [sum(values[seed, view] for view in kept) / 48 for seed in range(3)]
    averaged = np.full(50, np.nan)
    averaged[kept] = means
    expected = [np.mean(means), *bootstrap_interval(averaged), min(singles), max(singles)]
    found = row[["value", "ci_low", "ci_high", "seed_low", "seed_high"]].tolist()
    assert found == pytest.approx(expected, rel=1e-3)
    assert (row["num_views"], row["num_seeds"]) == (48, 3)


def test_changes_are_paired_by_view_and_by_seed():
    rng = np.random.default_rng(0)
    views = rng.normal(0, 3, 80)  # views differ much more than encoders
    before = views[None] + rng.normal(0, 0.1, (1, 80))
    control, dmcl = (views + shift + rng.normal(0, 0.1, (3, 80)) for shift in (0.2, 0.5))
    rows = Rows()
    rows.compare("rank", {"before": before, "control": control, "dmcl": dmcl}, where="view")
    table = rows.frame().set_index(["measure", "encoder"])
    assert set(table.index.get_level_values(0)) == {
        "rank", "rank_change_over_before", "rank_change_over_control"
    }  # fmt: skip
    for base, name, earlier, later in (
        ("before", "dmcl", before, dmcl), ("control", "dmcl", control, dmcl)
    ):  # fmt: skip
        row = table.loc[f"rank_change_over_{base}", name]
        paired = paired_bootstrap(earlier.mean(axis=0), later.mean(axis=0))
        expected = [paired.difference, paired.low, paired.high]
        assert row[["value", "ci_low", "ci_high"]].tolist() == pytest.approx(expected, rel=1e-3)
        of_seeds = [np.mean(later[s] - earlier[min(s, len(earlier) - 1)]) for s in range(3)]
        assert row[["seed_low", "seed_high"]].tolist() == pytest.approx(
            [min(of_seeds), max(of_seeds)], rel=1e-3
        )
        alone = table.loc["rank", name]
        assert row["ci_high"] - row["ci_low"] < (alone["ci_high"] - alone["ci_low"]) / 5


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cue_geometry, "NUM_PROBE_SCENES", 660)
    monkeypatch.setattr(cue_geometry, "NUM_DERIVED", 2)
    monkeypatch.setattr(cue_geometry, "SPANS", 3)
    return dataclasses.replace(
        PROFILES["classroom"], name="small", num_gallery=140, num_fusion_seeds=1
    )


def shorter(function, number):
    return lambda *arguments, **options: function(*arguments, **(options | {"num_views": number}))


def test_the_control_and_dmcl_are_compared():
    specs = compared_encoders(PROFILES["classroom"])
    assert list(specs) == ["before", "finetune_text", "dmcl"]
    for name in ("finetune_text", "dmcl"):
        assert [spec.split(f"/{name}/")[1] for spec in specs[name]] == ["0", "1", "2"]


def test_the_seeds_that_a_profile_has_are_compared(tmp_path):
    own = dataclasses.replace(PROFILES["classroom"], trained_encoders=str(tmp_path))
    missing = compared_encoders(own)["dmcl"]
    assert missing == [f"finetuned:{tmp_path / 'dmcl' / '0'}"]  # to be named in the refusal
    for name in ("finetune_text", "dmcl"):
        for seed in (0, 2):
            (tmp_path / name / str(seed)).mkdir(parents=True)
            (tmp_path / name / str(seed) / CONFIG_NAME).write_text("{}")
    found = compared_encoders(own)
    assert found["dmcl"] == [f"finetuned:{tmp_path / 'dmcl' / seed}" for seed in ("0", "2")]
    (tmp_path / "dmcl" / "1").mkdir()
    (tmp_path / "dmcl" / "1" / CONFIG_NAME).write_text("{}")
    with pytest.raises(DataError, match="'finetune_text': 2, 'dmcl': 3"):
        compared_encoders(own)


@pytest.mark.slow
def test_lengths_of_derivatives_are_those_of_single_pairs():
    mini = load_encoder("mini")
    sample = sample_cues(PROFILES["classroom"], mini, num_views=3)
    found = cue_slopes(sample, mini, num_views=2)
    false = [pair for pair in sample.pairs if pair.kind == "hallucinated"]
    for key, pairs, pictures in (
        ("slopes", sample.pairs, sample.changed),
        ("noise_slopes", false, sample.noises["noise inside"]),
    ):
        assert len(found[key]) == len(pairs)
        for length, pair, picture in zip(found[key], pairs, pictures, strict=True):
            if pair.view == 2:
                assert length.isnan()
                continue
            ends = cue_attention.image_pixels(mini, [sample.images[pair.view], picture])
            single = cue_jacobian(mini, ends[0], ends[1:] - ends[0]).norm()
            assert float(length) == pytest.approx(float(single), rel=1e-3)


def compare(monkeypatch, name, specs):
    """Let the studies compare the encoder of the package with others."""
    specs = {"before": ["mini"], name: specs}
    monkeypatch.setattr(cue_tables, "compared_encoders", lambda profile: specs)


@pytest.mark.slow
def test_an_encoder_compared_with_itself_has_changed_nothing(small, tmp_path, monkeypatch):
    plain = cue_geometry.sample_cues

    def few_pairs(*arguments, **options):
        """Enough views for a spectrum, and the pairs of the first ten of them, in their order."""
        sample = plain(*arguments, **options, num_views=140)
        number = sum(pair.view < 10 for pair in sample.pairs)
        false = int(sample.chosen("hallucinated")[:number].sum())
        noises = {name: images[:false] for name, images in sample.noises.items()}
        return dataclasses.replace(
            sample, pairs=sample.pairs[:number], changed=sample.changed[:number], noises=noises
        )

    monkeypatch.setattr(cue_geometry, "sample_cues", few_pairs)
    compare(monkeypatch, "same", ["mini"])
    options = {"work_dir": tmp_path / "work", "cache": tmp_path / "v", "results_dir": tmp_path}
    path = run_instrument(cue_geometry.INSTRUMENT, small, **options)
    rows = pd.read_csv(path, keep_default_na=False)
    assert tuple(rows.columns) == CUE_COLUMNS
    assert not rows.duplicated(list(CUE_COLUMNS[:5])).any()
    ratio = rows[rows["measure"].str.startswith("attenuation") & (rows["kind"] != "supported")
                 & ((rows["measure"] == "attenuation") | (rows["kind"] != "lucky"))]  # fmt: skip
    assert set(ratio["encoder"]) == {"same"} and set(ratio["where"]) == {"before"}
    assert ratio["value"].to_numpy() == pytest.approx(1)
    assert rows[rows["measure"] == "cka"]["value"].to_numpy() == pytest.approx(1)
    keys = ["measure", "where", "cue", "kind"]
    sides = [rows[rows["encoder"] == name].set_index(keys)["value"] for name in ("before", "same")]
    both = pd.concat(sides, axis=1, join="inner", keys=["before", "same"])
    changed = rows[rows["measure"].str.endswith("_change_over_before")]
    assert set(changed["measure"].str.removesuffix("_change_over_before")) == {
        "share_in_span", "share_in_null_space", "readable", "modality_gap", "alignment",
        "uniformity", "effective_rank",
        *(f"{m}_{w}" for m in ("removal", "undo") for w in ("logit", "log_rank")),
    }  # fmt: skip
    assert changed["value"].to_numpy() == pytest.approx(0, abs=1e-6)
    ratio = rows[rows["measure"].str.startswith("slope_ratio")]
    assert len(ratio) and ratio["value"].to_numpy() == pytest.approx(1)
    for measure in ("share_in_span", "slope", "share_in_null_space", "readable", "undo_log_rank"):
        some = both.loc[measure]
        assert len(some) and some["before"].to_numpy() == pytest.approx(some["same"].to_numpy())
    assert rows.query("measure == 'readable'")["value"].between(0, 1).all()
    for name in ("encode_cues", "cue_slopes", "readable"):  # what they give is kept
        monkeypatch.setattr(cue_geometry, name, None)
    for name in ("spaces", "attenuation", "directions", "removal", "linear", "probes", "fusions"):
        monkeypatch.setattr(cue_geometry, f"add_{name}", lambda *arguments: None)
    assert run_instrument(cue_geometry.INSTRUMENT, small, **options) == path


@pytest.mark.slow
def test_attention_of_an_encoder_and_itself(small, tmp_path, monkeypatch):
    monkeypatch.setattr(cue_attention, "seen_views", shorter(cue_attention.seen_views, 24))
    compare(monkeypatch, "same", ["mini"])
    folders = {"cache": tmp_path / "v", "work_dir": tmp_path / "work", "results_dir": tmp_path}
    path = run_instrument(cue_attention.INSTRUMENT, small, **folders)
    rows = pd.read_csv(path, keep_default_na=False)
    assert tuple(rows.columns) == CUE_COLUMNS
    assert (rows[rows["measure"] == "share_change_over_before"]["value"] == 0).all()
    keys = ["measure", "encoder", "where", "kind"]
    assert not rows.duplicated(keys).any()
    counted = rows[rows["measure"].isin(["deletion", "insertion"])]["num_views"]
    assert len(counted) and (counted == 24).all()  # all of the sample
    found = rows.set_index(keys)["value"].to_dict()
    for measure in ("deletion", "insertion"):
        of_map, random = (found[measure, "before", w, ""] for w in ("relevance", "random"))
        beyond = found[f"{measure}_beyond", "before", "random", ""]
        assert beyond == pytest.approx(of_map - random, abs=1e-3)
    assert found["occlusion_attenuation", "same", "before", "named"] == pytest.approx(1)
    area = found["area", "none", "", "named"]
    assert found["share", "before", "relevance", "named"] > area
    assert set(rows["encoder"]) >= {"before", "same", "randomised"}


@pytest.mark.slow
def test_two_seeds_give_the_mean_of_what_each_is_measured_to_be(small, tmp_path, monkeypatch):
    views = cue_attention.seen_views(
        small, load_encoder("mini"), load_view_generator(steps=8), cache=tmp_path / "v", num_views=8
    )
    monkeypatch.setattr(cue_attention, "seen_views", lambda *arguments, **options: views)
    specs = [f"finetuned:{ASSETS / 'encoders' / name / '0'}" for name in ("text_view", "dmcl")]
    compare(monkeypatch, "some", specs)
    folders = {"cache": tmp_path / "v", "work_dir": tmp_path / "work", "results_dir": tmp_path}
    path = run_instrument(cue_attention.INSTRUMENT, small, **folders)
    rows = pd.read_csv(path, keep_default_na=False)
    assert set(rows["num_seeds"]) == {1, 2}
    found = rows[rows["encoder"] == "some"].set_index(["measure", "where", "kind"])
    singles = [cue_attention.seen_by(views, load_encoder(spec)) for spec in specs]
    for key in singles[0]:
        means = [np.nanmean(single[key]) for single in singles]
        row = found.loc[tuple(key.split("|")), ["value", "seed_low", "seed_high"]].tolist()
        assert row == pytest.approx([sum(means) / 2, min(means), max(means)], rel=2e-3, abs=1e-5)
    notes = path.with_suffix(".json").read_text()
    assert list(json.loads(notes)["encoders"]) == ["before/0", "some/0", "some/1"]
    assert str(ASSETS) not in notes  # no folder of this machine
    monkeypatch.setattr(cue_attention, "curve_values", None)  # what was measured is kept
    assert run_instrument(cue_attention.INSTRUMENT, small, **folders) == path


def test_the_table_of_cues_averages_within_views_first():
    sample = CueSample(
        [""] * 2, torch.zeros(2),
        [CuePair(v, "time", "lucky", None, None) for v in (0, 0, 1)],
        [TARGET] * 2, *[np.zeros(0)] * 2, {}, 0,
    )  # fmt: skip
    table = CueTable(sample)
    table.add("length", "before", torch.tensor([1.0, 3.0, 6.0]))
    assert set(table.frame()["value"]) == {4.0}
    seeds = torch.tensor([[1.0, 3.0, 6.0], [0.0, 4.0, 0.0]])
    table.add("length", "dmcl", seeds)
    dmcl = table.frame().query("encoder == 'dmcl'")
    found = dmcl[["value", "seed_low", "seed_high"]].drop_duplicates().to_numpy().tolist()
    assert found == [[2.5, 1.0, 4.0]]

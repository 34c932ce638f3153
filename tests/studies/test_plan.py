"""The cost plan: every formula by hand, and the command that writes it."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from daitir.cli import main
from daitir.studies.plan import (
    ACTIVATION_BYTES,
    AT_ONCE,
    CARDS,
    PIPELINES,
    Card,
    ModelCost,
    Setting,
    Stage,
    plan_table,
    stages,
    totals,
)

ROOT = Path(__file__).resolve().parents[2]
CARD = Card("x", peak=1e12, memory=10e9, bandwidth=1e9, hourly=2.0)
PARTS = (
    "clip_image", "clip_text", "blip_base_image", "blip_base_text", "blip_large_image",
    "blip_large_text", "vit_b16_image", "vit_b16_text", "sd21_step", "sd21_text", "sdxl_step",
    "sdxl_text", "vae_decode", "lm",
)  # fmt: skip


@pytest.fixture(scope="module")
def costs():
    """Round numbers, so that a hand can follow."""
    return {name: ModelCost(10**9, 1e12, "item", "made up") for name in PARTS}


def found(costs, name, option="", **counts):
    (stage,) = (s for s in stages(Setting(**counts), costs) if s[:2] == (name, option))
    return stage


def planned(stage, card=CARD, utilisation=0.25):
    return plan_table([stage], [card], [utilisation] * 3).iloc[0]


def test_hours_are_operations_over_speed_or_bytes_over_bandwidth():
    stage = Stage("s", items=7200, operations=2.5e11)
    assert planned(stage)["gpu_hours"] == 2.0
    assert planned(stage._replace(serial_bytes=3e9))["gpu_hours"] == 6.0
    assert planned(stage._replace(serial_bytes=1e6))["gpu_hours"] == 2.0
    with pytest.raises(ValueError, match="at most 1, not 1.5"):
        planned(stage, utilisation=1.5)


def test_several_cards_take_less_time_and_more_money():
    stage, many = Stage("s", items=7200, operations=2.5e11), replace(CARD, number=8, scaling=0.8)
    assert planned(stage, many)["clock_hours"] == pytest.approx(2.0 / 6.4)
    assert planned(stage)["usd"] == 4.0 and planned(stage, many)["usd"] == pytest.approx(5.0)


def test_counts_are_the_fields(costs):
    assert found(costs, "refine test").items == 2064 * 11 * 5 == 113_520
    train = found(costs, "draw train", "SDXL-Turbo, 4 steps", drawn_rounds=4, views_per_round=2)
    assert train.items == 123_287 * 4 * 2
    assert found(costs, "embed pictures", "clip").items == 50_000 + 123_287
    assert found(costs, "train ADaFuSE").items == 50 * 123_287


def test_a_view_is_steps_text_and_decoding(costs):
    guided, turbo = PIPELINES
    assert found(costs, "draw test", guided).operations == (100 + 2 + 1) * 1e12
    assert found(costs, "draw test", turbo).operations == (4 + 1 + 1) * 1e12
    assert found(costs, "draw test", turbo).memory == 2 * 3e9
    assert found(costs, "draw test", turbo, view_bytes=10.0).disk == 113_520 * 10


def test_a_language_model_reads_its_weights_for_every_token(costs):
    stage = found(costs, "refine test", refined_tokens=10, prompt_tokens=30, batch_lm=5)
    assert stage.operations == 40e12
    assert stage.serial_bytes == 10 * 2e9 / 5
    # keys and values: 32 layers of 8 heads of 128 numbers of two bytes
    assert stage.memory == 2e9 + 5 * 40 * (2 * 2 * 32 * 8 * 128)


def test_training_in_parts_takes_less_memory_and_one_more_pass(costs):
    parts, whole = found(costs, "train DMCL"), found(costs, "train DMCL", AT_ONCE)
    assert (parts.operations, whole.operations) == (4 * 3e12, 3 * 3e12)
    assert pytest.approx(2 * 61.728768e6 + 34 * 256 * 768 * 12) == ACTIVATION_BYTES
    assert whole.memory - parts.memory == pytest.approx((128 - 32) * ACTIVATION_BYTES)
    assert parts.memory == pytest.approx(16 * 2e9 + 32 * ACTIVATION_BYTES)
    assert found(costs, "train ADaFuSE").operations == 6 * 11_812_614


def test_the_table_and_its_totals(costs):
    parts = stages(Setting(), costs)
    table = plan_table(parts, (CARD, replace(CARD, name="y", memory=1e15)), (0.2, 0.4, 0.5))
    assert len(table) == 2 * len(parts) and table.groupby("card").size().eq(len(parts)).all()
    x = table[table["card"] == "x"].set_index(["stage", "option"]).sort_index()
    drawn = x.loc[("draw test", "SDXL-Turbo, 4 steps")]
    assert drawn["gpu_hours_low"] < drawn["gpu_hours"] < drawn["gpu_hours_high"]
    assert drawn["gpu_hours"] == pytest.approx(113_520 * 6e12 / 0.4e12 / 3600)
    assert drawn["usd"] == pytest.approx(2 * drawn["gpu_hours"])
    assert not x.loc[("train DMCL", AT_ONCE), "fits"] and x.loc[("rank, a method", ""), "fits"]
    sums = totals(table, pipeline="SDXL-Turbo, 4 steps", encoder="clip")
    by_hand = sum(
        row.gpu_hours for row in table[table["card"] == "y"].itertuples()
        if row.option in ("", "SDXL-Turbo, 4 steps", "clip")
    )  # fmt: skip
    assert sums.loc["y", "gpu_hours"] == pytest.approx(by_hand)
    without = totals(table, pipeline="SDXL-Turbo, 4 steps", without=("draw train",))
    assert without.loc["x", "gpu_hours"] < sums.loc["x", "gpu_hours"]
    with pytest.raises(ValueError, match="no option 'dall-e'"):
        totals(table, pipeline="dall-e")


def test_the_command_writes_the_table(tmp_path, capsys):
    out = tmp_path / "plan.csv"
    assert main(["paper", "plan", "--utilisation", "0.5", "0.3", "0.2", "--out", str(out)]) == 2
    assert "few, expected, many" in capsys.readouterr().err and not out.exists()
    command = ["paper", "plan", "--utilisation", "0.1", "0.2", "0.4"]
    assert main([*command, "--out", str(out)]) == 0
    rows, notes = pd.read_csv(out), json.loads(out.with_suffix(".json").read_text())
    prices = {card["name"]: card["hourly"] for card in notes["cards"]}
    assert "assumed" in notes["utilisation_is"] and all(card.source for card in CARDS)
    some = rows[(rows["card"] == "RTX 4090") & (rows["stage"] == "draw test")]
    hourly = (some["usd"] / some["gpu_hours"]).tolist()
    assert hourly == pytest.approx(2 * [prices["RTX 4090"]], rel=1e-3)
    assert (some["gpu_hours_high"] / some["gpu_hours_low"]).tolist() == pytest.approx([4, 4], 1e-3)


def test_the_committed_plan_is_that_of_the_code():
    rows = pd.read_csv(ROOT / "results" / "paper_plan.csv", keep_default_na=False)
    again = plan_table(stages(Setting()))
    assert rows["stage"].tolist() == again["stage"].tolist()
    for name in ("items", "operations_per_item", "gpu_hours", "usd", "memory_gb", "disk_gb"):
        assert rows[name].tolist() == pytest.approx(again[name].tolist(), rel=1e-4), name

"""The table of results from ranks."""

import numpy as np
import pandas as pd
import pytest
import torch

from daitir import metrics
from daitir.evaluation import judged_signal, result_rows


def test_three_hits_of_three_leave_room_for_misses():
    ranks, options = np.zeros((3, 2), int), {"benchmark": "b", "method": "m", "seed": 0}
    rows = result_rows(ranks, **options, baseline_ranks=ranks + 20)
    rows = rows[rows["round"] == 1].set_index("metric")[["value", "ci_low", "ci_high"]]
    p = 1 - 0.025 ** (1 / 3)
    expected = dict.fromkeys(("hits_at_10", "recall_at_10", "recall_at_1", "mrr"), (1, 1 - p, 1))
    expected |= dict.fromkeys(("degradation_rate", "degradation_rate_ln2"), (0, 0, p))
    gains = dict.fromkeys(("hits_at_10_gain", "recall_at_10_gain"), (1, 1 - 2 * p, 1))
    expected |= gains | {"bri": (0, np.nan, np.nan)}
    assert set(rows.index) == set(expected)
    for metric, values in expected.items():
        np.testing.assert_allclose(rows.loc[metric], values, atol=1e-12)
    lost = result_rows(ranks + 20, **options, baseline_ranks=ranks).query("metric == 'rank_drop'")
    assert (lost["value"] == 20).all() and lost["ci_low"].isna().all()


def test_result_rows_of_a_hand_worked_case():
    rows = result_rows([[12, 3], [0, 20]], benchmark="human", method="text", seed=0)
    values = rows.set_index(["metric", "round"]).value
    assert values["recall_at_10", 0] == values["recall_at_10", 1] == 0.5
    assert values["hits_at_10", 1] == 1.0
    assert values["recall_at_1", 0] == 0.5
    assert values["mrr", 1] == pytest.approx((1 / 4 + 1 / 21) / 2)
    assert values["bri", 1] == pytest.approx((np.log(13) + np.log(4)) / 4)
    assert "degradation_rate" not in set(rows.metric)
    same = result_rows(torch.tensor([[12, 3], [0, 20]]), benchmark="human", method="text", seed=0)
    pd.testing.assert_frame_equal(rows, same)


def test_the_gain_of_a_method_over_itself_is_known():
    ranks = np.arange(60).reshape(30, 2) % 23
    better = np.maximum(ranks - 1, 0)
    about = {"benchmark": "b", "method": "m", "seed": 0}
    rows = result_rows(ranks, **about, baseline_ranks=ranks)
    itself = rows[rows["metric"].isin(["recall_at_10_gain", "degradation_rate"])]
    assert len(itself) == 4 and (itself[["value", "ci_low", "ci_high"]] == 0).all(axis=None)
    rows = result_rows(ranks, **about, baseline_ranks=better)
    over = rows[rows["metric"] == "recall_at_10_gain"]
    assert (over["ci_low"] < over["ci_high"]).all()


def test_a_signal_is_judged_by_answers_that_are_accepted_or_not():
    rng = np.random.default_rng(0)
    signal, hits = rng.integers(0, 4, 16) / 4, rng.integers(0, 2, 8)
    counts = rng.integers(1, 3, (3, 8))
    told = judged_signal(signal, hits, 0.5, counts, absent=0.3)
    for row, of_sample in enumerate(counts):
        drawn = np.repeat(np.arange(8), of_sample)  # the sample, query by query
        there, gone = signal[drawn], signal[8 + drawn]
        pairs = [(a > b) + (a == b) / 2 for a in there for b in gone]
        assert told["auroc"][row] == pytest.approx(np.mean(pairs))
        assert told["kept"][row] == pytest.approx(np.mean(there >= 0.5))
        assert told["false_finds"][row] == pytest.approx(np.mean(gone >= 0.5))
        fails = np.concatenate([1 - hits[drawn], np.ones(len(drawn))])
        weights = np.repeat([0.7, 0.3], len(drawn))
        both = np.concatenate([there, gone])
        risks = [np.average(fails[both >= value], weights=weights[both >= value]) for value in both]
        area = np.average(risks, weights=weights)
        assert told["risk_coverage_area"][row] == pytest.approx(area)
    plain = judged_signal(signal, hits, 0.5)
    assert plain["auroc"] == metrics.auroc(signal, np.arange(16) < 8)

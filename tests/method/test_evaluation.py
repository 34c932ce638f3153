"""The table of results from ranks."""

import numpy as np
import pandas as pd
import pytest
import torch

from daitir.evaluation import result_rows


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

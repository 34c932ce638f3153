"""Numbers for the prose of chapters: plain Python numbers under the right names."""

import numpy as np
import pandas as pd
import pytest

from daitir import metrics
from daitir.book import chapters


@pytest.fixture
def glued(monkeypatch):
    kept = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, value, display: kept.update({name: value}))
    return kept


def test_numbers_become_plain(glued):
    chapters.glue_numbers(share=np.float64(0.5), count=np.int64(3), word="ten", whole=7)
    assert glued == {"share": 0.5, "count": 3, "word": "ten", "whole": 7}
    assert [type(value) for value in glued.values()] == [float, int, str, int]


def test_an_interval_is_glued_and_written_alike(glued):
    paired = metrics.paired_bootstrap(np.zeros(50), np.r_[np.ones(10), np.zeros(40)])
    row = pd.Series({"value": 0.2, "ci_low": paired.low, "ci_high": paired.high})
    assert chapters.interval_text(paired) == chapters.interval_text(row)
    chapters.glue_interval("gain", paired)
    assert glued["gain"] == pytest.approx(20) and glued["gain_low"] == pytest.approx(
        100 * paired.low
    )
    assert set(glued) == {"gain", "gain_low", "gain_high"}
    with pytest.raises(ValueError, match="unpack"):
        chapters.interval_text([1.0, 2.0])

"""Numbers for the prose of chapters: plain Python numbers under the right names."""

import numpy as np
import pandas as pd
import pytest

from daitir import metrics
from daitir.book import chapters


def test_prose_takes_numbers_of_all_kinds():
    numbers = {"share": np.float64(0.5), "count": np.int64(3), "word": "ten", "many": 1234}
    prose = chapters.say("{share:.0%} of {count:d}, {word}, {many:,}, ${{x}}$", **numbers)
    assert prose.data == "50% of 3, ten, 1,234, ${x}$"
    with pytest.raises(KeyError, match="other"):
        chapters.say("{other}", **numbers)


def test_an_interval_is_the_same_as_text_and_as_numbers():
    paired = metrics.paired_bootstrap(np.zeros(50), np.r_[np.ones(10), np.zeros(40)])
    row = pd.Series({"value": 0.2, "ci_low": paired.low, "ci_high": paired.high})
    assert chapters.interval_text(paired) == chapters.interval_text(row)
    low, high = 100 * paired.low, 100 * paired.high
    expected = {"gain": pytest.approx(20), "gain_low": low, "gain_high": high}
    assert chapters.bounds("gain", paired) == chapters.bounds("gain", row) == expected
    with pytest.raises(ValueError, match="unpack"):
        chapters.interval_text([1.0, 2.0])

"""Figures: what is drawn, that curves can be told apart without colour, and what is refused."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from daitir.book.plotting import STYLES, plot_rounds, show_images


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def rows(*methods, rounds=(0, 1, 2)):
    table = [
        {"method": m, "round": t, "value": 0.1 * t, "ci_low": 0.1 * t - 0.02, "ci_high": 0.1 * t}
        for m in methods
        for t in rounds
    ]
    return pd.DataFrame(table)


def test_one_curve_and_one_band_per_label_in_their_order():
    ax = plot_rounds(rows("text", "view", "dar"), {"dar": "sum", "text": "text alone"})
    assert [line.get_label() for line in ax.lines] == ["sum", "text alone"]
    assert len(ax.collections) == 2
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0, 0.1, 0.2])
    low, high = ax.collections[0].get_datalim(ax.transData).intervaly
    assert (low, high) == pytest.approx((-0.02, 0.2))


def test_rounds_are_sorted():
    shuffled = rows("text", rounds=(2, 0, 1))
    ax = plot_rounds(shuffled, {"text": "text"})
    assert list(ax.lines[0].get_xdata()) == [0, 1, 2]


def test_draws_into_given_axes_and_by_another_column():
    ax = plt.figure().add_subplot()
    table = rows("text").rename(columns={"method": "benchmark"})
    assert plot_rounds(table, {"text": "text"}, by="benchmark", ax=ax) is ax


def test_a_skipped_curve_leaves_its_style_unused():
    both = {"text": "text", "dar": "sum"}
    second = plot_rounds(rows("text", "dar"), both).lines[1]
    (alone,) = plot_rounds(rows("dar"), both, skip=["text"]).lines
    assert (alone.get_label(), alone.get_marker()) == ("sum", second.get_marker())


def test_curves_differ_without_colour():
    names = [str(n) for n in range(len(STYLES))]
    lines = plot_rounds(rows(*names), dict.fromkeys(names, "curve")).lines
    assert len({line.get_marker() for line in lines}) == len(lines)
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == len(lines)


def test_neighbouring_curves_differ_in_greyscale():
    grey = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour, _, _ in STYLES]
    assert min(abs(np.diff(grey[:4]))) > 0.05


def test_a_missing_method_two_metrics_or_too_many_curves_are_refused():
    with pytest.raises(ValueError, match="no row of method 'dar'"):
        plot_rounds(rows("text"), {"dar": "sum"})
    with pytest.raises(ValueError, match="several rows for a round"):
        plot_rounds(pd.concat([rows("text"), rows("text")]), {"text": "text"})
    names = [str(n) for n in range(len(STYLES) + 1)]
    with pytest.raises(ValueError, match="can be told apart"):
        plot_rounds(rows(*names), dict.fromkeys(names, "curve"))


def test_strip_shows_pictures_titles_frames_and_a_label():
    images = [np.full((4, 4, 3), n, dtype=np.uint8) for n in range(3)]
    axes = show_images(images, titles=["a", "b", "c"], framed=[1], label="round 0")
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    assert [ax.spines["left"].get_visible() for ax in axes] == [False, True, False]
    assert [ax.get_ylabel() for ax in axes] == ["round 0", "", ""]
    np.testing.assert_array_equal(axes[2].images[0].get_array(), images[2])


def test_strip_draws_into_given_axes_and_takes_masks():
    axes = plt.subplots(1, 2)[1]
    assert show_images([np.eye(4, dtype=bool)] * 2, axes=axes) is axes


def test_strip_refuses_a_number_of_titles_that_does_not_fit():
    with pytest.raises(ValueError):
        show_images([np.zeros((4, 4, 3), dtype=np.uint8)], titles=["a", "b"])

"""Figures of the book: curves per round with interval bands, and strips of pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

# The palette of Okabe and Ito without its yellow, dark to light in turn, so that neighbours differ
# in greyscale; line and marker tell the curves apart without any colour.
STYLES = (
    ("#000000", "-", "o"),
    ("#d55e00", "--", "s"),
    ("#0072b2", "-.", "^"),
    ("#e69f00", ":", "D"),
    ("#009e73", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#cc79a7", (0, (1, 3)), "P"),
    ("#56b4e9", (0, (8, 2)), "X"),
)
FRAME = "#d55e00"


def plot_rounds(
    rows: pd.DataFrame,
    labels: Mapping[str, str],
    *,
    by: str = "method",
    skip: Collection[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """One curve per round and its interval as a band, for each value of the column `by`.

    Args:
        rows: result rows of one metric, with the columns `round`, `value`, `ci_low`, `ci_high` and
            `by`; fractions, drawn as percent.
        labels: which values of `by` to draw, in the order of their styles, and what the legend
            calls them.
        skip: names in `labels` that are not drawn but keep their style, so that a method looks
            the same in several figures.
        ax: where to draw; a new figure without it.

    Raises ValueError for a curve without rows or with two rows for a round, and for too many.
    """
    if len(labels) > len(STYLES):
        raise ValueError(f"{len(labels)} curves, but only {len(STYLES)} can be told apart")
    ax = ax or plt.subplots(figsize=(6, 3.6), layout="constrained")[1]
    for (name, label), (colour, line, marker) in zip(labels.items(), STYLES, strict=False):
        if name in skip:
            continue
        curve = rows[rows[by] == name].sort_values("round")
        if curve.empty or curve["round"].duplicated().any():
            fault = "no row" if curve.empty else "several rows for a round"
            raise ValueError(f"{fault} of {by} {name!r}; pass the rows of one metric and benchmark")
        x, look = curve["round"], {"color": colour, "linestyle": line, "marker": marker}
        ax.plot(x, curve["value"], label=label, markersize=4.5, linewidth=1.6, **look)
        ax.fill_between(x, curve["ci_low"], curve["ci_high"], color=colour, alpha=0.15, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("round")
    return ax


def show_images(
    images: Sequence[np.ndarray],
    *,
    titles: Sequence[str] | None = None,
    framed: Collection[int] = (),
    label: str | None = None,
    axes: Sequence[Axes] | None = None,
) -> Sequence[Axes]:
    """Pictures side by side, those at the positions `framed` in a thick frame.

    Images are `(height, width, 3)` uint8, or `(height, width)` for a mask; `titles` stand above
    them, `label` to the left of the strip. Without `axes`, one for each, there is a new figure.
    """
    if axes is None:
        size = (1.5 * len(images), 1.8)
        axes = plt.subplots(1, len(images), figsize=size, layout="constrained", squeeze=False)[1][0]
    titles = [""] * len(images) if titles is None else titles
    for number, (ax, image, title) in enumerate(zip(axes, images, titles, strict=True)):
        ax.imshow(image, cmap="gray", interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=number in framed, color=FRAME, linewidth=4)
    if label:
        axes[0].set_ylabel(label, fontsize=9)
    return axes

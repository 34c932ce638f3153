"""Maps as figures: over a picture, head by layer, along the words, and side by side.

Maps are drawn in cividis, which is even in lightness and the same to colour-blind eyes. Every
figure shows its scale, and panels that are to be compared share one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

MAP, OPACITY = "cividis", 0.7


def show_maps(
    maps: Sequence[Tensor | np.ndarray],
    *,
    images: Sequence[np.ndarray] | None = None,
    titles: Sequence[str] | None = None,
    label: str = "",
    axes: Sequence[Axes] | None = None,
) -> Sequence[Axes]:
    """Maps (rows, columns) side by side on one scale, over their pictures where there are any.

    A cell covers its part of the picture. Pictures, uint8 (height, width, 3), are shown in grey, so
    that colour belongs to the map alone. `label` is what the scale measures. Without `axes`, one
    for each map, a new figure is made. Raises ValueError where the arguments are not as many.
    """
    if axes is None:
        size = (1.9 * len(maps) + 0.6, 2.1)
        axes = plt.subplots(1, len(maps), figsize=size, layout="constrained", squeeze=False)[1][0]
    arrays = [np.asarray(values, dtype=float) for values in maps]
    norm = Normalize(0.0, max(values.max() for values in arrays))
    images = [None] * len(maps) if images is None else images
    titles = [""] * len(maps) if titles is None else titles
    for ax, values, image, title in zip(axes, arrays, images, titles, strict=True):
        height, width = values.shape if image is None else image.shape[:2]
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        if image is not None:
            ax.imshow(image @ np.array([0.299, 0.587, 0.114]), cmap="gray", vmin=0, vmax=255)
        alpha = 1.0 if image is None else OPACITY
        ax.imshow(values, MAP, norm, extent=extent, interpolation="nearest", alpha=alpha)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
    bar = axes[-1].figure.colorbar(ScalarMappable(norm, MAP), ax=list(axes), shrink=0.85)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return axes


def head_grid(maps: Tensor | np.ndarray, *, label: str = "attention") -> np.ndarray:
    """The maps of every head of every layer, (layers, heads, rows, columns), on one scale.

    Returns the Axes, (layers, heads).
    """
    layers, heads = maps.shape[:2]
    size = (1.05 * heads + 1.0, 1.05 * layers + 0.3)
    axes = plt.subplots(layers, heads, figsize=size, layout="constrained", squeeze=False)[1]
    flat = np.asarray(maps, dtype=float).reshape(layers * heads, *maps.shape[2:])
    show_maps(list(flat), axes=list(axes.flat), label=label)
    for number, ax in enumerate(axes[0]):
        ax.set_title(f"head {number}", fontsize=8)
    for number, ax in enumerate(axes[:, 0]):
        ax.set_ylabel(f"layer {number}", fontsize=8)
    return axes


def token_strip(tokens: Sequence[tuple[str, float]]) -> Axes:
    """The tokens of a text in a row of bars, so that lengths can be compared and words read."""
    ax = plt.subplots(figsize=(0.34 * len(tokens) + 1.2, 1.9), layout="constrained")[1]
    words, values = zip(*tokens, strict=True)
    colours = plt.get_cmap(MAP)(Normalize(0, max(*values, 1e-12))(np.array(values)))
    ax.bar(range(len(words)), values, color=colours, edgecolor="black", linewidth=0.4)
    ax.set_xticks(range(len(words)), words, rotation=60, ha="right", fontsize=8)
    ax.set_ylabel("relevance", fontsize=8)
    ax.tick_params(axis="y", labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def before_after(
    images: Sequence[np.ndarray],
    before: Sequence[Tensor | np.ndarray],
    after: Sequence[Tensor | np.ndarray],
    *,
    names: tuple[str, str] = ("before", "after"),
    titles: Sequence[str] | None = None,
) -> np.ndarray:
    """Pictures, their maps before and after, in three rows; both rows of maps share one scale.

    Maps are scaled to sum to one, so that what is compared is where they lie. Returns the Axes,
    (3, num_images). Raises ValueError where the arguments are not as many.
    """
    number = len(images)
    if not len(before) == len(after) == number:
        raise ValueError(f"{number} images, but {len(before)} maps before and {len(after)} after")
    size = (1.5 * number + 0.9, 4.9)
    axes = plt.subplots(3, number, figsize=size, layout="constrained", squeeze=False)[1]
    arrays = [np.asarray(values, dtype=float) for values in (*before, *after)]
    shares = [values / values.sum() for values in arrays]
    show_maps(shares, images=[*images] * 2, label="share of the map", axes=list(axes[1:].flat))
    for ax, image, title in zip(axes[0], images, titles or [""] * number, strict=True):
        ax.imshow(image, interpolation="nearest")
        ax.set_title(title, fontsize=8)
        ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[1:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize=9)
    return axes

"""Draw which layers of the package import from which, into `book/images/imports.png`.

    python -m pip install grimp
    python book/draw_imports.py
"""

from pathlib import Path

import grimp
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

LAYERS = (
    "common", "metrics", "objectives", "fusion", "retrieval", "evaluation", "data", "scenes",
    "models", "recipes", "analysis", "studies", "book", "cli",
)  # fmt: skip


def count_imports() -> np.ndarray:
    """How many modules of each layer import from each, `(importing, imported)`."""
    graph = grimp.build_graph("daitir", exclude_type_checking_imports=True, cache_dir=None)
    pairs = {
        (module, imported.split(".")[1])
        for module in graph.modules - {"daitir"}
        for imported in graph.find_modules_directly_imported_by(module) - {"daitir"}
    }
    counts = np.zeros((len(LAYERS), len(LAYERS)), int)
    for module, layer in pairs:
        counts[LAYERS.index(module.split(".")[1]), LAYERS.index(layer)] += 1
    return counts


def draw(counts: np.ndarray, path: Path) -> None:
    figure, ax = plt.subplots(figsize=(7, 5.6), layout="constrained")
    ax.imshow(np.log1p(counts), cmap="Greys", vmax=1.6 * np.log1p(counts.max()))
    for row, column in zip(*counts.nonzero(), strict=True):
        ax.text(column, row, counts[row, column], ha="center", va="center", fontsize=9)
    edges = np.arange(len(LAYERS) + 1) - 0.5
    ax.step(edges, edges, where="post", color="#d55e00")  # right of it imports would run up
    ax.set_xticks(range(len(LAYERS)), LAYERS, rotation=45, ha="right")
    ax.set_yticks(range(len(LAYERS)), LAYERS)
    ax.set(xlabel="imported", ylabel="importing")
    figure.savefig(path, dpi=110)
    Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    draw(count_imports(), Path(__file__).parent / "images" / "imports.png")

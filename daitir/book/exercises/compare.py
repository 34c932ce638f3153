"""How an answer is compared with what is expected."""

from __future__ import annotations

from typing import Any

import numpy as np

PASSED = "Passed."
PAIRS = [  # features before scaling: images, then their texts, of which two are the same
    [[1.0, 0.2, -0.3], [0.1, 0.9, 0.4], [-0.5, 0.3, 0.8]],
    [[0.3, 0.8, 0.2], [0.3, 0.8, 0.2], [-0.6, 0.1, 0.7]],
]


def compare(answer: Any, expected: Any, hint: str) -> None:
    expected = np.asarray(expected, dtype=float)
    shape(answer, expected.shape)
    values = np.asarray(answer, dtype=float)
    assert np.allclose(values, expected, atol=1e-5), (
        f"{hint}: expected {expected.round(4).tolist()}, got {values.round(4).tolist()}"
    )


def shape(answer: Any, shape: tuple[int, ...]) -> None:
    assert answer is not None and answer is not ..., (
        "the function returns nothing yet; it must end in a return statement"
    )
    found = tuple(np.shape(answer))
    assert found == tuple(shape), f"the answer must have the shape {tuple(shape)}, not {found}"

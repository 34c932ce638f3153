"""Checks of the exercises: each takes a learner's function and compares it with the right answer.

A check returns `PASSED`, or raises AssertionError with a hint about what went wrong. They stand by
chapter: `foundations` 0 to 5, `methods` 6 to 10, `seeing` 11 to 13, `scale` 14 and 15. What a
function is given and gives, its exercise says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

PASSED = "Passed."
PAIRS = [  # features before scaling: images, then their texts, of which two are the same
    [[1.0, 0.2, -0.3], [0.1, 0.9, 0.4], [-0.5, 0.3, 0.8]],
    [[0.3, 0.8, 0.2], [0.3, 0.8, 0.2], [-0.6, 0.1, 0.7]],
]


def exercise(right: Callable, *cases: tuple) -> Callable[[Callable], str]:
    """The check of an exercise by its right answer.

    Args:
        cases: each the arguments of both functions, and last the hint for whom they tell apart.

    >>> double = exercise(lambda number: number + number, (2, "add the number to itself"))
    >>> double(lambda number: 2 * number)
    'Passed.'
    >>> double(lambda number: number)
    Traceback (most recent call last):
    AssertionError: add the number to itself: expected 4.0, got 2.0
    """

    def check(function: Callable) -> str:
        for *arguments, hint in cases:
            compare(answer_to(function, *arguments), right(*arguments), hint)
        return PASSED

    return check


def answer_to(function: Callable, *arguments: Any) -> Any:
    """The answer to copies of the arguments, which must stay as they are."""
    given = copy.deepcopy(arguments)
    answer = function(*given)
    for before, after in zip(arguments, given, strict=True):
        assert np.all(np.asarray(before == after)), "the arguments must stay as they are"
    return answer


def compare(answer: Any, expected: Any, hint: str) -> None:
    """An AssertionError with the hint unless the answer has the expected shape and values."""
    expected = np.asarray(expected, dtype=float)
    check_shape(answer, expected.shape)
    values = np.asarray(answer, dtype=float)
    assert np.allclose(values, expected, atol=1e-5), (
        f"{hint}: expected {expected.round(4).tolist()}, got {values.round(4).tolist()}"
    )


def check_shape(answer: Any, shape: tuple[int, ...]) -> None:
    """An AssertionError unless there is an answer of this shape."""
    assert answer is not None and answer is not ..., (
        "the function returns nothing yet; it must end in a return statement"
    )
    assert np.shape(answer) == tuple(shape), (
        f"the answer must have the shape {tuple(shape)}, not {tuple(np.shape(answer))}"
    )

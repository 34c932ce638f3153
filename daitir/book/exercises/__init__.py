"""Checks of the exercises: each takes a learner's function and compares it with the right answer.

A check returns `PASSED`, or raises `WrongAnswer` with a hint about what went wrong. They stand by
chapter: `foundations` 0 to 5, `methods` 6 to 10, `seeing` 11 to 14, `scale` 15 and 16. What a
function is given and gives, its exercise says.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

PASSED = "Passed."
PAIRS = [  # features before scaling: images, then their texts, of which two are the same
    [[1.0, 0.2, -0.3], [0.1, 0.9, 0.4], [-0.5, 0.3, 0.8]],
    [[0.3, 0.8, 0.2], [0.3, 0.8, 0.2], [-0.6, 0.1, 0.7]],
]


class WrongAnswer(AssertionError):
    """What an answer lacks. A notebook shows the sentence alone: our source holds solutions."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class NotFilledIn(WrongAnswer):
    """A stub that is still empty."""


def require(condition: Any, sentence: str) -> None:
    """A WrongAnswer with the sentence unless the condition holds."""
    if not condition:
        raise WrongAnswer(sentence)


def exercise(right: Callable, *cases: tuple) -> Callable[[Callable], str]:
    """The check of an exercise by its right answer.

    Args:
        cases: each the arguments of both functions, and last the hint for whom they tell apart.

    >>> double = exercise(lambda number: number + number, (2, "add the number to itself"))
    >>> double(lambda number: 2 * number)
    'Passed.'
    >>> double(lambda number: number)
    Traceback (most recent call last):
    daitir.book.exercises.WrongAnswer: add the number to itself: expected 4.0, got 2.0
    """

    def check(function: Callable) -> str:
        for *arguments, hint in cases:
            compare(answer_to(function, *arguments), right(*arguments), hint)
        return PASSED

    return check


def answer_to(function: Callable, *arguments: Any) -> Any:
    """The answer to copies of the arguments, which must stay as they are."""
    given = copy.deepcopy(arguments)
    answer = call(function, *given)
    for before, after in zip(arguments, given, strict=True):
        require(np.array_equal(before, after), "the arguments must stay as they are")
    return answer


def call(function: Callable, *arguments: Any) -> Any:
    """The answer of a learner's function. Where it stops with an error, its line is named."""
    try:
        answer = function(*arguments)
    except Exception as error:
        lines = [frame.line for frame in traceback.extract_tb(error.__traceback__)[1:2]]
        place = "".join(f" at `{line}`" for line in lines)
        raise WrongAnswer(f"the function stops{place}: {type(error).__name__}: {error}") from error
    if answer is None or answer is ...:
        raise NotFilledIn("not filled in yet: the function must end in a return statement")
    return answer


def compare(answer: Any, expected: Any, hint: str) -> None:
    """A WrongAnswer with the hint unless the answer has the expected shape and values."""
    expected = np.asarray(expected, dtype=float)
    values = array_of(answer, expected.shape)
    numbers = f"expected {expected.round(4).tolist()}, got {values.round(4).tolist()}"
    require(np.allclose(values, expected, atol=1e-5), f"{hint}: {numbers}")


def array_of(answer: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of an answer, which must have this shape."""
    try:
        values = np.asarray(answer, dtype=float)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WrongAnswer(f"the answer must be an array of numbers: {error}") from error
    require(values.shape == shape, f"the answer must have the shape {shape}, not {values.shape}")
    return values

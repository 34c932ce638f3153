"""What the chapters share: numbers that their prose names, and intervals as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from daitir.common.versions import versions

if TYPE_CHECKING:
    from IPython.display import Markdown


def made_with() -> dict[str, Any]:
    """The versions and the device; without the commit, as the chapter becomes part of the next."""
    return {name: value for name, value in versions().items() if name != "commit"}


def interval_text(estimate: Iterable[float], *, scale: float = 100.0) -> str:
    """A paired bootstrap, or a value with its bounds, as text in points.

    >>> interval_text((0.025, 0.01, 0.041))
    '+2.5 (+1.0 to +4.1)'
    """
    value, low, high = (scale * number for number in estimate)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def say(text: str, /, **numbers: Any) -> Markdown:
    """Prose with numbers in it: Markdown that JupyterLab and the page of the book show alike.

    >>> say("It gains {gain:+.1f} points.", gain=2.51).data
    'It gains +2.5 points.'
    """
    from IPython.display import Markdown  # late: only notebooks need it

    return Markdown(text.format(**numbers))


def plain_name(name: str) -> str:
    """What readers see of an encoder, or of a rival: an encoder and what it ranks by.

    >>> plain_name("zero_shot+dar")
    "zero-shot, by DAR's sum"
    """
    encoder, _, query = name.partition("+")
    shown = dict.fromkeys(("before", "start", "zero_shot"), "zero-shot") | {"dmcl": "DMCL"}
    shown |= dict.fromkeys(("finetune_text", "text_alone"), "text-only fine-tuning")
    ranked_by = {"text": ", by text", "dar": ", by DAR's sum"}
    return shown.get(encoder, encoder) + ranked_by.get(query, "")


def bounds(name: str, estimate: Iterable[float], *, scale: float = 100.0) -> dict[str, float]:
    """A value and its bounds as numbers of prose: `name`, `name_low` and `name_high`.

    >>> bounds("gain", (0.25, 0.125, 0.5))
    {'gain': 25.0, 'gain_low': 12.5, 'gain_high': 50.0}
    """
    value, low, high = (scale * float(number) for number in estimate)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def read_leaderboard(path: str) -> pd.DataFrame:
    """The rows of the leaderboard: `value`, `ci_low`, `ci_high` and `detectable`.

    The index has the metric, the source, encoder, query, text, noise, rival and round; a rival is
    empty where a row is no gain.
    """
    numbers = ["value", "ci_low", "ci_high", "detectable"]
    table = pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(numbers, ""))
    table = table[~table["metric"].str.startswith("tie_group")].rename(
        columns={"benchmark": "source"}
    )
    switches = ["metric", "source", "encoder", "query", "text", "noise", "rival", "round"]
    return table.set_index(switches)[numbers].sort_index()

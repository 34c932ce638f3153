"""The card of a trained model: what it was made from, on which hardware, in what time."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from daitir.common.files import atomic_write

CARD_NAME = "card.json"


def write_card(
    folder: Path, facts: Mapping[str, object], *, seed: int, device: str, seconds: float
) -> None:
    """Write `card.json`: the facts of a model (name, parameters, data, steps) and of its run."""
    card = {
        **facts,
        "seed": seed,
        "hardware": hardware(device),
        "hours": round(seconds / 3600, 2),
        "torch": torch.__version__,
        "licence": "CC BY-SA 4.0",
    }
    with atomic_write(folder / CARD_NAME) as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def hardware(device: str) -> str:
    """The device in words, such as `NVIDIA H200` or `x86_64, 2 threads`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"

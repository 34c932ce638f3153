"""What a result was made with: versions, device and commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("torch", "open_clip_torch", "diffusers", "transformers", "numpy")


def versions() -> dict[str, str | int | None]:
    """Return the versions, the device and the commit that a result was made with.

    `commit` ends in `-dirty` when the checkout had changes, and is None outside a checkout.
    """
    import torch  # late: importing daitir must stay fast

    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    root = Path(__file__).parents[2]
    try:
        commit = subprocess.run(git, cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_count": os.cpu_count(),
        "commit": commit.strip() or None,
    }

"""What a result was made with."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("torch", "open_clip_torch", "diffusers", "transformers", "numpy")


def versions() -> dict[str, str | int | None]:
    """The versions, the device and the commit (`-dirty` with changes) that a result comes from."""
    import torch  # late: whoever imports this module need not wait for torch

    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    here = Path(__file__).parent
    try:
        commit = subprocess.run(git, cwd=here, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_count": os.cpu_count(),
        "commit": commit.strip() or None,
    }

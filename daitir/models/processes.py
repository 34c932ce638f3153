"""The processes that share a command's work: those of `accelerate launch`, or one alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState

from daitir.common.errors import DataError

# A share may take far longer than another: much of the other may have been there before.
PATIENCE = timedelta(days=30)


@contextmanager
def processes(device: str) -> Iterator[tuple[PartialState, str]]:
    """The group of processes of this run, and the device of this one: `device` of a run alone."""
    try:
        # A group that exists, or a process alone, ignores the patience.
        group = PartialState(cpu=torch.device(device).type == "cpu", timeout=PATIENCE)
        if group.num_processes > 1:
            device = str(group.device)
            torch.empty(1, device=device)
    except (RuntimeError, ValueError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        on_a_cpu = "on a CPU with `torchrun --nproc-per-node N -m daitir.cli`"
        advice = f"start as many as there are devices, {on_a_cpu}"
        raise DataError(f"the processes cannot work together ({line}); {advice}") from error
    yield group, device
    if group.num_processes > 1:
        group.wait_for_everyone()
        group.destroy_process_group()

"""The hub of models: without a network its libraries are kept from asking again and again."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

logger = logging.getLogger(__name__)
TIMEOUT = 5.0  # seconds


@contextmanager
def offline_if_unreachable(*, wanted: bool = True) -> Iterator[None]:
    """Within it, where the hub cannot be reached, only its cache is read; a warning tells.

    The libraries would ask five times for each file, for half a minute and more. With `wanted`
    false, for what lies in a folder, nothing is tried.
    """
    before = constants.HF_HUB_OFFLINE
    if wanted and not before and not _is_reachable(constants.ENDPOINT):
        logger.warning("%s cannot be reached: only what was fetched before is used",
                       constants.ENDPOINT)  # fmt: skip
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_reachable(address: str) -> bool:
    if getproxies():  # only the proxy can tell
        return True
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname, port), timeout=TIMEOUT):
            return True
    except OSError:
        return False

"""The hub of models: without a network its libraries are kept from asking again and again."""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, errors

from daitir.errors import DataError

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
        with warnings.catch_warnings():  # about options that one library gives another
            warnings.filterwarnings("ignore", category=UserWarning, module="huggingface_hub")
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


REASONS = (
    (errors.HFValidationError, "nor can a model of the hub be named so"),
    (errors.GatedRepoError, "and the hub gives it to those alone whom its owner admits"),
    (errors.RepositoryNotFoundError, "and the hub has no model of this name"),
    (errors.RevisionNotFoundError, "and the hub has no such revision of it"),
    ((errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError),
     "the hub cannot be reached, and it was not fetched before"),
)  # fmt: skip
"""Why a model cannot be had, by the errors of the hub's library: the first that fits."""


def load_fault(
    spec: str, what: str, error: Exception, *, name: str | None = None, advice: str = ""
) -> DataError:
    """The one line for a model that could not be loaded; a log of level INFO has the library's.

    Args:
        what: the model is not, such as "language model".
        error: what the library raised.
        name: the hub's name that was asked for; None where `spec` names a folder.
        advice: for an error that has nothing to do with the hub.
    """
    logger.info("%s: %s", spec, error)
    reason = why_missing(error) if name else None
    if reason:
        prefix = spec.removesuffix(name)
        told = f", {prefix}FOLDER" if prefix else ""
        return DataError(
            f"{spec}: no {what}: there is no such folder, {reason}; without a network download "
            f"the model elsewhere and name its folder{told}"
        )
    return DataError(f"{spec}: no {what}: could not be loaded ({first_line(error)}){advice}")


def why_missing(error: BaseException | None) -> str | None:
    """Why the hub did not give a model, in our words; None where the error is another."""
    causes = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    for kinds, reason in REASONS:
        if any(isinstance(cause, kinds) for cause in causes):
            return reason
    return None


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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

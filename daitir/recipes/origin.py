"""The origin of a folder's run: the encoder and the data that it was begun with."""

from __future__ import annotations

import logging
from pathlib import Path

from daitir.common.errors import DataError
from daitir.common.files import read_json, write_json
from daitir.models.encoders import Encoder

logger = logging.getLogger(__name__)
ORIGIN_NAME = "origin.json"


def claim(folder: Path, encoder: Encoder, data: str | None) -> None:
    """Note in a training folder which encoder and data its run was begun with.

    `data` is their `data_digest`, None for the query sets of a profile. Raises DataError where the
    folder holds a run of another encoder or of other data.
    """
    path = folder / ORIGIN_NAME
    if path.is_file():
        _, digest, data_before = _read(path)
        differing = ["another encoder"] * (digest != encoder.digest)
        differing += ["other data"] * (data_before != data)
        if differing:
            raise DataError(
                f"{folder}: holds a run with {' and '.join(differing)}; choose another folder"
            )
    facts = {"encoder": {"spec": encoder.spec, "digest": encoder.digest}, "data": data}
    write_json(path, facts)


def check_origin(folder: Path, encoder: Encoder) -> None:
    """Raises DataError where a folder holds what was trained on another encoder.

    A folder that does not say is taken on trust, with a warning.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `daitir train` writes it")
    path = folder / ORIGIN_NAME
    if not path.is_file():
        logger.warning("%s: does not say which encoder it was trained on", folder)
        return
    spec, digest, _ = _read(path)
    if digest != encoder.digest:
        raise DataError(
            f"{folder}: was trained on another encoder ({spec}) than {encoder.spec} as it is now; "
            "name that encoder, or train the fusion on this one"
        )


def _read(path: Path) -> tuple[str | None, str, str | None]:
    """The spec and the digest of the encoder, and the digest of the data."""
    facts = read_json(path)
    try:
        return facts["encoder"].get("spec"), facts["encoder"]["digest"], facts.get("data")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: names no encoder; train again in another folder") from error

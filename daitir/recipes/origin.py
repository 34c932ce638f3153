"""What the run in a folder is of: the encoder and the data that it was begun with."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_json
from daitir.models.encoders import Encoder
from daitir.recipes.loop import LOG_NAME

logger = logging.getLogger(__name__)
ORIGIN_NAME = "origin.json"


def claim(folder: Path, encoder: Encoder, data: str | None) -> None:
    """Note in a folder of training which encoder and data the run is of.

    `data` is their `data_digest`, None for the query sets of a profile. Raises DataError where the
    folder holds a run of another encoder or of other data.
    """
    facts = {"encoder": {"spec": encoder.spec, "digest": encoder.digest}, "data": data}
    path = folder / ORIGIN_NAME
    if path.is_file():
        kept = read_json(path)
        differing = ["another encoder"] if _digest_of(path, kept) != encoder.digest else []
        differing += ["other data"] if kept.get("data") != data else []
    else:
        # A run that began before there was such a file is of a profile.
        differing = ["other data"] if data is not None and (folder / LOG_NAME).is_file() else []
    if differing:
        raise DataError(
            f"{folder}: holds a run with {' and '.join(differing)}; choose another folder"
        )
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def check_origin(folder: Path, encoder: Encoder) -> None:
    """Raises DataError where what a folder holds was trained on another encoder.

    A folder that does not say is taken on trust, with a warning.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `daitir train` writes it")
    path = folder / ORIGIN_NAME
    if not path.is_file():
        logger.warning("%s: does not say which encoder it was trained on", folder)
        return
    kept = read_json(path)
    if _digest_of(path, kept) != encoder.digest:
        raise DataError(
            f"{folder}: was trained on another encoder ({kept['encoder'].get('spec')}) than "
            f"{encoder.spec} as it is now; name that encoder, or train the fusion on this one"
        )


def _digest_of(path: Path, kept: object) -> str:
    try:
        return kept["encoder"]["digest"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: names no encoder; train again in another folder") from error

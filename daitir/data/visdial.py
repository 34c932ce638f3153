"""VisDial's JSON format, and which of its training dialogues are for validation."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daitir.common.errors import DataError
from daitir.common.files import parse_json, read_regular
from daitir.data.archives import opened_zip
from daitir.data.dialogues import Dialogue

HELD_OUT = 60  # one in so many of VisDial's training dialogues is for validation
MAX_VISDIAL = 2**32  # bytes of VisDial's JSON, unpacked, of which the rivals are nearly all
UNLABELED = "unlabeled2017"


def visdial_dialogues(
    content: Any, names: Mapping[int, str] | None
) -> Iterator[tuple[int, Dialogue]]:
    """The number of the picture and the dialogue of each entry of VisDial's JSON format.

    Dialogues about pictures that `names` does not have are left out; None is the names that ChatIR
    gives to all of them. As ChatIR writes it, a round is `"question? answer"`.

    >>> entry = {"image_id": 7, "caption": "a dog ", "dialog": [{"question": 0, "answer": 0}]}
    >>> content = {"questions": ["is it big"], "answers": ["no"], "dialogs": [entry]}
    >>> list(visdial_dialogues({"data": content}, {7: "7.jpg"}))
    [(7, Dialogue(image='7.jpg', rounds=('a dog', 'is it big? no')))]

    Raises DataError, naming the dialogue, where it has not the format.
    """
    try:
        data = content["data"]
        questions, answers = list(data["questions"]), list(data["answers"])
        entries = list(data["dialogs"])
    except (KeyError, TypeError) as error:
        raise DataError(f"not VisDial's format ({error!r})") from error
    for number, entry in enumerate(entries):
        try:
            image_id = operator.index(entry["image_id"])
            image = f"{UNLABELED}/{image_id:012}.jpg" if names is None else names.get(image_id)
            if image is None:
                continue
            rounds = [entry["caption"].strip()]
            for turn in entry["dialog"]:
                if min(turn["question"], turn["answer"]) < 0:  # which Python counts from the end
                    raise IndexError(f"a row is counted from 0, not {turn}")
                question, answer = questions[turn["question"]], answers[turn["answer"]]
                rounds.append(f"{question.rstrip(' ?')}? {answer.strip()}".strip())
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise DataError(f"dialogue {number}: not VisDial's format ({error!r})") from error
        yield image_id, Dialogue(image, tuple(rounds))


def is_held_out(image_id: int) -> bool:
    """Whether a training dialogue of VisDial is for validation: by its picture, one in `HELD_OUT`.

    VisDial's own validation set is what the field tests on; choices need another one.
    """
    digest = hashlib.sha256(f"visdial/{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


def read_visdial(path: Path) -> Any:
    """The content of a JSON file of VisDial, packed or not, without the rivals of each answer.

    Raises DataError where it is damaged, no JSON, or too large to be VisDial's.
    """

    def without_rivals(entry: dict) -> dict:
        entry.pop("answer_options", None)  # a hundred numbers a round, most of the memory
        return entry

    if path.suffix != ".zip":
        return parse_json(path, read_regular(path, MAX_VISDIAL), without_rivals)
    with opened_zip(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".json")]
        if len(entries) != 1:
            raise DataError(f"{path}: holds {len(entries)} JSON files, not one")
        size = entries[0].file_size  # no more than this is unpacked
        if size > MAX_VISDIAL:
            raise DataError(
                f"{path}: {size:,} bytes of JSON, more than {MAX_VISDIAL:,}; no VisDial"
            )
        content = archive.read(entries[0])
    return parse_json(path, content, without_rivals)

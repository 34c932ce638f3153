"""The studies by name: to add one, write it as data and name it here."""

from __future__ import annotations

from importlib import import_module

from daitir.studies.engine.conditions import Instrument, Study, named

STUDIES = {
    "leaderboard": "daitir.studies.leaderboard:STUDY",
    "benchmark": "daitir.studies.benchmark:STUDY",
    "encoder_ablations": "daitir.studies.encoder_ablations:STUDY",
    "encoder_choices": "daitir.studies.choices:ENCODER_CHOICES",
    "choices": "daitir.studies.choices:STUDY",
    "ablations": "daitir.studies.ablations:STUDY",
    "drawings": "daitir.studies.drawings:STUDY",
    "robustness": "daitir.studies.robustness:STUDY",
    "memory": "daitir.studies.memory:MEMORY",
    "answers": "daitir.studies.answers:INSTRUMENT",
    "geometry": "daitir.studies.cues.geometry:INSTRUMENT",
    "attention": "daitir.studies.cues.attention:INSTRUMENT",
}
"""`module:name` of each, imported when it is asked for."""


def get_study(name: str) -> Study | Instrument:
    """A study by its name. Raises DataError for an unknown one."""
    module, _, attribute = named(STUDIES, name, "study").partition(":")
    return getattr(import_module(module), attribute)

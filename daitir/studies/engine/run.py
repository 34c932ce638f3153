"""The engine of all studies: conditions become ranks, ranks are kept, and tables are made of them.

A run keeps the ranks of each condition in its work folder, under a name that says what they were
made from, so that an interrupted run continues and studies share ranks. All together they go into
`results/ranks/`, from which `study_tables` makes every table again without a model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, read_json, write_json
from daitir.common.versions import versions
from daitir.evaluation import write_results
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import ZERO_SHOT, Condition, Instrument, Study, Trained
from daitir.studies.engine.ranks import Ranks, in_small, read_ranks, study_table, write_ranks
from daitir.studies.profiles import Profile
from daitir.studies.queries import manifest_of, queries_folder
from daitir.studies.registry import STUDIES, get_study

logger = logging.getLogger(__name__)


def run_study(
    study: Study, profile: Profile, *, results_dir: Path = Path("results"), **options: Any
) -> Path:
    """Measure a study, write its ranks, its table and its notes, and give the path of the table.

    `options` are the other fields of `Bench`; studies may share its `work_dir` and `cache`. Raises
    DataError where the query sets do not fit the models, a name is unknown, or `work_dir` holds
    what other models or another profile made; ValueError where two conditions have one place in the
    table, or the rounds of a benchmark differ between its conditions.
    """
    began = time.perf_counter()
    bench = Bench(profile, study, **options)
    check_work_dir(bench)
    ranks = Ranks()
    while missing := [
        condition
        for condition in study.conditions(profile, ranks)
        if (*condition.key, condition.seed) not in ranks.arrays
    ]:
        # One encoder after the other, since only one is kept in memory.
        encoders = list(dict.fromkeys(map(encoder_of, missing)))
        for condition in sorted(missing, key=lambda c: encoders.index(encoder_of(c))):
            name = (*condition.key, condition.seed)
            if name in ranks.arrays:
                raise ValueError(f"two conditions of {study.name} are {name}")
            ranks.arrays[name] = _kept_ranks(bench, condition)
            rounds = condition.rounds or tuple(range(ranks.arrays[name].shape[1]))
            if ranks.rounds.setdefault(condition.benchmark, rounds) != rounds:
                raise ValueError(f"{name}: other rounds than before on this benchmark")
    if study.values is not None:
        ranks.values = dict(study.values(bench))
    encoders = dict.fromkeys(map(encoder_of, study.conditions(profile, ranks)))
    ranks.notes = {
        **notes_of(profile),
        "encoders": {f"{name}/{seed}": bench.encoder(name, seed).digest for name, seed in encoders},
        **study.notes(bench, ranks),
        "seconds": round(time.perf_counter() - began, 1),
    }
    path = results_dir / "ranks" / f"{study.table(profile.name)}.npz"
    write_ranks(path, ranks)
    return write_table(study, path, results_dir)


def run_instrument(
    instrument: Instrument, profile: Profile, *, results_dir: Path = Path("results"), **options: Any
) -> Path:
    """Measure an instrument as `run_study` a study: a table and its notes, but no ranks."""
    began = time.perf_counter()
    rows, notes = instrument.measure(Bench(profile, None, **options))
    notes = {**notes_of(profile), **notes, "seconds": round(time.perf_counter() - began, 1)}
    path = results_dir / f"{instrument.table(profile.name)}.csv"
    write_results(path, rows, notes)
    return path


def notes_of(profile: Profile) -> dict:
    """What every result was made from: the profile, the query sets and the versions."""
    return {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
    }


def write_table(study: Study, path: Path, results_dir: Path) -> Path:
    """The table and the notes of a study from its kept ranks; gives the path of the table."""
    ranks = read_ranks(path)
    table = results_dir / f"{path.stem}.csv"
    write_results(table, study_table(study, ranks), ranks.notes)
    return table


def study_tables(profile_name: str, results_dir: Path = Path("results")) -> list[Path]:
    """Make every table of a profile from the ranks that are kept; gives the paths of the tables."""
    folder, tables = results_dir / "ranks", []
    for study in map(get_study, STUDIES):
        path = folder / f"{study.table(profile_name)}.npz"
        if isinstance(study, Study) and path.is_file():
            tables.append(write_table(study, path, results_dir))
    if not tables:
        raise DataError(f"{folder}: no ranks of the profile {profile_name}")
    return tables


def check_work_dir(bench: Bench) -> None:
    """Raises DataError where other models or sizes made what the work folder keeps.

    Recipes of fusions and encoders are compared one by one, so that another one may be added.
    """
    profile, path = bench.profile, bench.work_dir / "made_from.json"
    manifest = manifest_of(queries_folder(profile))
    facts = {
        "encoder": bench.base.digest,
        "generator": bench.generator.settings,
        "reformulator": bench.reformulator.digest,
        "recogniser": bench.recogniser.digest,
        "queries": {name: fact for name, fact in manifest.items() if name != "num_dialogues"},
        "sizes": {
            name: value
            for name, value in vars(profile).items()
            if isinstance(value, int) and not name.endswith("_seeds")
        },
        "recipes": [asdict(recipe) for recipe in (profile.clip, profile.diffusion)],
    }
    facts = json.loads(json.dumps(facts))  # as it is read again
    before = read_json(path) if path.is_file() else facts
    differing = [name for name, fact in facts.items() if before.get(name) != fact]
    if differing:
        raise DataError(
            f"{bench.work_dir}: keeps what was made with another {' and '.join(differing)}; "
            "name another folder, or delete it"
        )
    write_json(path, facts)


def encoder_of(condition: Condition) -> tuple[str, int]:
    """The name and the seed of a condition's encoder; the start has none of its own."""
    return condition.encoder, 0 if condition.encoder == ZERO_SHOT else condition.seed


def _kept_ranks(bench: Bench, condition: Condition) -> np.ndarray:
    """The ranks of a condition, of an earlier run or of this one.

    The condition without its labels, and its recipes, decide them; the rest was checked before.
    """
    asked = asdict(condition)
    del asked["benchmark"], asked["method"]
    names = {condition.encoder}
    if isinstance(condition.fusion, Trained):
        names |= {condition.fusion.recipe, condition.fusion.encoder}
    recipes = {name: asdict(recipe) for name, recipe in bench.recipes.items() if name in names}
    facts = json.dumps({"condition": asked, "recipes": recipes}, sort_keys=True)
    path = bench.work_dir / "ranks" / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.npy"
    if not path.is_file():
        logger.warning("%s, %s, seed %d", condition.benchmark, condition.method, condition.seed)
        small = in_small(bench.ranks(condition))
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, small)
    return np.load(path, allow_pickle=False)

"""The commands that measure: every study is found, and given what its parameters name."""

import argparse
import inspect
from importlib import import_module
from pathlib import Path

import pytest

from daitir.cli import study as studies
from daitir.cli.main import build_parser, main
from daitir.cli.study import STUDIES, Study, run_study
from daitir.models.encoders import Encoder
from daitir.studies.profiles import PROFILES

GIVEN = {
    "profile", "results_dir", "device", "num_workers", "progress", "work_dir", "cache", "others",
    "reformulator", "generator", "encoder", "recogniser",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_needs_only_what_it_is_given(study):
    module, _, function = study.function.partition(":")
    measure = getattr(import_module(f"daitir.studies.{module}"), function)
    wanted = inspect.signature(measure).parameters
    assert set(wanted) <= GIVEN
    assert ("work_dir" in wanted) == (study.work is not None)
    assert ("cache" in wanted) == study.draws
    assert ("others" in wanted) == study.compares


def measure(profile, encoder, *, work_dir, results_dir, device):
    """A study of the tests; it notes what it was given."""
    measure.given = (profile, encoder, work_dir, device)
    return results_dir / "table.csv"


def test_a_study_is_run_with_the_models_of_the_profile(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(studies, "import_module", lambda name: inspect.getmodule(measure))
    study = Study("own", "tests:measure", "all", "own")
    arguments = argparse.Namespace(
        profile="classroom", results=tmp_path, work=tmp_path / "work", device="cpu", workers=1
    )
    run_study(study, arguments)
    profile, encoder, work_dir, device = measure.given
    assert profile is PROFILES["classroom"] and isinstance(encoder, Encoder)
    assert (work_dir, device) == (tmp_path / "work" / "classroom", "cpu")
    assert capsys.readouterr().out == f"written to {tmp_path / 'table.csv'}\n"


def test_a_table_that_cannot_be_written_ends_the_command_before_anything_else(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["study", "memory", "--results", str(tmp_path / "file"), "--work", str(tmp_path)]
    assert main(arguments) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_encoders_to_compare_are_named():
    parser = build_parser()
    found = parser.parse_args(["study", "geometry", "--after", "a=mini", "b=open_clip:x", "a=y"])
    assert found.after == [("a", "mini"), ("b", "open_clip:x"), ("a", "y")]
    assert found.work == Path("runs/geometry")
    with pytest.raises(SystemExit):
        parser.parse_args(["study", "geometry", "--after", "mini"])


def compare(profile, others, *, results_dir):
    """A study of the tests that compares encoders; it notes which."""
    compare.given = others
    return results_dir / "table.csv"


def test_a_name_that_is_given_twice_has_two_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "import_module", lambda name: inspect.getmodule(compare))
    arguments = argparse.Namespace(
        profile="classroom", results=tmp_path, device="cpu", workers=1,
        after=[("a", "mini"), ("b", "x"), ("a", "y")],
    )  # fmt: skip
    run_study(Study("own", "tests:compare", "both", None, compares=True), arguments)
    assert compare.given == {"a": ["mini", "y"], "b": ["x"]}
    arguments.after = None
    run_study(Study("own", "tests:compare", "both", None, compares=True), arguments)
    assert compare.given is None

"""The command that measures: it checks first, and gives the engine what the profile says."""

from pathlib import Path

import pytest

from daitir.cli.command import build_parser, main
from daitir.studies.engine import run as engine
from daitir.studies.profiles import PROFILES
from daitir.studies.registry import STUDIES, get_study


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Runs the command with an engine that only notes what it is asked for."""
    seen = {}

    def run(study, profile, **options):
        seen.update(study=study, profile=profile, **options)
        return tmp_path / "table.csv"

    monkeypatch.setattr(engine, "run_study", run)
    monkeypatch.setattr(engine, "run_instrument", run)

    def call(*words):
        folders = ["--results", str(tmp_path), "--work", str(tmp_path), "--cache", str(tmp_path)]
        return main(["study", *words, *folders]), seen

    return call


def test_studies_are_listed_with_what_they_cost(capsys):
    assert main(["study", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "minutes on two cores" in head
    for line, name in zip(lines, STUDIES, strict=True):
        assert line.split()[:2] == [name, str(get_study(name).minutes)]


@pytest.mark.parametrize("name", ["memory", "geometry"])
def test_a_study_is_run_with_the_profile_and_its_folders(name, asked, tmp_path, capsys):
    code, seen = asked(name, "--profile", "classroom", "--workers", "1")
    assert code == 0 and capsys.readouterr().out == f"written to {tmp_path / 'table.csv'}\n"
    assert seen["study"] is get_study(name) and seen["profile"] is PROFILES["classroom"]
    assert seen["work_dir"] == tmp_path / "classroom" and seen["num_workers"] == 1


def test_a_table_that_cannot_be_written_ends_the_command_before_anything_else(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["study", "memory", "--results", str(tmp_path / "file"), "--work", str(tmp_path)]
    assert main(arguments) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_tables_without_ranks_are_refused(tmp_path, capsys):
    assert main(["study", "tables", "--results", str(tmp_path)]) == 2
    assert "no ranks of the profile" in capsys.readouterr().err


def test_studies_share_a_folder_where_profiles_look_for_what_was_trained():
    work = build_parser().parse_args(["study", "memory"]).work
    assert Path(PROFILES["gpu"].trained_encoders) == work / "gpu" / "encoders"
    assert Path(PROFILES["gpu"].trained_fusions) == work / "gpu" / "fusions" / "zero_shot"

"""Exported scenes are files of the field, which the commands read."""

from pathlib import Path

import pandas as pd
import pytest

from daitir.cli import main
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.data.gallery import read_gallery
from daitir.scenes.export import export_scenes

pytestmark = pytest.mark.slow

VISDIAL = Path(__file__).parents[3] / "shared" / "data" / "chatir" / "VisDial_v1.0_queries_val.json"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Eight test dialogues with their gallery and controlled views, as files."""
    folder = tmp_path_factory.mktemp("scenes")
    export_scenes(folder, num_dialogues=8, num_gallery=40, broken_share=0.15)
    return folder


def test_exported_files_are_those_of_the_field(exported):
    gallery = read_gallery(exported / "gallery.json")
    dialogues = read_dialogues(exported / "dialogues.json", gallery=gallery)
    refined = read_dialogues(exported / "rewrites.json", gallery=gallery)
    assert len(gallery) == 40 and len(dialogues) == len(refined) == 8
    assert [d.image for d in dialogues] == [r.image for r in refined] == gallery[:8]
    assert all(len(d.rounds) == 11 for d in dialogues + refined)
    assert len(list((exported / "views").glob("*.png"))) == 8 * 11


@pytest.mark.parametrize("fusion", ["text", "view", "dar"])
def test_evaluate_runs_on_exported_files(exported, tmp_path, fusion, capsys):
    out = tmp_path / "table.csv"
    arguments = ["--dialogues", exported / "rewrites.json", "--images", exported / "images"]
    arguments += ["--views", exported / "views", "--encoder", "mini", "--fusion", fusion]
    assert main(["evaluate", *map(str, arguments), "--out", str(out)]) == 0
    assert "truncated: 0 of 88 query texts" in capsys.readouterr().out
    table = pd.read_csv(out)
    last = table[(table["method"] == fusion) & (table["metric"] == "hits_at_10")]["value"]
    assert last.iloc[-1] >= last.iloc[0] > 0


@pytest.mark.skipif(not VISDIAL.is_file(), reason="the field's dialogue file is not here")
@pytest.mark.parametrize("convention", ["raw_dialogue", "current_rewrite"])
def test_real_peoples_words_pass(exported, tmp_path, convention, capsys):
    """The first 100 VisDial dialogues over scenes: the ranks mean nothing, that it runs does."""
    export_scenes(tmp_path, num_dialogues=1, num_gallery=100)
    names = read_gallery(tmp_path / "gallery.json")
    people = read_dialogues(VISDIAL)[:100]
    spoken = [Dialogue(name, d.rounds) for name, d in zip(names, people, strict=True)]
    write_dialogues(tmp_path / "visdial.json", spoken)
    arguments = ["--dialogues", tmp_path / "visdial.json", "--images", tmp_path / "images"]
    arguments += ["--encoder", "mini", "--fusion", "text", "--text", convention]
    assert main(["evaluate", *map(str, arguments), "--out", str(tmp_path / "table.csv")]) == 0
    assert "of 1,100 query texts" in capsys.readouterr().out

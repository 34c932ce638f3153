"""Profiles are files; a mistake in one's own is named by file and key."""

import shutil

import pytest

from daitir.common.errors import DataError
from daitir.studies.profiles import FOLDER, PROFILES, get_profile, read_profile


def test_a_name_or_a_file_selects_a_profile(monkeypatch, tmp_path):
    monkeypatch.delenv("DAITIR_PROFILE", raising=False)
    assert get_profile().name == "classroom" and list(PROFILES) == ["classroom", "gpu"]
    monkeypatch.setenv("DAITIR_PROFILE", "gpu")
    assert get_profile() is PROFILES["gpu"]
    own = shutil.copy(FOLDER / "classroom.toml", tmp_path / "mine.toml")
    monkeypatch.setenv("DAITIR_PROFILE", str(own))
    mine = get_profile()
    assert mine.name == "mine" and mine.fusions == PROFILES["classroom"].fusions
    with pytest.raises(DataError, match="unknown profile 'cluster'; there are classroom, gpu"):
        get_profile("cluster")


def test_values_have_the_types_of_their_fields():
    classroom, gpu = PROFILES["classroom"], PROFILES["gpu"]
    assert classroom.broken_shares == (0.05, 0.15, 0.3) and gpu.views_per_dialogue == 4
    assert gpu.diffusion.unet_channels == (192, 320, 448) and gpu.lit == classroom.lit
    assert classroom.encoders["finetune_text"].terms == ("text_target",)
    assert gpu.fusions["nrgr"].hidden_dim == 2048 and gpu.encoders["dmcl"].rank == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_gallery = 5000", "", "num_gallery is missing"),
        ("num_gallery = 5000", "num_galery = 5000", "num_galery is unknown; there are name, image"),
        ("num_gallery = 5000", 'num_gallery = "5000"', "num_gallery is a whole number from 1 on"),
        ('encoder = "mini"', "encoder = 1", "encoder is a text, not 1"),
        ("broken_shares = [0.05,", 'broken_shares = ["a",', "broken_shares is a number from 0 on"),
        ("broken_shares = [", "broken_shares = 1 # [", "broken_shares is a list, not 1"),
        ("[clip]", "[clipp]", "clipp is unknown"),
        ("steps = 2500", "steps = 0", "clip.steps is a whole number from 1 on, not 0"),
        ("[fusions.nrgr]", "[fusions.nrgr]\nexperts = 8", "fusions.nrgr.experts is unknown"),
        ("[lit]", "[[lit]]", "lit is a table, not"),
        ("[lit]", "[lit", "no sound TOML"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path, old, new, message):
    text = (FOLDER / "classroom.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        get_profile(str(path))
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="mine.toml: cannot be read"):
        read_profile(tmp_path / "mine.toml")

"""The made-up own data: sound, mixed, and the same for the same seed."""

import pytest
from PIL import Image

from daitir.book.sketches import (
    MAX_LENGTH,
    MIN_LENGTH,
    draw_picture,
    draw_sketch,
    sample_picture,
    talk_about,
    write_own_data,
)
from daitir.data.datafolder import find_data
from daitir.data.dialogues import read_dialogues
from daitir.data.lint import lint_data


@pytest.mark.slow
def test_the_folder_is_sound_and_mixed(tmp_path):
    write_own_data(tmp_path, num_pictures=40, num_dialogues=30)
    report = lint_data(tmp_path)
    # As people do, it says things twice.
    assert [finding.kind for finding in report.findings] == ["repeated_round"]
    assert report.sizes["test views"] == report.sizes["test rounds"]
    data = find_data(tmp_path)
    dialogues = read_dialogues(data.dialogue_file("test"))
    lengths = {len(dialogue.rounds) for dialogue in dialogues}
    assert len(lengths) > 8 and min(lengths) >= MIN_LENGTH and max(lengths) <= MAX_LENGTH
    words = "".join(text for dialogue in dialogues for text in dialogue.rounds)
    assert {"是", "¿", "ß", "🙂"} & set(words) >= {"是", "¿", "🙂"}
    sizes = {Image.open(data.images_dir / name).size for name in data.gallery()}
    assert len(sizes) == 40


def test_the_same_seed_is_the_same_data(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_own_data(tmp_path / name, num_pictures=2, num_dialogues=1, seed=seed)
    files = [
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    ]
    assert files[0] == files[1] != files[2]


def test_dialogues_tell_of_the_shapes_and_sketches_show_them():
    for index in range(20):
        _, shapes = sample_picture(0, index)
        rounds, told = talk_about(0, index)
        assert len(rounds) == len(told) and told[0] == 0 and told[-1] <= len(shapes)
        assert all(b - a in (0, 1) for a, b in zip(told, told[1:], strict=False))
        blank, full = (draw_sketch(0, index, number) for number in (0, len(shapes)))
        assert len(blank.getcolors()) == 1 < len(full.getcolors())
        assert draw_picture(0, index).size == draw_picture(0, index).size != blank.size

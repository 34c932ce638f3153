"""Finding the views of a released folder."""

import pytest

from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue
from daitir.data.viewfiles import find_views as found_views


def find_views(folder, lengths, **options):
    return found_views(folder, [Dialogue("a.png", ("a",) * n) for n in lengths], **options)


def _touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"x")


def test_finds_views_of_every_suffix_and_counts_strays(tmp_path, caplog):
    caplog.set_level("INFO")
    _touch(tmp_path, "0_0.jpg", "0_1.WEBP", "1_0.png", "2_0.jpeg", "2_1.png", "2_10.png")
    _touch(tmp_path, "notes.txt", "1_7.png", "9_0.png", "0_0_.png", "0_0.txt", "_0.png")
    views = find_views(tmp_path, [2, 1, 2])
    names = [[path.name for files in rounds for path in files] for rounds in views]
    assert names == [["0_0.jpg", "0_1.WEBP"], ["1_0.png"], ["2_0.jpeg", "2_1.png"]]
    assert "7 files are no view of these dialogues" in caplog.text


def test_a_round_may_have_several_views_in_the_order_of_their_numbers(tmp_path):
    _touch(tmp_path, "0_0_10.png", "0_0_2.png", "0_0.jpg", "0_1_5.webp")
    ((first, second),) = find_views(tmp_path, [2])
    assert [path.name for path in first] == ["0_0.jpg", "0_0_2.png", "0_0_10.png"]
    assert [path.name for path in second] == ["0_1_5.webp"]


def test_missing_views_are_an_error(tmp_path):
    _touch(tmp_path, "0_0.jpg", "0_1.jpg", "1_1.jpg")
    with pytest.raises(DataError, match="3 of 6 views are missing, in 2 of 3 .*: 1_0; 2_0; 2_1"):
        find_views(tmp_path, [2, 2, 2])


def test_rounds_without_a_view_may_be_left_to_their_text(tmp_path, caplog):
    _touch(tmp_path, "0_0.jpg", "1_1.jpg")
    views = find_views(tmp_path, [2, 2, 1], missing="text")
    assert [[len(files) for files in rounds] for rounds in views] == [[1, 0], [0, 1], [0]]
    assert "text alone stands for them, 3 of 5 views are missing" in caplog.text
    with pytest.raises(DataError, match="1 of 1 views are missing"):
        find_views(tmp_path, [0, 0, 1], missing="text")


@pytest.mark.parametrize(
    "names", [("0_0.jpg", "0_0.png"), ("0_0.jpg", "00_0.jpg"), ("0_0.jpg", "0_0_0.jpg")]
)
def test_two_views_of_one_round_are_an_error(tmp_path, names):
    _touch(tmp_path, *names)
    with pytest.raises(DataError, match="are one view; keep one"):
        find_views(tmp_path, [1])


def test_refuses_a_missing_folder_and_an_unknown_rule(tmp_path):
    with pytest.raises(DataError, match="no such folder of views"):
        find_views(tmp_path / "views", [1])
    with pytest.raises(ValueError, match="missing must be"):
        find_views(tmp_path, [1], missing="zero")

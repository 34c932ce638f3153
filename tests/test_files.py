"""Files are written whole or not at all, and names from a file never leave their folder."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitir.errors import DataError
from daitir.files import atomic_write, check_output, safe_join


def test_writes_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new" / "ranks.csv"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["ranks.csv"]


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_keeps_the_old_file(tmp_path, exception):
    target = tmp_path / "ranks.csv"
    target.write_text("old")
    with pytest.raises(exception), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise exception
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["ranks.csv"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError('IoError(Os { code: 28, message: "No space left on device" })'),
    ],
)
def test_a_full_disk_is_one_clear_line(tmp_path, error):
    target = tmp_path / "weights.safetensors"
    with (
        pytest.raises(DataError, match="weights.safetensors.*disk is full") as caught,
        atomic_write(target) as temporary,
    ):
        temporary.write_text("half")
        raise error
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a.csv"):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize("name", ["a.jpg", "deep/a.jpg", "deep/../a.jpg", "./a.jpg", "a..jpg"])
def test_inside_names_pass(tmp_path, name):
    assert safe_join(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a.jpg", "deep/../../a.jpg", "/etc/passwd", "//host/share", "C:a.jpg"]
    + ["C:\\a.jpg", "..\\a.jpg", "a\0.jpg", "\ud800.jpg"],
)
def test_names_that_leave_are_refused(tmp_path, name):
    with pytest.raises(DataError) as caught:
        safe_join(tmp_path, name)
    assert "\n" not in str(caught.value)


def test_a_neighbour_with_the_same_prefix_is_outside(tmp_path):
    (tmp_path / "images_private").mkdir()
    with pytest.raises(DataError):
        safe_join(tmp_path / "images", "../images_private/a.jpg")


def test_links_are_followed(tmp_path):
    images = tmp_path / "images"
    (images / "real").mkdir(parents=True)
    (images / "inside").symlink_to(images / "real")
    (images / "outside").symlink_to(tmp_path)
    (images / "loop").symlink_to(images / "loop")
    assert safe_join(images, "inside/a.jpg") == images / "inside" / "a.jpg"
    for name in ("outside/a.jpg", "loop/a.jpg"):
        with pytest.raises(DataError):
            safe_join(images, name)


@given(st.text() | st.lists(st.sampled_from(["..", ".", "a", "", "/"])).map("/".join))
def test_every_name_is_inside_or_refused(name):
    try:
        path = safe_join("images", name)
    except DataError:
        return
    assert os.path.normpath(path).startswith("images" + os.sep)


def test_an_output_is_new_or_a_regular_file(tmp_path):
    check_output(tmp_path / "deep" / "new.csv")
    (tmp_path / "old.csv").write_text("old")
    check_output(tmp_path / "old.csv")
    check_output(tmp_path / "old.csv", is_ours=lambda path: path.read_text() == "old")
    (tmp_path / "link.csv").symlink_to("old.csv")
    (tmp_path / "dangling.csv").symlink_to("nowhere.csv")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("link.csv", "is a link"), ("dangling.csv", "is a link"), ("pipe", "no regular file"),
        ("deep", "is a folder"), ("/dev/full", "no regular file"), ("old.csv/x", "cannot be"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            check_output(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["dangling.csv", "deep", "link.csv", "old.csv", "pipe"]


def test_an_output_is_no_input_whatever_its_name(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_text("a picture")
    os.link(images / "a.png", tmp_path / "hard.png")
    (tmp_path / "linked").symlink_to(images)
    for name in ("images/a.png", "images/new.csv", "linked/new.csv", "images/deep/new.csv"):
        with pytest.raises(DataError, match="lies in .*images, which this command reads"):
            check_output(tmp_path / name, inputs=[None, images], overwrite=True)
    for name in ("images/a.png", "hard.png", "linked/../images/a.png"):
        with pytest.raises(DataError, match="is read by this command too"):
            check_output(tmp_path / name, inputs=[images / "a.png"], overwrite=True)
    check_output(tmp_path / "images.csv", inputs=[images])


@pytest.mark.parametrize("overwrite", [None, False, True])
def test_files_of_others_are_replaced_only_where_that_is_asked_for(tmp_path, overwrite):
    path = tmp_path / "notes.csv"
    path.write_text("mine")
    if overwrite:
        check_output(path, is_ours=lambda path: False, overwrite=True)
        return
    way_out = "name another file$" if overwrite is None else "or add --overwrite$"
    with pytest.raises(DataError, match=way_out):
        check_output(path, is_ours=lambda path: False, overwrite=overwrite)

"""Files are written whole or not at all, and names from a file never leave their folder."""

import errno
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitir import files
from daitir.errors import DataError
from daitir.files import atomic_write, claimed, locked, read_tensors, safe_join


def test_writes_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new" / "ranks.csv"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["ranks.csv"]


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda n: (events.append(os.readlink(f"/proc/self/fd/{n}")), fsync(n))
    )
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("named"), replace(*names)))
    with atomic_write(tmp_path / "a.csv") as temporary:
        temporary.write_text("new")
    assert events == [str(temporary), "named", str(tmp_path)]
    with atomic_write(tmp_path / "b.webp", sync=False) as temporary:
        temporary.write_text("new")
    assert events[3:] == ["named"]


def _in_child(action):
    """The exit code of what another process does; -9 where it was killed."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except DataError as error:
            print(error)
            os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_claimed_folder_is_refused_to_others_until_its_holder_ends(tmp_path, monkeypatch, capfd):
    def claim():
        files._claims.clear()  # another program would not have them
        with claimed(tmp_path):
            pass

    def claim_and_die():
        files._claims.clear()
        with claimed(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    with claimed(tmp_path), claimed(tmp_path / "."):  # its own parts may claim it again
        assert _in_child(claim) == 2
        assert f"{tmp_path}: another run works in this folder" in capfd.readouterr().out
        monkeypatch.setenv("RANK", "1")  # another process of the same run
        assert _in_child(claim) == 0
        monkeypatch.delenv("RANK")
    assert _in_child(claim_and_die) == -signal.SIGKILL
    assert _in_child(claim) == 0
    assert not list(tmp_path.iterdir())


def test_a_lock_is_of_one_at_a_time_though_its_file_comes_and_goes(tmp_path):
    number = tmp_path / "number"
    number.write_text("0")

    def count():
        for _ in range(100):
            with locked(tmp_path / "folder"):
                number.write_text(str(int(number.read_text()) + 1))

    children = []
    for _ in range(3):
        children.append(os.fork())
        if children[-1] == 0:
            count()
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert number.read_text() == "300" and not list((tmp_path / "folder").iterdir())


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    import fcntl

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with claimed(tmp_path):
        assert "cannot be locked" in caplog.text


def test_damaged_tensors_are_one_line(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="a.safetensors: damaged.*remove it") as caught:
        read_tensors(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


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

"""Files are written whole or not at all, and names from a file never leave their folder."""

import errno
import gzip
import os
import signal
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitir.common import files
from daitir.common.errors import DataError
from daitir.common.files import (
    SafeFolder,
    atomic_write,
    check_output,
    claimed,
    locked,
    open_regular,
    read_regular,
    read_tensors,
)


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
    assert events == [str(temporary), "named"]
    with atomic_write(tmp_path / "b.webp", sync=False) as temporary:
        temporary.write_text("new")
    assert events[2:] == ["named"]


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
    assert SafeFolder(tmp_path).join(name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a.jpg", "deep/../../a.jpg", "/etc/passwd", "//host/share", "C:a.jpg"]
    + ["C:\\a.jpg", "..\\a.jpg", "a\0.jpg", "\ud800.jpg"],
)
def test_names_that_leave_are_refused(tmp_path, name):
    with pytest.raises(DataError) as caught:
        SafeFolder(tmp_path).join(name)
    assert "\n" not in str(caught.value)


def test_a_neighbour_with_the_same_prefix_is_outside(tmp_path):
    (tmp_path / "images_private").mkdir()
    with pytest.raises(DataError):
        SafeFolder(tmp_path / "images").join("../images_private/a.jpg")


def test_links_are_followed(tmp_path):
    images = tmp_path / "images"
    (images / "real").mkdir(parents=True)
    (images / "inside").symlink_to(images / "real")
    (images / "outside").symlink_to(tmp_path)
    (images / "loop").symlink_to(images / "loop")
    assert SafeFolder(images).join("inside/a.jpg") == images / "inside" / "a.jpg"
    for name in ("outside/a.jpg", "loop/a.jpg"):
        with pytest.raises(DataError):
            SafeFolder(images).join(name)


def _cache(folder, kind="datasets--some--pictures"):
    """A repository of a hub's cache: its snapshot is all links into its blobs."""
    repository = folder / "hub" / kind
    snapshot = repository / "snapshots" / "0a1b2c"
    for name in ("images/deep", "more"):
        (snapshot / name).mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "77").write_bytes(b"x")
    (snapshot / "images" / "a.jpg").symlink_to("../../../blobs/77")
    (snapshot / "images" / "deep" / "b.jpg").symlink_to("../../../../blobs/77")
    (snapshot / "more" / "c.jpg").symlink_to("../../../blobs/77")
    (snapshot / "images" / "c.jpg").symlink_to("../more/c.jpg")
    return snapshot


def test_links_of_a_hub_cache_are_followed_and_others_refused(tmp_path):
    snapshot = _cache(tmp_path)
    other = _cache(tmp_path, "models--another")
    (tmp_path / "hub" / "secret.jpg").write_bytes(b"x")
    images = snapshot / "images"
    (images / "out.jpg").symlink_to("../../../../secret.jpg")
    (images / "etc.jpg").symlink_to("/etc/passwd")
    (images / "other.jpg").symlink_to(other / "images" / "a.jpg")
    (images / "sideways.jpg").symlink_to("../../../refs")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "images").symlink_to(images)
    for folder in (images, tmp_path / "mine" / "images"):
        safe = SafeFolder(folder)
        for name in ("a.jpg", "deep/b.jpg", "c.jpg"):
            assert safe.join(name) == folder / name
        for name in ("out.jpg", "etc.jpg", "other.jpg", "sideways.jpg"):
            with pytest.raises(DataError, match="by a link, and does not lie inside .*`cp -RL`"):
                safe.join(name)


def test_a_blobs_folder_outside_of_a_hub_cache_is_no_reason_to_follow_a_link(tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "77").write_bytes(b"x")
    (tmp_path / "data" / "images" / "a.jpg").symlink_to("../../blobs/77")
    with pytest.raises(DataError, match="link"):
        SafeFolder(tmp_path / "data" / "images").join("a.jpg")


def test_a_folder_on_the_way_may_be_a_link_that_stays(tmp_path):
    (tmp_path / "images" / "real").mkdir(parents=True)
    (tmp_path / "images" / "alias").symlink_to("real")
    (tmp_path / "images" / "away").symlink_to("..")
    safe = SafeFolder(tmp_path / "images")
    assert safe.join("alias/a.jpg") and safe.join("alias/b.jpg")
    for name in ("away/a.jpg", "away/b.jpg", "away/../a.jpg"):
        with pytest.raises(DataError, match="link"):
            safe.join(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero", "/dev/null"):
        with pytest.raises(DataError, match="a pipe or a device, no regular file"):
            open_regular(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(DataError, match="cannot be read"):
            open_regular(tmp_path / "socket")
    for path in (tmp_path, tmp_path / "none", "nul\0"):
        with pytest.raises(DataError, match="cannot be read"):
            open_regular(path)
    (tmp_path / "file").write_bytes(b"abc")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"abc"


def test_no_more_is_read_or_unpacked_than_the_limit(tmp_path):
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    plain.write_bytes(b"x" * 100)
    packed.write_bytes(gzip.compress(b"x" * 100))
    for path in (plain, packed):
        assert read_regular(path, 100) == b"x" * 100
        with pytest.raises(DataError, match="more than 99 bytes"):
            read_regular(path, 99)


@pytest.mark.slow
@given(st.text() | st.lists(st.sampled_from(["..", ".", "a", "", "/"])).map("/".join))
def test_every_name_is_inside_or_refused(name):
    try:
        path = SafeFolder("images").join(name)
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
        ("link.csv", "is a link"), ("dangling.csv", "is a link"), ("pipe", "is a pipe or a device"),
        ("deep", "is a folder"), ("/dev/full", "is a pipe or a device"), ("old.csv/x", "cannot be"),
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

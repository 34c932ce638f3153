"""The papers' data come whole or not at all, whatever the server does on the way."""

import hashlib
import json
import random
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data import datasets, downloads
from daitir.data.datafolder import find_data
from daitir.data.datasets import DATASETS, HELD_OUT, is_held_out, visdial_dialogues
from daitir.data.dialogues import read_dialogues
from daitir.data.downloads import SUMS, RemoteFile, check_space, fetch
from daitir.data.gallery import check_images, list_images
from daitir.data.lint import lint_data

REAL = Path(__file__).parents[2] / "../shared/data/chatir/VisDial_v1.0_queries_val.json"
CONTENT = random.Random(0).randbytes(300_000)


class Handler(BaseHTTPRequestHandler):
    """A server that breaks off, ignores ranges or refuses, as its `server` attributes say."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, name = self.server, self.path.rpartition("/")[2]
        asked = self.headers.get("Range")
        if self.command == "GET":
            server.asked.append(asked)
            if server.codes:
                return self.send_error(server.codes.pop(0))
        if name not in server.files:
            return self.send_error(404)
        content, start = server.files[name], 0
        if asked and server.has_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            rest = content[start:]
            if server.breaks:
                server.breaks -= 1
                rest = rest[: len(rest) // 2]
                self.close_connection = True
            self.wfile.write(rest)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.codes = {"a.bin": CONTENT}, [], []
    server.breaks, server.has_ranges = 0, True
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def file(server):
    return RemoteFile("a.bin", f"{server.url}/a.bin", size=len(CONTENT))


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_whole_file_comes_with_its_sum(server, file, tmp_path):
    path = fetch(file, tmp_path)
    assert path.read_bytes() == CONTENT and names(tmp_path) == [SUMS, "a.bin"]
    check = subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path, capture_output=True, text=True)
    assert check.returncode == 0 and "a.bin" in check.stdout
    server.shutdown()  # what is there needs no server
    assert fetch(file, tmp_path) == path


def test_what_breaks_off_is_taken_up_where_it_ended(server, file, tmp_path):
    server.breaks = 3
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    half, quarter, eighth = (len(CONTENT) * n // 8 for n in (4, 6, 7))
    assert server.asked == [None, f"bytes={half}-", f"bytes={quarter}-", f"bytes={eighth}-"]
    assert names(tmp_path) == [SUMS, "a.bin"]


def test_a_later_run_goes_on(server, file, tmp_path, monkeypatch):
    server.breaks = 1
    monkeypatch.setattr(downloads, "TRIES", 1)
    receive = downloads._receive

    def dies(*arguments):
        with pytest.raises(ConnectionError):
            receive(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "_receive", dies)
    with pytest.raises(KeyboardInterrupt):
        fetch(file, tmp_path)
    monkeypatch.setattr(downloads, "_receive", receive)
    assert "a.bin.part" in names(tmp_path)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_server_that_ignores_ranges_sends_the_whole_again(server, file, tmp_path):
    server.breaks, server.has_ranges = 2, False
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize(("surplus", "requests"), [(b"", 1), (b"more", 2)])
def test_a_part_that_is_whole_or_too_long(server, file, tmp_path, surplus, requests):
    (tmp_path / "a.bin.part").write_bytes(CONTENT + surplus)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == requests


def test_a_server_that_recovers_is_waited_for(server, file, tmp_path):
    server.codes = [503, 429, 500]
    assert fetch(file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([404], r"the server refuses it \(404 Not Found\)"),
        ([403], "the server refuses it .* --from DIR"),
        ([503] * 9, r"broke off after 0.00B \(503 .*the same command goes on"),
    ],
)
def test_what_a_server_refuses_is_told(server, file, tmp_path, codes, message):
    server.codes = codes
    with pytest.raises(DataError, match=message):
        fetch(file, tmp_path)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_wrong_bytes_are_set_aside(server, file, tmp_path, kind):
    file = replace(
        file, checksum=f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}", origin="its makers"
    )
    server.files["a.bin"] = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=rf"a\.bin: its {kind.upper()} is .*\(its makers\)"):
        fetch(file, tmp_path)
    assert names(tmp_path) == ["a.bin.wrong"]
    server.files["a.bin"] = CONTENT
    assert fetch(file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "content",
    [bytes(range(256)), b"\xff\xfe\n", b"abc  a.zip\n", b"no\n", b"a" * 64 + b"\n", b"\0" * 99],
)
def test_damaged_sums_are_one_line(server, file, tmp_path, content):
    fetch(file, tmp_path)
    (tmp_path / SUMS).write_bytes(content)
    with pytest.raises(
        DataError, match=f"{SUMS}: holds a line that is no checksum.*remove"
    ) as caught:
        fetch(file, tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / SUMS).unlink()
    assert fetch(file, tmp_path).is_file() and (tmp_path / SUMS).is_file()


def test_sums_of_the_program_sha256sum_are_read(server, file, tmp_path):
    path = fetch(file, tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / SUMS).write_text(f"{digest.upper()} *{file.name}\n\n{'0' * 64}  an other ä.zip\n")
    assert fetch(file, tmp_path) == path


def test_a_file_of_another_size_or_that_changed_on_the_disk_is_set_aside(server, file, tmp_path):
    with pytest.raises(DataError, match="it has 300,000 bytes, not 7"):
        fetch(replace(file, size=7), tmp_path)
    path = fetch(file, tmp_path)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match="its SHA256 is .*, not .*SHA256SUMS"):
        fetch(file, tmp_path)
    assert names(tmp_path) == [SUMS, "a.bin.wrong"]


def test_room_is_looked_for_ahead(tmp_path):
    assert check_space(tmp_path / "new" / "folder", 1) > 1
    with pytest.raises(DataError, match="needs 1.00EB, and "):
        check_space(tmp_path, 10**18)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_on_the_way_is_one_clear_line(server, file, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"a\.bin\.part: the disk is full; free some space, then"):
        fetch(file, tmp_path)
    assert len(server.asked) == 1


@pytest.mark.slow
def test_two_runs_at_once_fetch_once(server, file, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from daitir.data.downloads import RemoteFile, fetch\n"
        f"fetch(RemoteFile('a.bin', {file.url!r}), Path({str(tmp_path)!r}))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert server.asked == [None] and (tmp_path / "a.bin").read_bytes() == CONTENT


# --- the data sets --------------------------------------------------------------------------


def visdial(dialogues):
    """VisDial's format of (image id, rounds), and the twin of `visdial_dialogues`."""
    questions, answers, entries = [], [], []
    for image_id, rounds in dialogues:
        turns = []
        for text in rounds[1:]:
            question, answer = text.split("? ", 1)
            turns.append({"question": len(questions), "answer": len(answers), "gt_index": 1,
                          "answer_options": [0] * 100})  # fmt: skip
            questions.append(question)
            answers.append(answer)
        entries.append({"image_id": image_id, "caption": rounds[0], "dialog": turns})
    data = {"questions": questions, "answers": answers, "dialogs": entries}
    return {"data": data, "version": "1.0"}


def talk(number):
    return [f"a picture {number}", "is it in colour? yes", "any people? no, I see none"]


def zipped(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path.read_bytes()


def picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), number).save(path)


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A server with small files of all three data sets, and COCO's pictures in a folder."""
    for number in range(130):
        folder, stem = (("train2014", "COCO_train2014_"), ("val2017", ""))[number % 2]
        picture(tmp_path / "coco" / folder / f"{stem}{number:012}.jpg", number)
    for number in range(200, 204):
        picture(tmp_path / "coco" / "unlabeled2017" / f"{number:012}.jpg", number)
    parts = {"train": range(132), "val": range(200, 204)}
    for part, numbers in parts.items():
        content = json.dumps(visdial([(n, talk(n)) for n in numbers]))
        name = f"visdial_1.0_{part}"
        server.files[f"{name}.zip"] = zipped(tmp_path / "x.zip", {f"{name}.json": content})
    entries = [{"img": f"unlabeled2017/{n:012}.jpg", "dialog": talk(n)} for n in range(200, 203)]
    for file in DATASETS["chatir"].files[:-1]:
        server.files[file.name] = json.dumps(entries).encode()
    gallery = [f"unlabeled2017/{n:012}.jpg" for n in range(200, 204)]
    server.files["Search_Space_val_50k.json"] = json.dumps(gallery).encode()
    pictures = (tmp_path / "coco" / "unlabeled2017").iterdir()
    files = {f"unlabeled2017/{path.name}": path.read_bytes() for path in pictures}
    server.files["unlabeled2017.zip"] = zipped(tmp_path / "x.zip", files)
    for name, dataset in DATASETS.items():  # ours are smaller than the real ones
        small = [replace(file, size=None, checksum=None) for file in dataset.files]
        monkeypatch.setitem(datasets.DATASETS, name, replace(dataset, files=tuple(small)))
    return server


def test_coco_is_fetched_and_unpacked_and_goes_on(published, tmp_path, capsys):
    command = ["fetch", "coco-unlabeled", "--out", str(tmp_path / "new"), "--mirror", published.url]
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "licence: the pictures belong to Flickr users" in printed
    assert "no checksum is published; its SHA-256 is kept" in printed and published.url in printed
    assert not (tmp_path / "new").exists() and "at least" not in printed
    published.breaks = 1
    assert main(command) == 0
    assert "unlabeled2017: 4 pictures" in capsys.readouterr().out
    lost = tmp_path / "new" / "images" / "unlabeled2017" / f"{201:012}.jpg"
    lost.unlink()
    published.shutdown()
    assert main(command) == 0 and lost.is_file()
    assert "; is here; " in capsys.readouterr().out


def test_visdial_becomes_three_splits(published, tmp_path, capsys):
    out = tmp_path / "visdial"
    command = ["fetch", "visdial", "--out", str(out), "--mirror", published.url]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "test: 4 dialogues" in printed and "run it again with --images DIR" in printed
    (first, *_) = read_dialogues(find_data(out).dialogue_file("test"))
    assert (first.image, list(first.rounds)) == (f"unlabeled2017/{200:012}.jpg", talk(200))
    assert main([*command, "--images", str(tmp_path / "coco")]) == 0
    assert "2 of 132 dialogues of visdial_1.0_train are left out" in capsys.readouterr().out
    data = find_data(out)
    found = {s: read_dialogues(data.dialogue_file(s)) for s in ("train", "val", "test")}
    numbers = {s: [int(d.image[-16:-4]) for d in rows] for s, rows in found.items()}
    assert numbers["val"] == [n for n in range(130) if is_held_out(n)] != []
    assert sorted(numbers["train"] + numbers["val"]) == list(range(130))
    assert all(list(d.rounds) == talk(int(d.image[-16:-4])) for d in found["train"])
    assert lint_data(out).num_errors == 0
    assert main([*command, "--images", str(tmp_path / "coco" / "val2017")]) == 2
    assert "exists, and is not" in capsys.readouterr().err


def test_chatir_becomes_a_folder_for_each_source(published, tmp_path, capsys):
    out = tmp_path / "chatir"
    command = ["fetch", "chatir", "--out", str(out), "--mirror", published.url, "--images"]
    assert main([*command, str(tmp_path / "coco" / "unlabeled2017")]) == 2
    assert "name the folder above it" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "coco")]) == 0
    for file in DATASETS["chatir"].files[:-1]:
        report = lint_data(out / file.name.removesuffix(".json"))
        assert report.findings == [] and report.sizes["gallery"] == 4


def test_a_folder_that_one_has_is_used_in_place(published, tmp_path, capsys):
    mine = tmp_path / "mine"
    (mine / "deep").mkdir(parents=True)
    val = visdial([(n, talk(n)) for n in range(200, 204)])
    (mine / "deep" / "visdial_1.0_val.json").write_text(json.dumps(val))
    out = tmp_path / "out"
    assert main(["fetch", "visdial", "--from", str(mine), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "visdial_1.0_train is not there" in printed and "test: 4 dialogues" in printed
    assert published.asked == [] and not (out / "downloads").exists()
    command = ["fetch", "coco-unlabeled", "--out", str(tmp_path / "c"), "--from"]
    assert main([*command, str(tmp_path / "coco")]) == 0
    linked = tmp_path / "c" / "images"
    assert linked.is_symlink() and "4 pictures" in capsys.readouterr().out
    # What is made so can be searched: all names are inside the folder that the link leads to.
    pictures = list_images(linked / "unlabeled2017")
    assert len(check_images(linked, [f"unlabeled2017/{name}" for name in pictures])) == 4
    assert main([*command, str(tmp_path / "coco" / "unlabeled2017")]) == 0
    assert main([*command, str(mine)]) == 2
    assert "has none of the files of coco-unlabeled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK half a file", "no sound zip file"),
        (zipfile.ZipFile, "holds 0 JSON files"),
        ("[1, 2", ": not JSON (line 1"),
        ('{"data": {"dialogs": [{"image_id": 3}]}}', "not VisDial's format"),
        (f'{{"data": {"[" * 100_000}{"]" * 100_000}}}', "nested too deeply"),
    ],
)
def test_files_of_other_kinds_are_named(published, tmp_path, capsys, content, message):
    if content is zipfile.ZipFile:
        content = zipped(tmp_path / "y.zip", {"readme.txt": "none"})
    elif isinstance(content, str):
        content = zipped(tmp_path / "y.zip", {"visdial_1.0_val.json": content})
    published.files["visdial_1.0_val.zip"] = content
    command = ["fetch", "visdial", "--out", str(tmp_path / "v"), "--mirror", published.url]
    assert main(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"question": -1}, {"answer": -1}, {"answer": 2}, {"question": 0.5}, {"answer": None}]
)
def test_a_row_that_is_not_there_is_refused_and_its_dialogue_named(change):
    content = visdial([(7, ["a dog", "is it big? no"]), (8, ["a cat", "is it old? yes"])])
    assert len(list(visdial_dialogues(content, None))) == 2
    content["data"]["dialogs"][1]["dialog"][0] |= change
    with pytest.raises(DataError, match="dialogue 1: not VisDial's format"):
        list(visdial_dialogues(content, None))


@pytest.mark.parametrize(
    "change",
    [{"image_id": "8"}, {"image_id": [8]}, {"caption": 5}, {"dialog": None},
     {"dialog": [3]}],
)  # fmt: skip
def test_what_is_no_dialogue_of_visdial_is_named(change):
    content = visdial([(7, ["a dog"]), (8, ["a cat"])])
    content["data"]["dialogs"][1] |= change
    with pytest.raises(DataError, match="dialogue 1: not VisDial's format"):
        list(visdial_dialogues(content, None))


@pytest.mark.parametrize("name", ["visdial_1.0_val.zip", "unlabeled2017.zip"])
@pytest.mark.parametrize("damage", ["encrypted", "member", "half", "lzma", "bz2", "method", "deep"])
def test_a_damaged_zip_file_is_one_line(tmp_path, name, damage):
    """Of any way of packing, whichever part of the file the damage is in."""
    inside = "visdial_1.0_val.json" if "visdial" in name else "unlabeled2017/a.jpg"
    kinds = {"lzma": zipfile.ZIP_LZMA, "bz2": zipfile.ZIP_BZIP2}
    path = tmp_path / "y.zip"
    content = "[" * 100_000 if damage == "deep" else random.Random(0).randbytes(3000).hex()
    with zipfile.ZipFile(path, "w", kinds.get(damage, zipfile.ZIP_DEFLATED)) as archive:
        archive.writestr(inside, content)
    packed = bytearray(path.read_bytes())
    central = packed.rfind(b"PK\1\2")
    if damage == "encrypted":
        packed[6] |= 1
        packed[central + 8] |= 1
    elif damage == "method":
        packed[8] = packed[central + 10] = 97
    elif damage == "half":
        del packed[len(packed) // 2 :]
    elif damage != "deep":
        packed[200:260] = b"x" * 60
    (tmp_path / name).write_bytes(packed)
    dataset = DATASETS["visdial" if "visdial" in name else "coco-unlabeled"]
    if damage == "deep":
        if dataset.unpacked:
            return  # pictures are not looked into here
        message = "nested too deeply"
    else:
        message = "no sound zip file"
    with pytest.raises(DataError, match=f"{name}.*{message}") as caught:
        datasets.prepare(dataset, {name: tmp_path / name}, tmp_path / "out")
    assert "\n" not in str(caught.value) and not list((tmp_path / "out").rglob("*.jpg"))


def test_a_zip_file_that_leaves_its_folder_is_refused(published, tmp_path, capsys):
    content = zipped(tmp_path / "y.zip", {"../../evil.jpg": "x"})
    published.files["unlabeled2017.zip"] = content
    command = ["fetch", "coco-unlabeled", "--out", str(tmp_path / "v" / "w")]
    assert main([*command, "--mirror", published.url]) == 2
    assert "does not lie inside" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil.jpg"))


def test_what_cannot_be_right_is_refused_before_anything_is_fetched(
    published, tmp_path, capsys, monkeypatch
):
    command = ["fetch", "coco-unlabeled", "--out", str(tmp_path / "v"), "--mirror", published.url]
    assert main([*command, "--from", str(tmp_path)]) == 2
    assert main([*command, "--images", str(tmp_path)]) == 2
    with monkeypatch.context() as patch:
        patch.setattr(downloads.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
        assert main(command) == 2
    assert "and 1.00B are free" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        small = datasets.DATASETS["coco-unlabeled"]
        sized = replace(small, files=(replace(small.files[0], size=5),))
        patch.setitem(datasets.DATASETS, "coco-unlabeled", sized)
        assert main(command) == 2
    assert "bytes, not 5; it is another file" in capsys.readouterr().err
    del published.files["unlabeled2017.zip"]
    assert main(command) == 2
    assert "refuses it (404" in capsys.readouterr().err
    assert published.asked == []
    published.shutdown()
    published.server_close()
    assert main(command) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert main([*command, "--dry-run"]) == 0
    assert "size unknown" in (printed := capsys.readouterr().out)
    assert "  needs at least 0.00B, " in printed


def test_the_held_out_share_is_as_told():
    share = sum(is_held_out(n) for n in range(60_000)) / 60_000
    assert abs(share * HELD_OUT - 1) < 0.1


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="the VisDial dialogue file is not at hand")
def test_real_dialogues_come_through_as_chatir_has_them(tmp_path):
    real = read_dialogues(REAL)
    ids = [int(dialogue.image[-16:-4]) for dialogue in real]
    named = {i: dialogue.image for i, dialogue in zip(ids, real, strict=True)}
    content = visdial([(i, d.rounds) for i, d in zip(ids, real, strict=True)])
    found = list(visdial_dialogues(content, named))
    assert found == list(zip(ids, real, strict=True))
    assert main(["fetch", "chatir", "--from", str(REAL.parent), "--out", str(tmp_path)]) == 0
    assert read_dialogues(tmp_path / REAL.stem / "dialogues.json") == real

"""Folders of own data: their parts are found, and what is wrong is counted."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from own_data import make_own_data, talk

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data.datafolder import find_data
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.data.lint import lint_data
from daitir.models.encoders import Encoder
from daitir.scenes.export import export_scenes


def test_parts_of_a_single_file(tmp_path):
    names = make_own_data(tmp_path)
    data = find_data(tmp_path)
    assert data.is_single and list(data.dialogues) == ["test"]
    assert data.dialogue_file("test") == tmp_path / "dialogues.json"
    assert data.rewrites_file("test") == tmp_path / "rewrites.json"
    assert data.views_dir("test") == tmp_path / "views" / "test"
    assert data.gallery() == sorted(names)
    (tmp_path / "gallery.json").write_text(json.dumps(names[:3]))
    assert data.gallery() == names[:3]
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "0_0.jpg").touch()
    assert data.views_dir("test") == tmp_path / "views"
    (tmp_path / "views" / "test").mkdir()
    assert data.views_dir("test") == tmp_path / "views" / "test"


def test_parts_of_splits(tmp_path):
    make_own_data(tmp_path, splits={"test": 3, "train": 5})
    data = find_data(tmp_path)
    assert list(data.dialogues) == ["train", "test"] and not data.is_single
    assert data.rewrites_file("train") == tmp_path / "rewrites" / "train.json"
    assert data.views_dir("train") == tmp_path / "views" / "train"
    with pytest.raises(DataError, match="has no split 'val', only train, test"):
        data.dialogue_file("val")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "dialogues").mkdir(), "both dialogues.json and dialogues/"),
        (lambda f: (f / "dialogues.json").unlink(), "no dialogues; name the files"),
        (lambda f: (f / "images").rename(f / "photos"), "has no folder images/"),
        (lambda f: f.rename(f.with_name("moved")), "no such folder of data"),
    ],
)
def test_other_folders_are_refused(tmp_path, damage, message):
    folder = tmp_path / "set"
    make_own_data(folder, num_pictures=2, num_dialogues=1)
    damage(folder)
    with pytest.raises(DataError, match=message):
        find_data(folder)


def test_an_unknown_split_is_refused(tmp_path):
    make_own_data(tmp_path, num_pictures=3, splits={"test": 1, "validation": 1})
    with pytest.raises(DataError, match="dialogues/validation.json is no split"):
        find_data(tmp_path)


def test_a_sound_set_has_no_findings(tmp_path):
    make_own_data(tmp_path, splits={"train": 6, "test": 4}, views=True)
    report = lint_data(tmp_path)
    assert report.findings == [] and report.num_errors == 0
    lengths = [len(talk(i)) for i in range(10)]
    assert report.sizes == {
        "pictures": 30, "gallery": 30,
        "train dialogues": 6, "train rounds": sum(lengths[:6]), "train shortest dialogue": 3,
        "train longest dialogue": 8, "train views": sum(lengths[:6]),
        "test dialogues": 4, "test rounds": sum(lengths[6:]), "test shortest dialogue": 9,
        "test longest dialogue": 12, "test views": sum(lengths[6:]),
        "train views without a manifest": sum(lengths[:6]),
        "test views without a manifest": sum(lengths[6:]),
    }  # fmt: skip


@pytest.mark.slow
def test_what_daitir_scenes_writes_is_such_a_folder(tmp_path):
    export_scenes(tmp_path, num_dialogues=2, num_gallery=4, broken_share=0.2)
    report = lint_data(tmp_path)
    assert report.findings == [] and report.sizes["test views"] == 22


def _kinds(report):
    return {finding.kind: finding.count for finding in report.findings}


def test_everything_wrong_is_counted(tmp_path):
    names = make_own_data(tmp_path, num_pictures=9, splits={"train": 2, "test": 3}, views=True)
    images, views = tmp_path / "images", tmp_path / "views"
    half = (images / names[1]).read_bytes()
    (images / names[1]).write_bytes(half[: len(half) // 2])
    (images / names[5]).write_bytes(b"")
    (images / "again.jpg").write_bytes((images / names[0]).read_bytes())
    (tmp_path / "gallery.json").write_text(json.dumps([*names[:7], "lost.jpg", 3, names[0]]))
    (views / "test" / "0_0.jpg").unlink()
    (views / "test" / "1_0.png").write_bytes(b"")
    (views / "test" / "99_0.jpg").touch()
    (views / "train" / "0_1.jpg").write_bytes(b"no picture")
    path = tmp_path / "dialogues" / "test.json"
    entries = json.loads(path.read_text("utf-8"))
    entries[1]["dialog"][2] = "na\ufffdve"
    entries[2]["img"] = names[8]  # outside the gallery
    entries.append({"img": names[0], "dialog": ["the target of the first training dialogue"]})
    entries.append({"img": names[0], "dialog": ["and again", "", 4]})
    path.write_text(json.dumps(entries), encoding="utf-8")
    write_dialogues(tmp_path / "one.json", [Dialogue(names[2], ("short",))])
    (tmp_path / "rewrites").mkdir()
    (tmp_path / "one.json").rename(tmp_path / "rewrites" / "test.json")
    report = lint_data(tmp_path)
    errors = {"unreadable_image": 2, "missing_image": 1, "image_path": 1, "named_twice": 1,
              "not_in_gallery": 1, "blank_round": 1, "round_not_text": 1, "one_view_twice": 1,
              "refined_from_other_words": 1}  # fmt: skip
    warnings = {"duplicate_target": 1, "equal_pictures": 1, "missing_view": 2, "stray_file": 1,
                "lost_character": 1, "target_in_two_splits": 1, "fragment": 1}  # fmt: skip
    unreadable_views = 1
    found = [(f.kind, f.count) for f in report.findings if f.is_error]
    assert ("unreadable_image", unreadable_views) in found
    found.remove(("unreadable_image", unreadable_views))
    assert dict(found) == errors
    assert {f.kind: f.count for f in report.findings if not f.is_error} == warnings
    assert report.num_errors == sum(errors.values()) + unreadable_views
    quick = _kinds(lint_data(tmp_path, decode=False))
    assert "unreadable_image" not in quick and quick["missing_image"] == 1


def test_examples_are_the_first_three(tmp_path):
    names = make_own_data(tmp_path, num_pictures=9, num_dialogues=8)
    for name in names[:8]:
        (tmp_path / "images" / name).write_bytes(b"")
    (finding,) = lint_data(tmp_path).findings
    assert (finding.count, len(finding.examples)) == (8, 3)
    assert str(tmp_path / "images") == finding.where and "0 bytes" in finding.examples[0]


@pytest.mark.parametrize("content", ["[", "{}", "[]", '{"a": 1}'])
def test_files_that_are_no_lists_are_findings(tmp_path, content):
    make_own_data(tmp_path, num_pictures=2, num_dialogues=1)
    for name in ("dialogues.json", "gallery.json"):
        (tmp_path / name).write_text(content)
    report = lint_data(tmp_path)
    assert {Path(finding.where).name for finding in report.findings} == {
        "dialogues.json", "gallery.json",
    }  # fmt: skip


def test_the_command_reports_for_people_and_for_programs(tmp_path, capsys):
    make_own_data(tmp_path, num_pictures=3, num_dialogues=2)
    assert main(["lint", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "\nsuffixes: ." in printed and printed.endswith("nothing is wrong\n")
    for path in sorted((tmp_path / "images").rglob("*.*"))[:2]:
        path.write_bytes(b"GIF89a")
    assert main(["lint", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert f"error: {tmp_path / 'images'}: 2 × unreadable_image" in printed.out
    assert "2 errors; mend the files" in printed.err
    assert main(["lint", str(tmp_path), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["num_errors"] == 2 and report["sizes"]["test dialogues"] == 2
    assert report["findings"][0]["kind"] == "unreadable_image"
    assert main(["lint", str(tmp_path / "images")]) == 2
    assert "name the files dialogues.json" in capsys.readouterr().err


def test_features_that_cannot_be_kept_end_the_command_before_a_picture_is_embedded(
    tmp_path, capsys, monkeypatch
):
    make_own_data(tmp_path, num_pictures=2, num_dialogues=1)
    monkeypatch.setattr(Encoder, "image_batches", None)
    features = str(tmp_path / "dialogues.json")
    for command in ("embed", "search"):
        options = [command, str(tmp_path), "--encoder", "mini", "--features", features]
        assert main(options) == 2
        told = capsys.readouterr().err
        assert f"{features}: features cannot be kept there" in told and "--features DIR" in told


def test_linting_loads_no_torch(tmp_path):
    make_own_data(tmp_path, num_pictures=2, num_dialogues=1, views=True)
    code = (
        "import sys; from daitir.cli.command import main\n"
        f"assert main(['lint', {str(tmp_path)!r}]) == 0\n"
        "print({'torch', 'pandas', 'open_clip', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.endswith("set()\n"), run.stderr


@pytest.mark.slow
def test_evaluates_a_folder_as_the_files_that_it_stands_for(tmp_path, capsys):
    folder = tmp_path / "my set"
    names = make_own_data(folder, num_pictures=20, num_dialogues=6, views=True)
    out = [tmp_path / "data.csv", tmp_path / "files.csv"]
    options = ["--encoder", "mini", "--fusion", "dar"]
    assert main(["evaluate", "--data", str(folder), *options, "--out", str(out[0])]) == 0
    assert f"texts: raw_dialogue of {folder / 'dialogues.json'}" in capsys.readouterr().out
    files = ["--dialogues", str(folder / "dialogues.json"), "--images", str(folder / "images")]
    files += ["--views", str(folder / "views" / "test"), "--text", "raw_dialogue"]
    label = ["--benchmark", "my set", "--out", str(out[1])]
    assert main(["evaluate", *files, *options, *label]) == 0
    pd.testing.assert_frame_equal(*map(pd.read_csv, out))
    rows = pd.read_csv(out[0]).query("metric == 'mrr' and method == 'text'")
    assert rows["num_queries"].tolist() == [6, 6, 6, 5, 4, 3, 2, 1]
    rewritten = [
        Dialogue(d.image, tuple(f"caption {t}" for t in range(len(d.rounds))))
        for d in read_dialogues(folder / "dialogues.json")
    ]
    write_dialogues(folder / "rewrites.json", rewritten)
    assert main(["evaluate", "--data", str(folder), *options, "--out", str(out[0])]) == 0
    assert f"texts: current_rewrite of {folder / 'rewrites.json'}" in capsys.readouterr().out
    write_dialogues(folder / "rewrites.json", rewritten[::-1])
    assert main(["evaluate", "--data", str(folder), *options, "--out", str(out[0])]) == 2
    assert "its dialogues are not those of" in capsys.readouterr().err
    assert len(names) == 20


@pytest.mark.slow
def test_rewrites_and_views_of_others_are_not_overwritten(tmp_path, capsys):
    make_own_data(tmp_path, num_pictures=2, num_dialogues=1, views=True)
    (tmp_path / "rewrites.json").write_text("a person's work")
    assert main(["refine", "--data", str(tmp_path)]) == 2
    message = "rewrites.json: exists, and this command did not write it; name another"
    assert message in capsys.readouterr().err
    assert main(["generate", "--data", str(tmp_path), "--text", "raw_dialogue"]) == 2
    assert "holds views of another origin (0_0.jpg is one)" in capsys.readouterr().err
    for path in (tmp_path / "views" / "test").iterdir():
        path.rename(tmp_path / "views" / path.name)
    (tmp_path / "views" / "test").rmdir()
    assert main(["generate", "--data", str(tmp_path), "--text", "raw_dialogue"]) == 2
    assert "views: holds views of another origin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "val"], "has no split 'val', only test"),
        (["--images", "x"], "--images and --data both name it"),
        (["--fusion", "dar"], "`daitir generate --data"),
    ],
)
def test_bad_arguments_beside_a_folder(tmp_path, capsys, arguments, message):
    make_own_data(tmp_path, num_pictures=2, num_dialogues=1)
    command = ["evaluate", "--data", str(tmp_path), "--encoder", "mini", "--fusion", "text"]
    assert main([*command, "--out", str(tmp_path / "out.csv"), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["evaluate", "--encoder", "mini", "--fusion", "text", "--out", "x.csv"],
         "--dialogues and --images"),
        (["refine"], "--dialogues and --out"),
        (["generate", "--dialogues", "x.json"], "--out"),
    ],
)  # fmt: skip
def test_without_a_folder_the_files_must_be_named(capsys, command, named):
    assert main(command) == 2
    assert f"error: {named} must be named, or instead of them --data" in capsys.readouterr().err

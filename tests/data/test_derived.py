"""Views and rewrites belong to what they were made from, and outputs replace nothing of others."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hub_models import tiny_pipeline
from own_data import make_own_data
from PIL import Image

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data.datafolder import SearchData
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.data.evaluate import evaluate
from daitir.data.lint import lint_data
from daitir.data.manifests import read_rewrites, read_views, round_digests
from daitir.evaluation import RESULT_COLUMNS
from daitir.scenes.export import export_scenes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of own data: four dialogues of three rounds in twelve pictures, with rewrites."""
    folder = tmp_path_factory.mktemp("scenes") / "set"
    export_scenes(folder, num_dialogues=4, num_gallery=12)
    for name in ("dialogues.json", "rewrites.json"):
        talks = read_dialogues(folder / name)
        (folder / "rewrites.manifest.json").unlink(missing_ok=True)
        write_dialogues(folder / name, [Dialogue(d.image, d.rounds[:3]) for d in talks])
    return folder


@pytest.fixture
def folder(scenes, tmp_path):
    return shutil.copytree(scenes, tmp_path / "set")


@pytest.fixture
def generate(pipeline, tmp_path):
    def call(*arguments):
        options = ["--pipeline", str(pipeline), "--cache", str(tmp_path / "cache")]
        steps = [] if "--steps" in arguments else ["--steps", "1"]
        return main(["generate", *options, *steps, *map(str, arguments)])

    return call


def _evaluate(folder, tmp_path, *more, fusion="view"):
    command = ["evaluate", "--encoder", "mini", "--fusion", fusion, "--out", tmp_path / "t.csv"]
    where = [] if "--dialogues" in more else ["--data", folder]
    return main([*map(str, command), *map(str, where), *map(str, more)])


def _rewrite(path, change):
    talks = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(change(talks)), encoding="utf-8")


CHANGES = {
    "reversed": lambda talks: talks[::-1],
    "the first removed": lambda talks: talks[1:],
    "two exchanged": lambda talks: [talks[1], talks[0], *talks[2:]],
    "one word": lambda talks: [
        {**t, "dialog": [t["dialog"][0] + " now", *t["dialog"][1:]]} if i == 2 else t
        for i, t in enumerate(talks)
    ],
    "another picture": lambda talks: [*talks[:3], {**talks[3], "img": "000009.png"}],
    "the first round removed": lambda talks: [{**t, "dialog": t["dialog"][1:]} for t in talks],
}


def test_digests_are_those_that_the_book_tells():
    rounds = ("a dog", "is it big? né")
    found = round_digests(Dialogue("a.png", rounds))
    text = b"5:a.png,5:a dog,"
    assert found[0] == hashlib.sha256(text).hexdigest()[:32]
    assert found[1] == hashlib.sha256(text + "14:is it big? né,".encode()).hexdigest()[:32]
    assert found != round_digests(Dialogue("b.png", rounds))
    # What stands between two strings is told apart from what stands in them.
    one, other = (round_digests(Dialogue("a", r))[-1] for r in (("x,1:y", "z"), ("x", "y,1:z")))
    assert one != other


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("text", ["raw_dialogue", "current_rewrite"])
def test_views_of_changed_dialogues_are_refused(folder, generate, tmp_path, capsys, change, text):
    """Whether views are of the raw dialogues or of rewrites, and whichever of them is ranked."""
    assert generate("--data", folder, "--text", text) == 0
    ranked = {"raw_dialogue": "dialogues.json", "current_rewrite": "rewrites.json"}
    for convention in ranked:
        assert _evaluate(folder, tmp_path, "--text", convention) == 0
    assert main(["embed", str(folder), "--encoder", "mini"]) == 0
    assert lint_data(folder).num_errors == 0
    kept = {name: (folder / name).read_bytes() for name in ranked.values()}
    for name in ranked.values():
        _rewrite(folder / name, CHANGES[change])
    capsys.readouterr()
    for convention in ranked:
        assert _evaluate(folder, tmp_path, "--text", convention) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert f"{folder / 'views' / 'test'}: " in told and "`daitir generate --overwrite`" in told
        number = {"one word": 2, "another picture": 3}.get(change, 0)
        assert f"dialogue {number}, round 0;" in told
    assert main(["embed", str(folder), "--encoder", "mini"]) == 2
    kinds = {f.kind: f.is_error for f in lint_data(folder).findings}
    assert kinds["view_of_another_text"]
    # Only one of the two files is changed.
    (folder / "dialogues.json").write_bytes(kept["dialogues.json"])
    # Views of a raw dialogue fit whatever words somebody made of that dialogue.
    fits = text == "raw_dialogue" and change == "one word"
    assert _evaluate(folder, tmp_path, "--text", "current_rewrite") == (0 if fits else 2)
    assert _evaluate(folder, tmp_path, "--text", "raw_dialogue") == 0
    _rewrite(folder / "dialogues.json", CHANGES[change])
    (folder / "rewrites.json").write_bytes(kept["rewrites.json"])
    assert _evaluate(folder, tmp_path, "--text", "raw_dialogue") == 2
    assert _evaluate(folder, tmp_path, "--text", "current_rewrite") == 2


def test_shorter_and_fewer_dialogues_keep_their_views(folder, generate, tmp_path):
    assert generate("--data", folder) == 0
    for name in ("dialogues.json", "rewrites.json"):
        shorter = [{**t, "dialog": t["dialog"][:2]}
                   for t in json.loads((folder / name).read_text())[:3]]  # fmt: skip
        (folder / name).write_text(json.dumps(shorter))
    assert _evaluate(folder, tmp_path) == 0


def test_a_manifest_says_what_each_view_is_of(folder, generate, tmp_path, pipeline):
    assert generate("--data", folder, "--text", "raw_dialogue", "--guidance", "3") == 0
    views = folder / "views" / "test"
    found = read_views(views)
    assert {k: found.settings[k] for k in ("steps", "guidance", "scheduler", "dtype", "size")} == {
        "steps": 1, "guidance": 3.0, "scheduler": "DDIMScheduler", "dtype": "float32",
        "size": [8, 8],
    }  # fmt: skip
    assert found.source == {"file": "dialogues.json", "text": "raw_dialogue"}
    talks = read_dialogues(folder / "dialogues.json")
    assert len(found.views) == 12
    view = found.views["2_1.webp"]
    assert (view.dialogue, view.round, view.index) == (2, 1, 0)
    assert view.prompt == ", ".join(talks[2].rounds[:2])
    assert view.source == round_digests(talks[2])[1] and view.raw_source is None
    told = json.loads(Image.open(views / "2_1.webp").getexif()[0x010E])
    assert (view.prompt, view.seed) == (told["prompt"], told["seed"])
    assert found.settings["model"] == told["digest"]


def test_other_settings_or_texts_are_not_drawn_into_the_folder(folder, generate, tmp_path, capsys):
    assert generate("--data", folder) == 0
    views = folder / "views" / "test"
    before = {path.name: path.read_bytes() for path in views.iterdir()}
    for more, message in (
        (["--steps", "2"], "steps is 1 there and 2 now"),
        (["--guidance", "3"], "guidance is 2.0 there and 3.0 now"),
        (["--seed", "1", "--num-dialogues", "2"], "seed is 0 there and 1 now"),
        (["--fixed-noise"], "fixed_noise is False there and True now"),
        (["--dtype", "bfloat16"], "is"),
        (["--text", "raw_dialogue"], "text is current_rewrite there and raw_dialogue now"),
    ):
        assert generate("--data", folder, *more) == 2, more
        told = capsys.readouterr().err.splitlines()[-1]
        assert message in told and "--overwrite removes the views there" in told
    _rewrite(folder / "rewrites.json", CHANGES["one word"])
    assert generate("--data", folder) == 2
    told = capsys.readouterr().err
    assert "2_0.webp is there with another text, picture or seed of dialogue 2, round 0" in told
    assert before == {path.name: path.read_bytes() for path in views.iterdir()}
    assert generate("--data", folder, "--steps", "2", "--num-dialogues", "3", "--overwrite") == 0
    assert len(list(views.glob("*.webp"))) == 9 == len(read_views(views).views)
    assert {json.loads(Image.open(p).getexif()[0x010E])["steps"] for p in views.glob("*.webp")} == {
        2
    }


def test_a_run_is_extended_and_goes_on_after_a_kill(folder, generate, tmp_path, monkeypatch):
    views = folder / "views" / "test"
    assert generate("--data", folder, "--num-dialogues", "2") == 0
    real, count = shutil.copyfile, []

    def dies(source, target):
        count.append(target)
        if len(count) == 8:
            raise KeyboardInterrupt
        return real(source, target)

    monkeypatch.setattr(shutil, "copyfile", dies)
    assert generate("--data", folder) == 130
    monkeypatch.undo()
    assert len(read_views(views).views) == 12 and len(list(views.glob("*.webp"))) == 7
    assert generate("--data", folder, "--steps", "2") == 2
    assert generate("--data", folder) == 0
    assert generate("--data", folder, "--num-dialogues", "1") == 0
    assert len(read_views(views).views) == 12 == len(list(views.glob("*.webp")))
    assert lint_data(folder).num_errors == 0 and _evaluate(folder, tmp_path) == 0


def test_the_page_tells_how_digests_are_made():
    page = (Path(__file__).parents[2] / "book" / "derived_files.md").read_text("utf-8")
    space = {}
    exec(page.split("```python\n")[1].split("```")[0], space)
    talk = Dialogue("album 1/é.png", ("有一只狗", "is it big? no", "x" * 1000))
    assert space["round_digests"](talk.image, talk.rounds) == round_digests(talk)


def test_files_that_a_manifest_does_not_know_or_that_were_exchanged(
    folder, generate, tmp_path, capsys
):
    assert generate("--data", folder) == 0
    views = folder / "views" / "test"
    shutil.copy(views / "0_0.webp", views / "0_0_1.webp")
    assert _evaluate(folder, tmp_path) == 2
    assert "0_0_1.webp is not in its manifest.json" in capsys.readouterr().err
    assert generate("--data", folder) == 2
    assert "holds views of another origin (0_0_1.webp is one)" in capsys.readouterr().err
    (views / "0_0_1.webp").unlink()
    shutil.copy(views / "3_2.webp", views / "0_0.webp")
    assert lint_data(folder, decode=False).num_errors == 0
    (finding,) = lint_data(folder).findings
    assert finding.is_error and "0_0.webp is another drawing than its" in finding.examples[0]


def test_views_without_a_manifest_are_counted_and_not_drawn_over(
    folder, generate, tmp_path, capsys, caplog
):
    assert generate("--data", folder) == 0
    views = folder / "views" / "test"
    (views / "manifest.json").unlink()
    assert _evaluate(folder, tmp_path) == 0
    assert "test: no manifest says what its 12 views are of" in caplog.text
    assert lint_data(folder).sizes["test views without a manifest"] == 12
    assert generate("--data", folder, "--overwrite") == 2
    assert "holds views of another origin (0_0.webp is one)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON"),
        ('{"format": "daitir.views/1"}', "a damaged manifest"),
        ('{"format": "daitir.views/1", "settings": {}, "source": {}, "views": [{"x": 1}]}',
         "a damaged manifest"),
        ('{"format": "daitir.views/1", "settings": {}, "source": {}, "views": [{"dialogue": '
         '"../x", "round": 0, "file": "0_0.webp", "source": ""}]}', "a damaged manifest"),
        ('{"format": "daitir.views/2"}', "which this version does not know"),
    ],
)  # fmt: skip
def test_damaged_manifests_are_one_line(folder, generate, tmp_path, capsys, content, message):
    assert generate("--data", folder) == 0
    (folder / "views" / "test" / "manifest.json").write_text(content)
    capsys.readouterr()
    for refused in (_evaluate(folder, tmp_path), generate("--data", folder)):
        assert refused == 2
    (line, *_) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("daitir: error")]
    assert message in line and "manifest.json: " in line
    assert "unreadable" in {finding.kind for finding in lint_data(folder).findings}


def test_rewrites_belong_to_their_dialogues(folder, tmp_path, capsys):
    (folder / "rewrites.json").unlink()
    refine = ["refine", "--data", str(folder)]
    assert main(refine) == 0
    assert f"refined: {folder / 'dialogues.json'}\n" in capsys.readouterr().out
    kept = read_rewrites(folder / "rewrites.json")
    raw = read_dialogues(folder / "dialogues.json")
    assert kept.rounds == [round_digests(talk) for talk in raw] and kept.counts["rounds"] == 12
    refined = read_dialogues(folder / "rewrites.json")
    assert [list(talk.refined_from) for talk in refined] == kept.rounds
    assert main(refine) == 0  # it is done, and says so
    assert "is there already" in capsys.readouterr().out
    _rewrite(folder / "dialogues.json", CHANGES["one word"])
    assert _evaluate(folder, tmp_path, fusion="text") == 2
    told = capsys.readouterr().err
    assert "dialogue 2, round 0 was refined from other words than" in told
    assert _evaluate(folder, tmp_path, "--text", "raw_dialogue", fusion="text") == 0
    assert "refined_from_other_words" in {f.kind for f in lint_data(folder).findings if f.is_error}
    assert main(refine) == 2
    told = capsys.readouterr().err
    assert "holds rewrites of another dialogue 2, round 0; --overwrite refines anew" in told
    assert main([*refine, "--overwrite"]) == 0
    assert _evaluate(folder, tmp_path, fusion="text") == 0
    # Somebody mends a caption by hand.
    _rewrite(folder / "rewrites.json", CHANGES["one word"])
    capsys.readouterr()
    assert _evaluate(folder, tmp_path, fusion="text") == 2
    assert "was changed since it was refined; refine it again" in capsys.readouterr().err
    (folder / "rewrites.manifest.json").unlink()
    assert _evaluate(folder, tmp_path, fusion="text") == 0


def test_views_of_refined_dialogues_elsewhere_are_traced_to_the_raw_ones(
    folder, generate, tmp_path, capsys
):
    raw, refined, views = folder / "dialogues.json", tmp_path / "refined.json", tmp_path / "views"
    assert main(["refine", "--dialogues", str(raw), "--out", str(refined)]) == 0
    assert generate("--dialogues", refined, "--out", views) == 0
    rank = ["--images", folder / "images", "--views", views, "--dialogues"]
    assert "drawn texts: current_rewrite of" in capsys.readouterr().out
    assert _evaluate(folder, tmp_path, *rank, refined) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"ranked texts: current_rewrite of {refined} (recognised: rewrites)"
    assert _evaluate(folder, tmp_path, *rank, raw) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"ranked texts: raw_dialogue of {raw} (recognised: questions and answers)"
    for change in ("reversed", "one word"):
        for path in (raw, refined):
            copy = path.with_name("changed.json")
            shutil.copy(path, copy)
            _rewrite(copy, CHANGES[change])
            assert _evaluate(folder, tmp_path, *rank, copy, "--text", "current_rewrite") == 2
            assert "is of another text or picture than" in capsys.readouterr().err


def test_training_checks_the_views_of_both_splits(scenes, generate, tmp_path, capsys):
    folder = shutil.copytree(scenes, tmp_path / "splits")
    talks = json.loads((folder / "dialogues.json").read_text())
    (folder / "dialogues").mkdir()
    for split in ("train", "val"):
        (folder / "dialogues" / f"{split}.json").write_text(json.dumps(talks))
    (folder / "dialogues.json").unlink()
    for split in ("train", "val"):
        assert generate("--data", folder, "--split", split) == 0
    train = ["train", "nrgr", "--data", str(folder), "--encoder", "mini", "--out"]
    quick = ["--set", "steps=2", "batch_size=4", "eval_every=2", "warmup_steps=1"]
    capsys.readouterr()
    assert main([*train, str(tmp_path / "a"), *quick]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("train texts: raw_dialogue of ")
    for split in ("train", "val"):
        path = folder / "dialogues" / f"{split}.json"
        path.write_text(json.dumps(talks[::-1]))
        assert main([*train, str(tmp_path / "b"), *quick]) == 2
        assert f"{folder / 'views' / split}: 0_0.webp is of another" in capsys.readouterr().err
        path.write_text(json.dumps(talks))


def test_controlled_views_have_a_manifest_too(tmp_path, capsys):
    folder = tmp_path / "set"
    export_scenes(folder, num_dialogues=3, num_gallery=6, broken_share=0.2)
    assert lint_data(folder).findings == [] and read_views(folder / "views").settings[
        "broken_share"
    ] == 0.2  # fmt: skip
    for text in ("current_rewrite", "raw_dialogue"):
        assert _evaluate(folder, tmp_path, "--text", text) == 0
    _rewrite(folder / "dialogues.json", CHANGES["two exchanged"])
    assert _evaluate(folder, tmp_path, "--text", "raw_dialogue") == 2


def test_an_export_replaces_its_own_files_alone(tmp_path, capsys):
    own, command = tmp_path / "own", ["scenes", "--num-dialogues", "2", "--num-gallery", "3"]
    make_own_data(own, num_pictures=2, num_dialogues=1)
    before = (own / "dialogues.json").read_bytes()
    assert main([*command, str(own)]) == 2
    assert "of another origin; name another folder" in capsys.readouterr().err
    assert (own / "dialogues.json").read_bytes() == before
    folder = tmp_path / "scenes"
    assert main([*command, str(folder)]) == 0
    (folder / "dialogues.json").unlink()  # as if it had been interrupted
    assert main([*command, str(folder), "--broken-share", "0.1", "--seed", "3"]) == 0
    assert lint_data(folder).findings == []
    assert main([*command, str(folder)]) == 0
    assert not list((folder / "views").glob("*"))
    _rewrite(folder / "dialogues.json", CHANGES["reversed"])
    assert main([*command, str(folder)]) == 2
    assert "dialogues.json: was changed since `daitir scenes` wrote it" in capsys.readouterr().err


def _link(kind, source, target):
    (os.link if kind == "hard link" else os.symlink)(source, target)
    return target


@pytest.mark.parametrize("kind", ["itself", "hard link", "symbolic link", "spelled otherwise"])
@pytest.mark.parametrize("name", ["dialogues.json", "images/000003.png", "prompt.txt"])
def test_no_output_replaces_an_input(folder, tmp_path, capsys, kind, name):
    (folder / "prompt.txt").write_text("{dialogue}")
    path = folder / name
    out = {
        "itself": path,
        "spelled otherwise": path.parent / ".." / path.parent.name / path.name,
    }.get(kind) or _link(kind, path, tmp_path / "link")
    before = path.read_bytes()
    files = ["--dialogues", str(folder / "dialogues.json")]
    images = ["--images", str(folder / "images")]
    evaluation = ["evaluate", "--encoder", "mini", "--fusion", "text", "--out", str(out)]
    commands = [
        [*evaluation, *files, *images],
        [*evaluation, "--data", str(folder)],
        ["refine", "--prompt", str(folder / "prompt.txt"), *files, "--out", str(out)],
        ["quality", "clip", "--out", str(out)],
        ["paper", "plan", "--out", str(out)],
    ]
    if name != "images/000003.png":
        refine = ["refine", "--prompt", str(folder / "prompt.txt"), "--overwrite", *files]
        commands.append([*refine, "--out", str(out)])
    for command in commands:
        assert main(command) == 2, command
        assert capsys.readouterr().err.count("\n") == 1, command
        assert path.read_bytes() == before and not path.is_symlink()


def test_outputs_are_regular_files_that_the_command_wrote(folder, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "notes.csv").write_text("my,notes\n1,2\n")
    (tmp_path / "notes.json").write_text("[]")
    options = ["--data", str(folder), "--encoder", "mini", "--fusion", "text", "--out"]
    for out, message in (
        ("/dev/full", "is a pipe or a device"),
        ("/dev/null", "is a pipe or a device"),
        (tmp_path / "pipe", "is a pipe or a device"),
        (tmp_path, "is a folder"),
        (tmp_path / "notes.csv", "this command did not write it; name another file"),
        (folder / "images" / "new.csv", "which this command reads"),
        (folder / "views" / "test" / "0_0.webp", None),
    ):
        code = main(["evaluate", *options, str(out)])
        assert code == (0 if message is None else 2)
        assert message is None or message in capsys.readouterr().err
    assert (tmp_path / "notes.csv").read_text() == "my,notes\n1,2\n"
    table = tmp_path / "table.csv"
    for _ in range(2):  # its own table is written again without asking
        assert main(["evaluate", *options, str(table)]) == 0
    assert tuple(pd.read_csv(table).columns) == RESULT_COLUMNS
    capsys.readouterr()
    assert main(["quality", "clip", "--out", str(tmp_path / "notes.csv")]) == 2
    # The notes go beside the table, and are as dear as the table.
    assert main(["paper", "plan", "--out", str(folder / "dialogues.csv")]) == 2
    assert "dialogues.json: exists, and this command did not" in capsys.readouterr().err


def test_a_model_of_another_origin_is_not_trained_over(tmp_path, pipeline, capsys):
    for command in (
        ["pretrain", "diffusion"], ["pretrain", "lm"], ["pretrain", "tokenizer"],
        ["train", "adafuse"],
    ):  # fmt: skip
        assert main([*command, "--out", str(pipeline)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "log.csv").write_text("what I did on Monday\n")
    assert main(["train", "adafuse", "--out", str(tmp_path)]) == 2
    assert "log.csv: exists, and this command did not write it" in capsys.readouterr().err


def test_data_of_others_are_not_downloaded_over(tmp_path, capsys):
    make_own_data(tmp_path, num_pictures=2, num_dialogues=1)
    before = (tmp_path / "dialogues.json").read_bytes()
    for name in ("visdial", "chatir", "coco-unlabeled"):
        assert main(["fetch", name, "--from", str(tmp_path), "--out", str(tmp_path)]) == 2
        assert "is of another origin; name another --out" in capsys.readouterr().err
    assert (tmp_path / "dialogues.json").read_bytes() == before


def test_the_api_ranks_nothing_by_a_convention_that_nobody_named(tmp_path):
    with pytest.raises(DataError, match="cannot tell how texts are made of these dialogues"):
        talks = [Dialogue("a.png", ("a dog", "a red dog"))]
        evaluate(SearchData(talks, tmp_path, ["a.png"]), encoder=None)


def test_captions_that_are_joined_already_are_not_joined_silently(tmp_path, capsys):
    make_own_data(tmp_path, num_pictures=4, num_dialogues=2)
    talks = read_dialogues(tmp_path / "dialogues.json")
    captions = [tuple(f"a dog{' and a cat' * t}" for t in range(3)) for _ in talks]
    write_dialogues(
        tmp_path / "dialogues.json",
        [Dialogue(d.image, rounds) for d, rounds in zip(talks, captions, strict=True)],
    )
    out = tmp_path / "t.csv"
    command = ["--data", str(tmp_path), "--encoder", "mini"]
    for call in (
        ["evaluate", *command, "--fusion", "text", "--out", str(out)],
        ["generate", "--data", str(tmp_path)],
    ):
        assert main(call) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(tmp_path / "dialogues.json") in line and "--text current_rewrite" in line
        assert not Path(out).exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_a_pipe_among_views_is_refused_at_once(tmp_path, capsys):
    make_own_data(tmp_path / "data", num_pictures=4, num_dialogues=2)
    views = tmp_path / "data" / "views"
    views.mkdir(exist_ok=True)
    os.mkfifo(views / "0_0.webp")
    (views / ".lock").touch()  # of a run that was killed
    for command in (
        ["lint", str(tmp_path / "data")],
        ["generate", str(tmp_path / "data"), "--cache", str(tmp_path / "cache"), "--steps", "1"],
    ):
        assert main(command) == 2
        printed = capsys.readouterr()
        assert "0_0.webp" in printed.out + printed.err and ".lock" not in printed.out

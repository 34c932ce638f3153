"""What a new user types wrongly is answered in one line that names it and the way out."""

import shutil

import pytest
from own_data import make_own_data

from daitir import __version__
from daitir.cli.command import RENAMED, build_parser, main
from daitir.models.reformulation import LM_FOLDER
from daitir.studies.profiles import PROFILES

OUT = ["--out", "{}/out"]
TABLE = ["--out", "{}/out.csv"]
CLIP = ["quality", "clip", *TABLE]
STUDY = ["--results", "{}", "--work", "{}", "--cache", "{}"]
TRAIN = ["train", "dmcl", *OUT]
DRAW = ["generate", "--data", "{}", "--text", "raw_dialogue"]
REFINE = ["refine", "--data", "{}", "--out", "{}/refined.json"]
PLAN = ["paper", "plan", *TABLE]
SCENES = ["scenes", "{}/scenes"]
RANK = ["evaluate", "--encoder", "mini", *TABLE]
PAPER = ["paper", "run", "--work", "{}", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_own_data(folder, num_pictures=4, num_dialogues=2)
    (folder / "text.txt").write_text("plain")
    (folder / "latin.txt").write_bytes(b"caf\xe9 {dialogue}")
    return folder


def refused(command, folder, capsys):
    """The one line that a command answers, whichever part of the program finds the fault."""
    try:
        code = main([word.replace("{}", str(folder)) for word in command])
    except SystemExit as error:
        code = error.code
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("daitir")]
    assert code == 2 and len(lines) == 1, printed.err
    assert "Traceback" not in printed.err
    return lines[0]


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ([*CLIP, "--profile", "huge"], ["--profile", "'huge'", "classroom, gpu"]),
        (["pretrain", "clip", *OUT, "--profile", "paper"], ["--profile", "PROFILE=paper"]),
        (["queries", *OUT, "--profile", "huge"], ["--profile", "'huge'"]),
        (["study", "memory", *STUDY[:4], "--profile", "huge"], ["--profile", "'huge'"]),
        (["queries", *OUT, "--profile", "gpu"], ["runs/gpu/lm: no such folder", "pretrain lm"]),
        (["study", "leaderboard", *STUDY, "--profile", "gpu"], ["runs/gpu/lm: no", "pretrain lm"]),
        ([*CLIP, "--profile", "gpu"], ["runs/gpu/clip: no such folder", "pretrain clip"]),
        ([*TRAIN, "--set", "foo=1"], ["--set: ", "'foo'", "there are", "learning_rate"]),
        ([*TRAIN, "--set", "steps=x"], ["--set: steps is a whole number", "'x'"]),
        ([*TRAIN, "--set", "learning_rate=nan"], ["--set: learning_rate is a number"]),
        ([*TRAIN, "--set", "steps"], ["--set", "NAME=VALUE"]),
        ([*PLAN, "--utilisation", "nan", "nan", "nan"], ["--utilisation", "nan"]),
        ([*PLAN, "--utilisation", "0.2", "0.1", "0.3"], ["--utilisation", "0.2 0.1 0.3"]),
        ([*CLIP, "--spec", "nope"], ["unknown encoder 'nope'"]),
        (["quality", "lm", *TABLE, "--spec", "nope"], ["nope: no language model"]),
        ([*CLIP, "--device", "cud"], ["--device cud: not available here; use cpu"]),
        ([*CLIP, "--device", "meta"], ["--device meta: not available here"]),
        ([*CLIP, "--workers", "100000"], ["--workers: must be at most 256"]),
        (["quality", "clip", "--out", ""], ["--out: must not be ''"]),
        (["search", "{}", "--encoder", " "], ["--encoder: must not be ' '"]),
        (["lint", "a\0b"], ["DIR: must not be"]),
        ([*SCENES, "--seed", "-1"], ["--seed: must be at least 0, not -1"]),
        ([*SCENES, "--seed", "1.5"], ["--seed: must be a whole number, not '1.5'"]),
        ([*SCENES, "--broken-share", "nan"], ["--broken-share: must be a number, not 'nan'"]),
        ([*SCENES, "--broken-share", "1.5"], ["--broken-share: must be at most 1"]),
        ([*SCENES, "--size", "8"], ["--size: must be at least 32"]),
        ([*SCENES, "--split", "nope"], ["--split", "'nope'", "heldout"]),
        ([*DRAW, "--steps", "0"], ["--steps: must be at least 1"]),
        ([*DRAW, "--steps", "2000"], ["--steps: must be at most 1,000"]),
        ([*DRAW, "--guidance", "nan"], ["--guidance: must be a number"]),
        ([*DRAW, "--guidance", "inf"], ["--guidance: must be at most 100"]),
        ([*DRAW, "--pipeline", "nopipe"], ["nopipe: no text-to-image pipeline", "no such folder"]),
        ([*DRAW, "--pipeline", "a/b/c"], ["a/b/c: no text-to-image pipeline", "no such folder"]),
        ([*DRAW, "--pipeline", "{}"], ["no model_index.json", "folder of a diffusers pipeline"]),
        ([*REFINE, "--model", "nomodel"], ["nomodel: no language model", "no such folder"]),
        ([*REFINE, "--prompt", "{}/latin.txt"], ["--prompt: ", "latin.txt: not UTF-8 text"]),
        ([*REFINE, "--prompt", "nope"], ["--prompt: nope: cannot be read", "No such file"]),
        ([*REFINE[:1], *REFINE[3:]], ["--dialogues", "--data DIR"]),
        (["embed", "{}", "--encoder", "hf:nope"], ["hf:nope: no dual encoder", "hf:FOLDER"]),
        (["lint"], ["DIR", "--data"]),
        (["lint", "x", "--data", "x"], ["--data", "not allowed with argument DIR"]),
        (["train", "dmcl", "x", "--data", "x", *OUT], ["--data", "not allowed with argument DIR"]),
        (["lint", "{}/text.txt"], ["text.txt: is a file; name the folder of data"]),
        (["search", "{}/text.txt", "--encoder", "mini"], ["text.txt: is a file; name the folder"]),
        (["lint", "{}", "--nope"], ["unrecognized arguments: --nope; see daitir lint --help"]),
        ([*RANK, "--fusion", "foo"], ["--fusion", "'foo'", "adafuse:DIR"]),
        ([*RANK, "--fusion", "text", "--dialogues", "x", "--images", "x", "--split", "val"],
         ["--split", "--data DIR"]),
        (["fetch", "visdial", "--mirror", "foo"], ["--mirror: must begin with http://", "'foo'"]),
        ([*PAPER, "--launch", "nope"], ["--launch: there is no program 'nope'"]),
        ([*PAPER, "--launch", "a 'b"], ["--launch", "No closing quotation"]),
        ([*PAPER, "--published", "nope"], ["--published nope: no such file"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_names_it(command, parts, data, capsys, monkeypatch):
    monkeypatch.delenv("DAITIR_PROFILE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refused(command, data, capsys)
    for part in parts:
        assert part in line, line
    for words in ("://hugging", "Repo id", "connect to", "Errno", "DAITIR_PROFILE"):
        assert words not in line, line


def test_a_profile_of_the_environment_is_named_as_such(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DAITIR_PROFILE", "huge")
    line = refused(["pretrain", "clip", *OUT], tmp_path, capsys)
    assert "DAITIR_PROFILE: unknown profile 'huge'" in line and "--profile" not in line


def test_the_librarys_own_words_are_in_the_log(data, capsys, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with caplog.at_level("INFO", logger="daitir"):
        refused([*DRAW, "--pipeline", "nopipe", "--verbose"], data, capsys)
    assert "nopipe does not appear to have a file named model_index.json" in caplog.text


@pytest.mark.parametrize("is_ours", [False, True])
def test_only_our_own_language_model_is_told_to_be_trained(is_ours, data, tmp_path, capsys):
    folder = tmp_path / "lm"
    shutil.copytree(LM_FOLDER, folder)
    (folder / "tokenizer.json").unlink()
    if not is_ours:
        (folder / "log.csv").unlink()
    line = refused([*REFINE, "--model", str(folder)], data, capsys)
    assert "has no tokeniser (tokenizer.json, tokenizer.model" in line
    assert ("pretrain lm" in line) == is_ours


def test_a_damaged_picture_is_refused_with_the_way_out(data, tmp_path, capsys):
    shutil.copytree(data / "images", tmp_path / "images")
    (tmp_path / "images" / "bad.jpg").write_bytes(b"no picture")
    line = refused(["search", "--data", "{}", "--encoder", "mini"], tmp_path, capsys)
    assert "bad.jpg" in line and "--skip-unreadable" in line


def _help(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_help_fits_on_one_screen_and_shows_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    shown = {line.split()[0] for line in lines if line.startswith("  ")}
    assert shown == {
        "lint", "refine", "generate", "embed", "evaluate", "search", "train", "scenes", "queries",
        "pretrain", "quality", "study", "fetch", "paper",
    }  # fmt: skip


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_is_one_line_that_names_the_new_one(old, tmp_path, capsys):
    new = RENAMED[old]
    line = refused([old, "--out", "{}"], tmp_path, capsys)
    assert line == f"daitir: error: `daitir {old}` is called `daitir {new}` now"
    assert "--device" in _help(capsys, *new.split()) or new in ("fetch", "paper plan")


def test_the_help_of_train_names_every_method(capsys):
    told = _help(capsys, "train")
    for profile in PROFILES.values():
        for method in (*profile.fusions, *profile.encoders):
            assert method in told


def test_the_help_says_whether_threads_or_processes_work(capsys):
    assert "--threads N, --workers N threads that decode" in _help(capsys, "embed")
    assert "--workers N processes that draw scenes" in _help(capsys, "study", "memory")
    for flag in ("--threads", "--workers"):
        assert build_parser().parse_args(["embed", "x", "--encoder", "y", flag, "3"]).workers == 3


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"daitir {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        "lint", "embed --encoder mini", "search --encoder mini", "refine", "generate",
        "evaluate --encoder mini --fusion text --out x", "train dmcl --out x",
    ],
)  # fmt: skip
def test_a_folder_of_own_data_is_named_in_two_ways(words):
    parse, words = build_parser().parse_args, words.split()
    first = words[:2] if words[0] == "train" else words[:1]
    rest = words[len(first) :]
    found = [parse([*first, "x", *rest]), parse([*first, "--data", "x", *rest]),
             parse([*words, "--data", "x"])]  # fmt: skip
    assert found[0] == found[1] == found[2]
    assert "x" in map(str, vars(found[0]).values())


def test_values_of_an_option_given_twice_add_up():
    arguments = ["evaluate", "--encoder", "mini", "--fusion", "dar", "--out", "x", "--views", "a"]
    found = build_parser().parse_args([*arguments, "--views", "b", "c"])
    assert list(map(str, found.views)) == ["a", "b", "c"]

"""Names and texts that would steer a terminal are printed escaped, by every command."""

import ast
import json
import logging
from pathlib import Path

import pytest
from own_data import make_own_data

from daitir.cli import main
from daitir.common.terminal import LineFormatter, printable

LIBRARY = Path(__file__).resolve().parents[2] / "daitir"
PLANTED = "\x1b[2J\n\r\x9b\x07\u202eEVIL"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\0\x07\x7f\x85\x9b", r"\x00\x07\x7f\x85\x9b"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202a\u202e\u2066\u2069\u200e\u061c", r"\u202a\u202e\u2066\u2069\u200e\u061c"),
        ("a\u200bb\u2060\ufeff\xad", r"a\u200bb\u2060\ufeff\xad"),
        ("\U000e0041\U0001d173", r"\U000e0041\U0001d173"),
        ("b\udcff.jpg", r"b\udcff.jpg"),
        ("a\u200db \u200d", r"a\u200db \u200d"),
        ("\u202e\u200d龜", r"\u202e\u200d龜"),
        (Path("a\nb"), r"a\nb"),
        (7, "7"),
    ],
)  # fmt: skip
def test_what_steers_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(printable(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "C:\\new", "1\u00a0000\u3000円 €", "naïve Żółw кот 猫 ねこ 고양이 قطة חתול แมว a\u0301",
        "می\u200cخواهم क्\u200dष 👨\u200d👩\u200d👧 ❤️\u200d🔥 🇵🇱",
    ],
)  # fmt: skip
def test_letters_of_all_scripts_and_emoji_stay(text):
    assert printable(text) == text


def test_a_record_of_a_log_is_one_line():
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s: gone", ("a\n\x1b[2Jb",), None)
    assert LineFormatter("daitir: %(message)s").format(record) == r"daitir: a\n\x1b[2Jb: gone"


@pytest.mark.slow
def test_commands_print_through_one_function_alone():
    """Teaching code prints what it is given; all else goes through `say` and `complain`."""
    for path in sorted(LIBRARY.rglob("*.py")):
        if path.name == "terminal.py" or path.parent.name == "checks":
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8")))
                 if isinstance(node, ast.Call)]  # fmt: skip
        printing = [node.lineno for node in calls
                    if isinstance(node.func, ast.Name) and node.func.id == "print"]  # fmt: skip
        assert not printing, f"{path.name}, line {printing}: use daitir.common.terminal.say"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Own data in which a name, a text, a stray file and a damaged picture steer a terminal."""
    folder = tmp_path_factory.mktemp("hostile")
    names = make_own_data(folder, num_pictures=6, num_dialogues=2)
    path = folder / "images" / names[0]
    path.rename(path.with_name(f"{PLANTED}{path.suffix}"))
    dialogues = json.loads((folder / "dialogues.json").read_text("utf-8"))
    dialogues[0]["img"] = (Path(names[0]).parent / f"{PLANTED}{path.suffix}").as_posix()
    dialogues[0]["dialog"][0] = PLANTED
    dialogues[1]["dialog"][0] = f"{PLANTED}\N{REPLACEMENT CHARACTER}"
    (folder / "dialogues.json").write_text(json.dumps(dialogues), encoding="utf-8")
    (folder / "views").mkdir()
    (folder / "views" / f"stray{PLANTED}.png").write_bytes(b"")
    return folder


def _check(printed, *, shown=True):
    for text in (printed.out, printed.err):
        assert not set("\x1b\x9b\x07\u202e") & set(text)
        assert not any(line.startswith("EVIL") for line in text.splitlines())
    assert "\r" not in printed.out
    assert not shown or "EVIL" in printed.out + printed.err


@pytest.mark.slow
def test_no_command_prints_what_steers(hostile, tmp_path, capsys, monkeypatch):
    typed = iter(["a dog", PLANTED, "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(typed))
    data, encoder = ["--data", str(hostile)], ["--encoder", "mini"]
    text = ["--fusion", "text", "--text", "raw_dialogue", "--out", str(tmp_path / "t.csv")]
    assert main(["lint", *data]) == 0
    _check(capsys.readouterr())
    assert main(["lint", *data, "--json"]) == 0
    printed = capsys.readouterr()
    _check(printed)
    examples = [e for found in json.loads(printed.out)["findings"] for e in found["messages"]]
    assert any(PLANTED in example for example in examples)  # as it is for the reader of the JSON
    assert main(["embed", *data, *encoder]) == 0
    _check(capsys.readouterr(), shown=False)
    assert main(["evaluate", *data, *encoder, *text]) == 0
    _check(capsys.readouterr(), shown=False)
    assert main(["search", *data, *encoder]) == 0
    _check(capsys.readouterr())


@pytest.mark.slow
def test_an_error_is_one_escaped_line(hostile, tmp_path, capsys):
    damaged = hostile / "images" / f"broken{PLANTED}.png"
    damaged.write_bytes(b"no picture")
    place = str(tmp_path / PLANTED)
    encoder = ["--encoder", "mini"]
    try:
        for command in (
            ["search", "--data", str(hostile), *encoder],
            ["lint", "--data", place],
            ["embed", place, *encoder],
            ["evaluate", place, *encoder, "--fusion", "text", "--out", "x.csv"],
            ["generate", "--dialogues", place, "--out", str(tmp_path / "views")],
            ["generate", str(hostile), "--text", "raw_dialogue", "--pipeline", PLANTED],
            ["refine", str(hostile), "--model", PLANTED],
            ["search", str(hostile / "images" / "album 1"), "--encoder", f"open_clip:{PLANTED}"],
            ["scenes", f"/dev/null/{PLANTED}"],
            ["paper", "run", "--coco", PLANTED],
        ):
            assert main(command) == 2
            printed = capsys.readouterr()
            _check(printed)
            lines = [line for line in printed.err.splitlines() if "EVIL" in line]
            assert len(lines) == 1 and lines[0].startswith("daitir: error: "), command
    finally:
        damaged.unlink()
    for command in (
        ["search", f"--{PLANTED}"],
        ["lint", "x", PLANTED],
        [PLANTED],
        ["scenes", "x", "--seed", PLANTED],
        ["scenes", "x", "--split", PLANTED],
    ):
        with pytest.raises(SystemExit) as caught:
            main(command)
        printed = capsys.readouterr()
        _check(printed, shown="--encoder" not in printed.err)
        assert caught.value.code == 2 and len(printed.err.splitlines()) == 1

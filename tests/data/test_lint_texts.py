"""What is odd about words is told, and sound words of any language are not."""

import json
import random

import pytest
from own_data import make_own_data
from PIL import Image

from daitir.cli import main
from daitir.data.dialogues import Dialogue
from daitir.data.lint import lint_data, odd_rounds
from daitir.models.encoders import load_encoder

ASKED = [f"is it number {i}? no, it is not" for i in range(40)]


def _odd(*rounds, are_captions=False, others=()):
    """(kind, round) of what is odd about one dialogue among others."""
    dialogues = [Dialogue("a.png", rounds), *(Dialogue("b.png", other) for other in others)]
    found = odd_rounds(dialogues, are_captions=are_captions)
    return [
        (oddity.kind, int(oddity.message.split()[1])) for oddity in found if oddity.dialogue == 0
    ]


SOUND = [
    "a no parking sign: red, 5:30 on the clock", "plan a: two dogs & a cat, < 3 metres",
    "«Le café»… est-il à gauche — « là » ?", "„Das heißt Fuß“, groß – ein Bär", "一只狗在海边",
    "犬がいる", "สุนัขสองตัว", "two dogs <3", "a very, very, very tall giraffe", "it is 25 ° C, 5 £",
    "a dog\u200d \U0001f469\u200d\U0001f467", "naïve São Tomé, Ångström, Ýmir", "a dog\tand\na cat",
]  # fmt: skip


@pytest.mark.parametrize("text", SOUND)
def test_sound_captions_are_not_odd(text):
    assert _odd(text) == _odd(text, are_captions=True) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a dog. Answer: a cat", "leftover"), ("Q: is it a dog? no", "leftover"),
        ("is it a dog? A: no", "leftover"), ("Caption: two dogs run", "leftover"),
        ("a dog at sea<|im_end|>", "leftover"), ("a dog runs </s>", "leftover"),
        ("cats &amp; dogs", "leftover"), ("it isn&#39;t here", "leftover"),
        ("a dog<br/>and a cat", "leftover"), ("回答：一只狗在海边 answer：狗", "leftover"),
        ("a cafÃ© at night", "wrong_encoding"), ("it isnâ€™t here", "wrong_encoding"),
        ("â€œhelloâ€\x9d he says", "wrong_encoding"), ("ä¸\xadå›½ two", "wrong_encoding"),
        ("25 Â°C it is", "wrong_encoding"), ("Ð¡Ð¾Ð± two", "wrong_encoding"),
        ("na\ufffdve people", "lost_character"), ("a dog\x1b[2J runs", "control_character"),
        ("it isn\x92t here", "control_character"), ("45.", "fragment"), ("dog", "fragment"),
        ("... !", "fragment"), ("a red dog a red dog a red dog a red dog", "loop"),
    ],
)  # fmt: skip
def test_odd_captions_are_told(text, kind):
    assert (kind, 0) in _odd(text)
    assert (kind, 0) in _odd(text, are_captions=True)


def test_repeated_rounds_are_told():
    rounds = ("a dog", "is it big? no", "is it red? yes", "Is it  big? No", "is it big? yes")
    assert _odd(*rounds) == [("repeated_round", 3)]
    assert _odd("a red dog", "a big red dog", "a big red dog", are_captions=True) == [
        ("repeated_round", 2)
    ]


@pytest.mark.parametrize(
    ("rounds", "odd"),
    [
        # a question in two rounds, at its middle and before its answer
        (["what colour is", "the dog? brown"], [("split_question", 1)]),
        (["is it a dog?", "no, a cat", "is it red? no"], [("split_question", 1)]),
        (["is it a dog ？", "no, a cat"], [("split_question", 1)]),
        (["is it a dog?"], [("no_answer", 1)]),
        (["is it a dog?", "is it red? no"], [("no_answer", 1)]),
        (["it is a dog.", "is it red? no"], [("no_question", 1)]),
        (["is it a dog? no", "it barks"], [("no_question", 2)]),
        (["is it a dog? is it? no"], []),
        (["هل هناك سيارة؟ لا", "有人吗？没有"], []),
    ],
)
def test_questions_that_are_torn_are_told(rounds, odd):
    others = [ASKED]  # of questions and answers, as all the file is
    assert _odd("a dog", *rounds, others=others) == odd
    assert _odd("a dog", *rounds, are_captions=True, others=others) == _odd(
        "a dog", *rounds, are_captions=True
    )


def test_rounds_that_need_not_be_questions_are_not_odd():
    told = ["a sun on the left", "the tree is large", "can i look ?", "move the tree"] * 5
    told = [f"{text} {i}" if "?" not in text else text for i, text in enumerate(told)]
    kinds = {kind for kind, _ in _odd("a scene of mine", *told)}
    assert kinds == {"repeated_round"}  # "can i look ?"


def test_alternating_questions_and_answers_are_told():
    turns = [turn for i in range(5) for turn in (f"is it number {i}?", f"no, not {i}")]
    assert _odd("a dog", *turns) == [("split_question", t) for t in (1, 3, 5, 7, 9)]


def test_all_of_a_kind_are_in_the_report_and_three_are_printed(tmp_path, capsys):
    make_own_data(tmp_path, num_pictures=3, num_dialogues=1)
    rounds = ["a dog by the sea", *(f"is it {i}? Answer: no" for i in range(20))]
    names = [p.relative_to(tmp_path / "images").as_posix() for p in tmp_path.rglob("bild*")]
    (tmp_path / "dialogues.json").write_text(json.dumps([{"img": names[0], "dialog": rounds}]))
    assert main(["lint", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "20 × leftover" in printed and printed.count("Answer:") >= 3
    assert "… and 17 more" in printed
    assert main(["lint", str(tmp_path), "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["count"] == len(finding["messages"]) == 20 and not finding["is_error"]


def test_the_share_of_rounds_that_an_encoder_cuts(tmp_path, capsys):
    make_own_data(tmp_path, num_pictures=3, num_dialogues=1)
    words = random.Random(0).choices(("dog", "cat", "tree", "sun"), k=400)
    rounds = ["a dog by the sea", *(" ".join(words[i : i + 40]) for i in range(0, 400, 40))]
    encoder = load_encoder("mini")
    names = [p.relative_to(tmp_path / "images").as_posix() for p in tmp_path.rglob("bild*")]
    (tmp_path / "dialogues.json").write_text(json.dumps([{"img": names[0], "dialog": rounds}]))
    report = lint_data(tmp_path, encoder=encoder)
    (cut,) = [finding for finding in report.findings if finding.kind == "cut_round"]
    long = [t for t in range(11) if encoder.count_truncated([", ".join(rounds[: t + 1])])]
    assert 0 < len(long) < 11 and cut.count == len(long)
    assert cut.messages[0].startswith(f"dialogue 0: round {long[0]} is cut: more than")
    assert report.sizes["test percent cut"] == round(100 * len(long) / 11, 2)
    assert main(["lint", str(tmp_path), "--encoder", "mini"]) == 0
    assert f"test percent cut {report.sizes['test percent cut']}" in capsys.readouterr().out
    rewrites = [{"img": names[0], "dialog": [f"a dog by the sea {t}" for t in range(11)]}]
    (tmp_path / "rewrites.json").write_text(json.dumps(rewrites))
    assert lint_data(tmp_path, encoder=encoder).sizes["test percent cut"] == 0


def _kinds(report):
    return {finding.kind: finding.messages for finding in report.findings}


def test_pictures_are_equal_by_what_is_seen(tmp_path):
    make_own_data(tmp_path, num_pictures=1, num_dialogues=1)
    picture = Image.effect_noise((16, 16), 60).convert("RGB")
    picture.save(tmp_path / "images" / "x.png")
    picture.save(tmp_path / "images" / "y.bmp")
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "images" / "z.png")
    assert _kinds(lint_data(tmp_path)) == {
        "equal_pictures": ["x.png and y.bmp are the same picture"]
    }


@pytest.mark.slow
def test_what_is_left_out_is_told(tmp_path, capsys, monkeypatch):
    make_own_data(tmp_path, num_pictures=2, num_dialogues=1)
    images = tmp_path / "images"
    for name in ("a.heic", "b.HEIC", "notes.txt", ".hidden.png"):
        (images / name).write_bytes(b"x")
    report = lint_data(tmp_path)
    kinds = {kind: len(messages) for kind, messages in _kinds(report).items()}
    assert kinds == {"hidden": 1, "not_read": 3}
    assert report.num_errors == 0
    told = "left out: 1 hidden, 3 not read (.heic 2, .txt 1)"
    out = str(tmp_path / "out.csv")
    monkeypatch.setattr("builtins.input", lambda prompt: "/quit")
    data, encoder = str(tmp_path), ["--encoder", "mini"]
    for command in (
        ["evaluate", "--data", data, *encoder, "--fusion", "text", "--out", out],
        ["embed", data, *encoder], ["search", data, *encoder],
    ):  # fmt: skip
        assert main(command) == 0
        assert told in capsys.readouterr().out


def _one_answer(folder, capsys):
    """Whether all commands take a folder, and what they say where they refuse it."""
    data, out = str(folder), str(folder.parent / "out.csv")
    evaluate = ["evaluate", "--encoder", "mini", "--fusion", "text", "--text", "raw_dialogue"]
    commands = [
        ["lint", data], ["lint", data, "--quick"], ["embed", data, "--encoder", "mini"],
        [*evaluate, "--data", data, "--out", out],
    ]  # fmt: skip
    codes, told = [], []
    for command in commands:
        codes.append(main(command))
        printed = capsys.readouterr()
        told.append(printed.out + printed.err)
    return codes, told


@pytest.mark.slow
def test_links_get_one_answer_of_all_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: "/quit")
    snapshot = tmp_path / "hub" / "datasets--some--pictures" / "snapshots" / "0a1b"
    blobs = snapshot.parents[1] / "blobs"
    make_own_data(snapshot, num_pictures=4, num_dialogues=2)
    blobs.mkdir()
    for i, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        path.rename(blobs / f"{i:064x}")
        path.symlink_to(blobs / f"{i:064x}")
    (tmp_path / "mine").mkdir()
    for name in ("images", "dialogues.json"):
        (tmp_path / "mine" / name).symlink_to(snapshot / name)
    for folder in (snapshot, tmp_path / "mine"):
        assert _one_answer(folder, capsys)[0] == [0, 0, 0, 0]
        assert main(["search", str(folder), "--encoder", "mini"]) == 0
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (snapshot / "images" / "out.png").symlink_to(secret)
    for folder in (snapshot, tmp_path / "mine"):
        codes, told = _one_answer(folder, capsys)
        assert codes == [2, 2, 2, 2]
        assert all("link" in text and "cp -RL" in text for text in told)
        assert main(["search", str(folder), "--encoder", "mini"]) == 2
        assert "cp -RL" in capsys.readouterr().err


def test_a_gallery_that_names_what_is_no_picture_gets_one_answer(tmp_path, capsys):
    names = make_own_data(tmp_path / "data", num_pictures=3, num_dialogues=1)
    (tmp_path / "data" / "images" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "data" / "gallery.json").write_text(json.dumps([*names, "a.heic"]))
    codes, told = _one_answer(tmp_path / "data", capsys)
    assert codes == [2, 0, 2, 2]  # not decoded by --quick
    assert all("is HEIC" in text for text, code in zip(told, codes, strict=True) if code)


def test_dialogues_whose_convention_nobody_can_tell_are_named(tmp_path):
    """`evaluate` asks for `--text` then."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")
    talk = ["a dog", "a red dog", "a red dog in the snow"]
    (tmp_path / "dialogues.json").write_text(json.dumps([{"img": "a.png", "dialog": talk}]))
    kinds = {finding.kind: finding.is_error for finding in lint_data(tmp_path).findings}
    assert kinds["unknown_text_convention"] is False

"""Reading, checking and writing ChatIR dialogue files."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from daitir.common.errors import DataError
from daitir.common.files import MAX_BYTES, SafeFolder, read_json
from daitir.data.dialogues import (
    TEXT_CONVENTIONS,
    Dialogue,
    parse_dialogues,
    query_texts,
    read_dialogues,
    recognise_convention,
    write_dialogues,
)
from daitir.data.names import image_name
from daitir.scenes import SOURCES, dialogue, rewrites, sample_scenes

VISDIAL = Path(__file__).parents[2] / "../shared/data/chatir/VisDial_v1.0_queries_val.json"
quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _file(folder, content, name="dialogues.json"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def _entry(img="a.png", dialog=("a dog", "is it big? yes")):
    return {"img": img, "dialog": list(dialog)}


def test_reads_rounds_of_any_number_and_leaves_extra_keys_out(tmp_path):
    path = _file(tmp_path, [_entry() | {"id": 7}, _entry("./b/c.png", ["one round"])])
    assert read_dialogues(path, gallery=["a.png", "b/c.png"]) == [
        Dialogue("a.png", ("a dog", "is it big? yes")),
        Dialogue("b/c.png", ("one round",)),
    ]


def test_accepts_a_byte_order_mark(tmp_path):
    path = _file(tmp_path, b"\xef\xbb\xbf" + json.dumps([_entry()]).encode())
    assert len(read_dialogues(path)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'[{"img": "a.png", "dialog": ["x"]}', "not JSON"),
        (b'["\xff\xfe"]', "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (
            b'[{"img": "a.png", "dialog": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
            "nested too deeply",
        ),
        ([_entry(dialog=["a"] * 501)], "dialogue 0: 501 rounds, more than 500"),
        (b"[" + b"9" * 10_000 + b"]", "cannot be read"),
        ({}, "must be a JSON list of dialogues, not empty, found an object of 0"),
        (None, "must be a JSON list"),
        ([], "not empty"),
        (["a.png"], "dialogue 0: must be an object"),
        ([_entry(), {"img": "b.png"}], "dialogue 1: must be an object"),
        ([_entry(dialog=[])], 'dialogue 0: "dialog" must be a non-empty list'),
        ([{"img": "a.png", "dialog": "a dog"}], "must be a non-empty list"),
        ([_entry(dialog=["a dog", 3])], "dialogue 0: round 1 must be a string, found 3"),
        ([_entry(dialog=["a dog", None])], "round 1 must be a string, found None"),
        ([_entry(dialog=["a dog", " \t"])], "dialogue 0: round 1 is blank"),
        ([_entry(dialog=["\ud83d"])], "half of a surrogate pair"),
        ([_entry("/etc/passwd")], "absolute"),
        ([_entry("C:/a.png")], "absolute"),
        ([_entry("../a.png")], "names no file in the image folder"),
        ([_entry("a/../../b.png")], "names no file in the image folder"),
        ([_entry("..\\a.png")], "backslash"),
        ([_entry("a\0.png")], "no path may hold"),
        ([_entry("")], "non-empty string"),
        ([_entry(5)], "must be a non-empty string, found 5"),
        ([_entry("other.png")], "not in the gallery of 2 images"),
        ([_entry("a.png"), _entry("./a.png")], "dialogue 1: same target as dialogue 0"),
    ],
)
def test_refuses_with_one_line_that_names_the_file(tmp_path, content, message):
    path = _file(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_dialogues(path, gallery=["a.png", "b.png"])
    text = str(caught.value)
    assert message in text and text.startswith(str(path)) and "\n" not in text


def test_refuses_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(DataError, match="cannot be read"):
            read_dialogues(path)


def test_lint_finds_every_problem_and_read_counts_them(tmp_path):
    content = [_entry(), _entry("../b.png", ["x", "", 1]), 5, _entry(), _entry("c.png")]
    path = _file(tmp_path, content)
    _, problems = parse_dialogues(content, gallery=["a.png"])
    assert Counter(p.kind for p in problems) == {
        "blank_round": 1,
        "round_not_text": 1,
        "image_path": 1,
        "not_a_dialogue": 1,
        "duplicate_target": 1,
        "not_in_gallery": 1,
    }
    assert [p.dialogue for p in problems] == [1, 1, 1, 2, 3, 4]
    with pytest.raises(DataError, match=r"dialogue 1: round 1 is blank \(6 problems in all\)"):
        read_dialogues(path, gallery=["a.png"])
    assert parse_dialogues([_entry()])[1] == []


def test_duplicate_targets_are_counted_when_they_are_allowed(tmp_path, caplog):
    path = _file(tmp_path, [_entry(), _entry(), _entry()])
    assert len(read_dialogues(path, allow_duplicate_targets=True)) == 3
    assert "2 of 3 dialogues share the target" in caplog.text
    assert parse_dialogues(read_json(path), allow_duplicate_targets=True)[1] == []


def _memory_of(path):
    """The most memory that reading a file takes at once, the refusal's line, and the seconds."""
    code = (
        "import resource, sys, time; from daitir.data.dialogues import read_dialogues\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time()\n"
        "try: read_dialogues(sys.argv[1], allow_duplicate_targets=True)\n"
        "except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.time() - start)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=100
    )
    *told, (number, seconds) = (line.split() for line in run.stdout.splitlines())
    return " ".join(told[0]), int(number) / 1000, float(seconds)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units there")
def test_ten_million_rounds_and_a_bomb_are_refused_early(tmp_path):
    many = tmp_path / "many.json"
    with many.open("wb") as file:
        file.write(b"[")
        for i in range(10_000):
            rounds = b'"a",' * 999 + b'"a"'
            file.write(b'%s{"img": "%d.png", "dialog": [%s]}' % (b"," * (i > 0), i, rounds))
        file.write(b"]")
    told, megabytes, seconds = _memory_of(many)
    assert "holds more than 10,000,000 values" in told and megabytes < 100 and seconds < 5
    bomb = tmp_path / "bomb.json.gz"
    bomb.write_bytes(gzip.compress(b" " * 2**20) * 1900)  # as many members as megabytes
    told, megabytes, seconds = _memory_of(bomb)
    assert f"more than {MAX_BYTES:,} bytes" in told and megabytes < 600 and seconds < 20


def test_rounds_of_a_file_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("daitir.data.dialogues.MAX_ROUNDS_IN_FILE", 3)
    path = _file(tmp_path, [_entry(), _entry("b.png"), 5])
    with pytest.raises(DataError, match=r"dialogues\.json: 4 rounds, more than 3; split the file"):
        read_dialogues(path)
    assert [p.kind for p in parse_dialogues(read_json(path))[1]] == ["too_many_rounds"]


def test_joined_texts_are_limited_before_they_are_joined(monkeypatch):
    dialogues = [Dialogue("a.png", ("x" * 10, "y" * 20, "z" * 30))]
    monkeypatch.setattr("daitir.data.dialogues.MAX_CHARACTERS", 10 * 3 + 20 * 2 + 30)
    assert query_texts(dialogues, convention="raw_dialogue")
    monkeypatch.setattr("daitir.data.dialogues.MAX_CHARACTERS", 99)
    with pytest.raises(DataError, match="have 100 characters, more than 99"):
        query_texts(dialogues, convention="raw_dialogue")
    assert query_texts(dialogues, convention="current_rewrite")


@pytest.mark.parametrize(
    ("named", "there", "hint"),
    [
        ("caf\u00e9.png", "cafe\u0301.png",
         r"'cafe\u0301.png' differs from it in capitals or Unicode form"),
        ("Tom.JPG", "tom.jpg", "'tom.jpg' differs from it in capitals or Unicode form"),
    ],
)  # fmt: skip
def test_a_target_that_is_nearly_in_the_gallery_is_told(tmp_path, named, there, hint):
    path = _file(tmp_path, [_entry(named)])
    with pytest.raises(DataError, match="not in the gallery of 2 images; ") as caught:
        read_dialogues(path, gallery=[there, "b.png"])
    assert hint in str(caught.value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["img", "dialog"]) | st.text(max_size=5), inner, max_size=4
        )
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries({"img": st.text() | JSON_VALUES, "dialog": JSON_VALUES})


@pytest.mark.slow
@quick
@given(JSON_VALUES | st.lists(ENTRIES | JSON_VALUES, max_size=4))
def test_any_json_gives_dialogues_or_a_data_error(tmp_path, value):
    _dialogues_or_data_error(_file(tmp_path, value))


@quick
@given(st.binary(max_size=200))
def test_any_bytes_give_dialogues_or_a_data_error(tmp_path, content):
    _dialogues_or_data_error(_file(tmp_path, content))


def _dialogues_or_data_error(path):
    try:
        dialogues = read_dialogues(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert not parse_dialogues(read_json(path))[1] and dialogues
        assert all(d.rounds and all(r.strip() for r in d.rounds) for d in dialogues)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
NAMES = st.from_regex(r"[a-z]{1,4}(/[a-z0-9 é日]{1,6}){0,2}\.(png|jpg)", fullmatch=True)


@pytest.mark.slow
@quick
@given(st.lists(st.tuples(NAMES, st.lists(TEXTS, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_write_then_read_gives_the_same(tmp_path, pairs):
    dialogues = [Dialogue(name, tuple(rounds)) for name, rounds in pairs]
    path = tmp_path / "round_trip.json"
    write_dialogues(path, dialogues)
    assert read_dialogues(path, allow_duplicate_targets=True) == dialogues


@pytest.mark.parametrize(
    "dialogue",
    [
        Dialogue("a.png", ("\ud800",)),
        Dialogue("\udcff.png", ("x",)),
        Dialogue("a.png", ()),
        Dialogue("../a.png", ("x",)),
        Dialogue("a.png", (" ",)),
    ],
)
def test_does_not_write_what_it_would_not_read(tmp_path, dialogue):
    path = tmp_path / "out.json"
    path.write_text("older")
    with pytest.raises(DataError, match="not written, dialogue 0"):
        write_dialogues(path, [dialogue])
    assert path.read_text() == "older"


@quick
@given(st.text(st.sampled_from("abc./\\: ~\0é"), max_size=12))
@example(" /")
def test_an_accepted_image_name_never_leaves_the_folder(tmp_path, name):
    try:
        normal = image_name(name)
    except DataError:
        return
    assert image_name(normal) == normal
    assert SafeFolder(tmp_path).join(normal).resolve().is_relative_to(tmp_path.resolve())


def test_query_texts_follow_the_three_conventions():
    dialogues = [Dialogue("a", ("x", "y? yes", "z? no")), Dialogue("b", ("w",))]
    assert query_texts(dialogues, convention="current_rewrite") == [["x", "y? yes", "z? no"], ["w"]]
    joined = [["x", "x, y? yes", "x, y? yes, z? no"], ["w"]]
    assert query_texts(dialogues, convention="raw_dialogue") == joined
    assert query_texts(dialogues, convention="all_rewrites") == joined
    with pytest.raises(ValueError, match=", ".join(TEXT_CONVENTIONS)):
        query_texts(dialogues, convention="latest")


@pytest.mark.skipif(not VISDIAL.is_file(), reason="the VisDial dialogue file is not at hand")
def test_the_real_file_reads_and_round_trips(tmp_path):
    dialogues = read_dialogues(VISDIAL)
    assert len(dialogues) == 2064
    assert {len(d.rounds) for d in dialogues} == {11}
    write_dialogues(tmp_path / "copy.json", dialogues)
    assert read_dialogues(tmp_path / "copy.json") == dialogues


def test_a_packed_file_gives_the_same_dialogues_and_the_same_bytes(tmp_path):
    dialogues = [Dialogue("a.jpg", ("a dog", "what colour? brown", "猫 🙂"))]
    plain, packed = tmp_path / "d.json", tmp_path / "d.json.gz"
    write_dialogues(plain, dialogues)
    write_dialogues(packed, dialogues)
    assert read_dialogues(packed) == read_dialogues(plain) == dialogues
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    first = packed.read_bytes()
    write_dialogues(packed, dialogues)
    assert packed.read_bytes() == first


@pytest.mark.parametrize("damage", [lambda b: b"[]", lambda b: b[:20], lambda b: b[:12] + b"00"])
def test_a_damaged_packed_file_is_named(tmp_path, damage):
    path = tmp_path / "d.json.gz"
    write_dialogues(path, [Dialogue("a.jpg", ("a dog",))])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"d\.json\.gz: no sound gzip file"):
        read_dialogues(path)


def _talks(*rounds):
    return [Dialogue(f"{i}.png", tuple(texts)) for i, texts in enumerate(rounds)]


QUESTIONS = ("a dog", "is it big? no", "what colour? brown")
CAPTIONS = ("a dog", "a small dog", "a small brown dog")


@pytest.mark.parametrize(
    "talks",
    [
        _talks(QUESTIONS),
        _talks(("有一只狗", "大吗？不大", "什么颜色？棕色")),
        _talks(("كلب", "هل هو كبير؟ لا")),
        _talks((*QUESTIONS, "and it sleeps", "on a chair")),  # half of the rounds
        _talks(*[QUESTIONS] * 20, CAPTIONS),  # a twentieth of the dialogues has none
        _talks(("is it a dog? yes",)),  # one round: the same text by every convention
    ],
)
def test_questions_and_answers_are_recognised(talks):
    assert recognise_convention(talks)[0] == "raw_dialogue"


@pytest.mark.parametrize(
    "talks",
    [
        _talks(CAPTIONS),
        _talks(("一只狗", "它大 不大")),  # no question mark
        _talks(("a dog", "is it big?", "what colour?")),  # no answers
        _talks((*QUESTIONS, "and it sleeps", "on a chair", "by the window")),
        _talks(*[QUESTIONS] * 9, CAPTIONS),  # a mixed file
        _talks(*[QUESTIONS] * 5, *[CAPTIONS] * 5),
        _talks(("a dog", "a dog, is it big? no", "a dog, is it big? no, what colour? red")),
    ],
)
def test_what_could_be_read_in_two_ways_must_be_named(talks):
    with pytest.raises(DataError, match="name --text current_rewrite where each .* raw_dialogue"):
        recognise_convention(talks)


@pytest.mark.parametrize("source", SOURCES)
def test_the_sources_of_the_embedded_world_are_recognised(source):
    scenes = sample_scenes(0, "val", 30)
    turns = [dialogue(source, scene, seed=0) for scene in scenes]
    raw = _talks(*[[turn.text for turn in row] for row in turns])
    assert recognise_convention(raw)[0] == "raw_dialogue"
    refined = _talks(*[rewrites(row, seed=i) for i, row in enumerate(turns)])
    with pytest.raises(DataError, match="name --text"):
        recognise_convention(refined)
    known = [replace(talk, refined_from=("",) * 11) for talk in refined]
    assert recognise_convention(known)[0] == "current_rewrite"


@pytest.mark.skipif(not VISDIAL.is_file(), reason="the VisDial dialogue file is not at hand")
def test_real_peoples_dialogues_are_recognised():
    assert recognise_convention(read_dialogues(VISDIAL))[0] == "raw_dialogue"
    captions = [Dialogue(d.image, d.rounds[:1] * 3) for d in read_dialogues(VISDIAL)[:50]]
    with pytest.raises(DataError, match="0 of 100 later rounds"):
        recognise_convention(captions)

"""The command line: exit codes, one-line errors, the chain with a real open_clip model."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from daitir import evaluation
from daitir.cli import command as cli
from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues

VISDIAL = Path(__file__).parents[2] / "../shared/data/chatir/VisDial_v1.0_queries_val.json"


def _save_noise(path, seed):
    values = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three dialogues of two rounds over twenty images, with views, in the field's formats."""
    for index in range(20):
        _save_noise(tmp_path / "images" / f"{index:02}.png", index)
    dialogues = [
        Dialogue(f"{i:02}.png", (f"a picture number {i}", "is it noisy? yes " * (1 + 9 * (i == 2))))
        for i in range(3)
    ]
    write_dialogues(tmp_path / "human.json", dialogues)
    for i in range(3):
        for t in range(2):
            _save_noise(tmp_path / "views" / f"{i}_{t}.png", 100 + 10 * i + t)
    return tmp_path


def _arguments(folder, spec, **options):
    options = {
        "dialogues": folder / "human.json",
        "images": folder / "images",
        "views": folder / "views",
        "encoder": spec,
        "fusion": "dar",
        "out": folder / "out.csv",
    } | options
    arguments = ["evaluate"]
    for name, value in options.items():
        if value is not None:
            arguments.append("--" + name.replace("_", "-"))
            arguments += [] if value is True else [str(value)]
    return arguments


def _run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        **options,
    )


def test_evaluates_and_prints_what_was_truncated(folder, tiny, capsys):
    assert cli.main(_arguments(folder, tiny)) == 0
    printed = capsys.readouterr().out
    assert "human: 3 dialogues, 20 images" in printed
    assert "truncated: 1 of 6 query texts (context 24)" in printed
    assert "round  text R@10  text Hits@10  text MRR  dar R@10  dar Hits@10  dar MRR" in printed
    assert f"written to {folder / 'out.csv'}" in printed
    rows = pd.read_csv(folder / "out.csv")
    assert tuple(rows.columns) == evaluation.RESULT_COLUMNS
    assert set(rows.benchmark) == {"human"} and set(rows.method) == {"text", "dar"}
    fractions = rows[~rows.metric.isin(["bri", "rank_drop"])]
    assert fractions.value.between(0, 1).all()
    assert sorted(path.name for path in folder.iterdir()) == [
        "human.json",
        "images",
        "out.csv",
        "views",
    ]


def test_options_reach_the_evaluation(folder, tiny, capsys):
    (folder / "gallery.json").write_text(json.dumps([f"{i:02}.png" for i in range(5)]))
    (folder / "views" / "1_1.png").unlink()
    options = {
        "gallery": folder / "gallery.json",
        "text": "raw_dialogue",
        "missing_views": "text",
        "num_dialogues": 2,
        "benchmark": "terse",
        "method": "dar_x",
        "seed": 4,
        "verbose": True,
        "skip_unreadable": True,
        "out": folder / "new" / "table.csv",
    }
    assert cli.main(_arguments(folder, tiny, **options)) == 0
    assert "terse: 2 dialogues, 5 images" in capsys.readouterr().out
    rows = pd.read_csv(folder / "new" / "table.csv")
    assert set(rows.method) == {"text", "dar_x"} and set(rows.seed) == {4}


def test_fusion_choices_are_those_of_the_evaluation():
    parser = cli.build_parser()
    for fusion in evaluation.UNTRAINED_FUSIONS:
        parser.parse_args(_arguments(Path("x"), "mini", fusion=fusion))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dialogues": "missing.json"}, "missing.json: cannot be read"),
        ({"images": "missing"}, "missing: no such folder"),
        ({"views": "missing"}, "missing: no such folder of views"),
        ({"views": None}, "--fusion dar needs --views"),
        ({"method": "text"}, "is the name of text alone"),
        ({"num_dialogues": 4}, "has 3 dialogues, fewer than --num-dialogues 4"),
        ({"encoder": "nonsense"}, "unknown encoder 'nonsense'"),
        ({"device": "cuda:99"}, "--device cuda:99: not available"),
        ({"device": "nonsense"}, "--device nonsense: not available"),
        ({"out": "/dev/null/out.csv"}, "cannot be written"),
    ],
)
def test_bad_data_is_one_line_and_exit_code_2(folder, tiny, capsys, options, message):
    assert cli.main(_arguments(folder, tiny, **options)) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("daitir: ")]
    assert len(lines) == 1 and lines[0].startswith("daitir: error: ")
    assert not (folder / "out.csv").exists()


def test_the_output_folder_is_checked_before_anything_else(folder, tiny, capsys):
    (folder / "human.json").write_text("not looked at")
    assert cli.main(_arguments(folder, tiny, out=folder)) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["evaluate"]])
def test_bad_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_a_count_of_dialogues_must_be_positive(folder, tiny, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(_arguments(folder, tiny, num_dialogues=0))
    assert caught.value.code == 2 and "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the disk is full"),
        (KeyboardInterrupt(), 130, "daitir: interrupted"),
    ],
)
def test_a_failure_while_writing_leaves_the_old_table(
    folder, tiny, capsys, monkeypatch, error, code, message
):
    older = ",".join(evaluation.RESULT_COLUMNS) + "\n"
    (folder / "out.csv").write_text(older)

    def write_half(self, path, **options):
        Path(path).write_text("half")
        raise error

    monkeypatch.setattr(pd.DataFrame, "to_csv", write_half)
    assert cli.main(_arguments(folder, tiny)) == code
    assert message in capsys.readouterr().err
    assert (folder / "out.csv").read_text() == older
    assert sorted(os.listdir(folder)) == ["human.json", "images", "out.csv", "views"]


def test_an_interrupt_is_one_line(folder, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("daitir.data.datafolder.SearchFiles.read", interrupted)
    assert cli.main(_arguments(folder, "mini")) == 130
    assert capsys.readouterr().err == "daitir: interrupted\n"


def test_a_reader_that_leaves_is_no_traceback(folder, tmp_path):
    # `evaluate` prints little; a stand-in prints more than a pipe holds.
    code = (
        "import sys; from daitir.cli import command, inputs\n"
        "inputs.find_own_data = lambda *_, **__: print('line\\n' * 100_000)\n"
        f"sys.exit(command.main({_arguments(folder, 'mini')!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


@pytest.mark.slow
def test_help_is_quick_and_has_an_example():
    # Processor time, interpreter included: the clock on the wall also counts other programs.
    code = (
        "import sys, time; from daitir.cli import command as cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'PIL', 'open_clip'} & set(sys.modules)\n"
        "print(heavy, time.process_time(), file=sys.stderr)"
    )
    runs = [_run("-c", code, "--help"), _run("-c", code, "evaluate", "--help")]
    for run in runs:
        heavy, seconds = run.stderr.rsplit(" ", 1)
        assert heavy == "set()" and float(seconds) < 0.5, run.stderr
    assert "evaluate" in runs[0].stdout
    assert "example:\n  daitir evaluate --dialogues" in runs[1].stdout


@pytest.mark.slow
@pytest.mark.skipif(not VISDIAL.is_file(), reason="the VisDial dialogue file is not at hand")
def test_real_peoples_dialogues_over_a_foreign_gallery(tmp_path, tiny, capsys):
    """The ranks mean nothing here; that real text passes through does."""
    with pytest.raises(DataError, match="not in the gallery"):
        read_dialogues(VISDIAL, gallery=["00.png"])
    real = read_dialogues(VISDIAL)[:100]
    for index in range(100):
        _save_noise(tmp_path / "images" / f"{index:03}.png", index)
    moved = [replace(d, image=f"{index:03}.png") for index, d in enumerate(real)]
    write_dialogues(tmp_path / "visdial.json", moved)
    options = {
        "dialogues": tmp_path / "visdial.json",
        "images": tmp_path / "images",
        "views": None,
        "fusion": "text",
        "text": "raw_dialogue",
    }
    assert cli.main(_arguments(tmp_path, tiny, **options)) == 0
    assert "of 1,100 query texts (context 24)" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "out.csv")
    assert rows[rows.metric == "mrr"]["round"].tolist() == list(range(11))
    assert rows.num_queries.unique().tolist() == [100]

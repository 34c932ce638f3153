"""The commands that the pages tell exist, and the Slurm script goes on as it says."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from daitir.cli.command import build_parser
from daitir.studies.registry import STUDIES

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
HOW_TO_RUN = ROOT / "book" / "how_to_run.md"
LEAST = {HOW_TO_RUN: 11, ROOT / "book" / "own_pictures.md": 11, ROOT / "book" / "commands.md": 7}
PAGES = (README, *LEAST)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```", re.M | re.S)


def commands(page):
    """The words behind `daitir` of each of its calls in the page's blocks."""
    for _, block in BLOCK.findall(page.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.search(r"(?:^|[ !/])(?:daitir|-m daitir\.cli) (.*)", line)
            if match and not line.startswith("#"):
                yield shlex.split(re.sub(r"&& *$|\|.*$|; done$", "", match[1]))


@pytest.mark.parametrize("page", LEAST, ids=lambda page: page.stem)
def test_every_command_of_a_page_can_be_read(page):
    found = list(commands(page))
    assert len(found) >= LEAST[page]
    parser = build_parser()
    for words in found:
        words = [{"$model": "clip", "$study": "memory"}.get(word, word) for word in words]
        assert callable(parser.parse_args(words).run), words


def test_the_loop_on_a_gpu_runs_every_study():
    (named,) = re.findall(r"for study in (.*?);", PAGES[-1].read_text("utf-8"), re.S)
    assert sorted(named.replace("\\\n", " ").split()) == sorted(STUDIES)


def test_a_wrong_command_would_be_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```bash\ndaitir search --nonsense\n```\n")
    (words,) = commands(page)
    with pytest.raises(SystemExit):
        build_parser().parse_args(words)


def test_every_make_that_a_page_tells_is_a_target():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M)) | {".venv/.ready"}
    for page in (*PAGES, ROOT / "book" / "index.md"):
        found = re.findall(r"(?:^|`)make ([a-z./-]+)", page.read_text("utf-8"), re.M)
        assert set(found) <= targets, page
    shown = re.findall(r"^\| `make ([a-z-]+)", PAGES[-1].read_text("utf-8"), re.M)
    assert set(shown) == targets - {"help", ".venv/.ready"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_sound_shell(page):
    for kind, block in BLOCK.findall(page.read_text("utf-8")):
        if kind == "bash":
            run = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
            assert run.returncode == 0 and not run.stderr, run.stderr


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_it_stands(capsys):
    (code,) = PYTHON.findall(README.read_text("utf-8"))
    exec(compile(code, "README.md", "exec"), {})
    (share,) = re.findall(r"Hits@10: (\d+)%", capsys.readouterr().out)
    assert 50 <= int(share) <= 100


@pytest.fixture
def cluster(tmp_path):
    """The script of the page, in a folder whose programs only write down what they are asked."""
    blocks = [block for _, block in BLOCK.findall(HOW_TO_RUN.read_text("utf-8"))]
    (script,) = (block for block in blocks if block.startswith("#!/bin/bash\n#SBATCH"))
    (tmp_path / "views.sbatch").write_text(script)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    for name in ("accelerate", "daitir", "scontrol"):
        program = tmp_path / name
        program.write_text(
            f"#!/bin/bash\ntrap 'echo {name} stopped >> log; exit 143' TERM\n"
            f'echo {name} "$@" >> log\n'
            f"[ -e {name}-is-slow ] && for i in {{1..600}}; do sleep 0.05; done\n"
            "[ ! -e fails ]\n"
        )
        program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
    return tmp_path, lambda: subprocess.Popen(
        ["bash", "views.sbatch"], cwd=tmp_path, env=environment
    )


def _log(folder):
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


def test_the_slurm_script_does_one_after_the_other(cluster):
    folder, start = cluster
    assert start().wait(30) == 0
    found = [line.split()[:6] for line in _log(folder)]
    assert [words[0] for words in found] == ["accelerate", "accelerate", "daitir"]
    assert [words[5] for words in found[:2]] == ["generate", "embed"]
    (folder / "log").unlink()
    (folder / "fails").touch()
    assert start().wait(30) != 0
    assert len(_log(folder)) == 1


def test_the_slurm_script_stops_and_queues_itself_when_time_is_over(cluster):
    folder, start = cluster
    (folder / "accelerate-is-slow").touch()
    job = start()
    deadline = time.monotonic() + 20
    while not _log(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # the script waits by now
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 0
    assert _log(folder)[1:] == ["accelerate stopped", "scontrol requeue 42"]

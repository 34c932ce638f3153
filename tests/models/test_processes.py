"""Several processes, with accelerate or without, leave the files that one leaves."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as multiprocessing
from accelerate import PartialState
from hub_models import PROMPTS, SEEDS, tiny_pipeline
from own_data import make_own_data

from daitir.cli import main
from daitir.cli.inputs import check_device
from daitir.common.errors import DataError
from daitir.data.shards import read_shard
from daitir.models import features
from daitir.models.processes import processes
from daitir.models.views import load_view_generator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(folder)
    return folder


def _commands(models, data, cache):
    refine = ["refine", "--data", str(data), "--batch-size", "1"]
    generate = ["generate", "--data", str(data), "--pipeline", str(models), "--steps", "1"]
    generate += ["--text", "current_rewrite", "--batch-size", "2", "--cache", str(cache)]
    embed = ["embed", str(data), "--encoder", "mini", "--batch-size", "2"]
    return refine, generate, embed


def _run(commands):
    """Commands with small shards, so that there is something to share."""
    features.SHARD_SIZE = 4
    for command in commands:
        assert main(command) == 0


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _process(rank, ports, commands, log):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = (log / f"{rank}.txt").open("w")
    for port, command in zip(ports, commands, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        _run([command])
        PartialState._reset_state()
    sys.stdout.flush()


def _content(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory):
    """A folder of own data, what one process makes of it, and a copy from before."""
    root = tmp_path_factory.mktemp("alone")
    make_own_data(root / "set", num_pictures=13, num_dialogues=3)
    shutil.copytree(root / "set", root / "before")  # copytree keeps the times of change
    before = features.SHARD_SIZE
    _run(_commands(models, root / "set", root / "cache"))
    features.SHARD_SIZE = before
    return root


def test_two_processes_leave_what_one_leaves(models, alone, tmp_path):
    data, cache = tmp_path / "set", tmp_path / "cache"
    shutil.copytree(alone / "before", data)
    cache.mkdir()
    drawn = sorted((alone / "cache").iterdir())
    early = [shutil.copy(path, cache) for path in drawn[:3]]  # of a run that was killed
    for path in early:
        os.utime(path, (1, 1))
    ports = [_free_port() for _ in range(3)]
    commands = _commands(models, data, cache)
    multiprocessing.spawn(_process, (ports, commands, tmp_path), nprocs=2)
    assert (data / "rewrites.json").read_bytes() == (alone / "set/rewrites.json").read_bytes()
    assert sorted(p.name for p in data.iterdir()) == sorted(
        p.name for p in (alone / "set").iterdir()
    )
    assert _content(cache) == _content(alone / "cache")
    assert all(os.stat(path).st_mtime == 1 for path in early)
    assert _content(data / "views") == _content(alone / "set" / "views")
    here, there = (_features(folder) for folder in (data, alone / "set"))
    assert here == there and len(here) == 25
    logs = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    told = (
        "refining", "12 captions of 3 dialogues", "drawing", "12 views of 3 dialogues",
        "embedding", "25 embedded now",
    )  # fmt: skip
    assert all(words in logs[0] for words in told), logs
    assert not any(words in logs[1] for words in told), logs


def _features(data):
    """The bytes of each file's features, and the files that share its shard."""
    found = {}
    for path in (data / "features").glob("mini-*/pictures-*.safetensors"):
        shard = read_shard(path)
        rows, names = shard.features.numpy(), tuple(shard.names)
        found |= {n: (row.tobytes(), names) for n, row in zip(names, rows, strict=True)}
    return found


def test_two_runs_that_know_nothing_of_each_other_share_a_cache(models, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from daitir.models.views import load_view_generator\n"
        f"generator = load_view_generator({str(models)!r}, steps=2)\n"
        f"generator.generate({PROMPTS * 3!r}, list(range(12)), Path({str(tmp_path / 'both')!r}), "
        "batch_size=2)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [run.wait(120) for run in runs] == [0, 0]
    generator = load_view_generator(str(models), steps=2)
    generator.generate(PROMPTS * 3, list(range(12)), tmp_path / "alone", batch_size=2)
    assert _content(tmp_path / "both") == _content(tmp_path / "alone")


def test_shares_make_up_the_whole(models, tmp_path):
    class Group:
        """Stands for a group whose processes run one after the other."""

        num_processes = 3

        def __init__(self, index):
            self.process_index = index

        def wait_for_everyone(self):
            pass

    generator = load_view_generator(str(models), steps=1)
    numbers = []
    for index in range(3):
        generator.generate(PROMPTS, SEEDS, tmp_path / "a", batch_size=1, group=Group(index))
        numbers.append(len(list((tmp_path / "a").iterdir())))
    assert numbers == [2, 3, 4]
    generator.generate(PROMPTS, SEEDS, tmp_path / "b", batch_size=1)
    assert _content(tmp_path / "a") == _content(tmp_path / "b")


def test_processes_that_do_not_find_each_other_are_told(monkeypatch):
    def fails(**options):
        raise RuntimeError("CUDA error: invalid device ordinal\nmore")

    monkeypatch.setattr("daitir.models.processes.PartialState", fails)
    with pytest.raises(DataError, match="invalid device ordinal.*torchrun"), processes("cpu"):
        pass


def test_each_process_takes_its_own_gpu_before_a_model_is_loaded(monkeypatch):
    taken = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    if torch.cuda.is_available():
        check_device("cuda")
    else:
        with pytest.raises(DataError, match="--device cuda: not available"):
            check_device("cuda")
    check_device("cpu")
    assert taken == [3]

"""Query sets: made once, read back, refused where they do not fit. Small sizes, a tiny pipeline."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_models import tiny_pipeline

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.views import load_view_generator
from daitir.scenes import sample_scenes
from daitir.studies import queries
from daitir.studies.engine.bench import Bench
from daitir.studies.profiles import PROFILES
from daitir.studies.queries import load_query_set, manifest_of, set_dialogues

pytestmark = pytest.mark.slow

SMALL = dataclasses.replace(
    PROFILES["classroom"],
    name="small",
    num_test_dialogues=4,
    num_other_dialogues=3,
    num_train_dialogues=5,
    views_per_dialogue=2,
)
ALL_SETS = queries.SETS
SETS = {name: queries.SETS[name] for name in ("human", "terse", "train", "human_fixed_noise")}


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    pipeline = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline().save_pretrained(pipeline)
    small = dataclasses.replace(SMALL, generator=str(pipeline))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(PROFILES, "small", small)
        monkeypatch.setattr(queries, "SETS", SETS)
        yield monkeypatch


@pytest.fixture(scope="module")
def command(patched, tmp_path_factory):
    folder = tmp_path_factory.mktemp("queries")
    return ["queries", "--profile", "small", "--steps", "1", "--cache", str(folder / "cache"),
            "--out", str(folder / "sets")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(command):
    assert main(command) == 0
    return command[-1]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("mini")


@pytest.mark.parametrize(
    ("name", "number", "drawn"),
    [("human", 4, 11), ("terse", 3, 11), ("train", 5, 2), ("human_fixed_noise", 3, 11)],
)
def test_a_set_holds_captions_features_and_readings(folder, encoder, name, number, drawn):
    found = load_query_set(name, encoder, Path(folder))
    assert [len(row) for row in found.captions] == [11] * number
    if SETS[name].features:
        assert found.view_features.shape == (number, drawn, encoder.dim)
        assert torch.allclose(found.view_features.norm(dim=-1), torch.ones(number, drawn))
    else:
        assert found.view_features is None
    assert (found.rounds.diff(dim=1) > 0).all() and found.rounds.max() <= 10
    assert [len(row) for row in found.readings] == [drawn] * number
    row, t = 1, found.rounds[1, 1].item()
    assert found.drawn_captions[row][1] == found.captions[row][t]
    scenes, talks = set_dialogues(SMALL, name)
    assert len(scenes) == len(talks) == number


def test_a_run_continues_and_refuses_to_mix(folder, command, capsys, patched):
    with pytest.MonkeyPatch.context() as monkeypatch:  # what is done must not be done again
        monkeypatch.setattr(queries, "make_query_set", None)
        assert main(command) == 0
    assert main([*command, "--guidance", "3"]) == 2
    assert "of other models or sizes; delete the folder" in capsys.readouterr().err


def test_a_set_of_another_source_leaves_the_others_as_they_are(folder, command, capsys, patched):
    before = manifest_of(Path(folder))["num_dialogues"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        sets = {name: recipe for name, recipe in SETS.items() if name != "terse"}
        monkeypatch.setattr(queries, "SETS", sets | {"verbose": ALL_SETS["verbose"]})
        made = []
        monkeypatch.setattr(queries, "make_query_set", lambda *a, **k: made.append(a[0].source))
        monkeypatch.setattr(queries, "save_query_set", lambda *a: None)
        assert main(command) == 0
    assert made == ["verbose"]
    assert manifest_of(Path(folder))["num_dialogues"] == before | {"verbose": 3}
    assert main(command) == 0


@pytest.mark.parametrize("missing", ["manifest.json", "terse.json.gz", "terse.npz"])
def test_a_missing_file_is_named(folder, encoder, tmp_path, missing):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / missing).unlink()
    with pytest.raises(DataError, match=f"{missing}: no such file; `daitir queries"):
        load_query_set("terse", encoder, copy)


def test_damaged_and_foreign_sets_are_refused(folder, encoder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(copy / "human.json.gz", copy / "terse.json.gz")
    with pytest.raises(DataError, match="of another length"):
        load_query_set("terse", encoder, copy)
    shutil.copy(copy / "terse.npz", copy / "human.npz")
    with pytest.raises(DataError, match="no query set .*view_features"):
        load_query_set("human", encoder, copy)
    (copy / "human.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="no query set"):
        load_query_set("human", encoder, copy)
    manifest = manifest_of(copy) | {"encoder": "another"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="encoded by another encoder"):
        load_query_set("train", encoder, copy)
    (copy / "manifest.json").write_text("[")
    with pytest.raises(DataError, match="no manifest"):
        manifest_of(copy)


def test_what_is_saved_is_what_was_read(encoder, tmp_path, folder):
    shutil.copy(Path(folder) / "manifest.json", tmp_path)
    scenes = [dataclasses.replace(s, objects=tuple(dataclasses.replace(o, jitter=(0, 0))
              for o in s.objects)) for s in sample_scenes(0, "val", 6)]  # fmt: skip
    features = torch.nn.functional.normalize(torch.randn(3, 2, encoder.dim), dim=-1)
    made = queries.QuerySet([["a", "b"]] * 3, torch.tensor([[0, 1]] * 3), features,
                            [scenes[:2], scenes[2:4], scenes[4:]])  # fmt: skip
    queries.save_query_set(made, tmp_path, "some")
    found = load_query_set("some", encoder, tmp_path)
    assert found.captions == made.captions and torch.equal(found.rounds, made.rounds)
    assert torch.allclose(found.view_features, features, atol=1e-3)
    assert [[set(s.facts) for s in row] for row in found.readings] == [
        [set(s.facts) for s in row] for row in made.readings
    ]


@pytest.mark.parametrize(("name", "num_noises"), [("human", 11), ("human_fixed_noise", 1)])
def test_noise_is_drawn_anew_or_once_a_dialogue(patched, tmp_path, name, num_noises):
    bench = Bench(PROFILES["small"], None, tmp_path, tmp_path)
    bench.generator = load_view_generator(PROFILES["small"].generator, steps=1)
    drawn = []
    generate = bench.generator.generate
    patched.setattr(bench.generator, "generate",
                    lambda *a, **k: drawn.append(a[1]) or generate(*a, **k))  # fmt: skip
    _, talks = set_dialogues(SMALL, name)
    for recipe in (queries.SETS[name], dataclasses.replace(queries.SETS[name], seed=1)):
        queries.make_query_set(recipe, talks[:2], bench)
    first, again = ([set(seeds[:11]), set(seeds[11:])] for seeds in drawn)
    assert [len(seeds) for seeds in first] == [num_noises] * 2
    assert not set.union(*first) & set.union(*again) and not first[0] & first[1]

"""The benchmark, the quality table and exported files: small sizes, the real encoder."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from daitir.cli.main import main
from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.data.gallery import read_gallery
from daitir.evaluation import RESULT_COLUMNS
from daitir.models.encoders import load_encoder
from daitir.models.recogniser import load_recogniser
from daitir.models.reformulation import load_reformulator
from daitir.models.views import load_view_generator
from daitir.recipes.settings import FusionRecipe
from daitir.scenes.export import export_scenes
from daitir.studies import benchmark, queries
from daitir.studies.profiles import PROFILES

SMALL = dataclasses.replace(
    PROFILES["classroom"],
    name="small",
    num_test_dialogues=6,
    num_other_dialogues=6,
    num_train_dialogues=6,
    num_val_dialogues=6,
    num_gallery=20,
    broken_shares=(0.15,),
    fusions={"adafuse": FusionRecipe("adafuse", steps=4, hidden_dim=16, eval_every=2)},
    num_fusion_seeds=2,
)
VISDIAL = (
    Path(__file__).parents[3] / "shared" / "data" / "chatir" / "VisDial_v1.0_queries_val.json"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Eight test dialogues with their gallery and controlled views, as files."""
    folder = tmp_path_factory.mktemp("scenes")
    export_scenes(folder, num_dialogues=8, num_gallery=40, broken_share=0.15)
    return folder


def test_the_benchmark_measures_resumes_and_refuses_to_mix(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "BENCHMARKS", ("terse",))
    monkeypatch.setattr(benchmark, "NUM_TIMED", 2)
    names = ("terse", "train", "val")
    monkeypatch.setattr(queries, "SETS", {name: queries.SETS[name] for name in names})
    own = {"queries": str(tmp_path / "queries"), "trained_fusions": str(tmp_path / "none")}
    small = dataclasses.replace(SMALL, **own)
    models = queries.Models(
        load_reformulator(), load_view_generator(steps=1), load_encoder("mini"), load_recogniser()
    )
    queries.make_query_sets(small, tmp_path / "queries", models, cache=tmp_path / "cache")
    folders = {"work_dir": tmp_path / "work", "results_dir": tmp_path / "results"}
    path = benchmark.run_benchmark(small, **folders)
    table = pd.read_csv(path)
    assert tuple(table.columns) == RESULT_COLUMNS
    methods = set(table["method"])
    suffixes = ("", "_controlled_15")
    assert methods == {
        "text", "text_controlled", "text_raw_dialogue", "text_all_rewrites",
        *(f"{name}{suffix}" for name in ("view", "dar") for suffix in suffixes),
        "dar_placebo", "dar_noise", "dar_tuned", "rank_fusion", "best_of_text_and_view",
        "adafuse", "adafuse_placebo",
    }  # fmt: skip
    costs = table["metric"].isin(["seconds_per_query", "parameters_added"])
    assert set(table[costs]["method"]) == {"text", "view", "dar", "adafuse"}
    costs_of = table[costs].set_index(["method", "metric"])["value"]
    for more, less in (("dar", "text"), ("adafuse", "dar")):
        assert costs_of[more, "seconds_per_query"] > costs_of[less, "seconds_per_query"] > 0
    assert costs_of["adafuse", "parameters_added"] > 0 == costs_of["dar", "parameters_added"]
    table = table[~costs]
    drops = table["metric"] == "rank_drop"  # of the degraded queries alone
    assert set(table[~drops]["num_queries"]) == {6}
    assert set(table.query("method == 'adafuse'")["seed"]) == {0, 1}
    over_dar = table["metric"].str.endswith("_over_dar")
    assert set(table[over_dar]["method"]) == {
        "adafuse", "adafuse_placebo", "dar_tuned", "rank_fusion", "best_of_text_and_view"
    }  # fmt: skip
    assert table[over_dar]["value"].between(-1, 1).all()
    table = table[~over_dar & (table["metric"] != "rank_drop")]
    gains = table["metric"].str.endswith("_gain")
    shares = table[~gains & (table["metric"] != "bri")]
    assert shares["value"].between(0, 1).all() and table[gains]["value"].between(-1, 1).all()
    assert set(table[gains]["method"]) == {m for m in methods if not m.startswith("text")}
    assert (table["ci_low"] <= table["value"]).all() and (table["value"] <= table["ci_high"]).all()
    notes = json.loads(path.with_suffix(".json").read_text())
    assert notes["truncated_query_texts"]["terse"]["text"] == 0

    monkeypatch.setattr(benchmark, "_measure", None)  # whatever is done must not be done again
    monkeypatch.setattr(benchmark, "_costs", None)
    monkeypatch.setattr(benchmark, "train_fusion", None)
    first = path.read_bytes()
    (tmp_path / "none").symlink_to(tmp_path / "work" / "fusions")  # trained ones are found
    assert benchmark.run_benchmark(small, **folders).read_bytes() == first
    with pytest.raises(DataError, match="another profile or other models"):
        benchmark.run_benchmark(dataclasses.replace(small, num_gallery=21), **folders)


def test_exported_files_are_those_of_the_field(exported):
    gallery = read_gallery(exported / "gallery.json")
    dialogues = read_dialogues(exported / "dialogues.json", gallery=gallery)
    refined = read_dialogues(exported / "rewrites.json", gallery=gallery)
    assert len(gallery) == 40 and len(dialogues) == len(refined) == 8
    assert [d.image for d in dialogues] == [r.image for r in refined] == gallery[:8]
    assert all(len(d.rounds) == 11 for d in dialogues + refined)
    assert len(list((exported / "views").glob("*.png"))) == 8 * 11


@pytest.mark.parametrize("fusion", ["text", "view", "dar"])
def test_evaluate_runs_on_exported_files(exported, tmp_path, fusion, capsys):
    out = tmp_path / "table.csv"
    arguments = ["--dialogues", exported / "rewrites.json", "--images", exported / "images"]
    arguments += ["--views", exported / "views", "--encoder", "mini", "--fusion", fusion]
    assert main(["evaluate", *map(str, arguments), "--out", str(out)]) == 0
    assert "truncated: 0 of 88 query texts" in capsys.readouterr().out
    table = pd.read_csv(out)
    last = table[(table["method"] == fusion) & (table["metric"] == "hits_at_10")]["value"]
    assert last.iloc[-1] >= last.iloc[0] > 0


@pytest.mark.skipif(not VISDIAL.is_file(), reason="the field's dialogue file is not here")
@pytest.mark.parametrize("convention", ["raw_dialogue", "current_rewrite"])
def test_real_peoples_words_pass(exported, tmp_path, convention, capsys):
    """The first 100 VisDial dialogues over scenes: the ranks mean nothing, that it runs does."""
    export_scenes(tmp_path, num_dialogues=1, num_gallery=100)
    names = read_gallery(tmp_path / "gallery.json")
    people = read_dialogues(VISDIAL)[:100]
    spoken = [Dialogue(name, d.rounds) for name, d in zip(names, people, strict=True)]
    write_dialogues(tmp_path / "visdial.json", spoken)
    arguments = ["--dialogues", tmp_path / "visdial.json", "--images", tmp_path / "images"]
    arguments += ["--encoder", "mini", "--fusion", "text", "--text", convention]
    assert main(["evaluate", *map(str, arguments), "--out", str(tmp_path / "table.csv")]) == 0
    assert "of 1,100 query texts" in capsys.readouterr().out


def test_the_quality_table(tmp_path, monkeypatch):
    monkeypatch.setitem(PROFILES, "small", SMALL)
    out = tmp_path / "quality.csv"
    assert main(["quality", "clip", "--profile", "small", "--workers", "1", "--out", str(out)]) == 0
    table = pd.read_csv(out)
    assert table["value"].between(0, 1).all() and set(table["split"]) == {"val"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes", "{}", "--num-dialogues", "9", "--num-gallery", "5"], "raise --num-gallery"),
        (["pretrain", "clip", "--out", "{}", "--profile", "cluster"], "unknown profile"),
        (["quality", "clip", "--out", "{}/a.csv", "--encoder", "nothing"], "unknown encoder"),
        (["benchmark", "--results", "{}", "--profile", "cluster"], "unknown profile"),
        (["benchmark", "--results", "{}", "--device", "cuda:99"], "not available here"),
    ],
)
def test_bad_arguments_get_one_line(arguments, message, tmp_path, capsys):
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1

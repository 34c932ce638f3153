"""The papers' setting: its commands on tiny models of the real classes, and its table."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hub_models import save_chat_model, save_encoder, save_pipeline
from own_data import make_own_data

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.studies.paper import (
    METHODS,
    PaperProfile,
    paper_steps,
    published_beside_ours,
    results_file,
    run_steps,
)
from daitir.studies.profiles import get_profile

PUBLISHED = Path(__file__).resolve().parents[2] / "book" / "published.csv"
QUICK = ("steps=2", "batch_size=3", "eval_every=1", "warmup_steps=1")


def test_everything_that_is_read_was_made_before(tmp_path):
    profile = PaperProfile()
    steps = paper_steps(profile, tmp_path, coco=tmp_path / "coco")
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    made = {str(tmp_path / "coco")}
    for step in steps:
        words = step.arguments
        reads = [words[i + 1] for i, w in enumerate(words) if w in ("--data", "--images")]
        trained = [word.split(":")[1] for word in words if word.startswith(("adafuse:", "finetu"))]
        for path in [*reads, *trained]:
            assert any(path.startswith(known) for known in made), (step.name, path)
        made |= {words[i + 1] for i, word in enumerate(words) if word == "--out"}
    assert sum(step.arguments[0] == "evaluate" for step in steps) == 5 * len(METHODS)
    assert {step.arguments[0] for step in steps if step.is_shared} == {
        "refine", "generate", "embed",
    }  # fmt: skip


def test_the_names_of_open_clip_fit_their_weights():
    import open_clip

    profile = PaperProfile()
    for spec in (profile.clip, profile.tuned):
        name, tag = spec.removeprefix("open_clip:").split("@")
        weights = open_clip.get_pretrained_cfg(name, tag)
        config = open_clip.get_model_config(name)
        # The library only warns where the activations differ, and its features are then wrong.
        assert weights["quick_gelu"] == config.get("quick_gelu", False), spec


def test_without_the_pictures_of_2014_nothing_is_trained(tmp_path):
    steps = paper_steps(PaperProfile(), tmp_path)
    words = " ".join(word for step in steps for word in step.arguments)
    assert "visdial" not in words and "adafuse" not in words and "dmcl" not in words
    assert sum(step.arguments[0] == "evaluate" for step in steps) == 5 * 3


def test_done_steps_are_not_run_again_and_a_failure_stops(tmp_path):
    steps = paper_steps(replace(PaperProfile(), sources=("a",)), tmp_path)
    seen = []

    def run(step, *, bad=None):
        seen.append(step.name)
        return 2 if step.name == bad else 0

    with pytest.raises(DataError, match="daitir generate .* ended with code 2"):
        run_steps(steps, tmp_path, lambda step: run(step, bad="draw a test"))
    assert seen == ["pictures", "dialogues", "refine a test", "draw a test"]
    seen.clear()
    assert run_steps(steps, tmp_path, run) == seen == [step.name for step in steps[3:]]
    assert run_steps(steps, tmp_path, run) == []
    other = paper_steps(replace(PaperProfile(), sources=("a",), reformulator="x"), tmp_path)
    assert run_steps(other, tmp_path, run) == ["refine a test"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_encoder("clip", root / "clip")
    save_encoder("blip", root / "blip")
    save_chat_model(root / "llama")
    save_pipeline("sdxl", root / "sdxl")
    return PaperProfile(
        clip=f"hf:{root / 'clip'}", blip=f"hf:{root / 'blip'}", tuned="mini",
        reformulator=str(root / "llama"), generator=str(root / "sdxl"),
        draw_options=("--steps", "1", "--guidance", "0"), sources=("people",),
        adafuse=(*QUICK, "projection_dim=8", "hidden_dim=8"), dmcl=QUICK,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("trains", [False, True])
def test_the_chain_on_tiny_models(profile, trains, tmp_path, capsys):
    data = tmp_path / "data"
    make_own_data(data / "chatir" / "people", num_pictures=8, num_dialogues=2)
    splits = {"train": 4, "val": 2}
    make_own_data(data / "visdial", num_pictures=8, splits=splits)
    steps = paper_steps(profile, tmp_path, coco=data if trains else None, device="cpu")

    def run(step):
        # What is fetched lies there already; fetching has its own tests.
        return 0 if step.arguments[0] == "fetch" else main(list(step.arguments))

    ran = run_steps(steps, tmp_path, run)
    assert ran == [step.name for step in steps]
    methods = METHODS if trains else METHODS[:3]
    for method in methods:
        rows = pd.read_csv(results_file(tmp_path, "people", method))
        assert method in set(rows["method"]) and set(rows["benchmark"]) == {"people"}
        assert rows["num_queries"].max() == 2
    published = pd.read_csv(PUBLISHED, keep_default_na=False)
    table = published_beside_ours(tmp_path, published, profile.sources)
    table = table[table["round"].isin((0, "any"))]  # their dialogues end early
    run_of = {row.figure: row.ours != "not run" for row in table.itertuples()}
    assert run_of["CLIP, Hits@10, VisDial"] and run_of["ChatIR, Hits@10, VisDial"]
    assert run_of["ADaFuSE over DAR, VisDial"] == trains
    assert run_of["DMCL, largest gain over clip"] == trains


def results(values, method):
    rows = [
        {"benchmark": "b", "method": method, "metric": "hits_at_10", "round": t, "value": value,
         "ci_low": value - 0.01, "ci_high": value + 0.02}
        for t, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame([*rows, rows[0] | {"metric": "recall_at_10", "value": 9.0}])


def test_the_table_by_hand(tmp_path):
    published = pd.read_csv(PUBLISHED, keep_default_na=False)
    empty = published_beside_ours(tmp_path, published)
    assert set(empty["ours"]) == {"not run"} and len(empty) == 11
    (tmp_path / "results").mkdir()
    sources = ("vis", "other")
    hits = {
        ("vis", "clip"): [0.2] * 11, ("vis", "blip"): [0.3] * 11,
        ("vis", "dar"): [0.3] * 5 + [0.35] * 5 + [0.34], ("other", "blip"): [0.1] * 11,
        ("other", "dar"): [0.1] * 10 + [0.19], ("vis", "adafuse"): [0.31] + [0.4] * 10,
    }  # fmt: skip
    for (source, method), values in hits.items():
        results(values, method).to_csv(results_file(tmp_path, source, method), index=False)
    table = published_beside_ours(tmp_path, published, sources).set_index(["figure", "round"])
    assert table.loc[("CLIP, Hits@10, VisDial", 10), "ours"] == "20.00 (19.00 to 22.00)"
    assert table.loc[("CLIP, Hits@10, VisDial", 10), "published"] == "53.54"
    assert table.loc[("ADaFuSE over DAR, VisDial", 0), "ours"] == "+1.00"
    assert table.loc[("ADaFuSE over DAR, VisDial", 10), "ours"] == "+6.00"
    assert table.loc[("DAR, largest gain over blip", 10), "ours"] == "+9.00"
    assert table.loc[("ADaFuSE, largest gain over dar", "any"), "ours"] == "+10.00"
    assert table.loc[("DMCL, largest gain over clip", "any"), "ours"] == "not run"
    assert table["compare"].str.match("yes|no|in part").all()


def test_the_command_prints_the_commands_and_refuses_at_once(tmp_path, capsys):
    command = ["paper", "run", "--work", str(tmp_path / "work")]
    assert main([*command, "--dry-run", "--coco", "/datasets/coco"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("daitir fetch coco-unlabeled") and len(lines) == 56
    assert not (tmp_path / "work").exists()
    assert main([*command, "--coco", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main([*command, "--device", "no-such-device"]) == 2


def test_notes_tell_what_was_run(tmp_path):
    steps = paper_steps(replace(PaperProfile(), sources=("a",)), tmp_path)[:1]
    run_steps(steps, tmp_path, lambda step: 0)
    assert json.loads((tmp_path / "done" / "pictures.json").read_text()) == [*steps[0].arguments]


def test_the_profile_says_how_to_run_it():
    with pytest.raises(DataError, match="make run-gpu PROFILE=paper"):
        get_profile("paper")

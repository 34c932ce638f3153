"""The engine: every study at small sizes, with real models; ranks against loops; going on."""

import dataclasses
import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from small_profiles import ENCODER_RECIPE, FUSION_RECIPE, first_of
from torch.nn import functional as F

from daitir.analysis.controls import placebo_views
from daitir.common.errors import DataError
from daitir.common.files import atomic_write
from daitir.evaluation import RESULT_COLUMNS
from daitir.fusion import (
    TRAINED_FUSIONS,
    Fusion,
    dar_fusion,
    first_logit_scale,
    register_fusion,
)
from daitir.models.encoders import load_encoder
from daitir.models.views import view_seed
from daitir.recipes.settings import ClipRecipe
from daitir.retrieval import target_ranks
from daitir.scenes import SOURCES, register_source, render_scenes, sample_scenes, talk
from daitir.studies import (
    ablations,
    benchmark,
    choices,
    drawings,
    encoder_ablations,
    leaderboard,
    memory,
)
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import Condition, Key, Shown, Study, Trained, gain
from daitir.studies.engine.ranks import Ranks, read_ranks
from daitir.studies.engine.run import run_study, study_tables
from daitir.studies.profiles import PROFILES
from daitir.studies.queries import (
    MANIFEST_NAME,
    QUERIES_FOLDER,
    SETS,
    SetRecipe,
    load_query_set,
    manifest_of,
    save_query_set,
)
from daitir.studies.registry import STUDIES, get_study

pytestmark = pytest.mark.slow
RANKED = [name for name in STUDIES if isinstance(get_study(name), Study)]
OF_THEIR_OWN = ("robustness", "leaderboard", "drawings")  # other columns, a test for each
NUMBER, OTHERS = 4, 3  # dialogues of the query sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first dialogues of every query set that comes with the package."""
    folder = tmp_path_factory.mktemp("engine")
    with atomic_write(folder / "queries" / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest_of(QUERIES_FOLDER)))
    encoder = load_encoder("mini")
    for name in (name for name, recipe in SETS.items() if recipe.shipped):
        whole = load_query_set(name, encoder, QUERIES_FOLDER)
        number = OTHERS if SETS[name].size == "num_other_dialogues" else NUMBER
        save_query_set(first_of(whole, number), folder / "queries", name)
    return folder


@pytest.fixture
def small(folder, monkeypatch):
    """A profile on those dialogues, and studies that train once and on two sources."""
    for module in (benchmark, memory, leaderboard):
        monkeypatch.setattr(module, "BENCHMARKS", ("human", "terse"))
    monkeypatch.setattr(ablations, "ABLATION_SEEDS", 1)
    monkeypatch.setattr(encoder_ablations, "SHORT_SEEDS", 1)
    monkeypatch.setattr(encoder_ablations, "DATA_DIVISORS", (2, 1))
    monkeypatch.setattr(benchmark, "NUM_TIMED", 2)
    monkeypatch.setattr(choices, "NUM_VIEWS", (2,))
    monkeypatch.setattr(choices, "SETTINGS", ("guidance_1", "steps_2"))
    monkeypatch.setattr(choices, "DIVISORS", (1,))  # the U-Net that is there, so none is trained
    monkeypatch.setattr(drawings, "PERCENTS", {"broken": (0, 50), "foreseen": (0, 100)})
    changed = {f"num_{name}_dialogues": NUMBER for name in ("train", "val", "test")}
    return dataclasses.replace(
        PROFILES["classroom"], name="small", num_other_dialogues=OTHERS, num_gallery=12, **changed,
        queries=str(folder / "queries"), trained_fusions=str(folder / "none"),
        trained_encoders=str(folder / "none"), num_fusion_seeds=2, num_encoder_seeds=1,
        num_sealed_dialogues=OTHERS, num_sealed_gallery=12,
        broken_shares=(0.15,), fusions={"adafuse": dataclasses.replace(FUSION_RECIPE, steps=2)},
        encoders={
            "finetune_text": dataclasses.replace(
                ENCODER_RECIPE, terms=("text_target",), query="text"
            ),
            "dmcl": ENCODER_RECIPE,
        },
        clip=ClipRecipe("daitir-mini", num_scenes=40, steps=5, batch_size=8, warmup_steps=1),
    )  # fmt: skip


def options(folder) -> dict:
    return {"work_dir": folder / "work", "cache": folder / "views",
            "results_dir": folder / "results"}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in RANKED if name not in OF_THEIR_OWN])
def test_a_study_has_the_rows_of_its_conditions_and_goes_on(name, small, folder, monkeypatch):
    study = get_study(name)
    path = run_study(study, small, **options(folder))
    table, first = pd.read_csv(path, dtype={"seed": str}), path.read_bytes()
    assert tuple(table.columns) == RESULT_COLUMNS
    assert not table.duplicated(list(RESULT_COLUMNS[:5])).any()
    ranks = read_ranks(folder / "results" / "ranks" / f"{path.stem}.npz")
    conditions = list(study.conditions(small, ranks))
    assert {(*c.key, c.seed) for c in conditions} == set(ranks.arrays)
    shown = {key for key in ranks.keys if study.shown(key, ranks) is not None}
    measured = table[table["metric"] != "false_cue_share"]
    assert set(map(tuple, measured[["benchmark", "method"]].values)) == shown
    seeds = set(table[table["metric"] != "parameters_added"]["seed"])
    assert all(seed.startswith("mean of") for seed in seeds) == study.together or study.alone
    low, high = table["ci_low"] - 1e-4, table["ci_high"] + 1e-4
    inside = (low <= table["value"]) & (table["value"] <= high)
    assert inside[table["ci_low"].notna()].all()
    notes = json.loads(path.with_suffix(".json").read_text())
    assert notes["encoders"]["zero_shot/0"] == load_encoder("mini").digest

    def nothing_again(*arguments):
        raise AssertionError("what is done must not be done again")

    monkeypatch.setattr(Bench, "ranks", nothing_again)
    if study.values is None:
        assert run_study(study, small, **options(folder)).read_bytes() == first
    path.unlink()
    assert path in study_tables("small", folder / "results") and path.read_bytes() == first


def test_the_benchmark_ranks_as_a_loop_does(small, folder):
    path = run_study(get_study("benchmark"), small, **options(folder))
    ranks = read_ranks(folder / "results" / "ranks" / f"{path.stem}.npz")
    encoder = load_encoder("mini")
    queries = load_query_set("terse", encoder, folder / "queries")
    pictures = render_scenes(sample_scenes(0, "test", small.num_gallery), size=small.image_size)
    gallery = encoder.encode_images(pictures)
    text = torch.stack([encoder.encode_texts(row) for row in queries.captions])
    assert queries.view_features is None  # not shipped
    views = Bench(small, None, folder / "work", folder / "views").kept_features("terse")
    drawn = Bench(small, None, folder / "work", folder / "views").draw(
        Condition("", "", queries="terse")
    )
    again = encoder.encode_images(drawn).view_as(views)
    assert torch.allclose(views, again, atol=1e-3) and not views.equal(again)
    rounds, targets = torch.arange(11), torch.arange(OTHERS)
    for method, query in (
        ("text", text),
        ("view", views),
        ("dar", dar_fusion(text, views, round=rounds)),
        ("dar_placebo", dar_fusion(text, placebo_views(views), round=rounds)),
    ):
        expected = target_ranks(query, gallery, targets).numpy()
        assert (ranks.arrays["terse", method, 0] == expected).all()
    best = ranks.arrays["terse", "best_of_text_and_view", 0]
    assert (best == [ranks.arrays["terse", m, 0] for m in ("text", "view")]).any(axis=0).all()
    table = pd.read_csv(path)
    costs = table[table["metric"] == "seconds_per_query"].set_index("method")["value"]
    assert costs["dar"] > costs["text"] > 0
    notes = json.loads(path.with_suffix(".json").read_text())
    assert notes["truncated_query_texts"]["terse"]["text"] == 0


def test_the_leaderboard_names_its_protocols_and_ranks_as_a_loop_does(small, folder):
    one_seed = dataclasses.replace(small, num_fusion_seeds=1)
    path = run_study(get_study("leaderboard"), one_seed, **options(folder))
    table, first = pd.read_csv(path, keep_default_na=False), path.read_bytes()
    row = ["benchmark", "encoder", "query", "text", "noise", "rival", "round", "metric"]
    assert not table.duplicated(row).any()
    assert set(table["text"]) == {*leaderboard.WORDS_OF, leaderboard.AFFIRMED, "none"}
    assert set(table["noise"]) == {*leaderboard.VIEWS_OF, "none", "both"}
    gains = table[table["metric"].str.endswith("_gain")]
    assert gains["rival"].ne("").all() and gains["detectable"].ne("").all()
    assert set(gains["rival"].str.partition(",")[0]) == set(leaderboard.RIVALS)
    groups = table[table["metric"].str.startswith("tie_group_of_recall_at_10 (")]
    assert (groups.groupby(["benchmark", "metric"])["value"].min().astype(float) == 1).all()

    bench = Bench(one_seed, None, folder / "work", folder / "views")
    sealed = Condition("terse", "", queries="sealed_terse", words="said", text="raw_dialogue")
    scenes = sample_scenes(0, "test", 12, start=SETS["sealed_terse"].start)
    assert bench.targets(sealed) == scenes[:OTHERS]
    encoder = load_encoder("mini")
    gallery = encoder.encode_images(render_scenes(scenes, size=small.image_size))
    said = [", ".join(turn.text for turn in turns[: t + 1]) for turns in bench.talks(sealed)
            for t in range(11)]  # fmt: skip
    text = encoder.encode_texts(said).view(OTHERS, 11, -1)
    captions = bench.prompts(dataclasses.replace(sealed, words="refined"))
    seeds = [view_seed(2, i) for i in range(OTHERS) for _ in range(11)]
    views = encoder.encode_images(bench.generator.generate(captions, seeds, folder / "other"))
    query = dar_fusion(text, views.view_as(text), round=torch.arange(11))
    ranks = read_ranks(folder / "results" / "ranks" / f"{path.stem}.npz")
    expected = target_ranks(query, gallery, torch.arange(OTHERS)).numpy()
    assert (ranks.arrays["terse", "zero_shot+dar|raw_dialogue|kept", 0] == expected).all()
    path.unlink()
    assert path in study_tables("small", folder / "results") and path.read_bytes() == first


def test_the_best_and_what_ties_with_it_are_one_group():
    keys = [Key("human", f"a+{name}|current_rewrite|new") for name in ("dar", "view", "text")]
    ranks = Ranks()
    for key, hits in zip(keys, (90, 88, 40), strict=True):
        ranks.arrays[*key, 0] = np.where(np.arange(100) < hits, 0, 99)[:, None].repeat(2, 1)
    groups = leaderboard.tie_groups(ranks)
    groups = groups[groups["metric"].str.endswith("(current_rewrite, new)")]
    of_recall = groups[groups["metric"].str.contains("recall")].set_index("method")["value"]
    assert of_recall[[key.method for key in keys]].tolist() == [1, 1, 2]


def test_robustness_measures_every_condition_again(small, folder):
    one_seed = dataclasses.replace(small, num_fusion_seeds=1)
    path = run_study(get_study("robustness"), one_seed, **options(folder))
    table = pd.read_csv(path)
    asked = {
        "as_trained", "guidance_1", "steps_2", "redrawn", "typos_10", "typos_30", "longer",
        "dropped_rounds", "shuffled_rounds", "controlled_15", "missing_text_alone",
        "missing_text_as_view", "missing_previous_view",
        *(f"{space}_{how}" for space in ("rotated", "other_encoder")
          for how in ("carried_over", "trained_for_it")),
    }  # fmt: skip
    assert set(table["benchmark"]) == asked
    assert set(table.query("benchmark == 'longer'")["round"]) == {10, 15, 20}
    ranks = read_ranks(folder / "results" / "ranks" / f"{path.stem}.npz")
    for method in ("text", "view", "dar"):  # turned, the same space is the same to them
        turned = ranks.arrays["rotated_carried_over", method, 0]
        assert (turned == ranks.arrays["as_trained", method, 0]).all()
    changes = table[table["metric"] == "recall_at_10_change"]
    assert (changes.query("benchmark == 'as_trained'")["value"] == 0).all()
    assert not changes["benchmark"].isin(["longer", "rotated_carried_over"]).any()


def test_the_map_of_drawings_has_a_place_for_every_view(small, folder):
    path = run_study(get_study("drawings"), small, **options(folder))
    table, first = pd.read_csv(path, keep_default_na=False, dtype=str), path.read_bytes()
    place = ["broken", "foreseen"]
    assert not table.duplicated([*RESULT_COLUMNS[:5], *place]).any()
    asked = {("00", "0"), ("00", "100"), ("50", "0"), ("50", "100"), ("drawn", "drawn")}
    for method in ("content", *(f"{encoder}+dar" for encoder in ("zero_shot", "dmcl"))):
        rows = table[table["method"] == method]
        assert set(zip(rows["broken"], rows["foreseen"], strict=True)) == asked
    content = (
        table[table["method"] == "content"].set_index(["metric", *place])["value"].sort_index()
    )
    assert (content["stated_broken", "00"].astype(float) == 0).all()
    assert (content["unstated_right", "00", "100"].astype(float) == 1).all()
    assert (content["stated_broken", "50"].astype(float) > 0).any()
    drops = table[table["metric"].str.startswith("recall_at_10_drop")]
    assert set(zip(drops["broken"], drops["foreseen"], strict=True)) == {("50", "0")}
    path.unlink()
    assert path in study_tables("small", folder / "results") and path.read_bytes() == first


def test_a_study_from_outside_with_an_unknown_name_is_refused(small, folder):
    def study(**change) -> Study:
        condition = Condition("human", "dar", **{"fusion": "dar", **change})
        return Study("toy", "A toy.", 1, lambda profile, ranks: [condition],
                     lambda key, ranks: Shown(("recall_at_10",)))  # fmt: skip

    for change, message in (
        ({"fusion": "sum"}, "unknown fusion 'sum'"),
        ({"views": "painted"}, "unknown views 'painted'"),
        ({"words": "sung"}, "unknown words 'sung'"),
        ({"encoder": "none"}, "unknown encoder 'none'"),
        ({"views": "kept", "encoder": "dmcl"}, "unknown encoder of kept views 'dmcl'"),
    ):
        with pytest.raises(DataError, match=message):
            run_study(study(**change), small, **options(folder))
    with pytest.raises(DataError, match="unknown study 'toy'"):
        get_study("toy")
    with pytest.raises(DataError, match="no ranks of the profile nobody"):
        study_tables("nobody", folder / "results")


def test_a_work_folder_of_other_models_or_sizes_is_refused(small, folder, tmp_path):
    study = Study(
        "toy", "A toy.", 1, lambda profile, ranks: [Condition("human", "text")],
        lambda key, ranks: Shown(("recall_at_10",)),
    )  # fmt: skip
    places = options(folder) | {"work_dir": tmp_path}
    run_study(study, small, **places)
    more = {"other": dataclasses.replace(FUSION_RECIPE, steps=1), **small.fusions}
    run_study(study, dataclasses.replace(small, fusions=more), **places)
    with pytest.raises(DataError, match="made with another sizes; name another folder"):
        run_study(study, dataclasses.replace(small, num_gallery=11), **places)


def test_conditions_that_would_be_taken_for_each_other_are_refused(small, folder):
    def study(*conditions) -> Study:
        shown = Shown(("recall_at_10",))
        return Study("toy", "A toy.", 1, lambda p, r: conditions, lambda key, ranks: shown)

    text = Condition("human", "text")
    for other, message in (
        (dataclasses.replace(text, words="exact"), "two conditions of toy"),
        (Condition("human", "dar", fusion="dar", rounds=(0, 1)), "other rounds than before"),
    ):
        with pytest.raises(ValueError, match=message):
            run_study(study(text, other), small, **options(folder))


class Average(Fusion):
    """Text and view, half and half."""

    def __init__(self, dim):
        super().__init__()
        self.logit_scale = first_logit_scale()

    def forward(self, text_features, view_features):
        return F.normalize(text_features + view_features, dim=-1), {}


def test_a_fusion_and_a_source_from_outside_are_trained_and_tabulated(
    small, folder, tmp_path, monkeypatch
):
    register_fusion("average", Average)
    register_source("curt", partial(talk, style="terse"))
    curt = SetRecipe("curt", "test", "num_other_dialogues", features=False)
    monkeypatch.setitem(SETS, "curt", curt)
    try:
        encoder = load_encoder("mini")
        made = tmp_path / "queries"
        shutil.copytree(folder / "queries", made)
        terse = load_query_set("terse", encoder, made)
        save_query_set(terse, made, "curt")  # the same words, by the source's other name
        recipe = dataclasses.replace(FUSION_RECIPE, kind="average", steps=2)
        about = {"queries": "curt", "seed": 0}
        study = Study(
            "toy", "A toy.", 1,
            lambda profile, ranks: [
                Condition("curt", "text", **about),
                Condition("curt", "said", words="said", text="raw_dialogue", **about),
                Condition("curt", "average", fusion=Trained("average"), **about),
            ],
            lambda key, ranks: Shown(
                ("recall_at_10",), contrasts={"gain": gain(key, Key("curt", "text"))}
            ),
            fusions=lambda profile: {"average": recipe},
        )  # fmt: skip
        profile = dataclasses.replace(small, queries=str(made))
        table = pd.read_csv(run_study(study, profile, **options(tmp_path)))
        assert set(table["method"]) == {"text", "said", "average"} and set(table["benchmark"]) == {
            "curt"
        }
        assert set(table["metric"]) == {"recall_at_10", "recall_at_10_gain"}
        ranks = read_ranks(tmp_path / "results" / "ranks" / "small_toy.npz")
        text = encoder.encode_texts([c for row in terse.captions for c in row])
        views = Bench(profile, None, tmp_path / "work", tmp_path / "views").kept_features("curt")
        query = F.normalize(text.view_as(views) + views, dim=-1)
        pictures = render_scenes(sample_scenes(0, "test", small.num_gallery), size=small.image_size)
        expected = target_ranks(query, encoder.encode_images(pictures), torch.arange(OTHERS))
        assert (ranks.arrays["curt", "average", 0] == expected.numpy()).all()
    finally:
        del TRAINED_FUSIONS["average"], SOURCES["curt"]

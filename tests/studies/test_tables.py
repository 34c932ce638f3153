"""Tables of kept ranks against loops over queries, seeds and rivals."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from daitir import metrics
from daitir.common.errors import DataError
from daitir.evaluation import result_rows, write_results
from daitir.studies.engine.conditions import Contrast, Key, Shown, Study, gain
from daitir.studies.engine.ranks import Ranks, read_ranks, study_table, write_ranks
from daitir.studies.registry import STUDIES, get_study

RANKS_FOLDER = Path(__file__).parents[2] / "results" / "ranks"
TEXT, DAR = Key("human", "text"), Key("human", "dar")


def some_ranks(seeds=(0, 1, 2), number=40, rounds=(2, 6, 10)) -> Ranks:
    rng = np.random.default_rng(0)
    ranks = Ranks(rounds={"human": rounds}, notes={"made": "by hand"})
    for method, of in (("text", (0,)), ("dar", (0,)), ("adafuse", seeds)):
        for seed in of:
            array = np.minimum(rng.geometric(0.08, size=(number, len(rounds))) - 1, 300)
            ranks.arrays["human", method, seed] = array.astype(np.uint16)
    return ranks


def a_study(shown, **options) -> Study:
    return Study("toy", "A toy.", 1, conditions=lambda profile, ranks: (), shown=shown, **options)


def all_metrics(key, ranks):
    metrics_ = ("hits_at_10", "recall_at_10", "recall_at_1", "mrr", "bri")
    if key == TEXT:
        return Shown(metrics_)
    contrasts = {"gain": gain(key, TEXT, "hits_at_10", "recall_at_10")}
    if key != DAR:
        contrasts["gain_over_dar"] = gain(key, DAR, "hits_at_10", "recall_at_10")
    harm = ("degradation_rate", "degradation_rate_ln2", "rank_drop")
    return Shown((*metrics_, *harm), TEXT, contrasts)


def the_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    order = ["benchmark", "method", "seed", "round", "metric"]
    tables = [
        table.astype({"seed": str}).sort_values(order).reset_index(drop=True)
        for table in (one, other)
    ]
    pd.testing.assert_frame_equal(*tables, check_dtype=False, rtol=1e-12)


def test_a_seed_by_itself_has_the_rows_of_an_evaluation():
    ranks = some_ranks()
    expected = []
    for (benchmark, method, seed), array in ranks.arrays.items():
        of_text = ranks.arrays["human", "text", 0].astype(int)
        rows = result_rows(
            array.astype(int), benchmark=benchmark, method=method, seed=seed,
            baseline_ranks=None if method == "text" else of_text,
        )  # fmt: skip
        expected.append(rows.assign(round=rows["round"].map(dict(enumerate((2, 6, 10))))))
    table = study_table(a_study(all_metrics), ranks)
    the_same(table[~table["metric"].str.endswith("over_dar")], pd.concat(expected))


def test_seeds_are_averaged_query_by_query():
    ranks = some_ranks()
    table = study_table(a_study(all_metrics, together=True), ranks)
    arrays = [ranks.arrays["human", "adafuse", seed].astype(int) for seed in range(3)]
    text = ranks.arrays["human", "text", 0].astype(int)
    rows = table[(table["method"] == "adafuse") & (table["seed"] == "mean of 3")]
    rows = rows.set_index(["metric", "round"])
    for column, t in enumerate((2, 6, 10)):
        values = np.mean([(array[:, column] < 10) for array in arrays], axis=0)
        for metric, expected in (
            ("recall_at_10", values),
            ("recall_at_10_gain", values - (text[:, column] < 10)),
            ("degradation_rate", np.mean([a[:, column] > text[:, column] for a in arrays], axis=0)),
        ):
            row = rows.loc[(metric, t)]
            assert row["value"] == pytest.approx(expected.mean(), abs=1e-12)
            assert row["num_queries"] == 40
    together = np.mean([(a < 10) for a in arrays], axis=0)
    low, high = metrics.bootstrap_interval(together)
    np.testing.assert_allclose(rows.loc["recall_at_10"][["ci_low", "ci_high"]].T, [low, high])


def test_contrasts_of_three_methods_and_of_a_method_with_itself():
    adafuse = Key("human", "adafuse")

    def shown(key, ranks):
        if key == adafuse:
            weights = {adafuse: 1.0, DAR: -1.0, TEXT: 0.5}
            return Shown(("recall_at_10",), contrasts={"of_three": Contrast(weights)})
        return Shown(("recall_at_10",), contrasts={"change": gain(key, key)})

    ranks = some_ranks()
    table = study_table(a_study(shown, together=True), ranks)
    table = table.set_index(["method", "metric", "round"]).sort_index()
    means = {key: np.mean([a < 10 for a in ranks.of(key)], axis=0) for key in (TEXT, DAR, adafuse)}
    expected = (means[adafuse] - means[DAR] + 0.5 * means[TEXT]).mean(axis=0)
    np.testing.assert_allclose(table.loc[("adafuse", "recall_at_10_of_three")]["value"], expected)
    itself = table.loc[("text", "recall_at_10_change")]
    assert (itself[["value", "ci_low", "ci_high"]] == 0).all(axis=None)


def test_metrics_over_all_rounds_stand_at_one():
    metric = {"recall_at_10_val": "mean_recall_at_10"}
    table = study_table(a_study(lambda key, ranks: Shown(metric, round=7)), some_ranks())
    assert set(table["round"]) == {7} and set(table["metric"]) == {"recall_at_10_val"}
    mean = (some_ranks().arrays["human", "dar", 0] < 10).mean()
    assert table[table["method"] == "dar"]["value"].item() == pytest.approx(mean)


def test_a_rival_of_more_queries_is_cut_and_a_missing_one_is_named():
    ranks = some_ranks()
    ranks.arrays["human", "adafuse", 0] = ranks.arrays["human", "adafuse", 0][:10]
    del ranks.arrays["human", "adafuse", 1], ranks.arrays["human", "adafuse", 2]
    table = study_table(a_study(all_metrics), ranks)
    rows = table[(table["method"] == "adafuse") & (table["metric"] == "recall_at_10_gain")]
    change = (ranks.arrays["human", "adafuse", 0] < 10) * 1.0
    change -= ranks.arrays["human", "text", 0][:10] < 10
    np.testing.assert_allclose(rows["value"], change.mean(axis=0))
    del ranks.arrays["human", "text", 0]
    with pytest.raises(DataError, match="no ranks of text on human"):
        study_table(a_study(all_metrics), ranks)


def test_ranks_are_read_as_they_were_written(tmp_path):
    ranks = some_ranks()
    ranks.values["human", "dar", 0, "false_cue_share"] = np.linspace(0, 1, 120).reshape(40, 3)
    path = tmp_path / "ranks" / "toy.npz"
    write_ranks(path, ranks)
    again = read_ranks(path)
    assert again.notes == ranks.notes and again.rounds == ranks.rounds
    for kept, made in ((again.arrays, ranks.arrays), (again.values, ranks.values)):
        assert kept.keys() == made.keys()
        assert all(np.array_equal(kept[name], made[name]) for name in made)
    first = path.read_bytes()
    write_ranks(path, again)
    assert path.read_bytes() == first  # the same ranks are the same file
    study = a_study(all_metrics)
    the_same(study_table(study, again), study_table(study, ranks))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"benchmark,method\n"])
def test_a_damaged_file_of_ranks_is_named(tmp_path, content):
    path = tmp_path / "toy.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="toy.npz: no ranks"):
        read_ranks(path)
    with pytest.raises(DataError, match="no such file"):
        read_ranks(tmp_path / "none.npz")


def test_numbers_are_rounded_where_the_study_says_so():
    study = dataclasses.replace(a_study(all_metrics), digits=4)
    values = study_table(study, some_ranks())["value"]
    assert (values == values.round(4)).all()


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(RANKS_FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_a_table_among_the_results_is_made_of_the_ranks_beside_it(path, tmp_path):
    """Without a model, and equal to the last digit."""
    study = next(s for s in map(get_study, STUDIES) if s.table("classroom") == path.stem)
    write_results(tmp_path / "again.csv", study_table(study, read_ranks(path)), {})
    committed = RANKS_FOLDER.parent / f"{path.stem}.csv"
    assert (tmp_path / "again.csv").read_bytes() == committed.read_bytes()

"""The memory of views: a running mean against a loop, chosen on validation, measured on test."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from daitir.cli.main import main
from daitir.evaluation import RESULT_COLUMNS
from daitir.fusion import average_views, remembered_views
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.memory import DECAYS, run_memory, validation_rows


def views(*shape):
    generator = torch.Generator().manual_seed(0)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize("decay", [0, 0.3, 1])
def test_remembered_views_agree_with_a_loop(decay):
    some = views(3, 2, 5, 8)
    found = remembered_views(some, decay=decay)
    for index in np.ndindex(3, 2):
        for t in range(5):
            total = sum(decay ** (t - s) * some[index][s] for s in range(t + 1))
            torch.testing.assert_close(found[index][t], total / total.norm())


def test_no_memory_is_the_view_and_a_whole_one_the_mean_of_all():
    some = views(4, 6, 8)
    torch.testing.assert_close(remembered_views(some, decay=0), some)
    for t in range(6):
        torch.testing.assert_close(
            remembered_views(some, decay=1)[:, t], average_views(some[:, : t + 1])
        )


def test_what_is_remembered_does_not_depend_on_what_follows():
    some = views(4, 6, 8)
    found = remembered_views(some, decay=0.7)
    torch.testing.assert_close(remembered_views(some[:, :3], decay=0.7), found[:, :3])


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        remembered_views(views(2, 3, 4), decay=decay)


def test_views_that_are_no_unit_vectors_or_cancel_out_are_refused():
    with pytest.raises(ValueError, match="unit vectors"):
        remembered_views(2 * views(2, 3, 4), decay=0.5)
    one = views(1, 4)
    with pytest.raises(ValueError, match="cancel out"):
        remembered_views(torch.cat([one, -one]), decay=1)


def test_validation_rows_compare_with_the_same_method_without_memory():
    hits = {("dar", 0.0): np.array([0.0, 0.5]), ("dar", 0.5): np.array([0.5, 1.0])}
    rows = validation_rows(hits).set_index(["method", "metric"])["value"]
    assert rows["dar_decay_0.5", "recall_at_10_val_change"] == 0.5
    assert rows["dar_decay_0", "recall_at_10_val_change"] == 0
    assert rows["dar_decay_0.5", "recall_at_10_val"] == 0.75


def test_the_table_has_every_source_and_a_second_run_trains_nothing(
    small,
    tmp_path,
    monkeypatch,
):
    profile, encoder = small
    options = {"work_dir": tmp_path / "work", "results_dir": tmp_path}
    path = run_memory(profile, encoder, **options)
    rows = pd.read_csv(path)
    assert tuple(rows.columns) == RESULT_COLUMNS
    assert not rows.duplicated(["benchmark", "method", "metric", "round"]).any()
    assert set(rows["benchmark"]) == {"human_val", *BENCHMARKS}
    on_val = rows[rows["benchmark"] == "human_val"]
    decays = (0, *DECAYS)
    assert set(on_val["method"]) == {f"{m}_decay_{d:g}" for m in ("dar", "adafuse") for d in decays}
    chosen = json.loads(path.with_suffix(".json").read_text())["chosen_decay"]
    scores = on_val[on_val["metric"] == "recall_at_10_val"].set_index("method")["value"]
    for method, decay in chosen.items():
        of_method = scores[[f"{method}_decay_{d:g}" for d in decays]]
        assert scores[f"{method}_decay_{decay:g}"] == of_method.max()
    on_test = rows[rows["benchmark"] == "human"]
    assert set(on_test["method"]) == {"text", "view", "dar", "adafuse", "dar_memory",
                                      "adafuse_memory", "adafuse_shown_memory"}  # fmt: skip
    assert set(on_test["round"]) == set(range(11))
    first = on_test.query("method == 'dar_memory' and round == 0")
    assert first.query("metric == 'recall_at_10_change'")["value"].item() == 0

    monkeypatch.setattr("daitir.recipes.fusion.train", None)
    before = path.read_bytes()
    assert run_memory(profile, encoder, **options).read_bytes() == before


def test_missing_query_sets_are_an_error_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("daitir.studies.queries.QUERIES_FOLDER", tmp_path)
    (tmp_path / "w" / "classroom" / "features").mkdir(parents=True)  # of an interrupted run
    assert main(["study", "memory", "--work", str(tmp_path / "w"), "--results", str(tmp_path)]) == 2
    assert "daitir queries" in capsys.readouterr().err

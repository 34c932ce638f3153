"""Signals and remedies of a toy query set against loops, and the table of a small run."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from small_profiles import first_of
from torch.nn import functional as F

from daitir.common.files import atomic_write
from daitir.models.encoders import load_encoder
from daitir.scenes import holds
from daitir.studies import answers
from daitir.studies.answers import ASKED, SHOWN, SIGNALS, THINGS, Asked
from daitir.studies.cues.tables import sample_counts, sample_means, sample_rows
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.run import run_instrument
from daitir.studies.profiles import PROFILES
from daitir.studies.queries import (
    MANIFEST_NAME,
    QUERIES_FOLDER,
    load_query_set,
    manifest_of,
    save_query_set,
)

NUM, DIM, IMAGES = 5, 8, 14


@pytest.fixture
def toy(monkeypatch):
    """A query set of five dialogues and two seeds; the last picture equals the first target."""
    monkeypatch.setattr(answers, "SEEN", 3)
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, DIM, generator=generator), dim=-1)

    text, view, gallery = unit(NUM, len(ASKED)), unit(NUM, len(ASKED)), unit(IMAGES)
    gallery[-1] = gallery[0]
    queries = {"text": text[None], "dar": unit(1, NUM, len(ASKED))}
    queries["adafuse"] = unit(2, NUM, len(ASKED))
    denied = torch.rand(NUM, len(ASKED), len(THINGS), generator=generator) < 0.05
    shown = torch.rand(len(THINGS), IMAGES, generator=generator) < 0.5
    shown[:, -1] = shown[:, 0]
    gates = torch.rand(2, NUM, len(ASKED), generator=generator)
    return Asked(queries, queries, view, gates, gallery, denied, denied, shown)


def best(query, gallery, gone, number):
    scores = {i: float(query @ row) for i, row in enumerate(gallery) if i not in gone}
    return sorted(scores.items(), key=lambda item: -item[1])[:number]


@pytest.mark.parametrize("method", list(SIGNALS))
def test_signals_are_those_of_a_loop(toy, method):
    place = 3
    found = answers.signals(toy, method, place)
    assert tuple(found) == SIGNALS[method]
    for seed, queries in enumerate(toy.queries[method]):
        for column in range(2 * NUM):
            number = column % NUM
            gone = {number} if column >= NUM else set()
            gone |= {0, IMAGES - 1} if gone == {0} else set()
            tops = [
                best(query[number], toy.gallery, gone, 3)
                for query in (queries[:, place], queries[:, place - 1],
                              toy.queries["text"][0, :, place], toy.view[:, place])
            ]  # fmt: skip
            now, earlier, read, drawn = ({i for i, _ in top} for top in tops)
            cosine = toy.queries["text"][0, number, place] @ toy.view[number, place]
            expected = {
                "none": 0, "best_score": tops[0][0][1], "gap": tops[0][0][1] - tops[0][1][1],
                "unchanged": len(now & earlier) / 3, "agreement": float(cosine),
                "shared_with_view": len(read & drawn) / 3,
                "gate": float(toy.gates[seed, number, place]),
            }  # fmt: skip
            for name, values in found.items():
                assert values[seed, column] == pytest.approx(expected[name], abs=1e-5), name


def test_a_view_that_is_missing_leaves_what_needs_it_empty(toy):
    text, view = toy.queries["text"][0], toy.view.clone()
    view[1, 2] = torch.nan

    def fusion(text, view):
        return F.normalize(text + view, dim=-1), {"gate": torch.ones(*text.shape[:-1], 1)}

    queries, gates = answers.fused(text, view, [fusion, fusion])
    assert not queries["text"].isnan().any() and gates.isnan().nonzero().tolist() == [
        [0, 1, 2], [1, 1, 2]
    ]  # fmt: skip
    assert queries["adafuse"].shape == (2, *text.shape)
    empty = toy._replace(queries=queries, view=view, gates=gates)
    for place, names in ((2, ("gap", "agreement", "gate", "shared_with_view", "unchanged")),
                         (3, ("unchanged",))):  # fmt: skip
        found = answers.signals(empty, "adafuse", place)
        for name, values in found.items():
            missing = np.isnan(values[:, [1, 1 + NUM]])
            assert missing.all() == missing.any() == (name in names or (place == 2 and
                   name in ("none", "best_score"))), (place, name)  # fmt: skip
            assert not np.isnan(np.delete(values, [1, 1 + NUM], axis=1)).any()


def test_the_pictures_that_show_what_is_denied_are_counted(toy):
    counts = sample_counts(NUM)
    taken = {"subtracted": F.normalize(torch.ones(len(THINGS), DIM), dim=-1)}
    weights = {method: {"subtracted": 0.0} for method in toy.queries}
    samples = answers.no_means_no(toy, weights, taken, counts)
    for t in SHOWN:
        place, shares = ASKED.index(t), []
        for number in range(NUM):
            denied = toy.stated[number, place].nonzero()[:, 0].tolist()
            if not denied:
                continue
            of_seeds = [
                sum(any(toy.shown[thing, i] for thing in denied) for i, _ in top) / 3
                for query in toy.queries["adafuse"][:, number, place]
                for top in [best(query, toy.gallery, (), 3)]
            ]
            shares.append(sum(of_seeds) / 2)
        measured = samples["denied", "adafuse", t, "none", "violations"]
        assert measured[0] == pytest.approx(np.mean(shares))
        same = samples["denied", "adafuse", t, "subtracted", "violations"]
        np.testing.assert_allclose(same, measured)


def test_rows_of_samples_are_compared_sample_by_sample():
    values = np.array([1.0, np.nan, 0.0, 1.0])
    counts = sample_counts(4)
    assert counts.shape == (1001, 4) and (counts.sum(axis=1) == 4).all()
    means = sample_means(values, counts)
    assert means[0] == pytest.approx(2 / 3)
    weights = counts[7] * [1, 0, 1, 1]
    assert means[7] == pytest.approx((weights @ [1, 0, 0, 1]) / weights.sum())
    samples = {("part", "a", "m"): means, ("part", "b", "m"): means - 0.25}
    rows = sample_rows(samples, {"part": (1, "a")})
    assert [row[1:3] for row in rows] == [("a", "m"), ("b", "m"), ("b", "m_change")]
    np.testing.assert_allclose(rows[-1][3:], -0.25)


def test_a_small_run_chooses_on_validation_and_tells_what_cannot_be_told(tmp_path):
    encoder, folder, number = load_encoder("mini"), tmp_path / "queries", 24
    with atomic_write(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest_of(QUERIES_FOLDER)))
    for name in ("val", "human"):
        whole = load_query_set(name, encoder, QUERIES_FOLDER)
        save_query_set(first_of(whole, number), folder, name)
    profile = dataclasses.replace(
        PROFILES["classroom"], name="small", num_test_dialogues=number, num_val_dialogues=number,
        num_gallery=30, num_fusion_seeds=2, queries=str(folder),
    )  # fmt: skip
    options = {"work_dir": tmp_path / "work", "cache": tmp_path / "cache"}
    path = run_instrument(answers.INSTRUMENT, profile, results_dir=tmp_path, **options)
    table, notes = pd.read_csv(path), json.loads(path.with_suffix(".json").read_text())
    assert not table.isna().any().any()
    by_query = table[table["what"].isin(["agreement", "gate", "none"])]
    areas = by_query[by_query["metric"] == "auroc"][["value", "ci_low", "ci_high"]]
    assert len(areas) == 3 + 6 + 9 and (areas == 0.5).all().all()
    shares = by_query.pivot(index=["method", "round", "what"], columns="metric", values="value")
    assert (shares["kept"] == shares["false_finds"]).all()
    asked = answers.ask(Bench(profile, None, **options), "human")
    scenes = answers.scenes.sample_scenes(0, "test", 30)
    assert asked.shown.tolist() == [[holds(thing, s) for s in scenes] for thing in THINGS]
    for number, names in enumerate(asked.stated[:, -1]):  # what is denied is true of the target
        assert not (names & asked.shown[:, number]).any()
    assert set(notes["weights"]) == set(SIGNALS)

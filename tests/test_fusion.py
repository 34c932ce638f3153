"""DAR's weighted sum against loops and numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daitir.fusion import average_views, dar_fusion, dar_weights
from daitir.retrieval import target_ranks


def unit(*shape, seed=0):
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(features, dim=-1)


def test_weights_change_at_round_two():
    assert [dar_weights(t) for t in range(4)] == [(0.8, 0.2), (0.8, 0.2), (0.5, 0.5), (0.5, 0.5)]
    text, view = dar_weights(torch.arange(4))
    assert text.equal(torch.tensor([0.8, 0.8, 0.5, 0.5]))
    assert view.equal(torch.tensor([0.2, 0.2, 0.5, 0.5]))


def test_views_are_averaged_in_any_order():
    views = unit(5, 3, 8)
    expected = torch.stack([sum(row) / (sum(row)).norm() for row in views])
    assert torch.allclose(average_views(views), expected, atol=1e-6)
    assert torch.allclose(average_views(views[:, [2, 0, 1]]), expected, atol=1e-6)
    with pytest.raises(ValueError, match="cancel out"):
        average_views(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    with pytest.raises(ValueError, match="must be unit vectors"):
        average_views(torch.zeros(2, 3))


def test_number_worked_by_hand():
    fused = dar_fusion(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), round=0)
    assert torch.allclose(fused, torch.tensor([0.8, 0.2]) / math.sqrt(0.68))


def naive_fusion(text, view, round):
    text_weight, view_weight = (0.8, 0.2) if round < 2 else (0.5, 0.5)
    fused = [
        text_weight * t + view_weight * v
        for t, v in zip(text.tolist(), view.tolist(), strict=True)
    ]
    norm = math.sqrt(sum(value * value for value in fused))
    return torch.tensor([value / norm for value in fused])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(2, 5), st.integers(0, 99))
def test_rounds_match_the_naive_twin(num_queries, num_rounds, dim, seed):
    text = unit(num_queries, num_rounds, dim, seed=seed)
    view = unit(num_queries, num_rounds, dim, seed=seed + 1)
    fused = dar_fusion(text, view, round=torch.arange(num_rounds))
    for query in range(num_queries):
        for t in range(num_rounds):
            expected = naive_fusion(text[query, t], view[query, t], t)
            assert torch.allclose(fused[query, t], expected, atol=1e-4)
            alone = dar_fusion(text[query, t], view[query, t], round=t)
            assert torch.allclose(fused[query, t], alone)
    per_query = torch.arange(num_queries)[:, None].expand(-1, num_rounds)
    last = dar_fusion(text[-1], view[-1], round=num_queries - 1)
    assert torch.allclose(dar_fusion(text, view, round=per_query)[-1], last)


def test_ranking_by_the_fused_query_is_ranking_by_weighted_scores():
    text, view, gallery = unit(20, 8, seed=1), unit(20, 8, seed=2), unit(200, 8, seed=3)
    scores = 0.8 * text @ gallery.T + 0.2 * view @ gallery.T
    order = scores.argsort(dim=1, descending=True)
    expected = (order == torch.arange(20)[:, None]).int().argmax(dim=1)
    ranks = target_ranks(dar_fusion(text, view, round=1), gallery, torch.arange(20))
    assert ranks.equal(expected)


def test_half_precision_stays_half():
    text, view = unit(3, 64, seed=1).half(), unit(3, 64, seed=2).half()
    assert dar_fusion(text, view, round=torch.tensor([0, 1, 2])).dtype == torch.float16


@pytest.mark.parametrize(
    ("round", "error"),
    [
        (-1, ValueError),
        (1.0, TypeError),
        ("1", TypeError),
        (torch.tensor([0.0]), TypeError),
        (torch.tensor([True]), TypeError),
        (torch.tensor([0, -1]), ValueError),
    ],
)
def test_bad_rounds_are_refused(round, error):
    with pytest.raises(error):
        dar_weights(round)


@pytest.mark.parametrize(
    ("text", "view", "round", "message"),
    [
        (torch.eye(3), torch.eye(3)[:2], 0, "one shape"),
        (torch.eye(3), torch.zeros(3, 3), 0, "view_features must be unit vectors; 3 of 3 are not"),
        (2 * torch.eye(3), torch.eye(3), 0, "text_features must be unit vectors"),
        (torch.eye(3), torch.eye(3) * float("nan"), 0, "view_features must be unit"),
        (torch.eye(3), -torch.eye(3), 2, "cancel out"),
        (torch.eye(3), torch.eye(3), torch.arange(2), r"round \(2,\) does not broadcast to \(3,\)"),
        (torch.eye(3), torch.eye(3), torch.zeros(2, 3, dtype=int), "does not broadcast"),
    ],
)
def test_bad_features_are_refused(text, view, round, message):
    with pytest.raises(ValueError, match=message):
        dar_fusion(text, view, round=round)

"""Ranks and search against plain loops, exact where the arithmetic is."""

from contextlib import nullcontext
from fractions import Fraction
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daitir import retrieval
from daitir.retrieval import (
    best_first,
    chunk_rows,
    pair_scores,
    presence_signals,
    reciprocal_rank_fusion,
    seen_first,
    shared_places,
    target_ranks,
    without_denied,
)


def naive_ranks(queries, gallery, targets):
    ranks = []
    for query, target in zip(queries.tolist(), targets.tolist(), strict=True):
        scores = [sum(q * g for q, g in zip(query, row, strict=True)) for row in gallery.tolist()]
        others = [score for i, score in enumerate(scores) if i != target]
        ranks.append(sum(score >= scores[target] for score in others))
    return torch.tensor(ranks)


def in_chunks_of(rows):
    """Within it so many queries' scores exist at once, with None as many as ever."""
    if rows is None:
        return nullcontext()
    return mock.patch.object(retrieval, "chunk_rows", lambda *sizes, itemsize: rows)


def integer_features(*shape, seed, high=3):
    """Small integers, whose products are exact in floating point, with many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-high, high + 1, shape, generator=generator).float()


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(1, 6),
    st.integers(0, 99),
    st.one_of(st.none(), st.integers(1, 50)),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_ranks_match_the_naive_twin(num_queries, num_images, dim, seed, chunk_size, dtype):
    queries = integer_features(num_queries, dim, seed=seed).to(dtype)
    gallery = integer_features(num_images, dim, seed=seed + 1).to(dtype)
    targets = torch.randint(num_images, (num_queries,))
    with in_chunks_of(chunk_size):
        ranks = target_ranks(queries, gallery, targets)
    assert ranks.dtype == torch.int64
    assert ranks.tolist() == naive_ranks(queries, gallery, targets).tolist()


def test_ranks_match_a_sort_of_real_features():
    queries = torch.nn.functional.normalize(torch.randn(50, 64, dtype=torch.float64), dim=1)
    gallery = torch.nn.functional.normalize(torch.randn(700, 64, dtype=torch.float64), dim=1)
    targets = torch.randint(700, (50,))
    order = (queries @ gallery.T).argsort(dim=1, descending=True)
    expected = (order == targets[:, None]).int().argmax(dim=1)
    assert target_ranks(queries, gallery, targets).equal(expected)


def test_rounds_keep_their_target():
    queries = integer_features(7, 5, 4, seed=0)
    gallery, targets = integer_features(20, 4, seed=1), torch.arange(7)
    with in_chunks_of(3):
        ranks = target_ranks(queries, gallery, targets)
    assert ranks.shape == (7, 5)
    for t in range(5):
        assert ranks[:, t].equal(target_ranks(queries[:, t], gallery, targets))


@pytest.mark.parametrize("num_queries", [1, 2, 5, 17, 300])
def test_a_collapsed_encoder_ranks_last(num_queries):
    feature = torch.nn.functional.normalize(torch.randn(64), dim=0)
    gallery = feature.repeat(5003, 1)  # an odd size, whose last columns BLAS treats on their own
    targets = torch.linspace(0, 5002, num_queries).long()
    ranks = target_ranks(feature.repeat(num_queries, 1), gallery, targets)
    assert (ranks == 5002).all()


def test_the_query_that_equals_its_target_ranks_first():
    gallery = torch.nn.functional.normalize(torch.randn(500, 32), dim=1)
    assert (target_ranks(gallery, gallery, torch.arange(500)) == 0).all()


def test_inputs_stay_as_they_were_and_need_no_gradient():
    queries = integer_features(4, 3, seed=0).requires_grad_()
    gallery, targets = integer_features(9, 3, seed=1), torch.arange(4, dtype=torch.int32)
    copies = queries.detach().clone(), gallery.clone()
    ranks = target_ranks(queries, gallery.T.contiguous().T, targets)
    assert not ranks.requires_grad
    assert queries.equal(copies[0])
    assert gallery.equal(copies[1])


def test_chunks_hold_the_limit_and_are_equal():
    for num_queries, num_images in ((22_704, 50_000), (11_000, 5_000), (3, 10), (100, 10_000_000)):
        rows = chunk_rows(num_queries, num_images)
        assert rows <= max(retrieval.CHUNK_BYTES // (4 * num_images), retrieval.MIN_CHUNK_ROWS)
        num_chunks = -(-num_queries // rows)
        assert num_chunks * rows - num_queries < max(num_chunks, retrieval.MIN_CHUNK_ROWS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_ranks_on_a_gpu():
    queries, gallery = integer_features(30, 5, seed=0), integer_features(40, 5, seed=1)
    targets = torch.arange(30)
    ranks = target_ranks(queries.cuda(), gallery.cuda(), targets)
    assert ranks.is_cuda
    assert ranks.cpu().equal(target_ranks(queries, gallery, targets))


GALLERY = torch.eye(3)
NAN_ROWS = torch.tensor([[0.0, 1.0, float("nan")], [0.0, 0.0, 1.0], [float("inf"), 0.0, 0.0]])


@pytest.mark.parametrize(
    ("queries", "gallery", "targets", "error", "message"),
    [
        (torch.eye(3)[:, :2], GALLERY, [0, 1, 2], ValueError, "query_features have dim 2"),
        (
            torch.ones(3, 4, 2),
            GALLERY,
            [0, 1, 2],
            ValueError,
            "query_features have dim 2 and gallery_features 3",
        ),
        (NAN_ROWS, GALLERY, [0, 1, 2], ValueError, "query_features hold NaN .* in 2 of 3 rows"),
        (GALLERY, NAN_ROWS, [0, 1, 2], ValueError, "gallery_features hold NaN .* in 2 of 3 rows"),
        (NAN_ROWS.expand(2, 3, 3), GALLERY, [0, 1], ValueError, "in 4 of 6 rows"),
        (GALLERY.long(), GALLERY, [0, 1, 2], TypeError, "floating-point tensor, not torch.int64"),
        (GALLERY.numpy(), GALLERY, [0, 1, 2], TypeError, "tensor, not ndarray"),
        (GALLERY[0], GALLERY, [0], ValueError, "must be .num_queries, dim"),
        (GALLERY, GALLERY[None], [0, 1, 2], ValueError, "num_images, dim"),
        (GALLERY[:0], GALLERY, [], ValueError, "query_features are empty"),
        (GALLERY, GALLERY[:0], [0, 1, 2], ValueError, "gallery_features are empty"),
        (GALLERY, torch.zeros(1, 3).expand(2**24 + 1, 3), [0, 1, 2], ValueError, "above 16777216"),
        (GALLERY, GALLERY, [0, 1, 3], ValueError, "1 of 3 target_indices lie outside the gallery"),
        (GALLERY, GALLERY, [-1, 1, 3], ValueError, "2 of 3 target_indices"),
        (GALLERY, GALLERY, [0, 1], ValueError, r"target_indices must be of shape \(3,\)"),
        (GALLERY, GALLERY, [0.0, 1.0, 2.0], TypeError, "target_indices must be integers"),
        (GALLERY, GALLERY, [True, True, True], TypeError, "target_indices must be integers"),
    ],
)
def test_bad_input_is_refused(queries, gallery, targets, error, message):
    with pytest.raises(error, match=message):
        target_ranks(queries, gallery, torch.tensor(targets))


@pytest.mark.parametrize("shape", [(4, 8), (4, 3, 8)])
def test_rank_fusion_agrees_with_a_loop(shape):
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    texts, views = (unit(torch.randn(shape), dim=-1) for _ in range(2))
    gallery, targets = unit(torch.randn(9, 8), dim=-1), torch.tensor([3, 0, 8, 5])
    found = reciprocal_rank_fusion(texts, views, gallery, targets)
    assert found.shape == shape[:-1]
    flat = zip(texts.reshape(-1, 8), views.reshape(-1, 8), strict=True)
    for number, (text, view) in enumerate(flat):
        sums = [0.0] * 9
        for query in (text, view):
            order = sorted(range(9), key=lambda i: -float(query @ gallery[i]))
            for place, image in enumerate(order, start=1):
                sums[image] += 1 / (60 + place)
        target = int(targets[number // (len(texts.reshape(-1, 8)) // 4)])
        rank = sum(s >= sums[target] - 1e-9 for s in sums) - 1
        assert found.reshape(-1)[number] == rank


def test_rank_fusion_refuses_two_shapes():
    with pytest.raises(ValueError, match="differ"):
        reciprocal_rank_fusion(torch.ones(2, 3), torch.ones(1, 3), torch.ones(4, 3),
                               torch.tensor([0, 1]))  # fmt: skip


# --- ties -------------------------------------------------------------------------------------


def unit(*shape, seed, dtype=torch.float32):
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.nn.functional.normalize(features, dim=-1)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 128), (7, 128), (40, 128), (7, 3, 33)])
def test_any_number_of_equal_images_ties(shape, dtype):
    queries = unit(*shape, seed=0, dtype=torch.float64).to(dtype)
    for number in range(1, 65):
        gallery = unit(1, shape[-1], seed=number, dtype=torch.float64).to(dtype).repeat(number, 1)
        targets = torch.arange(len(queries)) % number
        assert (target_ranks(queries, gallery, targets) == number - 1).all()
        fused = reciprocal_rank_fusion(queries, queries.flip(0), gallery, targets)
        assert (fused == number - 1).all()


def with_twins(number, seed):
    """A gallery (number, 64) where a few rows are twins of another, and which row each is of."""
    generator = torch.Generator().manual_seed(seed)
    firsts = torch.arange(number)
    for _ in range(3):
        one, other = torch.randint(number, (2,), generator=generator).tolist()
        firsts[firsts == firsts[other]] = firsts[one].clone()
    gallery = unit(number, 64, seed=seed)[firsts]
    return gallery, firsts


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 80), st.integers(1, 40), st.integers(0, 999), st.sampled_from(DTYPES))
def test_twins_anywhere_tie_and_the_others_rank_as_ever(number, num_queries, seed, dtype):
    gallery, firsts = with_twins(number, seed)
    gallery, queries = gallery.to(dtype), unit(num_queries, 64, seed=seed + 1).to(dtype)
    targets = torch.arange(num_queries) % number
    one_of_each, place = firsts.unique(return_inverse=True)
    sizes = place.bincount()
    scores = queries.double() @ gallery[one_of_each].double().T
    higher = scores > scores.gather(1, place[targets, None])
    expected = (higher * sizes).sum(dim=1) + sizes[place[targets]] - 1
    assert target_ranks(queries, gallery, targets).equal(expected)
    assert retrieval.first_equal(gallery).equal(
        torch.stack([(firsts == first).nonzero()[0, 0] for first in firsts])
    )


def test_zeros_of_both_signs_are_equal():
    gallery = torch.tensor([[1.0, 0.0], [1.0, -0.0], [0.0, 1.0]])
    assert retrieval.first_equal(gallery).tolist() == [0, 0, 2]
    assert retrieval.first_equal(gallery[:, [1, 0]]).tolist() == [0, 0, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_images", [2, 3, 7, 10, 64, 101])
def test_equal_queries_rank_a_target_alike(num_images, dtype):
    # The same numbers in another order: all score the same but for rounding, which must not depend
    # on where in a product a query stands.
    values = unit(256, seed=0, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(256, generator=generator) for _ in range(num_images)]
    gallery = torch.stack([values[order] for order in orders])
    for number in (1, 2, 5, 16, 17, 31, 44, 70):
        queries = torch.ones(number, 256, dtype=dtype) / 16
        for chunk_size in (None, 7):
            with in_chunks_of(chunk_size):
                ranks = target_ranks(queries, gallery, torch.zeros(number, dtype=int))
            assert len(ranks.unique()) == 1
        fused = reciprocal_rank_fusion(queries, queries, gallery, torch.zeros(number, dtype=int))
        assert len(fused.unique()) == 1


def naive_rank_fusion(texts, views, gallery, targets, constant=60):
    """With fractions, which do not round; places are those of the last image of a tie."""
    ranks = []
    for text, view, target in zip(texts.tolist(), views.tolist(), targets.tolist(), strict=True):
        sums = [Fraction(0)] * len(gallery)
        for query in (text, view):
            scores = [
                sum(q * g for q, g in zip(query, row, strict=True)) for row in gallery.tolist()
            ]
            for image, score in enumerate(scores):
                place = sum(other >= score for other in scores)
                sums[image] += Fraction(1, constant + place)
        others = sums[:target] + sums[target + 1 :]
        ranks.append(sum(other >= sums[target] for other in others))
    return ranks


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 6), st.integers(0, 99))
def test_rank_fusion_matches_its_naive_twin(num_queries, num_images, dim, seed):
    texts, views = (integer_features(num_queries, dim, seed=seed + i) for i in (0, 1))
    gallery = integer_features(num_images, dim, seed=seed + 2)
    targets = torch.arange(num_queries) % num_images
    found = reciprocal_rank_fusion(texts, views, gallery, targets)
    assert found.tolist() == naive_rank_fusion(texts, views, gallery, targets)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((6, 39), (12, 28)), ((5, 57), (18, 30)),  # 1/66 + 1/99 = 1/72 + 1/88: in doubles they
        ((3, 80), (24, 30)),  # differ, but nothing other than rounding tells them apart
        ((148, 169), (157, 159)), ((128, 187), (153, 154)),  # equal in floats alone
    ],
)  # fmt: skip
def test_sums_tie_where_they_are_equal_and_nowhere_else(one, other):
    number = max(*one, *other)
    places = torch.stack([torch.arange(1, number + 1), torch.arange(number, 0, -1)])
    for row, wanted in zip(places, zip(one, other, strict=True), strict=True):
        for image, place in enumerate(wanted):
            swapped = int((row == place).nonzero())
            row[[image, swapped]] = row[[swapped, image]]
    assert places[:, :2].T.tolist() == [list(one), list(other)]
    sums = [sum(Fraction(1, 60 + place) for place in pair) for pair in places.T.tolist()]
    text, view = (-row.float().repeat(2, 1) for row in places)
    found = reciprocal_rank_fusion(text, view, torch.eye(number), torch.arange(2))
    assert found.tolist() == [sum(x >= sums[i] for x in sums) - 1 for i in (0, 1)]


def test_images_that_tie_share_the_last_of_their_places():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    text, view = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    # Places 3, 3, 3, 4 by the text and 4, 4, 4, 1 by the view.
    for target, rank in ((0, 3), (1, 3), (2, 3), (3, 0)):
        assert reciprocal_rank_fusion(text, view, gallery, torch.tensor([target])).item() == rank


def test_pairs_have_one_score_wherever_they_stand_and_are_ordered(monkeypatch):
    queries, features = unit(9, 16, seed=0), unit(30, 16, seed=1)
    features[7] = features[3]
    indices = torch.randperm(30, generator=torch.Generator().manual_seed(0)).expand(9, 30)
    whole = pair_scores(queries, features, indices)
    monkeypatch.setattr(retrieval, "CHUNK_BYTES", 8 * 30 * 16 * 2)
    assert whole.equal(pair_scores(queries, features, indices))
    assert whole.allclose((queries @ features.T).gather(1, indices), atol=1e-6)
    scores, ordered = best_first(whole, indices)
    for row, numbers in zip(scores.tolist(), ordered.tolist(), strict=True):
        pairs = [(-score, index) for score, index in zip(row, numbers, strict=True)]
        assert pairs == sorted(pairs)
        assert row[numbers.index(3)] == row[numbers.index(7)]


@pytest.mark.parametrize("along", [False, True])
def test_what_is_denied_is_taken_out_of_queries_as_by_a_loop(along):
    generator = torch.Generator().manual_seed(0)
    queries, concepts = (
        torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=-1)
        for n in (5, 3)
    )
    denied = torch.rand(5, 3, generator=generator) < 0.5
    denied[0], denied[1] = False, torch.tensor([True, False, False])
    found = without_denied(queries, denied, concepts, weight=0.4, along=along)
    for query, names, changed in zip(queries, denied, found, strict=True):
        rest = query.clone()
        for concept, is_denied in zip(concepts, names, strict=True):
            if is_denied:
                rest -= 0.4 * concept * (query @ concept if along else 1)
        torch.testing.assert_close(changed, rest / rest.norm())
    torch.testing.assert_close(found[0], queries[0])  # denies nothing
    torch.testing.assert_close(
        without_denied(queries, denied, concepts, weight=0, along=along), queries
    )
    removed = without_denied(queries, denied, concepts, weight=1, along=True)
    assert abs(removed[1] @ concepts[0]) < 1e-6


def test_images_that_are_seen_first_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    queries, earlier = torch.randn(2, 3, 4, 6, generator=generator)  # two, of three by four
    gallery, gone = torch.randn(9, 6, generator=generator), torch.zeros(4, 9, dtype=torch.bool)
    gone[1, :4], gone[2, 8] = True, True

    def seen(query, number):
        scores = {i: float(query @ g) for i, g in enumerate(gallery) if not gone[number, i]}
        return sorted(scores.items(), key=lambda item: -item[1])[:3]

    scores, places = seen_first(queries, gallery, 3, gone)
    told = presence_signals(queries, earlier, gallery, k=3, gone=gone)
    for a in range(3):
        for number in range(4):
            top, before = (seen(of[a, number], number) for of in (queries, earlier))
            assert places[a, number].tolist() == [i for i, _ in top]
            assert scores[a, number].tolist() == pytest.approx([s for _, s in top], abs=1e-5)
            assert told["best_score"][a, number] == scores[a, number, 0]
            gap = top[0][1] - top[1][1]
            assert float(told["gap"][a, number]) == pytest.approx(gap, abs=1e-5)
            shared = len({i for i, _ in top} & {i for i, _ in before}) / 3
            assert float(told["unchanged"][a, number]) == pytest.approx(shared)
    assert shared_places(places, places).eq(1).all()
    earlier[0, 1] = torch.nan
    told = presence_signals(queries, earlier, gallery, k=3)
    assert told["unchanged"].isnan().nonzero().tolist() == [[0, 1]]
    assert not told["best_score"].isnan().any()

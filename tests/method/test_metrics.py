"""Metrics against plain-loop twins and numbers worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from daitir import metrics

RANKS = [[12, 3, 20], [0, 5, 1], [7, 7, 7]]
BASELINE = [[11, 9, 2], [0, 3, 0], [7, 7, 6]]


# Naive twins: each takes one dialogue's ranks, as long as the dialogue.
def naive_bri(ranks):
    best = [min(ranks[: t + 1]) for t in range(len(ranks))]
    if len(best) == 1:
        return math.log(best[0] + 1)
    area = 0.0
    for t in range(len(best) - 1):
        area += 0.5 * (math.log(best[t] + 1) + math.log(best[t + 1] + 1))
    return area / (len(best) - 1)


def mean_reciprocal_rank(ranks, lengths=None):
    values = metrics.reciprocal_rank_values(ranks, lengths=lengths)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / (~np.isnan(values)).sum(axis=0)


def naive_mean(values):
    return sum(values) / len(values) if values else math.nan


def by_round(dialogues, num_rounds, value):
    """Mean of value(dialogue, t) over the dialogues that have a round t."""
    return [naive_mean([value(d, t) for d in dialogues if t < len(d)]) for t in range(num_rounds)]


@st.composite
def ragged_ranks(draw, num_methods=1):
    """Rank arrays padded with -1, and the lengths of the dialogues."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    num_rounds = max(lengths) + draw(st.integers(0, 1))
    arrays = []
    for _ in range(num_methods):
        ranks = np.full((len(lengths), num_rounds), -1)
        for row, length in zip(ranks, lengths, strict=True):
            row[:length] = draw(st.lists(st.integers(0, 30), min_size=length, max_size=length))
        arrays.append(ranks)
    return *arrays, np.array(lengths)


def dialogues_of(ranks, lengths):
    return [row[:length].tolist() for row, length in zip(ranks, lengths, strict=True)]


@settings(max_examples=50, deadline=None)
@given(ragged_ranks(), st.integers(1, 12))
def test_ranks_match_naive_twins(case, k):
    ranks, lengths = case
    num_rounds = ranks.shape[1]
    dialogues = dialogues_of(ranks, lengths)
    expected = by_round(dialogues, num_rounds, lambda d, t: d[t] < k)
    np.testing.assert_allclose(metrics.recall_at_k(ranks, k, lengths=lengths), expected)
    expected = by_round(dialogues, num_rounds, lambda d, t: 1 / (d[t] + 1))
    np.testing.assert_allclose(mean_reciprocal_rank(ranks, lengths=lengths), expected)
    expected = [
        naive_mean([any(rank < k for rank in d[: t + 1]) for d in dialogues])
        for t in range(num_rounds)
    ]
    np.testing.assert_allclose(metrics.hits_at_k(ranks, k, lengths=lengths), expected)
    expected = naive_mean([naive_bri(d) for d in dialogues])
    assert metrics.best_log_rank_integral(ranks, lengths=lengths) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(ragged_ranks(num_methods=2), st.sampled_from([0.0, 0.1, 0.5, 1.5]))
def test_degradation_matches_naive_twins(case, margin):
    ranks, baseline, lengths = case
    num_rounds = ranks.shape[1]
    pairs = [
        list(zip(d, b, strict=True))
        for d, b in zip(dialogues_of(ranks, lengths), dialogues_of(baseline, lengths), strict=True)
    ]
    expected = by_round(
        pairs, num_rounds, lambda d, t: math.log((d[t][0] + 1) / (d[t][1] + 1)) > margin
    )
    rate = metrics.degradation_rate(ranks, baseline, margin=margin, lengths=lengths)
    np.testing.assert_allclose(rate, expected)

    drop = metrics.rank_drop(ranks, baseline, lengths=lengths)
    for t in range(num_rounds):
        lost = sorted(d[t][0] - d[t][1] for d in pairs if t < len(d) and d[t][0] > d[t][1])
        middle = [lost[(len(lost) - 1) // 2], lost[len(lost) // 2]] if lost else []
        np.testing.assert_allclose(drop.mean[t], naive_mean(lost))
        np.testing.assert_allclose(drop.median[t], naive_mean(middle))


@settings(max_examples=50, deadline=None)
@given(ragged_ranks(), st.integers(1, 12))
def test_hits_never_fall_and_never_lie_below_recall(case, k):
    ranks, lengths = case
    hits = metrics.hit_values(ranks, k, lengths=lengths)
    recall = metrics.recall_values(ranks, k, lengths=lengths)
    assert (np.diff(hits, axis=1) >= 0).all()
    assert (hits >= np.nan_to_num(recall)).all()
    np.testing.assert_array_equal(hits[:, 0], recall[:, 0])


def test_numbers_worked_by_hand():
    np.testing.assert_allclose(metrics.recall_at_k(RANKS, 6), [1 / 3, 2 / 3, 1 / 3])
    np.testing.assert_allclose(metrics.hits_at_k(RANKS, 6), [1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(
        mean_reciprocal_rank(RANKS),
        [(1 / 13 + 1 + 1 / 8) / 3, (1 / 4 + 1 / 6 + 1 / 8) / 3, (1 / 21 + 1 / 2 + 1 / 8) / 3],
    )
    first = (math.log(13) + math.log(4)) / 4 + math.log(4) / 2
    assert metrics.best_log_rank_integral(RANKS) == pytest.approx((first + 0 + math.log(8)) / 3)
    np.testing.assert_allclose(metrics.degradation_rate(RANKS, BASELINE), [1 / 3, 1 / 3, 1])
    np.testing.assert_allclose(metrics.degradation_rate(RANKS, BASELINE, margin=0.5), [0, 0, 2 / 3])
    drop = metrics.rank_drop(RANKS, BASELINE)
    np.testing.assert_allclose(drop.mean, [1, 2, 20 / 3])
    np.testing.assert_allclose(drop.median, [1, 2, 1])


def test_a_rank_of_k_is_no_hit():
    np.testing.assert_array_equal(metrics.recall_at_k([[9, 10]], 10), [1, 0])
    np.testing.assert_array_equal(metrics.hits_at_k([[10, 9]], 10), [0, 1])


def test_equal_ranks_are_not_degraded():
    assert metrics.degradation_rate(RANKS, RANKS).tolist() == [0, 0, 0]
    assert np.isnan(metrics.rank_drop(RANKS, RANKS).mean).all()
    assert np.isnan(metrics.rank_drop(RANKS, RANKS).median).all()


def test_a_dialogue_of_one_round_counts_with_its_log_rank():
    assert metrics.best_log_rank_integral([[4]]) == pytest.approx(math.log(5))
    # the limit of a longer dialogue whose best rank never changes
    assert metrics.best_log_rank_integral([[4, 4, 4]]) == pytest.approx(math.log(5))
    values = metrics.best_log_rank_integral_values([[4, 0], [3, 1]], lengths=[1, 2])
    np.testing.assert_allclose(values, [math.log(5), (math.log(4) + math.log(2)) / 2])


def test_ended_dialogues_keep_hits_and_leave_the_other_means():
    ranks, lengths = [[0, 99, 99], [50, 0, 60]], [1, 3]
    np.testing.assert_array_equal(metrics.hits_at_k(ranks, 10, lengths=lengths), [0.5, 1, 1])
    np.testing.assert_array_equal(metrics.recall_at_k(ranks, 10, lengths=lengths), [0.5, 1, 0])
    values = metrics.reciprocal_rank_values(ranks, lengths=lengths)
    np.testing.assert_array_equal(np.isnan(values), [[False, True, True], [False] * 3])


def test_a_round_that_no_dialogue_has_is_nan():
    ranks = [[0, 1], [2, 3]]
    assert np.isnan(metrics.recall_at_k(ranks, 1, lengths=[1, 1])[1])
    assert metrics.hits_at_k(ranks, 1, lengths=[1, 1]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "convert", [np.array, torch.tensor, np.uint8, lambda r: torch.tensor(r, dtype=torch.int32)]
)
def test_arrays_tensors_and_lists_agree(convert):
    ranks, lengths = convert(RANKS), convert([3, 2, 1])
    for metric in (mean_reciprocal_rank, metrics.best_log_rank_integral):
        np.testing.assert_array_equal(
            metric(ranks, lengths=lengths), metric(RANKS, lengths=[3, 2, 1])
        )
    rate = metrics.degradation_rate(ranks, convert(BASELINE))
    np.testing.assert_array_equal(rate, metrics.degradation_rate(RANKS, BASELINE))
    assert rate.dtype == np.float64
    assert isinstance(metrics.best_log_rank_integral(ranks), float)


@pytest.mark.parametrize(
    ("ranks", "error", "message"),
    [
        ([1, 2], ValueError, r"ranks must be \(num_queries, num_rounds\)"),
        ([], ValueError, "not empty"),
        (np.zeros((0, 3), int), ValueError, "not empty"),
        ([[1.0, 2.0]], TypeError, "integers, not float64"),
        ([[True, False]], TypeError, "integers, not bool"),
        ([[3, -1], [-2, 0]], ValueError, "cannot be negative; 2 are"),
        ([[1, 2], [3]], ValueError, "^ranks have rows of different lengths"),
    ],
)
def test_bad_ranks_are_refused(ranks, error, message):
    for metric in (
        metrics.best_log_rank_integral,
        mean_reciprocal_rank,
        lambda r: metrics.recall_at_k(r, 10),
        lambda r: metrics.hits_at_k(r, 10),
        lambda r: metrics.degradation_rate(r, r),
        lambda r: metrics.rank_drop(r, r),
    ):
        with pytest.raises(error, match=message):
            metric(ranks)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2], ValueError, r"of shape \(3,\)"),
        ([1, 2, 0], ValueError, "between 1 and the 3 rounds"),
        ([1, 2, 4], ValueError, "between 1 and the 3 rounds"),
        ([1.0, 2.0, 3.0], TypeError, "lengths must be integers"),
    ],
)
def test_bad_lengths_are_refused(lengths, error, message):
    with pytest.raises(error, match=message):
        mean_reciprocal_rank(RANKS, lengths=lengths)


def test_other_bad_arguments_are_refused():
    for k, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error):
            metrics.recall_at_k(RANKS, k)
        with pytest.raises(error):
            metrics.hits_at_k(RANKS, k)
    for margin in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="margin"):
            metrics.degradation_rate(RANKS, BASELINE, margin=margin)
    with pytest.raises(ValueError, match="one shape"):
        metrics.degradation_rate(RANKS, [[1, 2, 3]])
    with pytest.raises(ValueError, match="baseline_ranks are 0-based"):
        metrics.rank_drop(RANKS, [[-1, 2, 3]] * 3)


def naive_bootstrap_means(values, seed):
    """The same counts, but every sample written out as the list of its drawn values."""
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(1000):
        counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)))
        drawn = np.repeat(values, counts)
        means.append(np.mean(drawn[~np.isnan(drawn)]))
    return means


def test_interval_matches_naive_resampling():
    values = np.random.default_rng(0).random(60)
    values[:7] = np.nan
    means = naive_bootstrap_means(values, seed=5)
    low, high = metrics.bootstrap_interval(values, seed=5)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]))


def test_interval_covers_what_theory_says():
    values = np.random.default_rng(1).random(500) < 0.3
    low, high = metrics.bootstrap_interval(values)
    error = math.sqrt(values.mean() * (1 - values.mean()) / len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_columns_share_samples_and_chunks_change_nothing(monkeypatch):
    values = np.random.default_rng(2).random((50, 3))
    values[3:, 1], values[:, 2] = np.nan, np.nan
    low, high = metrics.bootstrap_interval(values, seed=3)
    single = metrics.bootstrap_interval(torch.tensor(values[:, 0]), seed=3)
    np.testing.assert_allclose([low[0], high[0]], single)
    assert np.isfinite([low[1], high[1]]).all()  # three values left, and some samples without any
    assert np.isnan([low[2], high[2]]).all()
    monkeypatch.setattr(metrics, "RESAMPLE_ENTRIES", 70)
    chunked = metrics.bootstrap_interval(values, seed=3)
    np.testing.assert_allclose(chunked, (low, high))
    assert metrics.bootstrap_interval(values[:, 0], seed=4) != single


def test_paired_bootstrap():
    rng = np.random.default_rng(4)
    a = rng.random(100)
    b = a + 0.05 + 0.01 * rng.standard_normal(100)  # far less noise in pairs than between queries
    result = metrics.paired_bootstrap(a, b)
    assert result.difference == pytest.approx(np.mean(b) - np.mean(a))
    assert 0.04 < result.low < result.difference < result.high < 0.06
    means = naive_bootstrap_means(a[::-1] - a, seed=0)
    low, high = metrics.paired_bootstrap(a, a[::-1])[1:]
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]))


def test_paired_bootstrap_by_column_leaves_out_incomplete_pairs():
    a = np.array([[0.0, 1.0], [1.0, np.nan], [0.5, 0.0]])
    b = np.array([[1.0, 1.0], [np.nan, 0.0], [0.5, 0.5]])
    result = metrics.paired_bootstrap(a, b)
    np.testing.assert_allclose(result.difference, [0.5, 0.25])
    assert result.low.shape == result.high.shape == (2,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "not empty"),
        (np.zeros((2, 2, 2)), "num_columns"),
        ([1.0, math.inf], "infinite"),
    ],
)
def test_bad_bootstrap_arguments_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_interval(values)
    with pytest.raises(ValueError, match=message):
        metrics.paired_bootstrap(values, values)


def test_unpaired_shapes_are_refused():
    with pytest.raises(ValueError, match=r"values_a and values_b .*, not \(2,\) and \(1,\)"):
        metrics.paired_bootstrap([1.0, 2.0], [1.0])
    for pair, name in (((np.ones(2), []), "values_b"), (([], np.ones(2)), "values_a")):
        with pytest.raises(ValueError, match=f"^{name} must be .num_queries"):
            metrics.paired_bootstrap(*pair)


def clopper_pearson(hits, number):
    """The exact interval of a share, by bisection over sums of binomial probabilities."""
    tail = 0.025

    def at_least(k, p):
        counts = range(k, number + 1)
        return sum(math.comb(number, i) * p**i * (1 - p) ** (number - i) for i in counts)

    def solve(function, wanted):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if function(middle) < wanted else (low, middle)
        return low

    low = 0.0 if hits == 0 else solve(lambda p: at_least(hits, p), tail)
    high = 1.0 if hits == number else solve(lambda p: at_least(hits + 1, p), 1 - tail)
    return low, high


@pytest.mark.parametrize("number", [1, 2, 3, 30])
def test_hits_that_all_agree_have_the_exact_interval(number):
    for value in (0, 1):
        found = metrics.bootstrap_interval([float(value)] * number)
        expected = clopper_pearson(value * number, number)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_equal_values_between_bounds():
    # Three queries: up to a share 1 - 0.025 ** (1 / 3) = 0.7076 of all may have another value.
    low, high = metrics.bootstrap_interval([0.25] * 3)
    np.testing.assert_allclose([low, high], [0.25 - 0.7076 * 0.25, 0.25 + 0.7076 * 0.75], atol=1e-4)
    ends = metrics.bootstrap_interval([[0.25, 1.0], [0.25, 0.0], [0.25, 1.0]])  # by column
    np.testing.assert_allclose([end[0] for end in ends], [low, high])
    low, high = metrics.bootstrap_interval([0.0] * 3, bounds=metrics.DIFFERENCES)
    np.testing.assert_allclose([low, high], [-0.7076, 0.7076], atol=1e-4)
    low, high = metrics.bootstrap_interval([5.0] * 3, bounds=(2.0, 10.0))
    np.testing.assert_allclose([low, high], [5 - 0.7076 * 3, 5 + 0.7076 * 5], atol=1e-4)
    for values, bounds in (([3.0, 3.0], None), ([3.0, 3.0], metrics.SHARES), ([-0.1], (0, 1))):
        assert np.isnan(metrics.bootstrap_interval(values, bounds=bounds)).all()
    assert metrics.bootstrap_interval([1.0] * 3, bounds=(-1.0, 1.0))[1] == 1.0


def test_only_columns_of_equal_values_leave_the_bootstrap():
    rng = np.random.default_rng(7)
    columns = (rng.random((40, 4)) < 0.9).astype(float)
    columns[:, 1], columns[:10, 1] = 1.0, np.nan
    columns[:, 3] = np.nan
    low, high = metrics.bootstrap_interval(columns, seed=3)
    means = metrics._resampled_means(columns, 3)
    shares = [(1 - 0.95) / 2, (1 + 0.95) / 2]
    ends = np.nanquantile(means[:, :3], shares, axis=0)  # bit for bit
    assert np.array([low, high])[:, [0, 2]].tolist() == ends[:, [0, 2]].tolist()
    np.testing.assert_allclose([low[1], high[1]], clopper_pearson(30, 30), atol=1e-9)
    assert np.isnan([low[3], high[3]]).all()
    unbounded = metrics.bootstrap_interval(columns, seed=3, bounds=None)
    assert np.isnan(np.array(unbounded)[:, 1]).all() and unbounded[0][0] == low[0]


def test_methods_that_never_differ_may_differ_elsewhere():
    hits = np.array([1.0, 0.0, 1.0])
    found = metrics.paired_bootstrap(hits, hits)
    np.testing.assert_allclose([found.low, found.high], [-0.7076, 0.7076], atol=1e-4)
    assert found.difference == 0
    always = metrics.paired_bootstrap([0.0] * 3, [1.0] * 3)
    np.testing.assert_allclose([always.low, always.high], [1 - 2 * 0.7076, 1], atol=1e-4)
    for pair in (([3.0, 3.0], [4.0, 4.0]), ([0.5, 0.5], [-0.1, -0.1])):  # no shares
        beyond = metrics.paired_bootstrap(*pair)
        assert np.isnan([beyond.low, beyond.high]).all()
    for bounds in ((1.0, 0.0), (0.0, 0.0)):
        with pytest.raises(ValueError, match="in order"):
            metrics.bootstrap_interval([1.0], bounds=bounds)


def test_a_method_does_not_differ_from_itself_by_chance():
    ranks = np.random.default_rng(0).integers(0, 40, (30, 3))
    other = ranks.copy()
    other[0, 1] += 1
    assert metrics.same_ranks(ranks, other).tolist() == [True, False, True]
    assert metrics.same_ranks(ranks[None], np.stack([ranks, ranks])).tolist() == [False] * 3
    zeros, known = np.zeros((30, 3)), metrics.same_ranks(ranks, other)
    low, high = metrics.bootstrap_interval(zeros, bounds=metrics.DIFFERENCES, known=known)
    reach = 1 - 0.025 ** (1 / 30)
    np.testing.assert_allclose(low, [0, -reach, 0])
    np.testing.assert_allclose(high, [0, reach, 0])


# Naive twins of what a signal tells: every pair, and every answer's value as a threshold.
def naive_auroc(signal, positive, weights):
    won = total = 0.0
    for a, is_positive, up in zip(signal, positive, weights, strict=True):
        for b, other, down in zip(signal, positive, weights, strict=True):
            if is_positive and not other:
                won += up * down * (1.0 if a > b else 0.5 if a == b else 0.0)
                total += up * down
    return won / total


def naive_risk_coverage(signal, failures, weights):
    coverage, risk, area, whole = [], [], 0.0, sum(weights)
    for value in sorted(set(signal), reverse=True):
        accepted = [i for i, s in enumerate(signal) if s >= value]
        weight = sum(weights[i] for i in accepted)
        coverage.append(weight / whole)
        risk.append(sum(weights[i] for i in accepted if failures[i]) / weight if weight else 0.0)
        area += sum(w for s, w in zip(signal, weights, strict=True) if s == value) * risk[-1]
    return coverage, risk, area / whole


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**31))
def test_signals_are_judged_as_by_loops(number, num_values, seed):
    rng = np.random.default_rng(seed)
    signal = rng.integers(0, num_values, number) / 4  # many ties
    flags = np.arange(number) % 2 == rng.integers(2)
    weights = rng.integers(0, 3, (4, number)).astype(float)
    weights[:, :2] += 1  # some of both kinds
    areas, parts = metrics.auroc(signal, flags, weights), []
    for of_sample in weights:
        parts.append(metrics.risk_coverage(signal, flags, of_sample))
        for found, naive in zip(
            parts[-1], naive_risk_coverage(signal, flags, of_sample), strict=True
        ):
            np.testing.assert_allclose(found, naive)
    np.testing.assert_allclose(areas, [naive_auroc(signal, flags, w) for w in weights])
    together = metrics.risk_coverage(signal, flags, weights)
    for index in range(3):
        np.testing.assert_allclose(together[index], [part[index] for part in parts])


def test_the_area_under_the_roc_curve_is_that_of_others():
    rng = np.random.default_rng(0)
    signal, weights = rng.normal(size=200).round(1), rng.random(200)
    flags = rng.random(200) < 0.3
    plain, weighted = metrics.auroc(signal, flags), metrics.auroc(signal, flags, weights)
    assert plain == pytest.approx(roc_auc_score(flags, signal))
    assert weighted == pytest.approx(roc_auc_score(flags, signal, sample_weight=weights), rel=1e-9)


def test_a_signal_that_says_nothing_has_the_risk_of_accepting_all():
    failures = [1, 0, 0, 1, 1]
    assert metrics.auroc(np.zeros(5), failures) == 0.5
    assert metrics.risk_coverage(np.zeros(5), failures)[2] == pytest.approx(0.6)
    assert metrics.auroc([0.0, 1.0, 2.0], [0, 0, 1]) == 1


@pytest.mark.parametrize(
    ("signal", "flags"),
    [([0.0, np.nan], [0, 1]), ([0.0], [0, 1]), ([[0.0]], [[1]]), ([np.inf], [1])],
)
def test_signals_that_are_no_row_of_numbers_are_refused(signal, flags):
    for judge in (metrics.auroc, metrics.risk_coverage):
        with pytest.raises(ValueError, match="row of finite numbers"):
            judge(signal, flags)

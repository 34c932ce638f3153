"""Objectives against float64 loops, numbers worked by hand and numerical gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daitir.objectives import (
    DMCL_WEIGHTS,
    DMCLLoss,
    hard_negative_loss,
    info_nce,
    jensen_shannon,
)


def naive_info_nce(a, b, logit_scale, labels):
    """Float64 loops over both directions; labels that are all different exclude nothing."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    total = 0.0
    for rows, others in ((a, b), (b, a)):
        for i, row in enumerate(rows):
            allowed = [j for j in range(len(others)) if j == i or labels[j] != labels[i]]
            terms = [math.exp(logit_scale * float(row @ others[j])) for j in allowed]
            positive = math.exp(logit_scale * float(row @ others[i]))
            total -= math.log(positive / sum(terms)) / len(rows)
    return total / 2


def unit(batch, dim, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, dim, generator=generator, dtype=dtype)
    return torch.nn.functional.normalize(features, dim=-1)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.integers(1, 5),
    st.floats(0.0, 100.0),
    st.integers(0, 99),
)
def test_matches_the_naive_twin(labels, dim, logit_scale, seed):
    a, b = unit(len(labels), dim, seed), unit(len(labels), dim, seed + 1)
    expected = naive_info_nce(a, b, logit_scale, list(range(len(labels))))
    assert info_nce(a, b, logit_scale).item() == pytest.approx(expected, abs=1e-10)
    expected = naive_info_nce(a, b, logit_scale, labels)
    loss = info_nce(a, b, logit_scale, labels=torch.tensor(labels))
    assert loss.item() == pytest.approx(expected, abs=1e-10)


def test_numbers_worked_by_hand():
    eye = torch.eye(3, dtype=torch.float64)
    assert info_nce(eye, eye, 2.0).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)))
    # rows 0 and 1 share a target: one negative is left to each of them, two to row 2
    expected = (2 * math.log(1 + math.exp(-2)) + math.log(1 + 2 * math.exp(-2))) / 3
    labels = torch.tensor([7, 7, 1])
    assert info_nce(eye, eye, 2.0, labels=labels).item() == pytest.approx(expected)


def test_limits():
    eye = torch.eye(4)
    assert info_nce(eye, eye, 0.0).item() == pytest.approx(math.log(4))  # a guess among four
    assert info_nce(eye, eye, 100.0).item() == pytest.approx(0, abs=1e-6)
    assert info_nce(eye[:1], eye[:1], 50.0).item() == 0
    assert info_nce(eye, eye, 1.0, labels=torch.zeros(4, dtype=int)).item() == 0


def test_symmetric_in_its_arguments_and_in_the_order_of_the_batch():
    a, b = unit(6, 4, 0), unit(6, 4, 1)
    order = torch.randperm(6)
    assert torch.allclose(info_nce(a, b, 5.0), info_nce(b, a, 5.0))
    assert torch.allclose(info_nce(a, b, 5.0), info_nce(a[order], b[order], 5.0))


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 0, 1, 2])])
def test_gradients(labels):
    a, b = unit(4, 3, 0).requires_grad_(), unit(4, 3, 1).requires_grad_()
    logit_scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *arguments: info_nce(*arguments, labels=labels), (a, b, logit_scale)
    )


def test_bad_arguments_are_refused():
    eye = torch.eye(3)
    for a, b in ((eye, eye[:2]), (eye[0], eye[0]), (eye[:0], eye[:0])):
        with pytest.raises(ValueError, match="must both be .batch, dim"):
            info_nce(a, b, 1.0)
    with pytest.raises(ValueError, match=r"labels must be of shape \(3,\)"):
        info_nce(eye, eye, 1.0, labels=torch.tensor([0, 1]))


# --- DMCL -------------------------------------------------------------------------------------


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def naive_hard_negatives(similarity, labels):
    total = 0.0
    for scores in (similarity, similarity.T):
        losses = []
        for i, row in enumerate(scores):
            negatives = sorted(row[j] for j in range(len(row)) if labels[j] != labels[i])[::-1]
            losses += [softplus((s - row[i] + 0.1) / 0.1) for s in negatives[:4]]
        total += sum(losses) / len(losses) / 2
    return total


def naive_jensen_shannon(p_logits, q_logits):
    total = 0.0
    for a, b in zip(p_logits, q_logits, strict=True):
        p, q = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
        m = (p + q) / 2
        total += 0.5 * (p * np.log(p / m)).sum() + 0.5 * (q * np.log(q / m)).sum()
    return total / len(p_logits)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=9).filter(lambda x: len(set(x)) > 1),
    st.integers(0, 99),
)
def test_hard_negatives_match_the_naive_twin(labels, seed):
    similarity = unit(len(labels), 5, seed) @ unit(len(labels), 5, seed + 1).T
    loss = hard_negative_loss(similarity, labels=torch.tensor(labels))
    expected = naive_hard_negatives(similarity.numpy(), labels)
    assert loss.item() == pytest.approx(expected, abs=1e-8)  # softplus is linear from 20 on


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.0, 50.0), st.integers(0, 99))
def test_jensen_shannon_matches_the_naive_twin(batch, num_classes, scale, seed):
    a, b = (scale * unit(batch, num_classes, s) for s in (seed, seed + 1))
    expected = naive_jensen_shannon(a.numpy(), b.numpy())
    assert jensen_shannon(a, b).item() == pytest.approx(expected, abs=1e-10)
    assert jensen_shannon(a, b).item() == pytest.approx(jensen_shannon(b, a).item(), abs=1e-12)
    assert jensen_shannon(a, a).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("hard_negatives", [False, True])
def test_dmcl_matches_the_naive_twin(hard_negatives):
    text, view, target = (unit(6, 4, seed) for seed in (1, 2, 3))
    labels, scale = [0, 1, 2, 2, 3, 4], 7.0
    loss, terms = DMCLLoss(hard_negatives=hard_negatives)(
        text, view, target, scale, labels=torch.tensor(labels)
    )
    fused = (text + view) / (text + view).norm(dim=-1, keepdim=True)
    expected = {}
    for name, query in (("text", text), ("view", view), ("fused", fused)):
        value = naive_info_nce(query, target, scale, labels)
        if hard_negatives:
            similarity = (query @ target.T).numpy()
            value += 0.1 * naive_hard_negatives(similarity, labels)
        expected[f"{name}_target"] = value
    expected["text_view"] = naive_info_nce(text, view, scale, labels)
    logits = [(scale * query @ target.T).numpy() for query in (text, view)]
    expected["agreement"] = naive_jensen_shannon(*logits)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected)
    weights = {"text_target": 1, "view_target": 1, "fused_target": 1, "text_view": 0.5}
    weights["agreement"] = 0.2
    mean = sum(w * expected[name] for name, w in weights.items()) / sum(weights.values())
    assert loss.item() == pytest.approx(mean)


def test_dmcl_weights():
    features = [unit(5, 4, seed) for seed in (1, 2, 3)]
    fixed, learned = DMCLLoss(), DMCLLoss(learnable_weights=True)
    assert learned.weights.tolist() == pytest.approx(list(DMCL_WEIGHTS.values()), rel=1e-5)
    assert fixed(*features, 9.0)[0].item() == pytest.approx(learned(*features, 9.0)[0].item())
    assert not list(fixed.parameters())
    # Learning shifts weight to the smallest term: a step along the gradient raises its share.
    loss, terms = learned(*features, 9.0)
    loss.backward()
    smallest = min(range(5), key=lambda i: list(terms.values())[i].item())
    assert learned.raw_weights.grad[smallest] < 0
    only_text, terms = DMCLLoss(weights={"text_target": 2.0})(*features, 9.0)
    assert only_text.item() == pytest.approx(terms["text_target"].item())


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"texts": 1.0}, "unknown terms"), ({"text_target": -1.0}, "negative"), ({}, "all 0")],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        DMCLLoss(weights=weights)


def test_bad_shapes_of_the_new_losses_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, batch\)"):
        hard_negative_loss(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="no negative"):
        hard_negative_loss(torch.eye(2), labels=torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="num_classes"):
        jensen_shannon(torch.zeros(2, 3), torch.zeros(2, 2))


def test_the_text_alone_needs_no_views():
    text, target = unit(5, 8, seed=0), unit(5, 8, seed=1)
    alone = DMCLLoss(weights={"text_target": 1.0})
    total, terms = alone(text, None, target, 10.0)
    assert set(terms) == {"text_target"}
    assert total == alone(text, unit(5, 8, seed=2), target, 10.0)[0]
    for loss in (DMCLLoss(), DMCLLoss(weights={"view_target": 1.0})):
        with pytest.raises(ValueError, match="views are missing"):
            loss(text, None, target, 10.0)


@pytest.mark.parametrize("labels", [None, [0, 1, 2, 3, 1, 5]])
def test_rows_without_a_view_take_the_text_term_alone(labels):
    text, view, target = (unit(6, 8, seed=seed) for seed in range(3))
    labels = None if labels is None else torch.tensor(labels)
    rows = torch.tensor([1, 4, 5])
    loss, terms = DMCLLoss()(text, view[rows], target, 10.0, labels=labels, view_rows=rows)
    fewer = None if labels is None else labels[rows]
    _, those = DMCLLoss()(text[rows], view[rows], target[rows], 10.0, labels=fewer)
    _, whole = DMCLLoss()(text, view, target, 10.0, labels=labels)
    expected = those | {"text_target": whole["text_target"]}
    assert terms == expected
    weighted = sum(DMCL_WEIGHTS[name] * expected[name] for name in DMCL_WEIGHTS)
    assert loss.item() == pytest.approx((weighted / sum(DMCL_WEIGHTS.values())).item())
    every = torch.arange(6)
    with_all, _ = DMCLLoss()(text, view, target, 10.0, labels=labels, view_rows=every)
    assert with_all == DMCLLoss()(text, view, target, 10.0, labels=labels)[0]
    alone, terms = DMCLLoss(learnable_weights=True)(
        text, None, target, 10.0, labels=labels, view_rows=every[:0]
    )
    assert alone == whole["text_target"] and set(terms) == {"text_target"}


def test_gradients_of_dmcl_are_numerically_right():
    features = [unit(4, 3, seed).requires_grad_() for seed in (1, 2, 3)]
    loss = DMCLLoss(hard_negatives=True)
    assert torch.autograd.gradcheck(lambda *f: loss(*f, 3.0)[0], features)

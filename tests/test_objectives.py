"""InfoNCE against a float64 loop, a number worked by hand and numerical gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daitir.objectives import info_nce


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
    st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 5),
    st.floats(0.0, 100.0), st.integers(0, 99),
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

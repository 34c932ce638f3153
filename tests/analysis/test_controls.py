"""Controls: another dialogue's views, and noise that is as far from the text as the view is."""

import pytest
import torch
from torch.nn import functional as F

from daitir.analysis.controls import noise_views, placebo_views


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(7)
    return F.normalize(torch.randn(2, 30, 4, 16, generator=generator), dim=-1)


def test_a_placebo_is_used_once_and_never_at_home(features):
    views = features[0]
    placebo = placebo_views(views)
    assert placebo.sort(dim=0).values.equal(views.sort(dim=0).values)
    assert not (placebo == views).all(dim=-1).any()
    with pytest.raises(ValueError, match="at least two"):
        placebo_views(views[:1])


def test_noise_is_as_far_as_the_view_and_knows_nothing_of_it(features):
    text, view = features
    noise = noise_views(text, view, seed=0)
    cosines = [(text * other).sum(dim=-1) for other in (view, noise)]
    assert torch.allclose(*cosines, atol=1e-5)
    assert torch.allclose(noise.norm(dim=-1), torch.ones(30, 4))

    def across(other):
        return F.normalize(other - (other * text).sum(-1, keepdim=True) * text, dim=-1)

    alike = (across(noise) * across(view)).sum(dim=-1)
    assert alike.mean().abs() < 4 / (120 * 15) ** 0.5
    assert noise_views(text, view, seed=0).equal(noise)
    assert not noise_views(text, view, seed=1).equal(noise)

"""A part of ADaFuSE that is left out has no effect."""

import dataclasses

import pytest
import torch
from small_profiles import FUSION_RECIPE

from daitir.fusion import build_fusion


@pytest.mark.parametrize(("part", "expected"), [("use_residual", "between"), ("use_gate", "half")])
def test_a_part_that_is_left_out_has_no_effect(part, expected):
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    text, view = unit(torch.randn(6, 16), dim=-1), unit(torch.randn(6, 16), dim=-1)
    model = build_fusion(16, dataclasses.replace(FUSION_RECIPE, **{part: False})).eval()
    query, details = model(text, view)
    if expected == "half":
        assert (details["gate"] == 0.5).all()
    else:
        gate = details["gate"]
        assert torch.allclose(query, unit(gate * text + (1 - gate) * view, dim=-1), atol=1e-6)

"""What a round costs: each part is timed once a dialogue, and a method is the sum of its parts."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub_models import tiny_pipeline

from daitir.fusion import ScalarGate
from daitir.models.encoders import load_encoder
from daitir.models.reformulation import load_reformulator
from daitir.models.views import ViewGenerator
from daitir.studies.benchmark import METHOD_PARTS, method_seconds, part_seconds


def test_every_part_is_timed_once_and_the_first_dialogue_warms_up():
    ticks = itertools.count()
    encoder = load_encoder("mini")
    gallery = torch.nn.functional.normalize(torch.randn(5, encoder.dim), dim=-1)
    bench = SimpleNamespace(
        words=lambda condition: [["a dog", "what colour is it? brown"]] * 3,
        gallery_features=lambda condition: gallery,
        reformulator=load_reformulator(),
        generator=ViewGenerator("tiny", tiny_pipeline(), steps=1),
        base=encoder,
    )
    fusions = {"scalar_gate": ScalarGate()}
    found = part_seconds(bench, None, fusions, clock=lambda: float(next(ticks)))
    assert set(found) == {"refine", "draw", "encode_text", "encode_view", "scalar_gate", "rank"}
    for part, seconds in found.items():
        assert seconds.tolist() == [0.5 if part == "refine" else 1.0] * 2, part
    assert next(ticks) == 3 * 6 * 2


def test_a_method_costs_the_sum_of_its_parts():
    parts = {part: np.array([1.0, 2.0]) for part in METHOD_PARTS["dar"]}
    parts["adafuse"] = np.array([5, 7])
    found = method_seconds(parts, ("adafuse",))
    assert found["text"] == pytest.approx([3, 6]) and found["dar"] == pytest.approx([5, 10])
    assert found["adafuse"] == pytest.approx([10, 17])

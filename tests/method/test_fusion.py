"""Fusions against loops, equations written out, and numbers worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from daitir.fusion import (
    NRGR,
    ADaFuSE,
    ConcatMLP,
    CosineGate,
    ScalarGate,
    average_views,
    dar_fusion,
    dar_weights,
    fuse_views,
    remembered_views,
)
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
    rounds = unit(2, 4, 3, 8)
    assert average_views(rounds)[1, 2].allclose(average_views(rounds[1, 2]))
    with pytest.raises(ValueError, match="^the views of a round cancel out"):
        average_views(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    with pytest.raises(ValueError, match="^view_features must be unit vectors; 2 of 2 are not$"):
        average_views(torch.zeros(2, 3))


def test_number_worked_by_hand():
    fused = dar_fusion(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), round=0)
    assert torch.allclose(fused, torch.tensor([0.8, 0.2]) / math.sqrt(0.68))


def naive_fusion(text, view, round):
    text_weight, view_weight = (0.8, 0.2) if round < 2 else (0.5, 0.5)
    fused = [
        text_weight * t + view_weight * v for t, v in zip(text.tolist(), view.tolist(), strict=True)
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
    ("round", "error", "message"),
    [
        (-1, ValueError, "counted from 0, not -1"),
        (1.0, TypeError, "integer"),
        ("1", TypeError, "integer"),
        (torch.tensor([0.0]), TypeError, "an integer tensor, not torch.float32"),
        (torch.tensor([True]), TypeError, "an integer tensor, not torch.bool"),
        (torch.tensor([0j]), TypeError, "an integer tensor, not torch.complex64"),
        (torch.tensor([0, -2]), ValueError, "counted from 0; the lowest here is -2"),
    ],
)
def test_bad_rounds_are_refused(round, error, message):
    with pytest.raises(error, match=message):
        dar_weights(round)


@pytest.mark.parametrize(
    ("text", "view", "round", "message"),
    [
        (torch.eye(3), torch.eye(3)[:2], 0, "one shape"),
        (torch.eye(3), torch.zeros(3, 3), 0, "view_features must be unit vectors; 3 of 3 are not"),
        (2 * torch.eye(3), torch.eye(3), 0, "text_features must be unit vectors"),
        (torch.eye(3), torch.eye(3) * float("nan"), 0, "view_features must be unit"),
        (torch.eye(3), -torch.eye(3), 2, "^a text and a view cancel out"),
        (torch.eye(3), torch.eye(3), torch.arange(2), r"round \(2,\) does not broadcast to \(3,\)"),
        (torch.eye(3), torch.eye(3), torch.zeros(2, 3, dtype=int), "does not broadcast"),
    ],
)
def test_bad_features_are_refused(text, view, round, message):
    with pytest.raises(ValueError, match=message):
        dar_fusion(text, view, round=round)


# --- learned fusions --------------------------------------------------------------------------


def gelu(x):
    return torch.tensor([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()])


def linear(layer, x):
    return layer.weight @ x + layer.bias


def naive_adafuse(model, text, view):
    """Equation eq-adafuse for one query, dropout off."""
    h = torch.cat(
        [gelu(linear(model.text_projection, text)), gelu(linear(model.view_projection, view))]
    )
    gate = torch.sigmoid(linear(model.gate[3], gelu(linear(model.gate[0], h))))
    router = torch.softmax(linear(model.router[2], gelu(linear(model.router[0], h))), dim=0)
    mixture = sum(p * gelu(linear(e, h)) for p, e in zip(router, model.experts, strict=True))
    fused = gate * text + (1 - gate) * view + linear(model.output, mixture)
    return fused / fused.norm(), gate, router


def naive_block(block, u):
    """LayerNorm, linear, GELU, LayerNorm, linear; dropout off."""

    def normal(layer, x):
        return (x - x.mean()) / (
            x.var(unbiased=False) + layer.eps
        ).sqrt() * layer.weight + layer.bias

    return linear(block[5], normal(block[4], gelu(linear(block[1], normal(block[0], u)))))


def naive_nrgr(model, text, view):
    """Equation eq-nrgr for one query."""
    residual = view - (text @ view) * text
    u = torch.cat([text, residual])
    router = torch.softmax(naive_block(model.router, u), dim=0)
    experts = [naive_block(expert, u) for expert in model.experts]
    gate = torch.sigmoid(sum(p * e for p, e in zip(router, experts, strict=True)))
    fused = text + gate * residual
    return fused / fused.norm(), gate, router


SMALL = {"projection_dim": 6, "hidden_dim": 8, "num_experts": 3}


@pytest.mark.parametrize(
    ("build", "naive"),
    [(lambda: ADaFuSE(5, **SMALL), naive_adafuse), (lambda: NRGR(5, num_experts=3), naive_nrgr)],
)
def test_learned_fusions_match_their_equations(build, naive):
    torch.manual_seed(0)
    model = build().eval()
    text, view = unit(2, 4, 5, seed=1), unit(2, 4, 5, seed=2)
    fused, details = model(text, view)
    assert torch.allclose(fused.norm(dim=-1), torch.ones(2, 4))
    for query in range(2):
        for t in range(4):
            expected = naive(model, text[query, t], view[query, t])
            found = fused[query, t], details["gate"][query, t], details["router"][query, t]
            for a, b in zip(found, expected, strict=True):
                assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(ValueError, match="must have one shape"):
        model(text, view[:1])
    with pytest.raises(ValueError, match="must be unit vectors"):
        model(text, torch.zeros_like(view))


def numpy_adafuse(model, text, view):
    """Equation eq-adafuse in NumPy, float64, for (num_queries, dim), dropout off."""
    weights = {n: p.detach().numpy().astype(np.float64) for n, p in model.named_parameters()}

    def layer(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    parts = [layer("text_projection", text), layer("view_projection", view)]
    h = gelu(np.concatenate(parts, axis=1))
    gate = 1 / (1 + np.exp(-layer("gate.3", gelu(layer("gate.0", h)))))
    logits = layer("router.2", gelu(layer("router.0", h)))
    router = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    experts = [gelu(layer(f"experts.{k}", h)) for k in range(len(model.experts))]
    mixture = sum(router[:, [k]] * expert for k, expert in enumerate(experts))
    fused = gate * text + (1 - gate) * view + layer("output", mixture)
    return fused / np.linalg.norm(fused, axis=1, keepdims=True)


def test_adafuse_agrees_with_numpy_in_double_precision_and_its_gradient_with_differences():
    torch.manual_seed(0)
    model = ADaFuSE(5, **SMALL).double().eval()
    text, view = unit(4, 5, seed=1).double(), unit(4, 5, seed=2).double()
    text, view = (x / x.norm(dim=-1, keepdim=True) for x in (text, view))
    expected = numpy_adafuse(model, text.numpy(), view.numpy())
    assert np.abs(model(text, view)[0].detach().numpy() - expected).max() < 1e-12
    inputs = [x.requires_grad_() for x in (text, view)]
    assert torch.autograd.gradcheck(lambda t, v: model(t, v)[0], inputs)


def test_parameters_of_the_published_size():
    model = ADaFuSE(256)
    assert sum(p.numel() for p in model.parameters()) == 11_812_614
    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert parts == {
        "text_projection", "view_projection", "gate", "experts", "router", "output", "logit_scale"
    }  # fmt: skip
    assert model.logit_scale.exp().item() == pytest.approx(50)


def test_nrgr_starts_near_the_text():
    torch.manual_seed(0)
    text, view = unit(50, 16, seed=1), unit(50, 16, seed=2)
    fused, details = NRGR(16)(text, view)
    assert details["gate"].mean() < 0.25
    assert ((fused * text).sum(-1) > (fused * view).sum(-1)).all()


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    model, text, view = ADaFuSE(5, **SMALL), unit(3, 5, seed=1), unit(3, 5, seed=2)
    assert not model(text, view)[0].equal(model(text, view)[0])
    model.eval()
    assert model(text, view)[0].equal(model(text, view)[0])


def test_the_ablations_of_adafuse():
    torch.manual_seed(0)
    text, view = unit(3, 5, seed=1), unit(3, 5, seed=2)
    whole = ADaFuSE(5, **SMALL).eval()
    halves, plain = (ADaFuSE(5, **SMALL, **{name: False}).eval() for name in
                     ("use_gate", "use_residual"))  # fmt: skip
    for model in (halves, plain):
        model.load_state_dict(whole.state_dict())
    gate, query = whole(text, view)[1]["gate"], whole(text, view)[0]
    assert halves(text, view)[1]["gate"].equal(torch.full((3, 1), 0.5))
    mixed = gate * text + (1 - gate) * view
    torch.testing.assert_close(plain(text, view)[0], normalize(mixed, dim=-1))
    halved = halves(text, view)[0]
    assert not query.allclose(halved, atol=1e-3)
    assert not query.allclose(plain(text, view)[0], atol=1e-3)


def test_what_fusions_are_by_default():
    adafuse, nrgr, concat = ADaFuSE(6), NRGR(6), ConcatMLP(6, hidden_dim=7)
    assert adafuse.use_gate and adafuse.use_residual
    for model in (adafuse, nrgr, concat):
        rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
        assert rates == {0.2}
    published = NRGR(256)  # what its released code builds
    assert sum(p.numel() for p in published.parameters()) == pytest.approx(6.46e6, rel=1e-3)
    assert (nrgr.experts[0][1].out_features, nrgr.router[1].out_features) == (256, 256)
    assert (NRGR(128).experts[0][1].out_features, NRGR(128).router[1].out_features) == (512, 256)
    small = NRGR(6, hidden_dim=5)
    assert len(small.experts) == 8 and small.experts[0][1].out_features == 5
    assert small.router[1].out_features == 5
    assert all((expert[-1].bias == -2).all() for expert in nrgr.experts)
    for model in (adafuse, nrgr, concat, ScalarGate(), CosineGate()):
        assert model.logit_scale.exp().item() == pytest.approx(50)
    for model in (adafuse.gate[2], adafuse.dropout):
        assert model.p == 0.2
    assert ADaFuSE(6, dropout=0.5).gate[2].p == ADaFuSE(6, dropout=0.5).dropout.p == 0.5


def test_gates_by_hand():
    text, view = unit(2, 4, 5, seed=1), unit(2, 4, 5, seed=2)
    scalar, cosine = ScalarGate(), CosineGate()
    for model in (scalar, cosine):
        fused, details = model(text, view)
        assert details["gate"].equal(torch.full((2, 4, 1), 0.5))
        torch.testing.assert_close(fused, normalize(text + view, dim=-1))
    with torch.no_grad():
        scalar.logit.fill_(math.log(3))  # a weight of 3/4
        cosine.logistic.weight.fill_(2.0)
        cosine.logistic.bias.fill_(-1.0)
    gates = {scalar: torch.tensor(0.75), cosine: 1 / (1 + (1 - 2 * (text * view).sum(-1)).exp())}
    for model, gate in gates.items():
        gate = gate.expand(2, 4)[..., None]
        fused, details = model(text, view)
        torch.testing.assert_close(details["gate"], gate)
        torch.testing.assert_close(fused, normalize(gate * text + (1 - gate) * view, dim=-1))


def test_the_two_layers_by_hand():
    torch.manual_seed(0)
    model, text, view = ConcatMLP(5, hidden_dim=7).eval(), unit(5, seed=1), unit(5, seed=2)
    first, last = model.layers[0], model.layers[3]
    expected = linear(last, gelu(linear(first, torch.cat([text, view]))))
    fused, details = model(text, view)
    torch.testing.assert_close(fused, expected / expected.norm())
    assert details == {}
    several = [unit(2, 3, 5, seed=3), unit(2, 3, 5, seed=4)]
    assert model(*several)[0].norm(dim=-1).allclose(torch.ones(2, 3))


@pytest.mark.parametrize("build", [ScalarGate, CosineGate, lambda: ConcatMLP(5, hidden_dim=7)])
def test_small_fusions_refuse_what_is_no_pair(build):
    text, view = unit(3, 5, seed=1), unit(3, 5, seed=2)
    for pair, message in (
        ((text, view[:2]), r"text_features \(3, 5\) and view_features \(2, 5\) must have one"),
        ((2 * text, view), "text_features must be unit vectors; 3 of 3 are not"),
        ((text, view * torch.tensor([[1.0], [0.0], [1.0]])), "view_features .*; 1 of 3 are not"),
    ):
        with pytest.raises(ValueError, match=message):
            build()(*pair)


def test_several_views_are_fused_one_by_one():
    torch.manual_seed(0)
    model, text, views = NRGR(5).eval(), unit(2, 5, seed=1), unit(2, 3, 5, seed=2)
    fused, details = fuse_views(model, text, views)
    singles = torch.stack([model(text, views[:, i])[0] for i in range(3)])
    torch.testing.assert_close(fused, normalize(singles.mean(dim=0), dim=-1))
    torch.testing.assert_close(details["gate"][:, 1], model(text, views[:, 1])[1]["gate"])


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_memory_is_a_decaying_sum(decay):
    views = unit(2, 4, 5, seed=3)
    found = remembered_views(views, decay=decay)
    for t in range(4):
        total = sum(decay ** (t - s) * views[:, s] for s in range(t + 1))
        torch.testing.assert_close(found[:, t], normalize(total, dim=-1))
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"^decay is between 0 and 1, not {bad}$"):
            remembered_views(views, decay=bad)
    with pytest.raises(ValueError, match="^view_features must be unit vectors; 8 of 8"):
        remembered_views(2 * views, decay=0.5)
    one = unit(1, 5)
    with pytest.raises(ValueError, match="the views so far cancel out"):
        remembered_views(torch.cat([one, -one]), decay=1)


def test_how_far_from_a_unit_vector_is_too_far():
    text, view = unit(1, 5, seed=1), unit(1, 5, seed=2)
    dar_fusion(1.009 * text, 0.991 * view, round=0)
    for pair in ((1.011 * text, view), (text, 0.989 * view)):
        with pytest.raises(ValueError, match="must be unit vectors; 1 of 1"):
            dar_fusion(*pair, round=0)

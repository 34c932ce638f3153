"""Geometry: known spaces give known numbers, and a null space is told from an orthogonal map."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from daitir import metrics
from daitir.analysis.attention import image_pixels
from daitir.analysis.geometry import spaces
from daitir.analysis.geometry.nullspace import (
    cue_jacobian,
    effect_of_removal,
    equal_noise,
    null_basis,
    principal_angles,
    project_out,
    random_span,
    share_in_span,
    target_span,
)
from daitir.analysis.geometry.probes import beaten_shares, fit_probe, layer_features
from daitir.analysis.geometry.spaces import (
    added_directions,
    alignment_values,
    effective_rank,
    jackknife_interval,
    leave_out,
    linear_cka,
    modality_gap,
    spectrum,
    uniformity,
    unit,
)
from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.open_clip_encoders import OpenClipEncoder
from daitir.retrieval import target_ranks
from daitir.scenes import counterfactual, render_scenes, sample_scenes
from daitir.scenes.scene import Fact

DIM, NULL = 12, 4


def rotation(dim, seed=0):
    torch.manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim))[0]


def features(number=200, dim=DIM, seed=0):
    torch.manual_seed(seed)
    return F.normalize(torch.randn(number, dim), dim=-1)


@pytest.fixture(scope="module")
def mini():
    return load_encoder("mini")


@pytest.fixture(scope="module")
def pixels(mini):
    return image_pixels(mini, render_scenes(sample_scenes(0, "val", 4)))


def test_what_facts_add_is_what_captions_with_them_have_more(mini):
    facts = [Fact("dog", "present", True), Fact("people", "present", True)]
    places = [Fact("scene", "place", place) for place in ("beach", "city")]
    words = [["a dog at the beach", "a dog in the city"],
             ["some people at the beach", "some people in the city"]]  # fmt: skip
    alone = mini.encode_texts(["at the beach", "in the city"])
    for row, found in zip(words, added_directions(mini, facts, places), strict=True):
        total = sum(mini.encode_texts(text)[0] - a for text, a in zip(row, alone, strict=True))
        torch.testing.assert_close(found, total / total.norm(), atol=1e-5, rtol=0)


# --- a set of features ------------------------------------------------------------------------


def test_the_gap_is_the_shift_that_was_put_in():
    a = features()
    assert modality_gap(a, a.flip(0)) == pytest.approx(0, abs=1e-6)
    assert modality_gap(a + torch.eye(DIM)[0] * 0.3, a) == pytest.approx(0.3, abs=1e-6)


def test_alignment_and_uniformity_against_loops():
    a, b = features(20), features(20, seed=1)
    expected = [float(((x - y) ** 2).sum()) for x, y in zip(a, b, strict=True)]
    assert alignment_values(a, b).tolist() == pytest.approx(expected, abs=1e-5)
    pairs = [float((-2 * ((a[i] - a[j]) ** 2).sum()).exp()) for i in range(20) for j in range(i)]
    assert uniformity(a) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-5)
    assert uniformity(features(400)) < uniformity(F.normalize(features(400) + 1, dim=-1))


def test_spectrum_and_rank_of_known_axes():
    axes = torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0, 0.0]))
    cross = torch.cat([axes, -axes]) + 5
    assert spectrum(cross).tolist() == pytest.approx([8 / 9, 2 / 9, 2 / 9, 0, 0], abs=1e-9)
    shares = np.array([0.5, 0.25, 0.25])
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(cross) == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(spectrum(cross @ rotation(5)), spectrum(cross), atol=1e-6)


def test_cka_is_one_up_to_rotation_and_small_for_strangers():
    a = features(600)
    assert linear_cka(a, 3 * a @ rotation(DIM) + 1) == pytest.approx(1, abs=1e-6)
    assert linear_cka(a, features(600, seed=5)) < 0.1
    b = a + 0.5 * features(600, seed=5)
    grams = [m.double() - m.double().mean(dim=0) for m in (a, b)]
    grams = [m @ m.T for m in grams]
    expected = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert linear_cka(a, b) == pytest.approx(float(expected), abs=1e-6)


def test_the_jackknife_of_a_mean_is_the_interval_of_a_mean_and_covers(monkeypatch):
    torch.manual_seed(0)
    values = torch.randn(2000, 1)
    with monkeypatch.context() as context:
        context.setattr(spaces, "NUM_GROUPS", 100)
        means = leave_out(lambda x: float(x.mean()), values)
    value, low, high = jackknife_interval(means)
    half = 1.96 * float(values.std()) / math.sqrt(2000)
    assert value == pytest.approx(float(values.mean()))
    assert (high - low) / 2 == pytest.approx(half, rel=0.25)
    hits = 0
    for seed in range(60):
        torch.manual_seed(seed)
        variances = leave_out(lambda x: float(x.var()), 2 * torch.randn(300, 1))
        _, low, high = jackknife_interval(variances)
        hits += low < 4 < high
    assert hits >= 50


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: spectrum(features(12)), "at most 11 eigenvalues"),
        (lambda: effective_rank(torch.ones(20, DIM)), "all the same"),
        (lambda: linear_cka(features(10), features(10)), "cannot be estimated"),
        (lambda: linear_cka(features(30), features(31)), "must see the same"),
        (lambda: linear_cka(features(30), torch.ones(30, DIM)), "nothing to compare"),
        (lambda: modality_gap(features(), features(dim=5)), "do not match"),
        (lambda: uniformity(features(1)), "at least 2 items"),
        (lambda: modality_gap(features() * float("nan"), features()), "NaN"),
        (lambda: leave_out(uniformity, features(9)), "too few for 20 groups"),
        (lambda: unit(torch.zeros(1, 3)), "no direction"),
        (lambda: target_span(features(8)), "at most 7 directions"),
        (lambda: target_span(torch.cat([torch.eye(20), -torch.eye(20)])), "degenerate"),
        (lambda: beaten_shares(torch.ones(0), torch.ones(2)), "absent from the sample"),
        (lambda: fit_probe(features(20), ["a", "b"] * 10), "too few for a probe"),
    ],
)
def test_what_cannot_be_estimated_is_said(function, message):
    with pytest.raises(DataError, match=message):
        function()


# --- null space -------------------------------------------------------------------------------


def test_noise_is_as_far_away_as_the_change():
    scene = sample_scenes(0, "val", 1)[0]
    other = counterfactual(scene, Fact(scene.objects[0].category, "present", False))
    image, changed = render_scenes([scene, other])
    size = np.sqrt(((changed.astype(float) - image) ** 2).sum())
    for inside in (False, True):
        noisy = equal_noise(image, changed, seed=0, inside=inside).astype(float)
        assert np.sqrt(((noisy - image) ** 2).sum()) == pytest.approx(size, rel=0.02)
    untouched = (image == changed).all(axis=-1)
    assert (noisy[untouched] == image[untouched]).all()
    others = [equal_noise(image, changed, seed=seed, inside=False) for seed in (0, 1)]
    assert (others[0] != others[1]).any()
    with pytest.raises(DataError, match="the same"):
        equal_noise(image, image, seed=0, inside=False)


def test_shares_angles_and_random_spans():
    basis = torch.eye(DIM)[:3]
    inside, outside = torch.eye(DIM)[1:2] * 3, torch.eye(DIM)[7:8]
    assert share_in_span(torch.cat([inside, outside]), basis).tolist() == [1, 0]
    turned = basis @ rotation(DIM)
    assert torch.allclose(share_in_span(inside @ rotation(DIM), turned), torch.ones(1), atol=1e-5)
    mixed = torch.linalg.qr(torch.randn(3, 3))[0] @ basis  # another basis of the same span
    assert principal_angles(mixed, basis).max() < 0.1
    assert principal_angles(torch.eye(DIM)[3:6], basis).min() > 89.9
    assert principal_angles(torch.eye(DIM)[2:4], basis).tolist() == pytest.approx([0, 90])
    shares = [share_in_span(inside, random_span(3, DIM, seed=s)).item() for s in range(400)]
    assert np.mean(shares) == pytest.approx(3 / DIM, abs=0.03)
    span = random_span(3, DIM, seed=0)
    assert torch.allclose(span @ span.T, torch.eye(3), atol=1e-5)


def test_the_target_span_is_that_of_differences():
    torch.manual_seed(0)
    wide = torch.randn(400, DIM) * torch.linspace(2, 0.1, DIM)
    span = target_span(wide)
    differences = (wide[:, None] - wide).flatten(0, 1)
    values, vectors = torch.linalg.eigh(differences.T.double() @ differences.double())
    shares = values.flip(0).cumsum(0) / values.sum()
    assert len(span) == int((shares < 0.9).sum()) + 1
    assert principal_angles(span, vectors.flip(1)[:, : len(span)].T).max() < 0.5


def test_removal_agrees_with_ranks_taken_one_by_one():
    gallery, query, delta = features(80), features(20, seed=1), features(20, seed=2)
    targets = torch.arange(20)
    changed = project_out(query, delta)
    assert (changed * delta).sum(dim=1).abs().max() < 1e-6
    logits, log_ranks = effect_of_removal(query, changed, gallery, targets, logit_scale=10.0)
    for i in range(20):
        ranks = [target_ranks(q[i : i + 1], gallery, targets[i : i + 1]) for q in (query, changed)]
        expected = math.log((ranks[1] + 1) / (ranks[0] + 1))
        assert float(log_ranks[i]) == pytest.approx(expected, abs=1e-6)
        expected = 10 * float((changed[i] - query[i]) @ gallery[i])
        assert logits[i] == pytest.approx(expected, abs=1e-4)


def linear_encoder(weight):
    """An encoder whose tower is one linear map of 3 · 2 · 2 pixels: its null space is known."""
    model = nn.Module()
    model.visual = nn.Sequential(nn.Flatten(), nn.Linear(DIM, weight.shape[1], bias=False))
    model.visual[1].weight = nn.Parameter(weight.T.contiguous())
    model.encode_image = model.visual
    encoder = object.__new__(OpenClipEncoder)
    vars(encoder).update(spec="linear", model=model, image_size=2, dim=weight.shape[1],
                         device=torch.device("cpu"))  # fmt: skip
    return encoder


@pytest.fixture
def cue():
    """Pictures, a cue that is some of the first four rotated directions, and the two encoders."""
    turned = rotation(DIM, seed=3)
    torch.manual_seed(4)
    pictures = torch.randn(600, DIM)
    present = torch.rand(600) < 0.5
    cue = 2 * turned[0] + turned[1]
    kept = torch.diag((torch.arange(DIM) >= NULL).float())
    return pictures, present, cue, turned, {"null": turned.T @ kept, "orthogonal": turned.T}


def displacement(encoder, pictures, cue):
    return [encoder.model.visual((pictures + sign * cue).detach()).detach() for sign in (1, 0)]


@pytest.mark.parametrize("kind", ["null", "orthogonal"])
def test_a_known_null_space_is_recognised_and_an_orthogonal_map_is_not(cue, kind):
    pictures, present, change, turned, weights = cue
    encoder, identity = linear_encoder(weights[kind]), linear_encoder(torch.eye(DIM))
    is_null = kind == "null"

    (with_cue, without), (raw, plain) = (
        displacement(e, pictures, change) for e in (encoder, identity)
    )
    basis = null_basis(encoder.model.visual[1].weight.detach().T)
    assert len(basis) == (NULL if is_null else 0)
    if is_null:
        assert principal_angles(basis, turned[:NULL]).max() < 0.1
        assert torch.allclose(share_in_span(raw - plain, basis), torch.ones(()), atol=1e-5)

    shorter = (with_cue - without + 1e-6).norm(dim=-1) / (raw - plain).norm(dim=-1)
    assert (shorter.log().mean() < math.log(1e-4)) == is_null
    assert is_null or abs(float(shorter.log().mean())) < 1e-3

    point = pictures[0].view(3, 2, 2)
    tangents = turned[:2].view(2, 3, 2, 2)
    slopes = cue_jacobian(encoder, point, tangents).norm(dim=1)
    assert (slopes.max() < 1e-5) == is_null
    visible = cue_jacobian(encoder, point, turned[NULL : NULL + 2].view(2, 3, 2, 2))
    assert torch.linalg.svdvals(visible).min() > 0.05

    shown = encoder.model.visual(pictures + present[:, None] * change).detach()
    labels = [{value} for value in present.tolist()]
    probe = fit_probe(shown[:400], labels[:400])
    scores = probe.scores(shown[400:])[:, probe.classes.index(True)]
    area = beaten_shares(scores[present[400:]], scores[~present[400:]])
    low, high = metrics.bootstrap_interval(area)
    assert low < 0.5 < high if is_null else low > 0.75


def accuracy(rows, labels):
    """Share of the last third whose best-scored label is theirs, by a probe of the others."""
    probe = fit_probe(rows[:400], labels[:400])
    best = probe.scores(rows[400:]).argmax(dim=1).tolist()
    return np.mean([probe.classes[i] in own for i, own in zip(best, labels[400:], strict=True)])


def test_information_that_only_moved_is_found_by_a_probe():
    """Small but there: an attenuated cue is no lost cue."""
    torch.manual_seed(0)
    noise, labels = torch.randn(600, DIM), (torch.rand(600) < 0.5)
    shrunk = torch.cat([0.01 * labels[:, None].float(), 0.001 * noise[:, 1:]], dim=1)
    labels = [{value} for value in labels.tolist()]
    assert accuracy(shrunk, labels) > 0.95
    assert 0.4 < accuracy(noise, labels) < 0.6


# --- derivatives and probes ------------------------------------------------------------------


@pytest.mark.slow
def test_many_derivatives_at_once_are_those_of_a_loop(mini, pixels):
    from daitir.analysis.attention import record_attention
    from daitir.analysis.geometry.nullspace import NUM_TANGENTS

    torch.manual_seed(0)
    tangents = torch.randn(NUM_TANGENTS + 3, *pixels[0].shape)
    found = cue_jacobian(mini, pixels[0], tangents)
    with torch.no_grad(), record_attention(mini.model.visual):
        for row, tangent in list(zip(found, tangents, strict=True))[-5:]:
            single = torch.func.jvp(
                lambda x: F.normalize(mini.model.encode_image(x[None]), dim=-1)[0],
                (pixels[0],), (tangent / tangent.norm(),),
            )[1]  # fmt: skip
            assert torch.allclose(row, single, atol=1e-6)


def test_the_jacobian_of_an_encoder_is_a_difference_quotient(mini, pixels):
    tangents = pixels[1:3] - pixels[0]
    found = cue_jacobian(mini, pixels[0], tangents)
    step = 0.01
    with torch.no_grad():
        for row, tangent in zip(found, tangents, strict=True):
            along = step * tangent / tangent.norm()
            ends = torch.stack([pixels[0] + along, pixels[0] - along])
            ends = F.normalize(mini.model.encode_image(ends), dim=-1)
            assert torch.allclose(row, (ends[0] - ends[1]) / (2 * step), atol=1e-4)
    assert all(p.requires_grad and p.grad is None for p in mini.model.parameters())
    with pytest.raises(DataError, match="no direction"):
        cue_jacobian(mini, pixels[0], torch.zeros_like(tangents))


def test_layers_are_those_that_the_blocks_give(mini, pixels):
    found = layer_features(mini, pixels)
    outputs = []
    blocks = mini.model.visual.transformer.resblocks
    handles = [b.register_forward_hook(lambda m, i, out: outputs.append(out)) for b in blocks]
    with torch.no_grad():
        feature = mini.model.encode_image(pixels)
    for handle in handles:
        handle.remove()
    assert len(found) == len(blocks) + 1
    for rows, tokens in zip(found, outputs, strict=False):
        expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
        assert torch.allclose(rows, expected, atol=1e-4)
    assert torch.allclose(found[-1], F.normalize(feature, dim=-1), atol=1e-5)
    with pytest.raises(DataError, match="no layers to probe"):
        layer_features(linear_encoder(torch.eye(DIM)), torch.zeros(2, 3, 2, 2))


def test_ridge_of_the_probe_solves_the_normal_equations():
    torch.manual_seed(0)
    x = torch.randn(300, 6)
    labels = [
        {"ab"[int(row[0] + 0.3 * row[1] > 0)]} | ({"c"} if row[2] > 1 else set()) for row in x
    ]
    probe = fit_probe(x, labels)
    assert probe.classes == ("a", "b", "c")
    wide = x.double() - x.double().mean(dim=0)
    gram = wide.T @ wide
    target = torch.tensor([[name in some for name in "abc"] for some in labels]).double()
    ridge = probe.strength * torch.linalg.eigvalsh(gram).mean() * torch.eye(6)
    expected = torch.linalg.solve(gram + ridge, wide.T @ (target - target.mean(dim=0)))
    scores = wide @ expected + target.mean(dim=0)
    assert torch.allclose(probe.scores(x), scores, atol=1e-8)
    assert float((scores[:, :2].argmax(dim=1) == target[:, :2].argmax(dim=1)).float().mean()) > 0.95


def test_the_area_agrees_with_scikit_learn():
    from sklearn.metrics import roc_auc_score

    torch.manual_seed(0)
    a, b = torch.randn(40).round(decimals=1) + 0.4, torch.randn(60).round(decimals=1)
    expected = roc_auc_score([1] * 40 + [0] * 60, torch.cat([a, b]))
    assert float(beaten_shares(a, b).mean()) == pytest.approx(expected, abs=1e-6)

"""Every exercise's checker passes a right answer and stops the usual wrong ones with a hint."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from daitir import metrics
from daitir.book.exercises import PASSED, NotFilledIn, WrongAnswer, foundations, methods
from daitir.scenes import Fact, counterfactual, parse

checks = SimpleNamespace(**(vars(foundations) | vars(methods)))


def name_of(check):
    return next(name for name, thing in vars(checks).items() if thing is check)


def nightfall(scene):
    if scene.time == "night":
        return scene
    return counterfactual(scene, Fact("scene", "time", "night"))


def lost_hits(ranks, k):
    return (ranks.min(axis=1, keepdims=True) < k).mean(axis=0) - (ranks < k).mean(axis=0)


def in_place(features):
    features /= features.norm(dim=-1, keepdim=True)
    return features


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def own_rank(similarity, beats):
    return beats(similarity, similarity.diag()[:, None]).sum(dim=1)


def own_places(scores, targets, beats):
    return beats(scores, scores[range(len(scores)), targets][:, None]).sum(dim=1)


def text_ranks(image_features, text_features):
    return own_rank(image_features @ text_features.T, torch.ge) - 1


def kept_share(caption, facts):
    return np.mean([fact in parse(caption).facts for fact in facts])


def places(scores):
    return scores.argsort(dim=-1, descending=True).argsort(dim=-1) + 1


def similarity_gradient(similarity, scale):
    logits = scale * similarity
    guesses = logits.softmax(dim=1) + logits.softmax(dim=0)
    return guesses / (2 * len(logits)) - torch.eye(len(logits)) / len(logits)


def adafuse_parameters(dim, projection, hidden, experts):
    def linear(before, after):
        return before * after + after

    joint, quarter = 2 * projection, hidden // 4
    gate = linear(joint, hidden) + linear(hidden, 1)
    router = linear(joint, quarter) + linear(quarter, experts)
    mixture = experts * linear(joint, hidden) + linear(hidden, dim)
    return 2 * linear(dim, projection) + gate + router + mixture + 1


RIGHT = {
    checks.unit_vectors: lambda f: f / f.norm(dim=-1, keepdim=True),
    checks.top_images: lambda q, g, k: (g @ q).argsort(descending=True)[:k],
    checks.nightfall: nightfall,
    checks.lost_hits: lambda r, k: (
        (np.minimum.accumulate(r, axis=1) < k).mean(axis=0) - (r < k).mean(axis=0)
    ),
    checks.best_log_rank_integral: metrics.best_log_rank_integral,
    checks.degradation_with_margin: lambda r, t, m: metrics.degradation_rate(r, t, margin=m),
    checks.placebo_views: lambda v: v.roll(1, dims=0),
    checks.chance_loss: np.log,
    checks.image_to_text_ranks: text_ranks,
    checks.centred: lambda f: unit(f - f.mean(dim=0)),
    checks.similarity_gradient: lambda s, scale: scale * similarity_gradient(s, scale),
    checks.signal_and_noise: lambda r: (np.sqrt(r / (1 + r)), np.sqrt(1 / (1 + r))),
    checks.negative_guidance: lambda w, u, scale: u + scale * (w - u),
    checks.step_up: lambda y, v, a, s, b, r: b * (a * y - s * v) + r * (s * y + a * v),
    checks.weighted_sum: lambda t, v, w: unit((1 - w) * t + w * v),
    checks.kept_share: kept_share,
    checks.several_views: lambda v: unit(v.mean(dim=1)),
    checks.middle_ranks: lambda s, t: (
        (own_places(s, t, torch.gt) + own_places(s, t, torch.ge) - 1) / 2
    ),
    checks.best_of: lambda p, n: 1 - np.prod(1 - p[:n]),
    checks.half_width: lambda d, n: 1.96 * d / n**0.5,
    checks.chair: lambda shown, true: len(shown - true) / max(len(shown), 1),
    checks.corrected_rate: lambda read, alarm, miss: (read - alarm) / (1 - alarm - miss),
    checks.area_under_curve: lambda s, y: float(
        np.mean((s[y][:, None] > s[~y]) + 0.5 * (s[y][:, None] == s[~y]))
    ),
    checks.interaction: lambda before, first, second, both: both - first - second + before,
    checks.gated_query: lambda g, t, v, r: unit(g * t + (1 - g) * v + r),
    checks.adafuse_parameters: adafuse_parameters,
    checks.experts_in_use: lambda p: torch.special.entr(p.mean(dim=0)).sum().exp(),
    checks.linear_flops: lambda before, after: 2 * before * after,
    checks.permutation_share: lambda x, null: (1 + (null >= x).sum()) / (1 + len(null)),
    checks.mutual_information: mutual_info_score,
    checks.rank_fusion: lambda t, v: 1 / (60 + places(t)) + 1 / (60 + places(v)),
    checks.layer_rate: lambda rate, decay, block, n: rate * decay ** (n + 1 - block),
    checks.numbers_kept: lambda rows, columns, rank: min(rank * (rows + columns), rows * columns),
    checks.blend: lambda a, b, share: {name: a[name].lerp(b[name], share) for name in a},
}
WRONG = [
    (checks.layer_rate, lambda rate, decay, block, n: rate * decay ** (n - block), "below the top"),
    (checks.numbers_kept, lambda rows, columns, rank: rank * rows * columns, "one the columns"),
    (checks.numbers_kept, lambda rows, columns, rank: rank * (rows + columns), "no smaller"),
    (checks.blend, lambda a, b, share: {n: share * a[n] + (1 - share) * b[n] for n in a}, "of 1"),
    (checks.blend, lambda a, b, share: {n: a[n].lerp_(b[n], share) for n in a}, "must stay"),
    (checks.linear_flops, lambda before, after: before * after + after, "one product"),
    (checks.permutation_share, lambda x, null: (null >= x).mean(), "the observed one"),
    (checks.mutual_information, lambda a, b: float((a == b).mean()), "about themselves"),
    (checks.gated_query, lambda g, t, v, r: unit(g * v + (1 - g) * t + r), "gate times text"),
    (checks.gated_query, lambda g, t, v, r: g * t + (1 - g) * v + r, "length 1"),
    (checks.adafuse_parameters, lambda *s: adafuse_parameters(*s) - 1, "one more"),
    (checks.experts_in_use, lambda p: torch.special.entr(p).sum(1).exp().mean(), "average over"),
    (checks.middle_ranks, lambda s, t: own_places(s, t, torch.ge) - 1, "half of the others"),
    (checks.best_of, lambda p, n: np.sum(p[:n]), "multiply"),
    (checks.best_of, lambda p, n: 1 - np.prod(1 - p), "after one round"),
    (checks.half_width, lambda d, n: 1.96 * d / n, "the root"),
    (checks.chair, lambda shown, true: len(true - shown) / len(true), "that the target lacks"),
    (checks.corrected_rate, lambda read, alarm, miss: read - alarm, "solve for the truth"),
    (checks.area_under_curve, lambda s, y: float(np.mean(s[y][:, None] > s[~y])), "every positive"),
    (checks.interaction, lambda a, b, c, d: d - b - c, "add up"),
    (checks.weighted_sum, lambda t, v, w: unit(w * t + (1 - w) * v), "of the text and"),
    (checks.weighted_sum, lambda t, v, w: (1 - w) * t + w * v, "scale to length 1"),
    (checks.kept_share, lambda c, f: len(set(f) & set(parse(c).facts)), "all of these"),
    (checks.kept_share, lambda c, f: 1.0, "two of the four"),
    (checks.several_views, lambda v: v.mean(dim=1), "scale to length 1"),
    (checks.several_views, lambda v: unit(v.mean(dim=0)), "shape"),
    (checks.rank_fusion, lambda t, v: 1 / (59 + places(t)) + 1 / (59 + places(v)), "place 1"),
    (checks.rank_fusion, lambda t, v: t + v, "place 1"),
    (checks.signal_and_noise, lambda r: (r / (1 + r), 1 / (1 + r)), "squares must sum to 1"),
    (checks.signal_and_noise, lambda r: (1 / np.sqrt(1 + r), np.sqrt(r / (1 + r))), "of squares"),
    (checks.signal_and_noise, lambda r: np.sqrt(r), "shape"),
    (checks.negative_guidance, lambda w, u, scale: w - scale * u, "only the wanted one"),
    (checks.negative_guidance, lambda w, u, scale: w, "through the other"),
    (checks.step_up, lambda y, v, a, s, b, r: y + v, "mix them anew"),
    (checks.unit_vectors, lambda f: f / f.norm(), "divide each row"),
    (checks.unit_vectors, lambda f: f / f.sum(dim=-1, keepdim=True), "divide each row"),
    (checks.unit_vectors, in_place, "must stay as they are"),
    (checks.top_images, lambda q, g, k: (g @ q).argsort()[:k], "the highest first"),
    (checks.top_images, lambda q, g, k: (g @ q).argsort(descending=True), "shape"),
    (checks.top_images, lambda q, g, k: (g @ q).sort(descending=True).values[:k], "highest"),
    (checks.nightfall, lambda s: s, "still day"),
    (checks.nightfall, lambda s: replace(nightfall(s), weather="rainy"), "more than the time"),
    (checks.nightfall, lambda s: s.time, "return a Scene"),
    (checks.lost_hits, lost_hits, "at some round so far"),
    (checks.lost_hits, lambda r, k: metrics.hits_at_k(r, k), "but is not now"),
    (checks.lost_hits, lambda r, k: 0.0, "shape"),
    (
        checks.best_log_rank_integral,
        lambda r: np.log1p(r).mean(),
        "best ranks so far are 12, 3, 3",
    ),
    (
        checks.best_log_rank_integral,
        lambda r: len(r) * metrics.best_log_rank_integral(r),
        "mean over dialogues",
    ),
    (checks.degradation_with_margin, lambda r, t, m: (r >= t).mean(axis=0), "equal ranks are not"),
    (checks.degradation_with_margin, lambda r, t, m: (r > t).mean(axis=0), "with a margin"),
    (checks.degradation_with_margin, lambda r, t, m: (r - t > m).mean(axis=0), "with a margin"),
    (checks.placebo_views, lambda v: v, "kept a view of its own"),
    (checks.placebo_views, lambda v: v.roll(1, dims=1), "at the round"),
    (checks.placebo_views, lambda v: v[[1, 2, 3, 4, 2]], "every view once"),
    (checks.placebo_views, lambda v: v[1:], "shape"),
    (checks.chance_loss, np.log2, "logarithm"),
    (checks.chance_loss, lambda size: 1 / size, "same probability"),
    (checks.image_to_text_ranks, lambda v, t: text_ranks(t, v), "images look for texts"),
    (checks.image_to_text_ranks, lambda v, t: text_ranks(v, t) + 1, "count from 0"),
    (checks.image_to_text_ranks, lambda v, t: own_rank(v @ t.T, torch.gt), "ties too"),
    (checks.centred, lambda f: f - f.mean(dim=0), "divide each row by its length"),
    (checks.centred, lambda f: unit(f - f.mean(dim=1, keepdim=True)), "mean over rows"),
    (checks.centred, lambda f: unit(f.sub_(f.mean(dim=0))), "must stay as they are"),
    (checks.similarity_gradient, similarity_gradient, "also multiplies"),
    (checks.similarity_gradient, lambda s, scale: s.softmax(dim=1) - torch.eye(3), "by column"),
]


@pytest.mark.parametrize("check", RIGHT, ids=name_of)
def test_a_right_answer_passes(check):
    assert check(RIGHT[check]) == PASSED


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_a_wrong_answer_fails_with_a_hint(check, answer, hint):
    with pytest.raises(WrongAnswer, match=hint):
        check(answer)


@pytest.mark.parametrize("check", RIGHT, ids=name_of)
@pytest.mark.parametrize("nothing", [None, ...], ids=["None", "..."])
def test_an_empty_stub_fails(check, nothing):
    with pytest.raises(NotFilledIn, match="not filled in yet"):
        check(lambda *arguments: nothing)


def stops(text_ranks):
    return len(text_ranks) + "1"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (stops, "stops at `return len.*`: TypeError: unsupported operand"),
        (lambda: 0, "the function stops: TypeError: .*takes 0 positional arguments"),
        (lambda features: "one", "must be an array of numbers: could not convert"),
        (lambda features: [[1], [1, 2]], "must be an array of numbers: setting an array element"),
        (lambda features: features.clone().requires_grad_(), "array of numbers: Can't call"),
        (lambda features: features.resize_(1), "the arguments must stay as they are"),
    ],
)
def test_an_answer_that_is_none_fails_in_a_sentence_too(answer, sentence):
    with pytest.raises(WrongAnswer, match=sentence):
        checks.unit_vectors(answer)


def test_a_notebook_shows_the_sentence_alone():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shown = []
    shell._showtraceback = lambda kind, error, lines: shown.extend(lines)
    shell.user_ns["check"] = checks.nightfall
    assert not shell.run_cell("check(lambda scene: scene)").success
    assert shown == ["the time of day is still day"]


def test_a_script_shows_an_ordinary_error():
    code = "from daitir.book import exercises; exercises.call(lambda: None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, last = done.stderr.splitlines()[:: len(done.stderr.splitlines()) - 1]
    assert done.returncode == 1 and first == "Traceback (most recent call last):"
    assert last.startswith("daitir.book.exercises.NotFilledIn: not filled in yet: ")


def test_lists_and_tensors_are_fine_as_answers():
    def rate(ranks, text_ranks, margin):
        return list(metrics.degradation_rate(ranks, text_ranks, margin=margin))

    assert checks.degradation_with_margin(rate) == PASSED
    assert checks.placebo_views(lambda v: torch.cat([v[1:], v[:1]])) == PASSED

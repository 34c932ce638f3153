"""Checks of the exercises: each takes a learner's function and compares it with the library's.

A check returns `PASSED`, or raises AssertionError with a hint about what went wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir import metrics
from daitir.fusion import ADaFuSE, average_views
from daitir.objectives import info_nce, jensen_shannon
from daitir.retrieval import target_ranks
from daitir.scenes import Fact, Scene, counterfactual, sample_scene

PASSED = "Passed."

_RANKS = np.array(
    [[14, 6, 11, 3], [2, 25, 30, 40], [55, 18, 12, 9], [7, 9, 10, 0], [90, 80, 70, 60]]
)
_PAIRS = [  # features before scaling: images, then their texts, of which two are the same
    [[1.0, 0.2, -0.3], [0.1, 0.9, 0.4], [-0.5, 0.3, 0.8]],
    [[0.3, 0.8, 0.2], [0.3, 0.8, 0.2], [-0.6, 0.1, 0.7]],
]


def unit_vectors(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 00: `function(features)` scales each row of `(num_rows, dim)` to length 1."""
    features = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.6, 0.8]])
    kept = features.clone()
    answer = function(features)
    assert torch.equal(features, kept), "the features that were passed in must stay as they are"
    _compare(answer, F.normalize(kept, dim=-1), "divide each row by its own length")
    return PASSED


def top_images(function: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Chapter 00: `function(query, gallery, k)` gives the `k` best images' indices, best first.

    `query` is `(dim,)`, `gallery` `(num_images, dim)`, and the answer `(k,)`.
    """
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
    _compare(
        function(torch.tensor([1.0, 0.0]), gallery, 3),
        [1, 3, 2],
        "order the images by their inner product with the query, the highest first",
    )
    _compare(function(torch.tensor([0.0, 1.0]), gallery, 1), [0], "return k indices, not more")
    return PASSED


def nightfall(function: Callable[[Scene], Scene]) -> str:
    """Chapter 00: `function(scene)` gives the same scene at night, and leaves a night as it is."""
    for index in range(8):
        scene = sample_scene(0, "val", index)
        is_night = scene.time == "night"
        expected = scene if is_night else counterfactual(scene, Fact("scene", "time", "night"))
        answer = function(scene)
        assert isinstance(answer, Scene), f"return a Scene, not {type(answer).__name__}"
        assert answer.time == "night", f"the time of day is still {answer.time}"
        assert answer == expected, "more than the time of day has changed"
    return PASSED


def lost_hits(function: Callable[[np.ndarray, int], Any]) -> str:
    """Chapter 01: `function(ranks, k)` gives per round the share of hits that are lost again.

    `ranks` is `(num_queries, num_rounds)`, 0-based, and the answer `(num_rounds,)`.
    """
    for k in (1, 10, 20):
        expected = metrics.hits_at_k(_RANKS, k) - metrics.recall_at_k(_RANKS, k)
        hint = f"for k = {k}, count who was below k at some round so far but is not now"
        _compare(function(_RANKS.copy(), k), expected, hint)
    return PASSED


def best_log_rank_integral(function: Callable[[np.ndarray], float]) -> str:
    """Chapter 01: `function(ranks)` gives PlugIR's BRI of ranks `(num_queries, num_rounds)`."""
    one = np.array([[12, 3, 20]])
    hint = "for the ranks 12, 3, 20 the best ranks so far are 12, 3, 3"
    _compare(function(one), metrics.best_log_rank_integral(one), hint)
    hint = "one dialogue is right; take the mean over dialogues, and divide by T, not by T + 1"
    _compare(function(_RANKS.copy()), metrics.best_log_rank_integral(_RANKS), hint)
    return PASSED


def degradation_with_margin(function: Callable[[np.ndarray, np.ndarray, float], Any]) -> str:
    """Chapter 01: `function(ranks, text_ranks, margin)` gives the degradation rate per round.

    Both ranks are `(num_queries, num_rounds)`, the margin is one of log-rank, and the answer is
    `(num_rounds,)`.
    """
    worse = _RANKS + np.array([0, 1, 5, 100])
    for margin, hint in (
        (0.0, "with a margin of 0, count every query whose rank is greater; equal ranks are not"),
        (np.log(2), "with a margin, compare ln(rank + 1) - ln(text rank + 1) with it"),
    ):
        expected = metrics.degradation_rate(worse, _RANKS, margin=margin)
        _compare(function(worse.copy(), _RANKS.copy(), margin), expected, hint)
    return PASSED


def placebo_views(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 01: `function(view_features)` gives every dialogue the views of another one.

    `view_features` is `(num_queries, num_rounds, dim)`; the answer holds the same rows, none of
    them in its own place, and each round keeps its round.
    """
    views = torch.arange(5 * 4 * 2, dtype=torch.float32).reshape(5, 4, 2)
    answer = function(views.clone())
    _shape(answer, views.shape)
    assert not (answer == views).all(dim=-1).any(), "a dialogue has kept a view of its own"
    _compare(
        torch.as_tensor(answer).sort(dim=0).values,
        views,
        "every view must be used once, at the round that it was made for",
    )
    return PASSED


def chance_loss(function: Callable[[int], float]) -> str:
    """Chapter 02: `function(batch_size)` is the contrastive loss when all pairs look alike."""
    for batch_size in (2, 64, 1000):
        same = torch.ones(batch_size, 1)
        hint = f"each of {batch_size} candidates has the same probability; mind the logarithm"
        _compare(function(batch_size), info_nce(same, same, 1.0), hint)
    return PASSED


def image_to_text_ranks(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Chapter 02: `function(image_features, text_features)` ranks each image's own text.

    Both are `(num_pairs, dim)`, row i belongs to row i, and the answer `(num_pairs,)` is 0-based.
    """
    images, texts = (F.normalize(m, dim=-1) for m in torch.tensor(_PAIRS).unbind())
    expected = target_ranks(images, texts, torch.arange(len(images)))
    for wrong, hint in (
        (target_ranks(texts, images, torch.arange(len(images))), "images look for texts"),
        (expected + 1, "ranks count from 0: leave the image's own text out"),
    ):
        answer = function(images.clone(), texts.clone())
        _shape(answer, expected.shape)
        assert not np.array_equal(np.asarray(answer), wrong), hint
    _compare(answer, expected, "count the other texts that score at least as high, ties too")
    return PASSED


def centred(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 02: `function(features)` removes the mean row and scales rows to length 1 again."""
    features = F.normalize(torch.tensor(_PAIRS[0]), dim=-1)
    kept = features.clone()
    answer = function(features)
    assert torch.equal(features, kept), "the features that were passed in must stay as they are"
    expected = F.normalize(kept - kept.mean(dim=0), dim=-1)
    _compare(answer, expected, "subtract the mean over rows, then divide each row by its length")
    return PASSED


def similarity_gradient(function: Callable[[Tensor, float], Tensor]) -> str:
    """Chapter 02: `function(similarity, logit_scale)` is the gradient of the contrastive loss.

    It is with respect to the similarities, `(batch, batch)` as they are, pairs on the diagonal.
    """
    for logit_scale, hint in (
        (1.0, "average the softmax by row and by column, less the diagonal, over the batch"),
        (5.0, "at a scale of 1 it is right; the scale also multiplies the gradient"),
    ):
        similarity = torch.tensor(_PAIRS[0], requires_grad=True)
        info_nce(similarity, torch.eye(3), logit_scale).backward()
        _compare(function(similarity.detach(), logit_scale), similarity.grad, hint)
    return PASSED


def signal_and_noise(function: Callable[[float], tuple[float, float]]) -> str:
    """Chapter 03: `function(ratio)` gives the factors of signal and noise, squares summing to 1."""
    for ratio in (1.0, 4.0, 0.01):
        answer = function(ratio)
        _shape(answer, (2,))
        answer = np.asarray(answer, dtype=float)
        hint = f"for a ratio of {ratio:g} the squares must sum to 1, so that the variance stays"
        _compare((answer**2).sum(), 1.0, hint)
        _compare((answer[0] / answer[1]) ** 2, ratio, "the ratio is of squares, signal over noise")
    return PASSED


def negative_guidance(function: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Chapter 03: `function(wanted, unwanted, scale)` guides a velocity away from the unwanted."""
    wanted, unwanted = torch.tensor(_PAIRS)
    _compare(function(wanted, unwanted, 1.0), wanted, "at a scale of 1 only the wanted one counts")
    expected = 3 * wanted - 2 * unwanted
    _compare(function(wanted, unwanted, 3.0), expected, "go from the unwanted through the other")
    return PASSED


def step_up(function: Callable[..., Tensor]) -> str:
    """Chapter 03: `function(noisy, velocity, signal_now, noise_now, signal_next, noise_next)`.

    The same picture and the same noise, mixed at the next level; the velocity is the one at the
    level that `noisy` has now.
    """
    picture, noise = torch.tensor(_PAIRS)
    now, later = (0.8, 0.6), (0.28, 0.96)
    noisy, velocity = now[0] * picture + now[1] * noise, now[0] * noise - now[1] * picture
    expected = later[0] * picture + later[1] * noise
    hint = "recover the picture and the noise from the velocity, then mix them anew"
    _compare(function(noisy, velocity, *now, *later), expected, hint)
    return PASSED


def weighted_sum(function: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Chapter 04: `function(text, view, view_weight)` is DAR's query with any weight of the view.

    The features are `(num_queries, dim)` unit vectors, and so is the answer.
    """
    text, view = (F.normalize(m, dim=-1) for m in torch.tensor(_PAIRS).unbind())
    for weight in (0.0, 0.3, 1.0):
        expected = F.normalize((1 - weight) * text + weight * view, dim=-1)
        hint = f"add {1 - weight:g} of the text and {weight:g} of the view, then scale to length 1"
        _compare(function(text.clone(), view.clone(), weight), expected, hint)
    return PASSED


def kept_share(function: Callable[[str, tuple[Fact, ...]], float]) -> str:
    """Chapter 04: `function(caption, facts)` is the share of the facts that a caption states."""
    caption = "a red kite on the left and a dog at the beach"
    stated = (Fact("kite", "colour", "red"), Fact("dog", "present", True))
    missing = (Fact("scene", "time", "night"), Fact("dog", "colour", "brown"))
    _compare(function(caption, stated), 1.0, "all of these are stated")
    _compare(function(caption, stated + missing), 0.5, "two of the four are not stated")
    return PASSED


def several_views(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 04: `function(view_features)` averages the views of each query.

    `(num_queries, num_views, dim)` unit vectors in, `(num_queries, dim)` unit vectors out.
    """
    views = F.normalize(torch.tensor(_PAIRS), dim=-1)
    hint = "average over the views of a query, then scale to length 1"
    _compare(function(views.clone()), average_views(views), hint)
    return PASSED


def rank_fusion(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Chapter 04: `function(text_scores, view_scores)` is reciprocal rank fusion.

    All are `(num_queries, num_images)`; of a picture at place r of a ranking, from 1, 1 / (60 + r).
    """
    text = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]])
    view = torch.tensor([[0.1, 0.8, 0.2], [0.7, 0.9, 0.8]])
    places = torch.tensor([[[1, 3, 2], [2, 1, 3]], [[3, 1, 2], [3, 1, 2]]])
    expected = (1 / (60 + places)).sum(dim=0)
    _compare(function(text, view), expected, "the best picture of a row has place 1, not 0 or last")
    return PASSED


def middle_ranks(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Chapter 05: `function(scores, targets)` ranks with ties in the middle place.

    `scores` is `(num_queries, num_images)`, `targets` and the answer `(num_queries,)`.
    """
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5], [0.1, 0.4, 0.3, 0.2], [0.2, 0.2, 0.2, 0.2]])
    targets = torch.tensor([2, 1, 0])
    hint = "count the better ones, and half of the others that score the same"
    _compare(function(scores.clone(), targets.clone()), [2.0, 0.0, 1.5], hint)
    return PASSED


def best_of(function: Callable[[np.ndarray, int], float]) -> str:
    """Chapter 05: `function(p, num_rounds)` is Hits@10 after as many independent rounds."""
    p = np.array([0.2, 0.5, 0.4])
    _compare(function(p, 1), 0.2, "after one round it is the probability of that round")
    hint = "the target is missed if it is missed at every round: multiply, then take from one"
    _compare(function(p, 3), 1 - 0.8 * 0.5 * 0.6, hint)
    return PASSED


def half_width(function: Callable[[float, int], float]) -> str:
    """Chapter 05: `function(deviation, num_dialogues)` is half a 95% interval of a mean."""
    for deviation, number in ((1.0, 100), (0.5, 2064)):
        expected = 1.96 * deviation / math.sqrt(number)
        hint = "the deviation of a mean shrinks with the root of the number; 95% lie within 1.96"
        answer = function(deviation, number)
        _shape(answer, ())
        assert abs(answer / expected - 1) < 0.01, f"{hint}: expected {expected:.4f}, got {answer}"
    return PASSED


def chair(function: Callable[[set[str], set[str]], float]) -> str:
    """Chapter 06: `function(shown, true)` is the share of the shown objects that are not there."""
    hint = "of the objects that the view shows, count those that the target lacks"
    _compare(function({"dog", "kite", "boat"}, {"dog"}), 2 / 3, hint)
    _compare(function({"dog"}, {"dog", "kite"}), 0.0, "what a view leaves out is another matter")
    _compare(function(set(), {"dog"}), 0.0, "a view without objects has invented none")
    return PASSED


def corrected_rate(function: Callable[[float, float, float], float]) -> str:
    """Chapter 06: `function(read, false_alarm, miss)` is the true share behind the share read."""
    _compare(function(0.3, 0.0, 0.0), 0.3, "a perfect instrument needs no correction")
    hint = "what is read is true and not missed, or untrue and a false alarm: solve for the truth"
    _compare(function(0.2 * 0.9 + 0.8 * 0.05, 0.05, 0.1), 0.2, hint)
    return PASSED


def area_under_curve(function: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """Chapter 06: `function(scores, labels)` is the area under the ROC curve, ties one half."""
    scores = np.array([0.1, 0.4, 0.35, 0.8, 0.4])
    labels = np.array([False, False, True, True, True])
    _compare(function(scores, labels), 4.5 / 6, "compare every positive with every negative")
    _compare(function(np.ones(4), np.array([True, False, True, False])), 0.5, "a tie is one half")
    return PASSED


def interaction(function: Callable[[float, float, float, float], float]) -> str:
    """Chapter 06: `function(before, first, second, both)` is what two repairs do beyond their sum.

    The log-ranks of a view as it is, with one repair, with the other, and with both.
    """
    _compare(function(3.0, 2.0, 2.5, 1.5), 0.0, "effects that add up do not interact")
    _compare(function(3.0, 2.0, 2.5, 1.0), -0.5, "effect of both, less the effects of each")
    return PASSED


def gated_query(function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Chapter 07: `function(gate, text, view, residual)` is ADaFuSE's query.

    `gate` is `(num_queries, 1)`, the others `(num_queries, dim)`, and so is the answer.
    """
    view, text = F.normalize(torch.tensor(_PAIRS), dim=-1)
    gate = torch.linspace(0.2, 0.9, len(text))[:, None]
    residual = 0.1 * text.flip(-1)
    expected = F.normalize(gate * text + (1 - gate) * view + residual, dim=-1)
    hint = "gate times text, the rest times view, plus the residual, scaled to length 1"
    _compare(function(gate, text, view, residual), expected, hint)
    return PASSED


def adafuse_parameters(function: Callable[[int, int, int, int], int]) -> str:
    """Chapter 07: `function(dim, projection_dim, hidden_dim, num_experts)` counts parameters."""
    for sizes in ((256, 512, 2048, 4), (16, 8, 12, 3)):
        model = ADaFuSE(sizes[0], projection_dim=sizes[1], hidden_dim=sizes[2],
                        num_experts=sizes[3])  # fmt: skip
        expected = sum(p.numel() for p in model.parameters())
        answer = function(*sizes)
        _shape(answer, ())
        hint = "every layer has a weight for each pair and a bias; the logit scale is one more"
        assert answer == expected, f"{hint}: for {sizes} expected {expected:,}, got {answer:,}"
    return PASSED


def experts_in_use(function: Callable[[Tensor], float]) -> str:
    """Chapter 07: `function(router)` is the exponential of the entropy of the average router.

    `router` is `(num_queries, num_experts)`, probabilities.
    """
    even, single = torch.full((3, 4), 0.25), torch.eye(4)[:1].expand(3, 4)
    hint = "average over the queries first, then the entropy in natural units, then exp"
    _compare(function(even.clone()), 4.0, hint)
    _compare(function(single.clone()), 1.0, "0 times log 0 is 0: one expert alone is one expert")
    _compare(function(torch.eye(4)), 4.0, hint)
    return PASSED


def linear_flops(function: Callable[[int, int], int]) -> str:
    """Chapter 08: `function(num_inputs, num_outputs)` counts operations of a linear layer.

    Of one query, a multiplication and an addition for each weight; the bias is not counted.
    """
    _compare(function(3, 2), 12, "each output is a sum of one product for each input")
    _compare(function(512, 2048), 2 * 512 * 2048, "two operations a weight")
    return PASSED


def permutation_share(function: Callable[[float, np.ndarray], float]) -> str:
    """Chapter 08: `function(observed, shuffled)` is the share of values at least as large.

    The observed value counts as one of them, so the share is never zero.
    """
    shuffled = np.array([0.1, 0.4, 0.2, 0.3])
    _compare(function(0.25, shuffled), 3 / 5, "two of the four and the observed one, of five")
    _compare(function(0.9, shuffled), 1 / 5, "the observed value is a possible shuffle too")
    return PASSED


def mutual_information(function: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """Chapter 08: `function(a, b)` is the mutual information of two labellings, in nats."""
    a = np.array([0, 0, 1, 1])
    _compare(function(a, a), math.log(2), "two equal halves tell ln 2 about themselves")
    _compare(function(a, np.array([0, 1, 0, 1])), 0.0, "independent labels tell nothing")
    joint = {(0, 0): 0.5, (1, 0): 0.25, (1, 1): 0.25}  # of a and the labels below
    expected = sum(p * math.log(p / (0.5 * (0.75, 0.25)[b])) for (_, b), p in joint.items())
    hint = "sum p(a, b) ln(p(a, b) / (p(a) p(b))), 0 where p is 0"
    _compare(function(a, np.array([0, 0, 0, 1])), expected, hint)
    return PASSED


def divergence_in_bits(function: Callable[[Tensor, Tensor], Any]) -> str:
    """Chapter 09: the divergence (Jensen–Shannon) of rows `(num_queries, num_targets)`, in bits."""
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    q = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    _compare(function(p, p), 0.0, "the same distributions do not diverge")
    expected = jensen_shannon(p.log(), q.log()) / math.log(2)
    _compare(function(p, q), expected, "one bit is ln 2 nats; take the mean over the queries")
    return PASSED


def contrast_without_twins(function: Callable[[Tensor, Tensor, float, Tensor], Any]) -> str:
    """Chapter 09: InfoNCE in which rows with the same label are no negatives of each other."""
    a, b = (F.normalize(torch.tensor(rows), dim=1) for rows in _PAIRS)
    for labels in (torch.tensor([4, 5, 6]), torch.tensor([7, 7, 8])):
        expected = info_nce(a, b, 3.0, labels=labels)
        hint = "leave twins out of both directions, but each row's own partner in"
        _compare(function(a, b, 3.0, labels), expected, hint)
    return PASSED


def hardest_of_rows(function: Callable[[Tensor, int, float, float], Any]) -> str:
    """Chapter 09: the mean softplus over the `k` most similar negatives of each row."""
    cosines = torch.tensor([[0.6, 0.5, -0.2], [0.1, 0.2, 0.3], [0.9, -0.4, 0.7]])
    for k in (1, 2):
        gaps = [
            sorted((row[j] - row[i] for j in range(3) if j != i), reverse=True)[:k]
            for i, row in enumerate(cosines.tolist())
        ]
        expected = F.softplus((torch.tensor(gaps) + 0.1) / 0.5).mean()
        _compare(function(cosines, k, 0.1, 0.5), expected, "leave the diagonal out before top-k")
    return PASSED


def chance_recall(function: Callable[[int, int], float]) -> str:
    """Chapter 14: `function(k, num_images)` is R@k of a random order of the gallery."""
    _compare(function(10, 400), 10 / 400, "k of the places are good ones, all equally likely")
    _compare(function(10, 4), 1.0, "in a gallery of fewer than k pictures none is missed")
    return PASSED


def carried_forward(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> str:
    """Chapter 14: `function(ranks, lengths)` fills each row behind its end with its last rank.

    `ranks` is `(num_queries, num_rounds)`, -1 behind the end; `lengths` `(num_queries,)`.
    """
    ranks = np.array([[4, 2, -1, -1], [9, -1, -1, -1], [7, 8, 1, 0]])
    kept = ranks.copy()
    answer = function(ranks, np.array([2, 1, 4]))
    assert np.array_equal(ranks, kept), "the ranks that were passed in must stay as they are"
    filled = [[4, 2, 2, 2], [9, 9, 9, 9], [7, 8, 1, 0]]
    _compare(answer, filled, "the last rank of a dialogue is the one at its length less one")
    return PASSED


def ragged_means(function: Callable[[Tensor, list[int]], Tensor]) -> str:
    """Chapter 14: `function(view_features, counts)` averages each round's views to unit length.

    `view_features` `(num_views, dim)` lie round after round, `counts` of them each.
    """
    features = F.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    expected = [features[:1].mean(0), features[1:3].mean(0), features[3:].mean(0)]
    expected = F.normalize(torch.stack(expected), dim=1)
    hint = "split the views by their counts, take each part's mean, scale it to length 1"
    _compare(function(features.clone(), [1, 2, 1]), expected, hint)
    return PASSED


def _compare(answer: Any, expected: Any, hint: str) -> None:
    expected = np.asarray(expected, dtype=float)
    _shape(answer, expected.shape)
    values = np.asarray(answer, dtype=float)
    assert np.allclose(values, expected, atol=1e-5), (
        f"{hint}: expected {expected.round(4).tolist()}, got {values.round(4).tolist()}"
    )


def _shape(answer: Any, shape: tuple[int, ...]) -> None:
    assert answer is not None and answer is not ..., (
        "the function returns nothing yet; it must end in a return statement"
    )
    found = tuple(np.shape(answer))
    assert found == tuple(shape), f"the answer must have the shape {tuple(shape)}, not {found}"

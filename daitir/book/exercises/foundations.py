"""Exercises of chapters 00 to 05: ranking, metrics, encoders, diffusion, DAR."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daitir import metrics
from daitir.book.exercises.compare import PAIRS, PASSED, compare, shape
from daitir.fusion import average_views
from daitir.objectives import info_nce
from daitir.retrieval import target_ranks
from daitir.scenes import Fact, Scene, counterfactual, sample_scene

_RANKS = np.array(
    [[14, 6, 11, 3], [2, 25, 30, 40], [55, 18, 12, 9], [7, 9, 10, 0], [90, 80, 70, 60]]
)


def unit_vectors(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 00: `function(features)` scales each row of `(num_rows, dim)` to length 1."""
    features = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.6, 0.8]])
    kept = features.clone()
    answer = function(features)
    assert torch.equal(features, kept), "the features that were passed in must stay as they are"
    compare(answer, F.normalize(kept, dim=-1), "divide each row by its own length")
    return PASSED


def top_images(function: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Chapter 00: `function(query, gallery, k)` gives the `k` best images' indices, best first.

    `query` is `(dim,)`, `gallery` `(num_images, dim)`, and the answer `(k,)`.
    """
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
    compare(
        function(torch.tensor([1.0, 0.0]), gallery, 3),
        [1, 3, 2],
        "order the images by their inner product with the query, the highest first",
    )
    compare(function(torch.tensor([0.0, 1.0]), gallery, 1), [0], "return k indices, not more")
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
        compare(function(_RANKS.copy(), k), expected, hint)
    return PASSED


def best_log_rank_integral(function: Callable[[np.ndarray], float]) -> str:
    """Chapter 01: `function(ranks)` gives PlugIR's BRI of ranks `(num_queries, num_rounds)`."""
    one = np.array([[12, 3, 20]])
    hint = "for the ranks 12, 3, 20 the best ranks so far are 12, 3, 3"
    compare(function(one), metrics.best_log_rank_integral(one), hint)
    hint = "one dialogue is right; take the mean over dialogues, and divide by T, not by T + 1"
    compare(function(_RANKS.copy()), metrics.best_log_rank_integral(_RANKS), hint)
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
        compare(function(worse.copy(), _RANKS.copy(), margin), expected, hint)
    return PASSED


def placebo_views(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 01: `function(view_features)` gives every dialogue the views of another one.

    `view_features` is `(num_queries, num_rounds, dim)`; the answer holds the same rows, none of
    them in its own place, and each round keeps its round.
    """
    views = torch.arange(5 * 4 * 2, dtype=torch.float32).reshape(5, 4, 2)
    answer = function(views.clone())
    shape(answer, views.shape)
    assert not (answer == views).all(dim=-1).any(), "a dialogue has kept a view of its own"
    compare(
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
        compare(function(batch_size), info_nce(same, same, 1.0), hint)
    return PASSED


def image_to_text_ranks(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Chapter 02: `function(image_features, text_features)` ranks each image's own text.

    Both are `(num_pairs, dim)`, row i belongs to row i, and the answer `(num_pairs,)` is 0-based.
    """
    images, texts = (F.normalize(m, dim=-1) for m in torch.tensor(PAIRS).unbind())
    expected = target_ranks(images, texts, torch.arange(len(images)))
    for wrong, hint in (
        (target_ranks(texts, images, torch.arange(len(images))), "images look for texts"),
        (expected + 1, "ranks count from 0: leave the image's own text out"),
    ):
        answer = function(images.clone(), texts.clone())
        shape(answer, expected.shape)
        assert not np.array_equal(np.asarray(answer), wrong), hint
    compare(answer, expected, "count the other texts that score at least as high, ties too")
    return PASSED


def centred(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 02: `function(features)` removes the mean row and scales rows to length 1 again."""
    features = F.normalize(torch.tensor(PAIRS[0]), dim=-1)
    kept = features.clone()
    answer = function(features)
    assert torch.equal(features, kept), "the features that were passed in must stay as they are"
    expected = F.normalize(kept - kept.mean(dim=0), dim=-1)
    compare(answer, expected, "subtract the mean over rows, then divide each row by its length")
    return PASSED


def similarity_gradient(function: Callable[[Tensor, float], Tensor]) -> str:
    """Chapter 02: `function(similarity, logit_scale)` is the gradient of the contrastive loss.

    It is with respect to the similarities, `(batch, batch)` as they are, pairs on the diagonal.
    """
    for logit_scale, hint in (
        (1.0, "average the softmax by row and by column, less the diagonal, over the batch"),
        (5.0, "at a scale of 1 it is right; the scale also multiplies the gradient"),
    ):
        similarity = torch.tensor(PAIRS[0], requires_grad=True)
        info_nce(similarity, torch.eye(3), logit_scale).backward()
        compare(function(similarity.detach(), logit_scale), similarity.grad, hint)
    return PASSED


def signal_and_noise(function: Callable[[float], tuple[float, float]]) -> str:
    """Chapter 03: `function(ratio)` gives the factors of signal and noise, squares summing to 1."""
    for ratio in (1.0, 4.0, 0.01):
        answer = function(ratio)
        shape(answer, (2,))
        answer = np.asarray(answer, dtype=float)
        hint = f"for a ratio of {ratio:g} the squares must sum to 1, so that the variance stays"
        compare((answer**2).sum(), 1.0, hint)
        compare((answer[0] / answer[1]) ** 2, ratio, "the ratio is of squares, signal over noise")
    return PASSED


def negative_guidance(function: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Chapter 03: `function(wanted, unwanted, scale)` guides a velocity away from the unwanted."""
    wanted, unwanted = torch.tensor(PAIRS)
    compare(function(wanted, unwanted, 1.0), wanted, "at a scale of 1 only the wanted one counts")
    expected = 3 * wanted - 2 * unwanted
    compare(function(wanted, unwanted, 3.0), expected, "go from the unwanted through the other")
    return PASSED


def step_up(function: Callable[..., Tensor]) -> str:
    """Chapter 03: `function(noisy, velocity, signal_now, noise_now, signal_next, noise_next)`.

    The same picture and the same noise, mixed at the next level; the velocity is the one at the
    level that `noisy` has now.
    """
    picture, noise = torch.tensor(PAIRS)
    now, later = (0.8, 0.6), (0.28, 0.96)
    noisy, velocity = now[0] * picture + now[1] * noise, now[0] * noise - now[1] * picture
    expected = later[0] * picture + later[1] * noise
    hint = "recover the picture and the noise from the velocity, then mix them anew"
    compare(function(noisy, velocity, *now, *later), expected, hint)
    return PASSED


def weighted_sum(function: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Chapter 04: `function(text, view, view_weight)` is DAR's query with any weight of the view.

    The features are `(num_queries, dim)` unit vectors, and so is the answer.
    """
    text, view = (F.normalize(m, dim=-1) for m in torch.tensor(PAIRS).unbind())
    for weight in (0.0, 0.3, 1.0):
        expected = F.normalize((1 - weight) * text + weight * view, dim=-1)
        hint = f"add {1 - weight:g} of the text and {weight:g} of the view, then scale to length 1"
        compare(function(text.clone(), view.clone(), weight), expected, hint)
    return PASSED


def kept_share(function: Callable[[str, tuple[Fact, ...]], float]) -> str:
    """Chapter 04: `function(caption, facts)` is the share of the facts that a caption states."""
    caption = "a red kite on the left and a dog at the beach"
    stated = (Fact("kite", "colour", "red"), Fact("dog", "present", True))
    missing = (Fact("scene", "time", "night"), Fact("dog", "colour", "brown"))
    compare(function(caption, stated), 1.0, "all of these are stated")
    compare(function(caption, stated + missing), 0.5, "two of the four are not stated")
    return PASSED


def several_views(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 04: `function(view_features)` averages the views of each query.

    `(num_queries, num_views, dim)` unit vectors in, `(num_queries, dim)` unit vectors out.
    """
    views = F.normalize(torch.tensor(PAIRS), dim=-1)
    hint = "average over the views of a query, then scale to length 1"
    compare(function(views.clone()), average_views(views), hint)
    return PASSED


def rank_fusion(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Chapter 04: `function(text_scores, view_scores)` is reciprocal rank fusion.

    All are `(num_queries, num_images)`; of a picture at place r of a ranking, from 1, 1 / (60 + r).
    """
    text = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]])
    view = torch.tensor([[0.1, 0.8, 0.2], [0.7, 0.9, 0.8]])
    places = torch.tensor([[[1, 3, 2], [2, 1, 3]], [[3, 1, 2], [3, 1, 2]]])
    expected = (1 / (60 + places)).sum(dim=0)
    compare(function(text, view), expected, "the best picture of a row has place 1, not 0 or last")
    return PASSED


def middle_ranks(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Chapter 05: `function(scores, targets)` ranks with ties in the middle place.

    `scores` is `(num_queries, num_images)`, `targets` and the answer `(num_queries,)`.
    """
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5], [0.1, 0.4, 0.3, 0.2], [0.2, 0.2, 0.2, 0.2]])
    targets = torch.tensor([2, 1, 0])
    hint = "count the better ones, and half of the others that score the same"
    compare(function(scores.clone(), targets.clone()), [2.0, 0.0, 1.5], hint)
    return PASSED


def best_of(function: Callable[[np.ndarray, int], float]) -> str:
    """Chapter 05: `function(p, num_rounds)` is Hits@10 after as many independent rounds."""
    p = np.array([0.2, 0.5, 0.4])
    compare(function(p, 1), 0.2, "after one round it is the probability of that round")
    hint = "the target is missed if it is missed at every round: multiply, then take from one"
    compare(function(p, 3), 1 - 0.8 * 0.5 * 0.6, hint)
    return PASSED


def half_width(function: Callable[[float, int], float]) -> str:
    """Chapter 05: `function(deviation, num_dialogues)` is half a 95% interval of a mean."""
    for deviation, number in ((1.0, 100), (0.5, 2064)):
        expected = 1.96 * deviation / math.sqrt(number)
        hint = "the deviation of a mean shrinks with the root of the number; 95% lie within 1.96"
        answer = function(deviation, number)
        shape(answer, ())
        assert abs(answer / expected - 1) < 0.01, f"{hint}: expected {expected:.4f}, got {answer}"
    return PASSED

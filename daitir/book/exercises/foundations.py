"""Exercises of chapters 00 to 05: ranking, metrics, encoders, diffusion, DAR.

What is decorated is the right answer; its docstring is that of the check.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from daitir import fusion, metrics
from daitir.book.exercises.compare import PAIRS, PASSED, answer_to, check_shape, compare, exercise
from daitir.objectives import info_nce
from daitir.retrieval import target_ranks
from daitir.scenes import Fact, Scene, counterfactual, parse, sample_scene

RANKED = np.array(
    [[14, 6, 11, 3], [2, 25, 30, 40], [55, 18, 12, 9], [7, 9, 10, 0], [90, 80, 70, 60]]
)
WORSE = RANKED + np.array([0, 1, 5, 100])
RAW = torch.tensor(PAIRS)
IMAGES, CAPTIONS_OF_IMAGES = F.normalize(RAW, dim=-1)
GALLERY = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
CAPTION = "a red kite on the left and a dog at the beach"
STATED = (Fact("kite", "colour", "red"), Fact("dog", "present", True))
MISSING = (Fact("scene", "time", "night"), Fact("dog", "colour", "brown"))


@exercise(
    (torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.6, 0.8]]), "divide each row by its own length")
)
def unit_vectors(features):
    """Chapter 00: `function(features)` scales each row of `(num_rows, dim)` to length 1."""
    return F.normalize(features, dim=-1)


@exercise(
    (GALLERY[1], GALLERY, 3,
     "order the images by their inner product with the query, the highest first"),
    (GALLERY[0], GALLERY, 1, "return k indices, not more"),
)  # fmt: skip
def top_images(query, gallery, k):
    """Chapter 00: `function(query, gallery, k)` gives the `k` best images' indices, best first."""
    return (gallery @ query).argsort(descending=True)[:k]


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


@exercise(*(
    (RANKED, k, f"for k = {k}, count who was below k at some round so far but is not now")
    for k in (1, 10, 20)
))  # fmt: skip
def lost_hits(ranks, k):
    """Chapter 01: `function(ranks, k)` gives per round the share of hits that are lost again."""
    return metrics.hits_at_k(ranks, k) - metrics.recall_at_k(ranks, k)


@exercise(
    (np.array([[12, 3, 20]]), "for the ranks 12, 3, 20 the best ranks so far are 12, 3, 3"),
    (RANKED, "one dialogue is right; take the mean over dialogues, and divide by T, not by T + 1"),
)
def best_log_rank_integral(ranks):
    """Chapter 01: `function(ranks)` gives PlugIR's BRI of ranks `(num_queries, num_rounds)`."""
    return metrics.best_log_rank_integral(ranks)


@exercise(
    (WORSE, RANKED, 0.0,
     "with a margin of 0, count every query whose rank is greater; equal ranks are not"),
    (WORSE, RANKED, np.log(2),
     "with a margin, compare ln(rank + 1) - ln(text rank + 1) with it"),
)  # fmt: skip
def degradation_with_margin(ranks, text_ranks, margin):
    """Chapter 01: `function(ranks, text_ranks, margin)` gives the degradation rate per round."""
    return metrics.degradation_rate(ranks, text_ranks, margin=margin)


def placebo_views(function: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Chapter 01: `function(view_features)` gives every dialogue the views of another one."""
    views = torch.arange(5 * 4 * 2, dtype=torch.float32).reshape(5, 4, 2)
    answer = answer_to(function, views)
    check_shape(answer, views.shape)
    assert not (answer == views).all(dim=-1).any(), "a dialogue has kept a view of its own"
    rows = torch.as_tensor(answer).sort(dim=0).values
    compare(rows, views, "every view must be used once, at the round that it was made for")
    return PASSED


@exercise(*(
    (size, f"each of {size} candidates has the same probability; mind the logarithm")
    for size in (2, 64, 1000)
))  # fmt: skip
def chance_loss(batch_size):
    """Chapter 02: `function(batch_size)` is the contrastive loss when all pairs look alike."""
    same = torch.ones(batch_size, 1)
    return info_nce(same, same, 1.0)


def image_to_text_ranks(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> str:
    """Chapter 02: `function(image_features, text_features)` ranks each image's own text."""
    own = torch.arange(len(IMAGES))
    expected = target_ranks(IMAGES, CAPTIONS_OF_IMAGES, own)
    answer = answer_to(function, IMAGES, CAPTIONS_OF_IMAGES)
    check_shape(answer, expected.shape)
    for wrong, hint in (
        (target_ranks(CAPTIONS_OF_IMAGES, IMAGES, own), "images look for texts"),
        (expected + 1, "ranks count from 0: leave the image's own text out"),
    ):
        assert not np.array_equal(np.asarray(answer), wrong), hint
    compare(answer, expected, "count the other texts that score at least as high, ties too")
    return PASSED


@exercise((IMAGES, "subtract the mean over rows, then divide each row by its length"))
def centred(features):
    """Chapter 02: `function(features)` removes the mean row and scales rows to length 1 again."""
    return F.normalize(features - features.mean(dim=0), dim=-1)


@exercise(
    (RAW[0], 1.0, "average the softmax by row and by column, less the diagonal, over the batch"),
    (RAW[0], 5.0, "at a scale of 1 it is right; the scale also multiplies the gradient"),
)
def similarity_gradient(similarity, logit_scale):
    """Chapter 02: `function(similarity, logit_scale)` is the gradient of the contrastive loss."""
    similarity = similarity.clone().requires_grad_()
    loss = info_nce(similarity, torch.eye(len(similarity)), logit_scale)
    return torch.autograd.grad(loss, similarity)[0]


def signal_and_noise(function: Callable[[float], tuple[float, float]]) -> str:
    """Chapter 03: `function(ratio)` gives the factors of signal and noise, squares summing to 1."""
    for ratio in (1.0, 4.0, 0.01):
        answer = function(ratio)
        check_shape(answer, (2,))
        signal, noise = np.asarray(answer, dtype=float)
        hint = f"for a ratio of {ratio:g} the squares must sum to 1, so that the variance stays"
        compare(signal**2 + noise**2, 1.0, hint)
        compare((signal / noise) ** 2, ratio, "the ratio is of squares, signal over noise")
    return PASSED


@exercise(
    (*RAW, 1.0, "at a scale of 1 only the wanted one counts"),
    (*RAW, 3.0, "go from the unwanted through the other"),
)
def negative_guidance(wanted, unwanted, scale):
    """Chapter 03: `function(wanted, unwanted, scale)` guides a velocity away from the unwanted."""
    return unwanted + scale * (wanted - unwanted)


@exercise(
    (0.8 * RAW[0] + 0.6 * RAW[1], 0.8 * RAW[1] - 0.6 * RAW[0], 0.8, 0.6, 0.28, 0.96,
     "recover the picture and the noise from the velocity, then mix them anew"),
)  # fmt: skip
def step_up(noisy, velocity, signal_now, noise_now, signal_next, noise_next):
    """Chapter 03: the same picture and noise, mixed at the next level."""
    picture = signal_now * noisy - noise_now * velocity
    noise = noise_now * noisy + signal_now * velocity
    return signal_next * picture + noise_next * noise


@exercise(*(
    (IMAGES, CAPTIONS_OF_IMAGES, weight,
     f"add {1 - weight:g} of the text and {weight:g} of the view, then scale to length 1")
    for weight in (0.0, 0.3, 1.0)
))  # fmt: skip
def weighted_sum(text, view, view_weight):
    """Chapter 04: `function(text, view, view_weight)` is DAR's query with any weight of the view.

    The features are `(num_queries, dim)` unit vectors, and so is the answer.
    """
    return F.normalize((1 - view_weight) * text + view_weight * view, dim=-1)


@exercise(
    (CAPTION, STATED, "all of these are stated"),
    (CAPTION, STATED + MISSING, "two of the four are not stated"),
)
def kept_share(caption, facts):
    """Chapter 04: `function(caption, facts)` is the share of the facts that a caption states."""
    return len(set(facts) & set(parse(caption).facts)) / len(facts)


@exercise((F.normalize(RAW, dim=-1), "average over the views of a query, then scale to length 1"))
def several_views(view_features):
    """Chapter 04: `function(view_features)` averages the views of each query."""
    return fusion.average_views(view_features)


@exercise(
    (torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]]),
     torch.tensor([[0.1, 0.8, 0.2], [0.7, 0.9, 0.8]]),
     "the best picture of a row has place 1, not 0 or last"),
)  # fmt: skip
def rank_fusion(text_scores, view_scores):
    """Chapter 04: `function(text_scores, view_scores)` is reciprocal rank fusion."""
    orders = torch.stack([text_scores, view_scores]).argsort(dim=-1, descending=True)
    return (1 / (61 + orders.argsort(dim=-1))).sum(dim=0)


@exercise(
    (torch.tensor([[0.5, 0.9, 0.5, 0.5], [0.1, 0.4, 0.3, 0.2], [0.2] * 4]), torch.tensor([2, 1, 0]),
     "count the better ones, and half of the others that score the same"),
)  # fmt: skip
def middle_ranks(scores, targets):
    """Chapter 05: `function(scores, targets)` ranks with ties in the middle place."""
    own = scores.gather(1, targets[:, None])
    return (scores > own).sum(dim=1) + ((scores == own).sum(dim=1) - 1) / 2


@exercise(
    (np.array([0.2, 0.5, 0.4]), 1, "after one round it is the probability of that round"),
    (np.array([0.2, 0.5, 0.4]), 3,
     "the target is missed if it is missed at every round: multiply, then take from one"),
)  # fmt: skip
def best_of(p, num_rounds):
    """Chapter 05: `function(p, num_rounds)` is Hits@10 after as many independent rounds."""
    return 1 - np.prod(1 - p[:num_rounds])


def half_width(function: Callable[[float, int], float]) -> str:
    """Chapter 05: `function(deviation, num_dialogues)` is half a 95% interval of a mean."""
    for deviation, number in ((1.0, 100), (0.5, 2064)):
        expected = 1.96 * deviation / math.sqrt(number)
        hint = "the deviation of a mean shrinks with the root of the number; 95% lie within 1.96"
        answer = function(deviation, number)
        check_shape(answer, ())
        assert abs(answer / expected - 1) < 0.01, f"{hint}: expected {expected:.4f}, got {answer}"
    return PASSED

"""Exercises of chapters 0 to 5: ranking, metrics, encoders, diffusion, DAR."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from daitir import fusion, metrics
from daitir.book.exercises import PAIRS, PASSED, answer_to, array_of, compare, exercise, require
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
ROUND_HITS = np.array([0.2, 0.5, 0.4])
MEAN_OF_MANY = "the deviation of a mean shrinks with the root of the number; 95% lie within 1.96"

# --- chapter 0 ---
unit_vectors = exercise(
    lambda features: F.normalize(features, dim=-1),
    (torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.6, 0.8]]), "divide each row by its own length"),
)

top_images = exercise(
    lambda query, gallery, k: (gallery @ query).argsort(descending=True)[:k],
    (GALLERY[1], GALLERY, 3, "order them by their inner product with the query, the highest first"),
    (GALLERY[0], GALLERY, 1, "return k indices, not more"),
)


def nightfall(function: Callable[[Scene], Scene]) -> str:
    """Chapter 0: `function(scene)` gives the same scene at night, and leaves a night as it is."""
    for index in range(8):
        scene = sample_scene(0, "val", index)
        is_night = scene.time == "night"
        expected = scene if is_night else counterfactual(scene, Fact("scene", "time", "night"))
        answer = answer_to(function, scene)
        require(isinstance(answer, Scene), f"return a Scene, not {type(answer).__name__}")
        require(answer.time == "night", f"the time of day is still {answer.time}")
        require(answer == expected, "more than the time of day has changed")
    return PASSED


# --- chapter 1 ---
lost_hits = exercise(
    lambda ranks, k: metrics.hits_at_k(ranks, k) - metrics.recall_at_k(ranks, k),
    *((RANKED, k, f"for k = {k}, count who was below k at some round so far but is not now")
      for k in (1, 10, 20)),
)  # fmt: skip

best_log_rank_integral = exercise(
    metrics.best_log_rank_integral,
    (np.array([[12, 3, 20]]), "for the ranks 12, 3, 20 the best ranks so far are 12, 3, 3"),
    (RANKED, "one dialogue is right; take the mean over dialogues, and divide by T, not by T + 1"),
)

degradation_with_margin = exercise(
    lambda ranks, text_ranks, margin: metrics.degradation_rate(ranks, text_ranks, margin=margin),
    (WORSE, RANKED, 0.0, "at a margin of 0, count all whose rank is greater; equal ranks are not"),
    (WORSE, RANKED, np.log(2), "with a margin, compare ln(rank + 1) - ln(text rank + 1) with it"),
)


def placebo_views(function: Callable[[Tensor], Tensor]) -> str:
    """Chapter 1: `function(view_features)` gives every dialogue the views of another one."""
    views = torch.arange(5 * 4 * 2, dtype=torch.float32).reshape(5, 4, 2)
    answer = array_of(answer_to(function, views), (5, 4, 2))
    has_changed = (answer != views.numpy()).any(axis=-1)
    require(has_changed.all(), "a dialogue has kept a view of its own")
    compare(np.sort(answer, axis=0), views, "use every view once, at the round it was made for")
    return PASSED


# --- chapter 2 ---
chance_loss = exercise(
    lambda batch_size: info_nce(torch.ones(batch_size, 1), torch.ones(batch_size, 1), 1.0),
    *((size, f"each of {size} candidates has the same probability; mind the logarithm")
      for size in (2, 64, 1000)),
)  # fmt: skip

image_to_text_ranks = exercise(
    lambda images, texts: target_ranks(images, texts, torch.arange(len(images))),
    (IMAGES[:1], CAPTIONS_OF_IMAGES[:1], "ranks count from 0: leave the image's own text out"),
    (IMAGES[:2], CAPTIONS_OF_IMAGES[1:], "images look for texts"),
    (IMAGES, CAPTIONS_OF_IMAGES, "count the other texts that score at least as high, ties too"),
)

centred = exercise(
    lambda features: F.normalize(features - features.mean(dim=0), dim=-1),
    (IMAGES, "subtract the mean over rows, then divide each row by its length"),
)


similarity_gradient = exercise(
    torch.func.grad(lambda cosines, scale: info_nce(cosines, torch.eye(len(cosines)), scale)),
    (RAW[0], 1.0, "average the softmax by row and by column, less the diagonal, over the batch"),
    (RAW[0], 5.0, "at a scale of 1 it is right; the scale also multiplies the gradient"),
)

# --- chapter 3 ---
signal_and_noise = exercise(
    lambda ratio: (np.sqrt(ratio / (1 + ratio)), np.sqrt(1 / (1 + ratio))),
    (1.0, "for a ratio of 1 the squares must sum to 1, so that the variance stays"),
    *((ratio, "the ratio is of squares, signal over noise") for ratio in (4.0, 0.01)),
)

negative_guidance = exercise(
    lambda wanted, unwanted, scale: unwanted + scale * (wanted - unwanted),
    (*RAW, 1.0, "at a scale of 1 only the wanted one counts"),
    (*RAW, 3.0, "go from the unwanted through the other"),
)

step_up = exercise(
    lambda noisy, velocity, signal, noise, next_signal, next_noise: (
        next_signal * (signal * noisy - noise * velocity)
        + next_noise * (noise * noisy + signal * velocity)
    ),
    (0.8 * RAW[0] + 0.6 * RAW[1], 0.8 * RAW[1] - 0.6 * RAW[0], 0.8, 0.6, 0.28, 0.96,
     "recover the picture and the noise from the velocity, then mix them anew"),
)  # fmt: skip

# --- chapter 4 ---
weighted_sum = exercise(
    lambda text, view, weight: F.normalize((1 - weight) * text + weight * view, dim=-1),
    *((IMAGES, CAPTIONS_OF_IMAGES, weight,
       f"add {1 - weight:g} of the text and {weight:g} of the view, then scale to length 1")
      for weight in (0.0, 0.3, 1.0)),
)  # fmt: skip

kept_share = exercise(
    lambda caption, facts: len(set(facts) & set(parse(caption).facts)) / len(facts),
    (CAPTION, STATED, "all of these are stated"),
    (CAPTION, STATED + MISSING, "two of the four are not stated"),
)

several_views = exercise(
    fusion.average_views,
    (F.normalize(RAW, dim=-1), "average over the views of a query, then scale to length 1"),
)

rank_fusion = exercise(
    lambda *scores: sum(1 / (61 + s.argsort(descending=True).argsort()) for s in scores),
    (torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1]]),
     torch.tensor([[0.1, 0.8, 0.2], [0.7, 0.9, 0.8]]),
     "the best picture of a row has place 1, not 0 or last"),
)  # fmt: skip

# --- chapter 5 ---
middle_ranks = exercise(
    lambda scores, targets: rankdata(-scores, axis=1)[range(len(targets)), targets] - 1,
    (torch.tensor([[0.5, 0.9, 0.5, 0.5], [0.1, 0.4, 0.3, 0.2], [0.2] * 4]), torch.tensor([2, 1, 0]),
     "count the better ones, and half of the others that score the same"),
)  # fmt: skip

best_of = exercise(
    lambda p, num_rounds: 1 - np.prod(1 - p[:num_rounds]),
    (ROUND_HITS, 1, "after one round it is the probability of that round"),
    (ROUND_HITS, 3, "a target is missed if every round misses it: multiply, then take from one"),
)

half_width = exercise(
    lambda deviation, num_dialogues: 1.96 * deviation / np.sqrt(num_dialogues),
    (1.0, 100, MEAN_OF_MANY),
    (0.5, 2064, MEAN_OF_MANY),
)

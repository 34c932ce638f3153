"""Quality of the shipped models on the validation split, as a small table for the model cards."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import torch

from daitir import metrics
from daitir.encoders import Encoder
from daitir.retrieval import target_ranks
from daitir.scenes import dialogue, render_scenes, rewrites, sample_scenes, short_caption

SPLIT, SEED = "val", 0


def clip_quality(
    encoder: Encoder,
    *,
    image_size: int,
    num_dialogues: int = 1000,
    num_gallery: int = 5000,
    num_workers: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """How well a dual encoder finds validation scenes by text alone.

    Each of the first `num_dialogues` scenes is looked for among `num_gallery` scenes: by one
    short caption, and after the first and the last round of a human-like dialogue refined into
    one caption.

    Returns:
        Columns model, split, measure, value, ci_low, ci_high, num_queries; fractions with 95%
        bootstrap intervals over queries.
    """
    scenes = sample_scenes(SEED, SPLIT, num_gallery)
    images = render_scenes(scenes, size=image_size, num_workers=num_workers, progress=progress)
    gallery_features = encoder.encode_images(images, progress=progress)
    captions = [
        short_caption(scene, random.Random(f"quality/{index}"))
        for index, scene in enumerate(scenes[:num_dialogues])
    ]
    talks = [dialogue("human", scene, seed=SEED) for scene in scenes[:num_dialogues]]
    refined = [rewrites(turns, seed=index) for index, turns in enumerate(talks)]
    queries = {
        "short caption": (captions, (1, 10)),
        "dialogue, round 0": ([rounds[0] for rounds in refined], (10,)),
        "dialogue, round 10": ([rounds[-1] for rounds in refined], (10,)),
    }
    rows = []
    for name, (texts, cutoffs) in queries.items():
        text_features = encoder.encode_texts(texts, progress=progress)
        ranks = target_ranks(text_features, gallery_features, torch.arange(len(texts)))[:, None]
        for k in cutoffs:
            hits = metrics.recall_values(ranks, k)
            low, high = metrics.bootstrap_interval(hits)
            rows.append(
                {
                    "model": encoder.spec,
                    "split": SPLIT,
                    "measure": f"R@{k}, {name}",
                    "value": hits.mean(),
                    "ci_low": np.squeeze(low),
                    "ci_high": np.squeeze(high),
                    "num_queries": len(texts),
                }
            )
    return pd.DataFrame(rows)

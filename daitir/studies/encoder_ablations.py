"""What each part of DMCL does, and what more data does: fine-tuned anew, in short trainings."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from daitir import metrics
from daitir.analysis.controls import placebo_views
from daitir.book.provenance import versions
from daitir.common.files import atomic_write
from daitir.data.dialogues import read_json
from daitir.evaluation import RESULT_COLUMNS, write_results
from daitir.fusion import dar_fusion
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.views import ViewGenerator
from daitir.objectives import DMCL_TERMS
from daitir.recipes.finetune import encode, finetune
from daitir.recipes.settings import EncoderRecipe
from daitir.recipes.triples import FinetuneData
from daitir.retrieval import target_ranks
from daitir.studies.profiles import Profile
from daitir.studies.queries import manifest_of, queries_folder
from daitir.studies.training_sets import as_read, profile_data, training_data

logger = logging.getLogger(__name__)
BENCHMARK, NUM_SEEDS = "human_val", 3
WHOLE, START, SHUFFLED = "whole", "zero_shot", "shuffled_views"
QUERIES = ("text", "view", "dar", "placebo")
# A tenth of the steps on half a batch: three seeds of every variant in the time of a few trainings.
SHORT = {"steps_divisor": 10, "batch_divisor": 2}
# More data show only where the fewest are seen many times.
LONGER = {"steps_divisor": 5, "batch_divisor": 2}
DATA_DIVISORS = (16, 8, 4, 2, 1)


def variants(recipe: EncoderRecipe) -> dict[str, EncoderRecipe]:
    """The recipe of DMCL, whole and with one thing changed, by name, all of them short.

    `shuffled_views` is whole, but every dialogue has the views of another one in training.
    """
    short = shortened(recipe, **SHORT)
    changed = {
        "text_alone": {"terms": DMCL_TERMS[:1]},
        **{f"without_{name}": {"terms": tuple(t for t in DMCL_TERMS if t != name)}
           for name in DMCL_TERMS},
        "resampled_views": {"resampled_views": True},
        SHUFFLED: {},
        "learnable_weights": {"learnable_weights": True},
        "raw_dialogue": {"text": "raw_dialogue"},
        "hard_negatives": {"hard_negatives": True},
        "fixed_scale": {"learnable_scale": False},
    }  # fmt: skip
    return {WHOLE: short} | {name: replace(short, **change) for name, change in changed.items()}


def growth(profile: Profile) -> dict[str, EncoderRecipe]:
    """DMCL and fine-tuning on text alone, on more and more of the training dialogues.

    All take the same number of steps. A name ends with the number of dialogues, as in
    `dmcl_on_750`.
    """
    found = {}
    for name in ("finetune_text", "dmcl"):
        recipe = shortened(profile.encoders[name], **LONGER)
        for divisor in DATA_DIVISORS:
            number = profile.num_train_dialogues // divisor
            found[f"{name}_on_{number}"] = replace(recipe, num_dialogues=number)
    return found


def shortened(recipe: EncoderRecipe, *, steps_divisor: int, batch_divisor: int) -> EncoderRecipe:
    """The recipe with fewer steps on smaller batches, whose last weights are kept."""
    steps = max(1, recipe.steps // steps_divisor)
    return replace(
        recipe,
        steps=steps,
        batch_size=max(2, recipe.batch_size // batch_divisor),
        warmup_steps=recipe.warmup_steps // steps_divisor,
        eval_every=steps,  # nothing is selected
        rank=None,
    )


def run_encoder_ablations(
    profile: Profile,
    generator: ViewGenerator,
    *,
    cache: Path,
    work_dir: Path,
    results_dir: Path = Path("results"),
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Path:
    """Fine-tune all `variants` and `growth` and write `results/<profile>_encoder_ablations.csv`.

    Measured on the validation split, at its drawn rounds. The metric `recall_at_10` of a dialogue
    is averaged over its drawn rounds, and then over the seeds; `recall_at_10_change` is the paired
    difference to `whole`, that of `growth` to the encoder before training, and
    `recall_at_10_over_words` that to the text fine-tuned on as many dialogues. A method is a
    variant and what is ranked (`QUERIES`), for example `without_agreement+dar`. Of the weights of
    the terms that learned the notes say what became.

    Args:
        generator: drew the query sets; what `cache` lacks of their views is drawn anew.
        work_dir: keeps what is trained and measured, so that an interrupted run continues.

    Returns the path of the table. Raises DataError where the query sets are of other models.
    """
    began = time.perf_counter()
    base = load_encoder(profile.encoder, device=device)
    options = {"num_workers": num_workers, "progress": progress}
    train, val = (
        profile_data(profile, name, generator, base, cache, **options) for name in ("train", "val")
    )
    recipes = variants(profile.encoders["dmcl"]) | growth(profile)
    hits = {(START, 0): _hits(base, val)}
    for name, recipe in recipes.items():
        for seed in range(NUM_SEEDS):
            folder = work_dir / name / str(seed)
            path = folder / "hits.json"
            if not path.is_file():
                logger.warning("%s, seed %d: training", name, seed)
                read = training_data(train, profile, recipe, num_workers=num_workers)
                asked = as_read(val, profile, "val", recipe)
                if name == SHUFFLED:
                    read = replace(read, views=np.roll(read.views, 1, axis=0))
                encoder = finetune(
                    load_encoder(profile.encoder, device=device), read, _nothing_to_select(asked),
                    recipe, folder, seed=seed, progress=progress,
                )  # fmt: skip
                with atomic_write(path) as temporary:
                    temporary.write_text(json.dumps(_hits(encoder, asked)), encoding="utf-8")
            hits[name, seed] = read_json(path)
    weights = {
        seed: pd.read_csv(work_dir / "learnable_weights" / str(seed) / "log.csv").iloc[-1]
        for seed in range(NUM_SEEDS)
    }
    path = results_dir / f"{profile.name}_encoder_ablations.csv"
    notes = {
        "profile": asdict(profile),
        "recipes": {name: asdict(recipe) for name, recipe in recipes.items()},
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "learned_weights": {
            seed: {n.removeprefix("weight_"): w for n, w in last.items() if "weight_" in n}
            for seed, last in weights.items()
        },
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_results(path, ablation_rows(hits), notes)
    return path


def ablation_rows(hits: Mapping[tuple[str, int], Mapping[str, list[float]]]) -> pd.DataFrame:
    """Tidy rows of the hits `(num_dialogues,)` of every query, by variant and seed."""

    def mean(name: str, query: str) -> np.ndarray:
        return np.mean([found[query] for (some, _), found in hits.items() if some == name], axis=0)

    rows = []
    for name, number in Counter(name for name, _ in hits).items():
        grown = "_on_" in name
        for query in QUERIES:
            found, reference = mean(name, query), START if grown else WHOLE
            change = found - mean(reference, query)
            columns = {"recall_at_10": found, "recall_at_10_change": change}
            if query == "dar":
                columns["recall_at_10_gain"] = found - mean(name, "text")
                if grown:
                    rival = name.replace("dmcl", "finetune_text")
                    columns["recall_at_10_over_words"] = found - mean(rival, "text")
            for metric, values in columns.items():
                bounds = metrics.SHARES if metric == "recall_at_10" else metrics.DIFFERENCES
                known = metric == "recall_at_10_change" and name == reference
                low, high = metrics.bootstrap_interval(values, bounds=bounds, known=known)
                rows.append((BENCHMARK, f"{name}+{query}", f"mean of {number}", 0, metric,
                             values.mean(), low, high, len(values)))  # fmt: skip
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS))


def _hits(encoder: Encoder, data: FinetuneData) -> dict[str, list[float]]:
    """For every query the share of each dialogue's drawn rounds that find it in the first ten."""
    text, view, gallery = encode(encoder, data)
    queries = {
        "text": text,
        "view": view,
        "dar": dar_fusion(text, view, round=data.rounds),
        "placebo": dar_fusion(text, placebo_views(view), round=data.rounds),
    }
    targets = torch.arange(len(text))
    return {
        name: (target_ranks(features, gallery, targets) < 10).double().mean(dim=1).tolist()
        for name, features in queries.items()
    }


def _nothing_to_select(data: FinetuneData) -> FinetuneData:
    """One dialogue and its picture: a validation that costs nothing, where nothing is selected."""
    return replace(data.first(1), gallery=data.gallery[:1])

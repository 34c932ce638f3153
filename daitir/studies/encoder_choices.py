"""The choices of drawing for fine-tuned encoders: more views, other settings, false on purpose.

Measured on the validation split, as `daitir.studies.choices` is for the encoder before training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from daitir import metrics
from daitir.common.versions import versions
from daitir.evaluation import RESULT_COLUMNS, write_results
from daitir.fusion import average_views, dar_fusion, fuse_views
from daitir.models.encoders import Encoder
from daitir.models.views import ViewGenerator, view_seed
from daitir.recipes.fusion import load_fusion
from daitir.retrieval import target_ranks
from daitir.scenes import controlled_view, parse, render_scenes, sample_scenes
from daitir.studies.choices import METRICS, NUM_VIEWS, ROUNDS, choice_sources
from daitir.studies.encoder_benchmark import ZERO_SHOT, encoder_rows, fusion_of, trained_encoders
from daitir.studies.profiles import Profile
from daitir.studies.queries import SEED, SETS, load_query_set, manifest_of, queries_folder

BENCHMARK, QUERY_SET = "human_val", "val"


def run_encoder_choices(
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
    """Measure every encoder with every choice and write `results/<profile>_encoder_choices.csv`.

    A method is an encoder, what is ranked and the choice, for example `dmcl+dar_4_views`,
    `dmcl+adafuse_steps_2`; without a choice one view of the profile's settings is used.
    `controlled_15` are rendered views in which 15% of what the caption states is false (`_00`:
    nothing). Everything is averaged over the seeds of the encoder, dialogue by dialogue.

    Args:
        generator: draws whatever is not another choice.
        cache: keeps the views, so that an interrupted run continues.
        work_dir: of the benchmark of encoders, which left there the encoders and fusions that are
            measured.

    Returns the path of the table. Raises DataError where an encoder or a fusion is missing.
    """
    began = time.perf_counter()
    encoders = trained_encoders(profile, work_dir, device=device)
    base = encoders[ZERO_SHOT, 0]
    prompts, gallery = asked_and_searched(
        profile, base, num_workers=num_workers, progress=progress
    )
    drawn: dict[str, Sequence[Path] | np.ndarray] = {}
    for name, (source, seed) in choice_sources(generator).items():
        drawn[name] = source.generate(
            prompts, seeds_by_round(len(prompts), seed), cache, progress=progress
        )
    for share in (0.0, *profile.broken_shares):
        views = [
            controlled_view(parse(prompt).facts, broken_share=share, seed=str(index)).scene
            for index, prompt in enumerate(prompts)
        ]
        drawn[f"controlled_{round(100 * share):02d}"] = render_scenes(
            views, size=base.image_size, num_workers=num_workers
        )
    ranks = ranks_by_encoder(
        encoders, work_dir, prompts, drawn, gallery, drawn_choices, progress=progress
    )
    table = choice_rows(ranks)
    most = f"controlled_{round(100 * max(profile.broken_shares)):02d}"
    table = pd.concat([table, dose_rows(ranks, "controlled_00", most)], ignore_index=True)
    table = with_rounds(table)
    path = results_dir / f"{profile.name}_encoder_choices.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "encoders": {f"{n}/{s}": e.digest for (n, s), e in encoders.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_results(path, table, notes)
    return path


def asked_and_searched(
    profile: Profile, encoder: Encoder, *, num_workers: int = 1, progress: bool = False
) -> tuple[list[str], np.ndarray]:
    """The validation captions of the rounds `ROUNDS`, dialogue by dialogue, and the gallery.

    Dialogue i looks for picture i of the gallery, (num_images, size, size, 3) uint8.
    """
    captions = load_query_set(QUERY_SET, encoder, queries_folder(profile)).captions
    captions = captions[: profile.num_other_dialogues]
    scenes = sample_scenes(SEED, SETS[QUERY_SET].split, profile.num_gallery)
    gallery = render_scenes(scenes, size=encoder.image_size, num_workers=num_workers,
                            progress=progress)  # fmt: skip
    return [row[t] for row in captions for t in ROUNDS], gallery


def seeds_by_round(num_captions: int, seed: int) -> list[int]:
    """The seeds of the noise of one view of each caption of `asked_and_searched`."""
    return [view_seed(seed, i, t) for i in range(num_captions // len(ROUNDS)) for t in ROUNDS]


def ranks_by_encoder(
    encoders: Mapping[tuple[str, int], Encoder],
    work_dir: Path,
    captions: Sequence[str],
    drawn: Mapping[str, Sequence[Path] | np.ndarray],
    gallery: np.ndarray,
    choose: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    *,
    progress: bool = False,
) -> dict[tuple[str, str, str], Tensor]:
    """Ranks (num_seeds, num_dialogues, num_rounds) by encoder, `BENCHMARK` and query.

    Args:
        encoders: by name and seed.
        work_dir: holds the fusions that the benchmark of encoders trained on them.
        drawn: views of the captions, by name.
        choose: makes of their features by name the choices that `choice_ranks` takes.
    """
    ranks: dict[tuple[str, str, str], list[Tensor]] = {}
    for (name, seed), encoder in encoders.items():
        fusion = load_fusion(fusion_of(work_dir, name, seed), dim=encoder.dim)
        found = choice_ranks(
            fusion,
            encode_by_round(encoder, captions),
            choose({n: encode_by_round(encoder, views) for n, views in drawn.items()}),
            encoder.encode_images(gallery, progress=progress),
        )
        for query, one in found.items():
            ranks.setdefault((name, BENCHMARK, query), []).append(one)
    return {key: torch.stack(found) for key, found in ranks.items()}


def choice_rows(ranks: Mapping[tuple[str, str, str], Tensor]) -> pd.DataFrame:
    """The rows of `encoder_rows` that a table of choices has."""
    table = encoder_rows(ranks, ranked={query for _, _, query in ranks})
    return table[table["metric"].isin((*METRICS, "recall_at_10_gain_over_finetune_text"))]


def with_rounds(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the rounds themselves in place of their numbers among `ROUNDS`."""
    return table.assign(round=table["round"].map(dict(enumerate(ROUNDS))))


def dose_rows(
    ranks: Mapping[tuple[str, str, str], Tensor], none: str, most: str
) -> pd.DataFrame:
    """Rows of what false facts cost each encoder, and how much more than they cost the start.

    `recall_at_10_drop` is R@10 with the views `none` less that with the views `most`, dialogue by
    dialogue, `recall_at_10_drop_over_zero_shot` its difference to that of the start. `ranks` are
    those of `encoder_rows`.
    """

    def recalls(name: str, query: str) -> np.ndarray:
        found = ranks[name, BENCHMARK, query]
        return np.mean([metrics.recall_values(one, 10) for one in found], axis=0)

    tables = []
    for query in ("dar", "adafuse"):
        drops = {
            name: recalls(name, f"{query}_{none}") - recalls(name, f"{query}_{most}")
            for name in dict.fromkeys(name for name, *_ in ranks)
        }
        for name, drop in drops.items():
            over = drop - drops[ZERO_SHOT]
            for metric, values, bounds, known in (
                ("", drop, metrics.DIFFERENCES, False),
                ("_over_zero_shot", over, (-2.0, 2.0), name == ZERO_SHOT),
            ):
                low, high = metrics.bootstrap_interval(values, bounds=bounds, known=known)
                number = len(ranks[name, BENCHMARK, "text"])
                row = (BENCHMARK, f"{name}+{query}_{most}", f"mean of {number}",
                       range(len(ROUNDS)), f"recall_at_10_drop{metric}", values.mean(axis=0), low,
                       high, len(values))  # fmt: skip
                tables.append(pd.DataFrame(dict(zip(RESULT_COLUMNS, row, strict=True))))
    return pd.concat(tables, ignore_index=True).round(4)


def encode_by_round(
    encoder: Encoder, inputs: Sequence[str] | Sequence[Path] | np.ndarray
) -> Tensor:
    """Features (num_dialogues, num_rounds, dim) of captions or views, dialogue by dialogue."""
    is_text = isinstance(inputs[0], str)
    features = encoder.encode_texts(inputs) if is_text else encoder.encode_images(inputs)
    return features.view(-1, len(ROUNDS), encoder.dim)


def drawn_choices(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Features (num_dialogues, num_rounds, num_views, dim) of each choice, by its suffix.

    `features` are those of one view by the names of `choice_sources` and any others; the first
    views are put together as `NUM_VIEWS` says, one alone has no suffix.
    """
    features = dict(features)
    several = torch.stack([features.pop(f"view_{seed}") for seed in range(max(NUM_VIEWS))], dim=2)
    choices = {f"_{n}_views" if n > 1 else "": several[:, :, :n] for n in NUM_VIEWS}
    return choices | {f"_{name}": some[:, :, None] for name, some in features.items()}


def choice_ranks(
    fusion: nn.Module, text: Tensor, choices: Mapping[str, Tensor], gallery_features: Tensor
) -> dict[str, Tensor]:
    """Ranks `(num_dialogues, num_rounds)` by text and, with each choice, by DAR and a fusion.

    Args:
        text: (num_dialogues, num_rounds, dim), of the rounds `ROUNDS`; dialogue i looks for
            picture i.
        choices: by suffix of the query's name, (num_dialogues, num_rounds, num_views, dim).
        gallery_features: (num_images, dim).
    """
    targets, rounds = torch.arange(len(text)), torch.tensor(ROUNDS)
    found = {"text": target_ranks(text, gallery_features, targets)}
    for suffix, views in choices.items():
        summed = dar_fusion(text, average_views(views), round=rounds)
        with torch.no_grad():
            fused, _ = fuse_views(fusion, text, views)
        for query, vectors in (("dar", summed), ("adafuse", fused)):
            found[query + suffix] = target_ranks(vectors, gallery_features, targets)
    return found

"""A fine-tuned encoder, the views of earlier rounds and an adaptive fusion, all three together.

Measured on the test split, as `daitir.studies.encoder_benchmark` is. `daitir.studies.memory` is the
same for the encoder before training.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from daitir.book.provenance import versions
from daitir.common.files import atomic_write
from daitir.evaluation import write_results
from daitir.fusion import dar_fusion, remembered_views
from daitir.models.encoders import Encoder
from daitir.models.views import ViewGenerator
from daitir.recipes.fusion import load_fusion, train_fusion
from daitir.recipes.triples import FinetuneData
from daitir.retrieval import target_ranks
from daitir.studies import encoder_benchmark
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.encoder_benchmark import (
    COMPARED,
    ZERO_SHOT,
    encode_sets,
    encoder_rows,
    fusion_of,
    kept_ranks,
    trained_encoders,
)
from daitir.studies.memory import remembering
from daitir.studies.profiles import Profile
from daitir.studies.queries import manifest_of, queries_folder
from daitir.studies.training_sets import profile_data

logger = logging.getLogger(__name__)
QUERY = "adafuse_memory"
# Validation chose it for ADaFuSE (`daitir memory`).
DECAY = 0.5
METRICS = (
    "recall_at_10", "hits_at_10", "bri", "recall_at_10_gain_over_dar",
    "recall_at_10_gain_over_finetune_text", "recall_at_10_gain_over_finetune_text_memory",
    "hits_at_10_gain_over_finetune_text",
)  # fmt: skip
# Beside those of the benchmark, the same query with an encoder that no view has trained.
PEERS = encoder_benchmark.PEERS | {"finetune_text_memory": ("finetune_text", QUERY)}


def run_encoder_memory(
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
    """Train ADaFuSE on kept views with the encoders `COMPARED`, and with the one before training.

    Writes `results/<profile>_encoder_memory.csv` and `.json`.

    A method is an encoder and `adafuse_memory`, with some metrics of
    `daitir.studies.encoder_benchmark.encoder_rows`; `gain_over_finetune_text_memory` is over the
    same query with the encoder fine-tuned on text.

    Args:
        generator: drew the query sets; what `cache` lacks of their views is drawn anew.
        work_dir: of the benchmark of encoders, which left there the encoders and fusions that are
            measured; keeps what is trained and the ranks, so that an interrupted run continues.

    Returns the path of the table. Raises DataError where an encoder or a fusion is missing.
    """
    encoders = trained_encoders(profile, work_dir, names=COMPARED, device=device)
    base = encoders[ZERO_SHOT, 0]
    plain = {
        key: load_fusion(fusion_of(work_dir, *key), dim=encoder.dim)
        for key, encoder in encoders.items()
    }
    options = {"num_workers": num_workers, "progress": progress}
    data = {
        name: profile_data(profile, name, generator, base, cache, **options)
        for name in ("train", "val", *BENCHMARKS)
    }
    found: dict[tuple[str, str, str], list[Tensor]] = {}
    digests = {}
    for (name, seed), encoder in encoders.items():
        digests[f"{name}/{seed}"] = encoder.digest
        path = work_dir / f"{name}_{seed}_memory.safetensors"
        facts = {"encoder": digests[f"{name}/{seed}"]}
        ranks = kept_ranks(path, facts)
        if ranks is None:
            logger.warning("%s, seed %d: measuring", name, seed)
            folder = work_dir / "fusions_memory" / name / str(seed)
            ranks = _ranks(profile, seed, encoder, data, plain[name, seed], folder, progress)
            with atomic_write(path) as temporary:
                save_file(ranks, temporary, facts)
        for key in sorted(ranks):
            found.setdefault((name, *key.split("/")), []).append(ranks[key])
    stacked = {key: torch.stack(of_seeds) for key, of_seeds in found.items()}
    table = encoder_rows(stacked, ranked={QUERY}, peers=PEERS)
    table = table[table["method"].str.endswith(QUERY) & table["metric"].isin(METRICS)]
    path = results_dir / f"{profile.name}_encoder_memory.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "encoders": digests,
        "decay": DECAY,
    }
    write_results(path, table, notes)
    return path


def _ranks(
    profile: Profile,
    seed: int,
    encoder: Encoder,
    data: dict[str, FinetuneData],
    plain: nn.Module,
    folder: Path,
    progress: bool,
) -> dict[str, Tensor]:
    """`ranks["benchmark/query"]` (num_queries, num_rounds) of an encoder, 0-based."""
    features = encode_sets(encoder, data, progress=progress)
    model = train_fusion(
        remembering(features["train"], DECAY), remembering(features["val"], DECAY),
        profile.fusions["adafuse"], folder, seed=seed, device=encoder.device, progress=progress,
    ).cpu()  # fmt: skip
    ranks = {}
    for benchmark in BENCHMARKS:
        some = features[benchmark]
        text, view = some.text_features, some.view_features
        with torch.no_grad():
            queries = {
                "text": text,
                "dar": dar_fusion(text, view, round=torch.arange(text.shape[1])),
                "adafuse": plain(text, view)[0],
                QUERY: model(text, remembered_views(view, decay=DECAY))[0],
            }
        targets = torch.arange(len(text))
        for query, vectors in queries.items():
            ranks[f"{benchmark}/{query}"] = target_ranks(vectors, some.gallery_features, targets)
    return ranks

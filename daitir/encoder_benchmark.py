"""The benchmark of fine-tuned encoders: each on every source of dialogues, alone and fused."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from daitir.benchmark import BENCHMARKS
from daitir.controls import placebo_views
from daitir.encoders import Encoder, load_encoder
from daitir.errors import DataError
from daitir.evaluation import result_rows, write_results
from daitir.files import atomic_write, weights_digest
from daitir.finetuned import CONFIG_NAME
from daitir.fusion import dar_fusion
from daitir.profiles import Profile
from daitir.provenance import versions
from daitir.queries import SEED, SETS, manifest_of, queries_folder
from daitir.retrieval import target_ranks
from daitir.scenes import sample_scenes, short_caption
from daitir.training.finetune import (
    FinetuneData,
    as_read,
    encode,
    encoder_folder,
    finetune,
    profile_data,
)
from daitir.training.fusion import FusionData, train_fusion
from daitir.views import ViewGenerator

logger = logging.getLogger(__name__)
ZERO_SHOT, PEER = "zero_shot", "finetune_text"
SHORT_CAPTION = "short_caption"


def run_encoder_benchmark(
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
    """Measure every encoder of the profile and write `results/<profile>_encoders.csv` and `.json`.

    A method is an encoder and what is ranked, for example `dmcl+dar`: `text`, `view`, `dar`, DAR
    with the views of other dialogues (`placebo`), and `adafuse`, trained on that encoder. The
    encoder before training is `zero_shot`. Gains over `dar` are those over DAR with it, gains over
    `finetune_text` those over the text of that encoder with the same seed. The benchmark
    `short_caption` ranks for one clean short caption of each target, without a dialogue.

    Args:
        generator: drew the query sets; what `cache` lacks of their views is drawn anew.
        cache: keeps the views.
        work_dir: keeps the ranks of each encoder, so that an interrupted run continues. Encoders
            that lie nowhere yet are trained there.

    Returns the path of the table. Raises DataError where the query sets are of other models, or
    where `work_dir` holds the ranks of another encoder.
    """
    base = load_encoder(profile.encoder, device=device)
    options = {"num_workers": num_workers, "progress": progress}
    data = {
        name: profile_data(profile, name, generator, base, cache, **options)
        for name in ("train", "val", *BENCHMARKS)
    }
    found, digests = {}, {}
    for name in (ZERO_SHOT, *profile.encoders):
        for seed in range(profile.num_encoder_seeds if name != ZERO_SHOT else 1):
            encoder = _encoder(profile, name, seed, data, work_dir, device, progress)
            digests[f"{name}/{seed}"] = weights_digest(encoder.model)
            path = work_dir / f"{name}_{seed}.safetensors"
            facts = {"encoder": digests[f"{name}/{seed}"]}
            found[name, seed] = _kept(path, facts)
            if found[name, seed] is None:
                logger.warning("%s, seed %d: measuring", name, seed)
                folder = work_dir / "fusions" / name / str(seed)
                found[name, seed] = _ranks(profile, name, seed, encoder, data, folder, progress)
                with atomic_write(path) as temporary:
                    save_file(found[name, seed], temporary, facts)
    tables = [
        _rows(found, name, seed, key)
        for (name, seed), ranks in found.items()
        for key in sorted(ranks)  # the order in which they are read again
    ]
    path = results_dir / f"{profile.name}_encoders.csv"
    notes = {
        "profile": asdict(profile),
        "queries": manifest_of(queries_folder(profile)),
        "versions": versions(),
        "encoders": digests,
    }
    write_results(path, pd.concat(tables), notes)
    return path


def _encoder(
    profile: Profile,
    name: str,
    seed: int,
    data: Mapping[str, FinetuneData],
    work_dir: Path,
    device: str,
    progress: bool,
) -> Encoder:
    """The encoder of a name and seed; one that lies nowhere yet is trained."""
    encoder = load_encoder(profile.encoder, device=device)
    if name == ZERO_SHOT:
        return encoder
    train, val = (_as_read(profile, name, data, part) for part in ("train", "val"))
    folder = encoder_folder(profile, name, seed)
    if not (folder / CONFIG_NAME).is_file():
        folder = work_dir / "encoders" / name / str(seed)
    return finetune(
        encoder, train, val, profile.encoders[name], folder, seed=seed, progress=progress
    )


def _as_read(
    profile: Profile, name: str, data: Mapping[str, FinetuneData], part: str
) -> FinetuneData:
    """A query set with the texts that an encoder was trained to read."""
    recipe = profile.encoders.get(name)
    return data[part] if recipe is None else as_read(data[part], profile, part, recipe)


def _kept(path: Path, facts: Mapping[str, str]) -> dict[str, Tensor] | None:
    """The ranks of an earlier run, None where there are none yet."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        if file.metadata() != facts:
            raise DataError(f"{path}: holds the ranks of another encoder; delete the file")
    return load_file(path)


def _ranks(
    profile: Profile,
    name: str,
    seed: int,
    encoder: Encoder,
    data: Mapping[str, FinetuneData],
    folder: Path,
    progress: bool,
) -> dict[str, Tensor]:
    """`ranks["benchmark/query"]` (num_queries, num_rounds) of an encoder, 0-based."""
    features = {
        part: FusionData(*encode(encoder, _as_read(profile, name, data, part), progress=progress))
        for part in data
    }
    recipe = profile.fusions["adafuse"]
    model = train_fusion(
        features["train"], features["val"], recipe, folder, seed=seed, device=encoder.device,
        progress=progress,
    ).cpu()  # fmt: skip
    ranks = {}
    for benchmark in BENCHMARKS:
        some = features[benchmark]
        text, view = some.text_features, some.view_features
        rounds = torch.arange(text.shape[1])
        with torch.no_grad():
            fused, _ = model(text, view)
        queries = {
            "text": text,
            "view": view,
            "dar": dar_fusion(text, view, round=rounds),
            "placebo": dar_fusion(text, placebo_views(view), round=rounds),
            "adafuse": fused,
        }
        targets = torch.arange(len(text))
        for query, vectors in queries.items():
            ranks[f"{benchmark}/{query}"] = target_ranks(vectors, some.gallery_features, targets)
    scenes = sample_scenes(SEED, SETS["human"].split, profile.num_test_dialogues)
    captions = [short_caption(s, random.Random(f"short/{SEED}/{i}")) for i, s in enumerate(scenes)]
    ranks[f"{SHORT_CAPTION}/text"] = target_ranks(
        encoder.encode_texts(captions)[:, None],
        features["human"].gallery_features,
        torch.arange(len(captions)),
    )
    return ranks


def _rows(
    found: Mapping[tuple[str, int], Mapping[str, Tensor]], name: str, seed: int, key: str
) -> pd.DataFrame:
    """The rows of one benchmark and query of an encoder."""
    benchmark, query = key.split("/")
    ranks = found[name, seed]
    peers = {}
    if benchmark != SHORT_CAPTION:
        peers["dar"] = found[ZERO_SHOT, SEED][f"{benchmark}/dar"]
        if (PEER, seed) in found:
            peers[PEER] = found[PEER, seed][f"{benchmark}/text"]
    return result_rows(
        ranks[key],
        benchmark=benchmark,
        method=f"{name}+{query}",
        seed=seed,
        baseline_ranks=None if query == "text" else ranks[f"{benchmark}/text"],
        peer_ranks=peers,
    )

"""Query sets: the refined captions of dialogues and the features of the views drawn from them.

Refining and drawing take long, ranking does not. So both are done once, by `daitir queries`, and
what is measured later starts from a folder of query sets: for each set `NAME.json`, the captions in
the ChatIR format, and `NAME.safetensors`, the features of their views in half precision, beside
one `manifest.json` that names the models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from daitir.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.encoders import Encoder
from daitir.errors import DataError
from daitir.files import atomic_write, weights_digest
from daitir.profiles import Profile
from daitir.reformulation import Reformulator
from daitir.scenes import NUM_QUESTIONS, SOURCES, Scene, Turn, dialogue, sample_scenes
from daitir.views import ViewGenerator, view_seed

MANIFEST_NAME = "manifest.json"
SEED = 0
SETS = {
    **{source: (source, "test") for source in SOURCES},
    "heldout": ("human", "heldout"),
    "train": ("human", "train"),
    "val": ("human", "val"),
}
"""Each set's source of dialogues and split of scenes."""
PARTLY_DRAWN = ("train", "val")
"""Sets of whose dialogues some rounds are drawn; of the others all."""


@dataclass(frozen=True)
class QuerySet:
    """Refined and drawn dialogues.

    Attributes:
        captions: `captions[dialogue][round]`, refined.
        rounds: (num_dialogues, num_views), the rounds whose caption was drawn, ascending.
        view_features: (num_dialogues, num_views, dim), unit vectors of those views.
    """

    captions: list[list[str]]
    rounds: Tensor
    view_features: Tensor

    @property
    def drawn_captions(self) -> list[list[str]]:
        """`drawn_captions[dialogue][view]`: the prompt of each view."""
        return [
            [row[t] for t in rounds.tolist()]
            for row, rounds in zip(self.captions, self.rounds, strict=True)
        ]


def set_dialogues(profile: Profile, name: str) -> tuple[list[Scene], list[list[Turn]]]:
    """The target scenes of a set of `SETS` and the dialogues about them."""
    source, split = SETS[name]
    numbers = {
        "human": profile.num_test_dialogues,
        "train": profile.num_train_dialogues,
        "val": profile.num_val_dialogues,
    }
    number = numbers.get(name, profile.num_other_dialogues)
    scenes = sample_scenes(SEED, split, number)
    return scenes, [dialogue(source, scene, seed=SEED) for scene in scenes]


def make_query_set(
    talks: Sequence[Sequence[Turn]],
    reformulator: Reformulator,
    generator: ViewGenerator,
    encoder: Encoder,
    cache: Path,
    *,
    views_per_dialogue: int = NUM_QUESTIONS + 1,
    progress: bool = False,
) -> QuerySet:
    """Refine dialogues, draw views of their captions, and encode the views.

    Args:
        talks: dialogues of `NUM_QUESTIONS` + 1 rounds.
        cache: keeps the views; see `ViewGenerator`.
        views_per_dialogue: how many rounds of each dialogue are drawn, at random where not all.
    """
    captions = reformulator.refine(
        [[turn.text for turn in turns] for turns in talks], progress=progress
    ).captions
    rounds = [
        sorted(random.Random(f"drawn/{SEED}/{index}").sample(range(len(row)), views_per_dialogue))
        for index, row in enumerate(captions)
    ]
    drawn = [(index, t) for index, chosen in enumerate(rounds) for t in chosen]
    paths = generator.generate(
        [captions[index][t] for index, t in drawn],
        [view_seed(SEED, index, t) for index, t in drawn],
        cache,
        progress=progress,
    )
    features = encoder.encode_images(paths, progress=progress)
    return QuerySet(
        captions, torch.tensor(rounds), features.view(len(captions), -1, encoder.dim)
    )


def manifest_of(folder: Path) -> dict:
    """What the query sets of a folder were made of: hashes of the models, settings and sizes.

    Raises DataError, naming the file, where it is missing or damaged.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise DataError(f"{path}: no such file; `daitir queries --out {folder}` writes it")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: no manifest ({error}); make the query sets again") from error


def make_query_sets(
    profile: Profile,
    folder: Path,
    reformulator: Reformulator,
    generator: ViewGenerator,
    encoder: Encoder,
    *,
    cache: Path,
    progress: bool = False,
) -> None:
    """Make every set of `SETS` in a folder; those that it has already stay.

    Raises DataError where the folder's sets are of other models or sizes.
    """
    manifest = {
        "encoder": weights_digest(encoder.model),
        "reformulator": weights_digest(reformulator.model),
        "generator": generator.digest,
        "steps": generator.steps,
        "guidance": generator.guidance,
        "seed": SEED,
        "num_dialogues": {name: len(set_dialogues(profile, name)[0]) for name in SETS},
        "views_per_dialogue": profile.views_per_dialogue,
    }
    text = json.dumps(manifest, indent=1) + "\n"
    path = folder / MANIFEST_NAME
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise DataError(f"{folder}: holds query sets of other models or sizes; delete the folder")
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for name in SETS:
        if (folder / f"{name}.safetensors").is_file():
            continue
        _, talks = set_dialogues(profile, name)
        found = make_query_set(
            talks,
            reformulator,
            generator,
            encoder,
            cache,
            views_per_dialogue=(
                profile.views_per_dialogue if name in PARTLY_DRAWN else NUM_QUESTIONS + 1
            ),
            progress=progress,
        )
        save_query_set(found, folder, name)


def save_query_set(found: QuerySet, folder: Path, name: str) -> None:
    """Write a set's two files, the features last."""
    names = [f"{index:06d}.png" for index in range(len(found.captions))]
    write_dialogues(
        folder / f"{name}.json",
        [Dialogue(n, tuple(row)) for n, row in zip(names, found.captions, strict=True)],
    )
    tensors = {
        "rounds": found.rounds.to(torch.uint8), "view_features": found.view_features.half()
    }  # fmt: skip
    with atomic_write(folder / f"{name}.safetensors") as temporary:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)


def load_query_set(name: str, encoder: Encoder, folder: Path) -> QuerySet:
    """A set of a folder, whose views this encoder has encoded.

    Raises DataError, naming the file, where one is missing or damaged, or where the features are
    of another encoder.
    """
    tensors, captions = folder / f"{name}.safetensors", folder / f"{name}.json"
    manifest = manifest_of(folder)
    for path in (tensors, captions):
        if not path.is_file():
            raise DataError(f"{path}: no such file; `daitir queries --out {folder}` writes it")
    try:
        found = load_file(tensors)
        rounds, features = found["rounds"].long(), found["view_features"].float()
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        line = str(error).strip().splitlines()[0]
        raise DataError(f"{tensors}: no query set ({line}); make it again") from error
    if manifest.get("encoder") != weights_digest(encoder.model):
        raise DataError(
            f"{folder}: its views were encoded by another encoder than {encoder.spec}; "
            "make the query sets again with `daitir queries`"
        )
    refined = [list(entry.rounds) for entry in read_dialogues(captions)]
    if not len(refined) == len(rounds) == len(features):
        raise DataError(f"{captions}: of another length than {tensors.name}; make both again")
    return QuerySet(refined, rounds, F.normalize(features, dim=-1))


"""Query sets: the refined captions of dialogues and the features of the views drawn from them.

Refining and drawing take long, ranking does not. So both are done once, by `daitir queries`, and
what is measured later starts from a folder of query sets: for each set `NAME.json.gz`, the captions
in the ChatIR format, and `NAME.npz`, the features of their views in half precision and what
the recogniser reads off them, beside one `manifest.json` that names the models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from daitir.common.errors import DataError
from daitir.common.files import read_arrays, read_json, write_arrays, write_json
from daitir.data.dialogues import Dialogue, read_dialogues, write_dialogues
from daitir.models import ASSETS
from daitir.models.encoders import Encoder
from daitir.models.recogniser import SCENE_ATTRIBUTES, VALUES, to_scenes, to_values
from daitir.models.views import ViewGenerator, view_seed
from daitir.scenes import NUM_QUESTIONS, SOURCES, Scene, Turn, dialogue, sample_scenes, world
from daitir.studies.profiles import Profile

if TYPE_CHECKING:
    from daitir.studies.engine.bench import Bench

T = TypeVar("T")
QUERIES_FOLDER = ASSETS / "queries"
MANIFEST_NAME = "manifest.json"
SEED = 0


@dataclass(frozen=True)
class SetRecipe:
    """What a query set is made of: dialogues of a source about scenes of a split."""

    source: str
    split: str
    size: str  # the field of a profile that says how many
    partly_drawn: bool = False  # only some rounds of each dialogue, at random
    seed: int = SEED  # of the noise that drawing starts from
    fixed_noise: bool = False  # whether all rounds of a dialogue start from the same
    gallery: str = "num_gallery"  # the field of a profile that says how many pictures it searches
    start: int = 0  # the number of its first scene in the split
    shipped: bool = True  # else the study that asks for it refines and draws it
    features: bool = True  # of its views are shipped; else a study draws these again


OTHERS = "num_other_dialogues"
MEASURED = {
    "human": SetRecipe("human", "test", "num_test_dialogues"),
    **{s: SetRecipe(s, "test", OTHERS, features=False) for s in SOURCES if s != "human"},
    "heldout": SetRecipe("human", "heldout", OTHERS, features=False),
}
SEALED = {"size": "num_sealed_dialogues", "gallery": "num_sealed_gallery", "start": 100_000,
          "seed": 2, "shipped": False}  # fmt: skip
SETS = {
    **MEASURED,
    "human_again": SetRecipe("human", "test", OTHERS, seed=1),
    "human_fixed_noise": SetRecipe("human", "test", OTHERS, fixed_noise=True, features=False),
    "train": SetRecipe("human", "train", "num_train_dialogues", partly_drawn=True),
    "val": SetRecipe("human", "val", "num_val_dialogues", partly_drawn=True),
    **{f"sealed_{name}": replace(recipe, **SEALED) for name, recipe in MEASURED.items()},
}
"""The sealed sets are of scenes that no other set, gallery or training has."""


@dataclass(frozen=True)
class QuerySet:
    """Refined and drawn dialogues."""

    captions: list[list[str]]  # `captions[dialogue][round]`, refined
    rounds: Tensor  # (num_dialogues, num_views), those whose caption was drawn, ascending
    view_features: Tensor | None  # (num_dialogues, num_views, dim), unit vectors, where kept
    readings: list[list[Scene]]  # `readings[dialogue][view]`, what the recogniser reads

    @property
    def drawn_captions(self) -> list[list[str]]:
        """`drawn_captions[dialogue][view]`: the prompt of each view."""
        pairs = zip(self.captions, self.rounds.tolist(), strict=True)
        return [[row[t] for t in rounds] for row, rounds in pairs]


def queries_folder(profile: Profile) -> Path:
    """Where the query sets of a profile lie; those of `mini` come with the package."""
    return QUERIES_FOLDER if profile.queries == "mini" else Path(profile.queries)


def set_dialogues(profile: Profile, name: str) -> tuple[list[Scene], list[list[Turn]]]:
    """The target scenes of a set of `SETS` and the dialogues about them."""
    recipe = SETS[name]
    number = getattr(profile, recipe.size)
    scenes = sample_scenes(SEED, recipe.split, number, start=recipe.start)
    return scenes, [dialogue(recipe.source, scene, seed=SEED) for scene in scenes]


def make_query_set(recipe: SetRecipe, talks: Sequence[Sequence[Turn]], bench: Bench) -> QuerySet:
    """Refine dialogues of `NUM_QUESTIONS` + 1 rounds, draw their captions, encode and read views.

    `views_per_dialogue` rounds of each dialogue are drawn where not all.
    """
    said, on = [[turn.text for turn in turns] for turns in talks], {"progress": bench.progress}
    captions = bench.reformulator.refine(said, **on).captions
    number = bench.profile.views_per_dialogue if recipe.partly_drawn else NUM_QUESTIONS + 1
    rounds = [
        sorted(random.Random(f"drawn/{SEED}/{index}").sample(range(len(row)), number))
        for index, row in enumerate(captions)
    ]
    paths = draw_views(bench, bench.generator, recipe, captions, rounds)
    features = None
    if recipe.features:
        features = bench.base.encode_images(paths, **on)
        features = features.view(len(captions), number, bench.base.dim)
    scenes = bench.recogniser.read(paths, **on)
    return QuerySet(captions, torch.tensor(rounds), features, _in_rows(scenes, number))


def _in_rows(items: Sequence[T], number: int) -> list[list[T]]:
    return [list(items[start : start + number]) for start in range(0, len(items), number)]


def check_drawn_by(generator: ViewGenerator, folder: Path) -> None:
    """Raises DataError where another generator drew the views of a folder of query sets."""
    manifest = manifest_of(folder)
    if manifest != manifest | _drawn_by(generator):
        raise DataError(
            f"{folder}: its views were drawn by another pipeline or with other settings than "
            f"{generator.spec}; make the query sets again with `daitir queries`"
        )


def _drawn_by(generator: ViewGenerator) -> dict:
    facts = {"steps": generator.steps, "guidance": generator.guidance}
    return {"generator": generator.digest, **facts}


def draw_views(
    bench: Bench, generator: ViewGenerator, recipe: SetRecipe,
    captions: Sequence[Sequence[str]], rounds: Sequence[Sequence[int]],
) -> list[Path]:  # fmt: skip
    """The files of the views of some rounds of each dialogue, one after the other."""
    drawn = [(index, t) for index, chosen in enumerate(rounds) for t in chosen]
    prompts = [captions[index][t] for index, t in drawn]
    seeds = [view_seed(recipe.seed, i, None if recipe.fixed_noise else t) for i, t in drawn]
    return generator.generate(prompts, seeds, bench.cache, progress=bench.progress)


def manifest_of(folder: Path) -> dict:
    """What the query sets of a folder were made of. Raises DataError for a damaged manifest."""
    path = _existing(folder / MANIFEST_NAME)
    try:
        return dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: no manifest ({error}); make the query sets again") from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file; `daitir queries --out {path.parent}` writes it")
    return path


def make_query_sets(bench: Bench, folder: Path) -> None:
    """Make every set of `SETS` that is shipped in a folder; those that it has already stay.

    Raises DataError where one of these is of other models or another size.
    """
    profile, path = bench.profile, folder / MANIFEST_NAME
    before = manifest_of(folder) if path.is_file() else {}
    shipped = {name: recipe for name, recipe in SETS.items() if recipe.shipped}
    sizes = {name: getattr(profile, recipe.size) for name, recipe in shipped.items()}
    manifest = {
        "encoder": bench.base.digest,
        "recogniser": bench.recogniser.digest,
        "reformulator": bench.reformulator.digest,
        **_drawn_by(bench.generator),
        "seed": SEED,
        "num_dialogues": before.get("num_dialogues", {}) | sizes,  # sets of other sources stay
        "views_per_dialogue": profile.views_per_dialogue,
    }
    # A set that is new is no difference; one of another size is.
    if before and manifest != before | {"num_dialogues": sizes | before.get("num_dialogues", {})}:
        raise DataError(f"{folder}: holds query sets of other models or sizes; delete the folder")
    write_json(path, manifest)
    for name, recipe in shipped.items():
        if not (folder / f"{name}.npz").is_file():
            _, talks = set_dialogues(profile, name)
            save_query_set(make_query_set(recipe, talks, bench), folder, name)


def save_query_set(queries: QuerySet, folder: Path, name: str) -> None:
    """Write a set's two files, the features last."""
    refined = [Dialogue(f"{i:06d}.png", tuple(row)) for i, row in enumerate(queries.captions)]
    write_dialogues(folder / f"{name}.json.gz", refined)
    values = to_values([scene for row in queries.readings for scene in row])
    columns = torch.cat([v.view(queries.rounds.numel(), -1) for v in values.values()], dim=1)
    tensors = {"rounds": queries.rounds.to(torch.uint8)}
    tensors["readings"] = columns.view(*queries.rounds.shape, -1).to(torch.uint8)
    if queries.view_features is not None:
        tensors["view_features"] = queries.view_features.half()
    write_arrays(folder / f"{name}.npz", {key: of.numpy() for key, of in tensors.items()})


def load_query_set(name: str, encoder: Encoder, folder: Path) -> QuerySet:
    """A set of a folder. Raises DataError for damage, or features of another encoder."""
    manifest = manifest_of(folder)
    tensors, captions = (_existing(folder / f"{name}{end}") for end in (".npz", ".json.gz"))
    try:
        stored = {key: torch.from_numpy(of) for key, of in read_arrays(tensors).items()}
        rounds, features = stored["rounds"].long(), stored.get("view_features")
        if features is not None:
            features = F.normalize(features.float(), dim=-1)
        elif name in SETS and SETS[name].features:
            raise KeyError("view_features")
        readings = _unpack(stored["readings"].long())
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        raise DataError(f"{tensors}: no query set ({line}); make it again") from error
    if manifest.get("encoder") != encoder.digest:
        raise DataError(
            f"{folder}: its views were encoded by another encoder than {encoder.spec}; "
            "make the query sets again with `daitir queries`"
        )
    refined = [list(entry.rounds) for entry in read_dialogues(captions)]
    lengths = {len(part) for part in (refined, rounds, readings, features) if part is not None}
    if len(lengths) != 1:
        raise DataError(f"{captions}: of another length than {tensors.name}; make both again")
    return QuerySet(refined, rounds, features, readings)


def _unpack(readings: Tensor) -> list[list[Scene]]:
    """The scenes of (num_dialogues, num_views, values) as `save_query_set` writes them."""
    widths = [1 if name in SCENE_ATTRIBUTES else len(world.CELLS) for name in VALUES]
    columns = dict(zip(VALUES, readings.flatten(0, 1).split(widths, dim=1), strict=True))
    scenes = to_scenes(columns | {name: columns[name].squeeze(1) for name in SCENE_ATTRIBUTES})
    return _in_rows(scenes, readings.shape[1])

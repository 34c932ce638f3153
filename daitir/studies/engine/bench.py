"""The bench of a study: turns conditions into ranks.

Words, views, encoders and fusions are found by name, each in one mapping; a study that needs
another adds an entry. What is computed once for an encoder is kept until another is asked for, so
conditions come encoder by encoder (`daitir.studies.engine.run`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, query_texts
from daitir.data.gallery import read_image
from daitir.fusion import fuse_views
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.recogniser import Recogniser, load_recogniser
from daitir.models.reformulation import Reformulator, load_reformulator
from daitir.models.views import ViewGenerator, load_view_generator
from daitir.recipes.cast import Cast, train_cast
from daitir.recipes.fusion import (
    FUSION_CONFIG,
    FusionData,
    load_fusion,
    train_fusion,
    tuned_weights,
)
from daitir.recipes.settings import EncoderRecipe
from daitir.recipes.triples import FinetuneData
from daitir.retrieval import target_ranks
from daitir.scenes import NUM_QUESTIONS, Scene, Turn, render_scenes, sample_scenes
from daitir.studies import queries as sets
from daitir.studies.engine.conditions import ZERO_SHOT, Condition, Study, Trained, named, split_name
from daitir.studies.engine.inputs import VIEWS, WORDS
from daitir.studies.engine.models import ENCODERS, FUSIONS, KEPT_UNDER, RANKINGS, finetuned
from daitir.studies.profiles import Profile
from daitir.studies.training_sets import as_read, fusion_folder

T = TypeVar("T")


def _once(*fields: str, of_encoder: bool = False) -> Callable:
    """What a method makes for its argument, or for these fields of a condition, is kept.

    What is `of_encoder` is forgotten when another encoder is asked for.
    """

    def keeping(method: Callable) -> Callable:
        @wraps(method)
        def kept(bench: Bench, asked: Any, **options: Any) -> Any:
            if of_encoder:
                bench.encoder_of(asked)
            store = bench._features if of_encoder else bench._made
            facts = tuple(getattr(asked, name) for name in fields) if fields else asked
            key = (method.__name__, facts, *options.items())
            if key not in store:
                store[key] = method(bench, asked, **options)
            return store[key]

        return kept

    return keeping


@dataclass
class Bench:
    """What the conditions of a study are measured with; models are loaded when asked for."""

    profile: Profile
    study: Study | None  # whose recipes are trained beside those of the profile
    work_dir: Path  # keeps what is trained
    cache: Path  # keeps the views that are drawn
    device: str = "cpu"
    num_workers: int = 1  # processes that draw scenes
    progress: bool = False
    facts: dict[str, Any] = field(default_factory=dict)  # for the notes, found on the way
    _made: dict[tuple, Any] = field(default_factory=dict)  # once, for every encoder
    _features: dict[tuple, Any] = field(default_factory=dict)  # of the encoder, and itself

    @cached_property
    def base(self) -> Encoder:
        """The encoder of the profile, before any training of ours."""
        return load_encoder(self.profile.encoder, device=self.device)

    @cached_property
    def reformulator(self) -> Reformulator:
        return load_reformulator(self.profile.reformulator, device=self.device)

    @cached_property
    def generator(self) -> ViewGenerator:
        return load_view_generator(self.profile.generator, device=self.device)

    @cached_property
    def recogniser(self) -> Recogniser:
        return load_recogniser(device=self.device)

    @cached_property
    def recipes(self) -> Mapping:
        """Recipes of fusions and encoders, by name; the study's own before the profile's."""
        recipes = {**self.profile.fusions, **self.profile.encoders}
        if self.study is None:
            return recipes
        return recipes | self.study.fusions(self.profile) | self.study.encoders(self.profile)

    # Query sets, dialogues, pictures.

    @_once()
    def query_set(self, name: str) -> sets.QuerySet:
        """A query set of the profile. Raises DataError where it has another size."""
        folder = sets.queries_folder(self.profile)
        number = getattr(self.profile, sets.SETS[name].size)
        queries = sets.load_query_set(name, self.base, folder)
        if len(queries.captions) != number:
            raise DataError(
                f"{folder}: the query set {name} has {len(queries.captions):,} dialogues, the "
                f"profile {number:,}; make it again with `daitir queries`"
            )
        return queries

    @_once()
    def kept_features(self, name: str) -> Tensor:
        """(num_dialogues, num_views, dim), of a query set's views; drawn where none are shipped."""
        queries = self.query_set(name)
        if queries.view_features is not None:
            return queries.view_features
        paths = self.draw(Condition("", "", queries=name))
        features = self.base.encode_images(paths, progress=self.progress)
        features = features.view(*queries.rounds.shape, self.base.dim)
        return F.normalize(features.half().float(), dim=-1)  # as precise as those that are

    @_once()
    def _dialogues(self, queries: str) -> tuple[list[Scene], list[list[Turn]]]:
        return sets.set_dialogues(self.profile, queries)

    def targets(self, condition: Condition) -> list[Scene]:
        """The scenes that the dialogues of a condition are about."""
        return self._dialogues(condition.queries)[0][: condition.number]

    def talks(self, condition: Condition) -> list[list[Turn]]:
        """The dialogues of a condition, turn by turn."""
        return self._dialogues(condition.queries)[1][: condition.number]

    def rounds(self, condition: Condition) -> list[list[int]]:
        """`rounds[dialogue]`: which rounds are asked."""
        if condition.rounds is not None or not sets.SETS[condition.queries].shipped:
            rounds = condition.rounds or range(NUM_QUESTIONS + 1)
            return [list(rounds)] * len(self.targets(condition))
        return self.query_set(condition.queries).rounds[: condition.number].tolist()

    @_once("queries", "words", "number")
    def words(self, condition: Condition) -> list[list[str]]:
        """`words[dialogue][round]`: what is read."""
        name, argument = split_name(condition.words)
        return named(WORDS, name, "words")(self, condition, argument)

    def prompts(self, condition: Condition) -> list[str]:
        """What is drawn, flat: the captions of the rounds that are asked."""
        return self.asked(self._captions(condition), condition)

    def _captions(self, condition: Condition) -> list[list[str]]:
        return self.words(replace(condition, words=condition.drawn_from))

    def draw_scenes(self, scenes: Sequence[Scene], *, size: int | None = None) -> np.ndarray:
        """(num_scenes, size, size, 3) uint8 pictures of scenes."""
        return render_scenes(scenes, size=size or self.profile.image_size, **self.drawing)

    @property
    def drawing(self) -> dict[str, Any]:
        """The options of whatever draws scenes."""
        return {"num_workers": self.num_workers, "progress": self.progress}

    def _gallery(self, name: str) -> list[tuple[str, int, int]]:
        """What a query set searches: splits, how many scenes of each, and the first one's number.

        Targets come first. The training set searches those alone; all sealed sets search the same
        others, which are encoded once.
        """
        recipe = sets.SETS[name]
        own, number = (getattr(self.profile, size) for size in (recipe.size, recipe.gallery))
        if recipe.shipped:
            return [(recipe.split, own if name == "train" else number, recipe.start)]
        return [(recipe.split, own, recipe.start), ("test", number - own, recipe.start + own)]

    @_once()
    def _scenes_drawn(self, place: tuple[str, int, int]) -> np.ndarray:
        split, number, start = place
        return self.draw_scenes(sample_scenes(sets.SEED, split, number, start=start))

    def pictures(self, condition: Condition) -> Tensor | np.ndarray | list[Path]:
        """What stands in the place of the views: files or pictures in a row, or features."""
        name, argument = split_name(condition.views)
        return named(VIEWS, name, "views")(self, condition, argument)

    @_once("queries", "drawn_from", "rounds", "number")
    def draw(self, condition: Condition, **noise: Any) -> list[Path]:
        """The views of a condition's captions, dialogue by dialogue.

        `noise` is what differs from the recipe of the set: its `seed` or `fixed_noise`.
        """
        return self.draw_with(self.generator, condition, **noise)

    def draw_with(self, generator: ViewGenerator, condition: Condition, **noise: Any) -> list[Path]:
        """The same by another generator."""
        recipe = replace(sets.SETS[condition.queries], **noise)
        captions, rounds = self._captions(condition), self.rounds(condition)
        return sets.draw_views(self, generator, recipe, captions, rounds)

    def texts(self, condition: Condition) -> list[str]:
        """The texts that are asked, dialogue after dialogue."""
        words = [Dialogue("", tuple(row)) for row in self.words(condition)]
        return self.asked(query_texts(words, convention=condition.text), condition)

    def asked(self, rows: Sequence[Sequence[T]], condition: Condition) -> list[T]:
        """Of `rows[dialogue][round]` those of the rounds that are asked, flat."""
        pairs = zip(rows, self.rounds(condition), strict=True)
        return [row[t] for row, rounds in pairs for t in rounds]

    # Models that are trained, each kept where it is found again.

    def encoder(self, name: str, seed: int) -> Encoder:
        """An encoder by its name; one that lies nowhere yet is trained."""
        key = (name, 0 if name in ENCODERS else seed)
        if key not in self._features:
            self._features.clear()
            make = ENCODERS.get(name, partial(finetuned, name=name, seed=seed))
            self._features[key] = make(self)
        return self._features[key]

    def encoder_of(self, condition: Condition) -> Encoder:
        return self.encoder(condition.encoder, condition.seed)

    def finetune_data(self, name: str, recipe: EncoderRecipe) -> FinetuneData:
        """A query set as a recipe reads it, with the pictures of its views and of its gallery."""
        data = self._drawn_set(name)
        return as_read(data, self.profile, name, recipe, num_workers=self.num_workers)

    @_once()
    def _drawn_set(self, name: str) -> FinetuneData:
        queries, size = self.query_set(name), self.base.image_size
        sets.check_drawn_by(self.generator, sets.queries_folder(self.profile))
        paths = self.draw(Condition("", "", queries=name))
        views = [read_image(path).resize((size, size), Resampling.BICUBIC) for path in paths]
        views = np.stack(views).reshape(*queries.rounds.shape, size, size, 3)
        [(split, number, start)] = self._gallery(name)
        gallery = self.draw_scenes(sample_scenes(sets.SEED, split, number, start=start), size=size)
        return FinetuneData(queries.drawn_captions, queries.rounds, views, gallery)

    def fusion(self, trained: Trained, condition: Condition) -> nn.Module:
        """A trained fusion with the seed of a condition; one that lies nowhere yet is trained."""
        recipe, seed = self.recipes[trained.recipe], condition.seed
        encoder = trained.encoder or condition.encoder
        unusual = [trained.views.replace(":", "_of_")] if trained.views != "kept" else []
        unusual += [condition.text] if condition.text != "current_rewrite" else []
        folder = self.work_dir.joinpath("fusions", encoder, trained.recipe, *unusual, str(seed))
        shipped = fusion_folder(self.profile, trained.recipe, seed)
        if encoder == ZERO_SHOT and not unusual and (shipped / FUSION_CONFIG).is_file():
            folder = shipped
        if (folder / FUSION_CONFIG).is_file():
            return load_fusion(folder, dim=self.base.dim, seed=seed, recipe=recipe)
        if encoder != condition.encoder:
            raise DataError(f"{folder}: no fusion trained on {encoder}; measure that encoder first")
        words = "said" if condition.text == "raw_dialogue" else "refined"
        asked = replace(condition, words=words, views=trained.views, rounds=None, number=None)
        data = [self.fusion_data(replace(asked, queries=name)) for name in ("train", "val")]
        options = {"seed": seed, "device": self.device, "progress": self.progress}
        return train_fusion(*data, recipe, folder, **options).cpu()

    def cast(self, condition: Condition) -> Cast:
        """CAST on the encoder and the text of a condition, trained where it is not yet."""
        asked = replace(condition, rounds=tuple(range(NUM_QUESTIONS + 1)), number=None)
        pair = [replace(asked, queries=name) for name in ("train", "val")]
        parts = [of(one) for one in pair for of in (self.text_features, self.gallery_features)]
        names = ("fusions", condition.encoder, "cast", condition.text, str(condition.seed))
        folder = self.work_dir.joinpath(*names)
        return train_cast(*parts, folder, seed=condition.seed, progress=self.progress)

    @_once("words", "text", of_encoder=True)
    def tuned_weights(self, condition: Condition) -> tuple[float, float]:
        """The view's, at rounds 0 and 1 and later, that validation chose for encoder and text."""
        views = "kept" if condition.encoder in KEPT_UNDER else "drawn"
        val = replace(condition, queries="val", views=views, rounds=None, number=None)
        return tuned_weights(self.fusion_data(val), self.query_set("val").rounds)

    # Features, kept until another encoder is asked for.

    @_once("queries", "rounds", "number", "words", "text", of_encoder=True)
    def text_features(self, condition: Condition) -> Tensor:
        """(num_queries, num_rounds, dim) of the texts that are asked."""
        texts, number = self.texts(condition), len(self.rounds(condition))
        features = self.encoder_of(condition).encode_texts(texts, progress=self.progress)
        return features.view(number, -1, features.shape[-1])

    @_once("queries", "rounds", "number", "views", "drawn_from", of_encoder=True)
    def view_features(self, condition: Condition) -> Tensor:
        """(num_queries, num_rounds, dim), or with an axis of views before the last."""
        views = self.pictures(condition)
        if isinstance(views, Tensor):
            return views
        features = self.encoder_of(condition).encode_images(views, progress=self.progress)
        return features.view(len(self.rounds(condition)), -1, features.shape[-1])

    def gallery_features(self, condition: Condition) -> Tensor:
        """(num_images, dim) of the pictures that a condition searches."""
        encoder, places = self.encoder_of(condition), self._gallery(condition.queries)
        for place in places:
            if place not in self._features:
                pictures = self._scenes_drawn(place)
                self._features[place] = encoder.encode_images(pictures, progress=self.progress)
        return torch.cat([self._features[place] for place in places])

    def fusion_data(self, condition: Condition) -> FusionData:
        """All features of a condition."""
        parts = (self.text_features, self.view_features, self.gallery_features)
        return FusionData(*(part(condition) for part in parts))

    # Ranks.

    def ranks(self, condition: Condition) -> np.ndarray:
        """(num_queries, num_rounds) 0-based ranks of the targets under a condition."""
        text = self.text_features(condition)
        sought = self.gallery_features(condition), torch.arange(len(text))
        if condition.fusion == "text":
            return target_ranks(text, *sought).numpy()
        view = self.view_features(condition)
        missing = view.isnan().any(dim=-1, keepdim=True)
        if missing.any():  # a round without a view is asked by its text alone
            view = torch.where(missing, text, view)
        if isinstance(condition.fusion, Trained):
            model = self.fusion(condition.fusion, condition)
            fuse = model if view.ndim == text.ndim else partial(fuse_views, model)
            with torch.no_grad():
                query = fuse(text, view)[0]
        elif condition.fusion in RANKINGS:
            return RANKINGS[condition.fusion](self, condition, text, view, *sought).numpy()
        else:
            query = named(FUSIONS, condition.fusion, "fusion")(self, condition, text, view)
        if missing.any():
            query = torch.where(missing, text, query)
        return target_ranks(query, *sought).numpy()

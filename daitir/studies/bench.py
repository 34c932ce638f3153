"""The bench of a study: turns conditions into ranks.

Words, views, encoders and fusions are found by name, each in one mapping; a study that needs
another adds an entry. What is computed once for an encoder is kept until another is asked for, so
conditions come encoder by encoder (`daitir.studies.engine`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daitir.analysis.controls import noise_views, placebo_views
from daitir.common.errors import DataError
from daitir.data.dialogues import Dialogue, query_texts
from daitir.fusion import (
    average_views,
    dar_fusion,
    dar_weights,
    fuse_views,
    remembered_views,
)
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.finetuned import CONFIG_NAME as ENCODER_CONFIG
from daitir.models.recogniser import Recogniser, load_recogniser
from daitir.models.reformulation import Reformulator, load_reformulator
from daitir.models.views import ViewGenerator, load_view_generator, view_seed
from daitir.recipes.clip import train_clip
from daitir.recipes.diffusion import retrain_unet
from daitir.recipes.finetune import finetune, load_trained
from daitir.recipes.fusion import (
    FUSION_CONFIG,
    FusionData,
    load_fusion,
    train_fusion,
    tuned_weights,
)
from daitir.recipes.triples import FinetuneData
from daitir.retrieval import first_equal, reciprocal_rank_fusion, target_ranks
from daitir.scenes import (
    NUM_QUESTIONS,
    Scene,
    Turn,
    controlled_view,
    dialogue,
    merge_facts,
    parse,
    render_scenes,
    rewrites,
    sample_scenes,
    short_caption,
)
from daitir.studies.conditions import ZERO_SHOT, Condition, Study, Trained
from daitir.studies.perturbations import (
    PERTURBATIONS,
    last_views,
    refine_arrived,
)
from daitir.studies.profiles import Profile
from daitir.studies.queries import (
    SEED,
    SETS,
    QuerySet,
    load_query_set,
    queries_folder,
    set_dialogues,
)
from daitir.studies.training_sets import (
    as_read,
    encoder_folder,
    fusion_folder,
    profile_data,
    training_data,
)

T = TypeVar("T")
SHUFFLED = "shuffled_views"  # the encoder that is trained with the views of other dialogues
MISSING_SHARE = 0.5
LONG_DIALOGUES = 20  # questions


@dataclass
class Bench:
    """What the conditions of a study are measured with; models are loaded when they are asked for.

    Attributes:
        profile: sizes and models.
        study: names the recipes that are trained beside those of the profile.
        work_dir: keeps what is trained.
        cache: keeps the views that are drawn.
        device: on which models run.
        num_workers: processes that draw scenes.
        progress: whether bars are shown.
    """

    profile: Profile
    study: Study
    work_dir: Path
    cache: Path
    device: str = "cpu"
    num_workers: int = 1
    progress: bool = False
    _made: dict[tuple, Any] = field(default_factory=dict)  # once, for every encoder
    _features: dict[tuple, Tensor] = field(default_factory=dict)  # of the encoder
    _encoder: tuple[tuple[str, int], Encoder] | None = None

    @cached_property
    def base(self) -> Encoder:
        """The encoder of the profile, before any training of ours."""
        return load_encoder(self.profile.encoder, device=self.device)

    @cached_property
    def reformulator(self) -> Reformulator:
        """The language model of the profile."""
        return load_reformulator(self.profile.reformulator, device=self.device)

    @cached_property
    def generator(self) -> ViewGenerator:
        """The pipeline of the profile."""
        return load_view_generator(self.profile.generator, device=self.device)

    @cached_property
    def recogniser(self) -> Recogniser:
        """What reads the embedded world."""
        return load_recogniser(device=self.device)

    @cached_property
    def recipes(self) -> Mapping:
        """Recipes of fusions and encoders, by name; the study's own before the profile's."""
        return {
            **self.profile.fusions, **self.profile.encoders,
            **self.study.fusions(self.profile), **self.study.encoders(self.profile),
        }  # fmt: skip

    # Query sets, dialogues, pictures.

    def query_set(self, name: str) -> QuerySet:
        """A query set of the profile."""
        load = partial(load_query_set, name, self.base, queries_folder(self.profile))
        return _once(self._made, ("queries", name), load)

    def targets(self, condition: Condition) -> list[Scene]:
        """The scenes that the dialogues of a condition are about."""
        return self._dialogues(condition.queries)[0][: condition.number]

    def talks(self, condition: Condition) -> list[list[Turn]]:
        """The dialogues of a condition, turn by turn."""
        return self._dialogues(condition.queries)[1][: condition.number]

    def _dialogues(self, queries: str) -> tuple[list[Scene], list[list[Turn]]]:
        return _once(
            self._made, ("dialogues", queries), partial(set_dialogues, self.profile, queries)
        )

    def rounds(self, condition: Condition) -> list[list[int]]:
        """`rounds[dialogue]`: which rounds are asked."""
        if condition.rounds is not None:
            return [list(condition.rounds)] * len(self.words(condition))
        return self.query_set(condition.queries).rounds[: condition.number].tolist()

    def words(self, condition: Condition) -> list[list[str]]:
        """`words[dialogue][round]`: what is read."""
        name, argument = _split(condition.words)
        say = partial(_named(WORDS, name, "words"), self, condition, argument)
        return _once(
            self._made, ("words", condition.queries, condition.words, condition.number), say
        )

    def prompts(self, condition: Condition) -> list[str]:
        """What is drawn, flat: the captions of the rounds that are asked."""
        if condition.words in ("said", "exact"):
            condition = replace(condition, words="refined")
        pairs = zip(self.words(condition), self.rounds(condition), strict=True)
        return [row[t] for row, rounds in pairs for t in rounds]

    def gallery(self, queries: str) -> np.ndarray:
        """The pictures that a query set searches, its targets first; of `train` those alone."""
        train = queries == "train"
        number = self.profile.num_train_dialogues if train else self.profile.num_gallery
        return self.draw_scenes(sample_scenes(SEED, SETS[queries].split, number))

    def draw_scenes(self, scenes: Sequence[Scene]) -> np.ndarray:
        """(num_scenes, size, size, 3) uint8 pictures of scenes."""
        return render_scenes(
            scenes, size=self.profile.image_size, num_workers=self.num_workers,
            progress=self.progress,
        )  # fmt: skip

    def pictures(self, condition: Condition) -> Tensor | np.ndarray | list[Path]:
        """What stands in the place of the views: files or pictures in a row, or features."""
        name, argument = _split(condition.views)
        return _named(VIEWS, name, "views")(self, condition, argument)

    def draw(
        self,
        condition: Condition,
        *,
        seed: int | None = None,
        generator: ViewGenerator | None = None,
    ) -> list[Path]:
        """The views of a condition's captions, dialogue by dialogue, from the noise of `seed`."""
        recipe = SETS[condition.queries]
        seed = recipe.seed if seed is None else seed
        seeds = [
            view_seed(seed, index, None if recipe.fixed_noise else t)
            for index, rounds in enumerate(self.rounds(condition))
            for t in rounds
        ]
        generator = generator or self.generator
        return generator.generate(
            self.prompts(condition), seeds, self.cache, progress=self.progress
        )

    def texts(self, condition: Condition) -> list[str]:
        """The texts that are asked, dialogue after dialogue."""
        words = [Dialogue("", tuple(row)) for row in self.words(condition)]
        texts = query_texts(words, convention=condition.text)
        pairs = zip(texts, self.rounds(condition), strict=True)
        return [row[t] for row, rounds in pairs for t in rounds]

    # Models that are trained, each kept where it is found again.

    def encoder(self, name: str, seed: int) -> Encoder:
        """An encoder by its name; one that lies nowhere yet is trained."""
        seed = 0 if name == ZERO_SHOT or name in ENCODERS else seed
        if self._encoder is None or self._encoder[0] != (name, seed):
            self._features.clear()
            make = ENCODERS.get(name, partial(_finetuned, name=name, seed=seed))
            self._encoder = (name, seed), make(self)
        return self._encoder[1]

    def finetune_data(self, name: str) -> FinetuneData:
        """A query set with the pictures of its views and of its gallery."""
        make = partial(
            profile_data, self.profile, name, self.generator, self.base, self.cache,
            num_workers=self.num_workers, progress=self.progress,
        )  # fmt: skip
        return _once(self._made, ("finetuning", name), make)

    def fusion(self, trained: Trained, condition: Condition) -> nn.Module:
        """A trained fusion with the seed of a condition; one that lies nowhere yet is trained."""
        recipe, seed = self.recipes[trained.recipe], condition.seed
        encoder = trained.encoder or condition.encoder
        folder = self.work_dir / "fusions" / encoder / trained.recipe
        if trained.views != "kept":
            folder = folder / trained.views.replace(":", "_of_")
        folder = folder / str(seed)
        if encoder == ZERO_SHOT and trained.views == "kept":
            shipped = fusion_folder(self.profile, trained.recipe, seed)
            folder = shipped if (shipped / FUSION_CONFIG).is_file() else folder
        if not (folder / FUSION_CONFIG).is_file():
            if encoder != condition.encoder:
                raise DataError(
                    f"{folder}: no fusion trained on {encoder}; measure that encoder first"
                )
            words = "said" if condition.text == "raw_dialogue" else "refined"
            asked = replace(condition, words=words, views=trained.views, rounds=None, number=None)
            train, val = (
                self.fusion_data(replace(asked, queries=name)) for name in ("train", "val")
            )
            return train_fusion(
                train, val, recipe, folder, seed=seed, device=self.device, progress=self.progress
            ).cpu()
        return load_fusion(folder, dim=self.base.dim, seed=seed, recipe=recipe)

    # Features, kept until another encoder is asked for.

    def text_features(self, condition: Condition) -> Tensor:
        """(num_queries, num_rounds, dim) of the texts that are asked."""

        def encode() -> Tensor:
            texts, number = self.texts(condition), len(self.rounds(condition))
            features = self.encoder_of(condition).encode_texts(texts, progress=self.progress)
            return features.view(number, -1, features.shape[-1])

        return self._kept("text", condition, encode, condition.words, condition.text)

    def view_features(self, condition: Condition) -> Tensor:
        """(num_queries, num_rounds, dim), or with an axis of views before the last."""

        def encode() -> Tensor:
            views = self.pictures(condition)
            if isinstance(views, Tensor):
                return views
            features = self.encoder_of(condition).encode_images(views, progress=self.progress)
            return features.view(len(self.rounds(condition)), -1, features.shape[-1])

        words = ("said", "exact", "refined")
        drawn_from = "" if condition.words in words else condition.words
        return self._kept("view", condition, encode, condition.views, drawn_from)

    def gallery_features(self, condition: Condition) -> Tensor:
        """(num_images, dim) of the pictures that a condition searches."""
        encoder, split = self.encoder_of(condition), SETS[condition.queries].split

        def encode() -> Tensor:
            pictures = self.gallery(condition.queries)
            return encoder.encode_images(pictures, progress=self.progress)

        return _once(self._features, ("gallery", split), encode)

    def encoder_of(self, condition: Condition) -> Encoder:
        """The encoder of a condition."""
        return self.encoder(condition.encoder, condition.seed)

    def fusion_data(self, condition: Condition) -> FusionData:
        """All features of a condition."""
        return FusionData(
            self.text_features(condition),
            self.view_features(condition),
            self.gallery_features(condition),
        )

    def _kept(self, kind: str, condition: Condition, encode: Callable, *names: str) -> Tensor:
        self.encoder_of(condition)  # forgets the features of another
        key = (kind, condition.queries, condition.rounds, condition.number, *names)
        return _once(self._features, key, encode)

    # Ranks.

    def ranks(self, condition: Condition) -> np.ndarray:
        """(num_queries, num_rounds) 0-based ranks of the targets under a condition."""
        text, gallery = self.text_features(condition), self.gallery_features(condition)
        rounds = torch.tensor(self.rounds(condition))
        targets = torch.arange(len(text))
        if condition.fusion == "text":
            return target_ranks(text, gallery, targets).numpy()
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
            return RANKINGS[condition.fusion](text, view, gallery, targets, rounds).numpy()
        else:
            query = _named(FUSIONS, condition.fusion, "fusion")(self, text, view, rounds)
        if missing.any():
            query = torch.where(missing, text, query)
        return target_ranks(query, gallery, targets).numpy()


def _split(name: str) -> tuple[str, str]:
    """A name and its argument: `guidance_4` is `guidance` with `4`, `placebo:kept` with `kept`.

    >>> _split("guidance_4"), _split("placebo:kept"), _split("remembered_0.5:drawn")
    (('guidance', '4'), ('placebo', 'kept'), ('remembered', '0.5:drawn'))
    """
    match = re.fullmatch(r"([a-z_]+?)(?:_(\d.*)|:(.*))?", name)
    if match is None:
        raise DataError(f"{name!r} is no name with a number or a colon behind it")
    return match[1], match[2] or match[3] or ""


def _once(kept: dict, key: tuple, make: Callable[[], T]) -> T:
    """What is kept under a key; where nothing is yet, it is made."""
    if key not in kept:
        kept[key] = make()
    return kept[key]


def _named(entries: Mapping[str, Callable], name: str, what: str) -> Callable:
    if name not in entries:
        raise DataError(f"unknown {what} {name!r}; there are {', '.join(entries)}")
    return entries[name]


# Words: of a bench, a condition and the argument of the name, `words[dialogue][round]`.


def _refined(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return bench.query_set(condition.queries).captions[: condition.number]


def _exact(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return [rewrites(turns, seed=index) for index, turns in enumerate(bench.talks(condition))]


def _said(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    return [[turn.text for turn in turns] for turns in bench.talks(condition)]


def _perturbed(
    bench: Bench, condition: Condition, argument: str, *, kind: str
) -> list[list[str]]:
    perturb = PERTURBATIONS[kind]
    share = {"share": int(argument) / 100} if argument else {}
    said = _said(bench, condition, "")
    arrived = [perturb(rounds, seed, **share) for seed, rounds in enumerate(said)]
    return refine_arrived(bench.reformulator, arrived, progress=bench.progress)


def _longer(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    talks = [
        dialogue(SETS[condition.queries].source, scene, seed=SEED, num_questions=LONG_DIALOGUES)
        for scene in bench.targets(condition)
    ]
    said = [[turn.text for turn in turns] for turns in talks]
    return bench.reformulator.refine(said, progress=bench.progress).captions


def _short(bench: Bench, condition: Condition, argument: str) -> list[list[str]]:
    scenes = bench.targets(condition)
    return [[short_caption(s, random.Random(f"short/{SEED}/{i}"))] for i, s in enumerate(scenes)]


WORDS: dict[str, Callable[[Bench, Condition, str], list[list[str]]]] = {
    "refined": _refined,
    "exact": _exact,
    "said": _said,
    "longer": _longer,
    "short_caption": _short,
    **{kind: partial(_perturbed, kind=kind) for kind in PERTURBATIONS},
}
"""`refined` captions, `exact` ones of the facts themselves, what was `said`; other dialogues."""


# Views: of a bench, a condition and the argument of the name, pictures or features.


def _kept_views(bench: Bench, condition: Condition, argument: str) -> Tensor:
    """Those of the query set, or of the set that is named with it (`kept:again`)."""
    name = f"{condition.queries}_{argument}" if argument else condition.queries
    queries = bench.query_set(name)
    features = queries.view_features[: condition.number]
    if condition.rounds is not None:
        features = features[:, list(condition.rounds)]
    return _named(KEPT_UNDER, condition.encoder, "encoder of kept views")(bench, features)


def _other_noise(bench: Bench, condition: Condition, argument: str) -> list[Path]:
    return bench.draw(condition, seed=int(argument))


def _first_views(bench: Bench, condition: Condition, argument: str) -> Tensor:
    views = [replace(condition, views=f"view_{seed}") for seed in range(int(argument))]
    return torch.stack([bench.view_features(one) for one in views], dim=2)


def _other_setting(
    bench: Bench, condition: Condition, argument: str, *, setting: str
) -> list[Path]:
    usual = bench.generator
    settings = {"steps": usual.steps, "guidance": usual.guidance}
    settings[setting] = type(settings[setting])(argument)
    return bench.draw(condition, generator=ViewGenerator(usual.spec, usual.pipeline, **settings))


def _less_trained(bench: Bench, condition: Condition, argument: str) -> list[Path]:
    """Views of a pipeline whose U-Net was trained for fewer steps."""
    recipe = replace(bench.profile.diffusion, steps=int(argument))
    if recipe == bench.profile.diffusion:
        return bench.draw(condition)
    folder = bench.work_dir / "diffusion" / argument
    if not (folder / "model_index.json").is_file():
        retrain_unet(
            recipe, bench.generator.pipeline, folder, latents=folder.parent / "latents.safetensors",
            device=bench.device, num_workers=bench.num_workers, progress=bench.progress,
        )  # fmt: skip
    usual = bench.generator
    generator = load_view_generator(
        str(folder), steps=usual.steps, guidance=usual.guidance, device=bench.device
    )
    return bench.draw(condition, generator=generator)


def _redrawn(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """What the recogniser reads off each kept view, rendered: drawn well, of the same content."""
    readings = bench.query_set(condition.queries).readings[: condition.number]
    rounds = bench.rounds(condition)
    return bench.draw_scenes(
        [row[t] for row, chosen in zip(readings, rounds, strict=True) for t in chosen]
    )


def _controlled(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """Rendered views of what was said, a share of it false (in percent)."""
    talks, rounds = bench.talks(condition), bench.rounds(condition)
    share = int(argument) / 100
    return bench.draw_scenes([
        controlled_view(merge_facts(turns[: t + 1]), broken_share=share, seed=f"{i}/{t}").scene
        for i, (turns, chosen) in enumerate(zip(talks, rounds, strict=True))
        for t in chosen
    ])  # fmt: skip


def _controlled_captions(bench: Bench, condition: Condition, argument: str) -> np.ndarray:
    """Rendered views of what the captions state, a share of it false (in percent)."""
    share = int(argument) / 100
    return bench.draw_scenes([
        controlled_view(parse(prompt).facts, broken_share=share, seed=str(index)).scene
        for index, prompt in enumerate(bench.prompts(condition))
    ])  # fmt: skip


def _stand_in(
    bench: Bench, condition: Condition, argument: str, *, make: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What is made of texts and views: `placebo:kept` of the kept views."""
    views = bench.view_features(replace(condition, views=argument))
    return make(bench.text_features(condition), views)


def _remembered(bench: Bench, condition: Condition, argument: str) -> Tensor:
    decay, _, views = argument.partition(":")
    features = bench.view_features(replace(condition, views=views))
    return remembered_views(features, decay=float(decay))


def _half(bench: Bench, condition: Condition, argument: str, *, stand_in: str) -> Tensor:
    """Half of the kept views are missing; text, or the view before, stands in, or nothing (NaN)."""
    everything = bench.query_set(condition.queries).view_features[: condition.number]
    generator = torch.Generator().manual_seed(SEED)
    gone = torch.rand(len(everything), NUM_QUESTIONS + 1, generator=generator) < MISSING_SHARE
    rounds = list(condition.rounds or range(NUM_QUESTIONS + 1))
    earlier, none = (some[:, rounds] for some in last_views(everything, gone))
    gone, views = gone[:, rounds, None], everything[:, rounds]
    if stand_in == "nothing":
        return torch.where(gone, torch.nan, views)
    if stand_in == "text":
        return torch.where(gone, bench.text_features(condition), views)
    return torch.where(none[..., None], torch.nan, earlier)


VIEWS: dict[str, Callable[[Bench, Condition, str], Tensor | np.ndarray | list[Path]]] = {
    "kept": _kept_views,
    "drawn": lambda bench, condition, argument: bench.draw(condition),
    "view": _other_noise,
    "first": _first_views,
    "guidance": partial(_other_setting, setting="guidance"),
    "steps": partial(_other_setting, setting="steps"),
    "trained": _less_trained,
    "redrawn": _redrawn,
    "controlled": _controlled,
    "controlled_captions": _controlled_captions,
    "text": lambda bench, condition, argument: bench.text_features(condition),
    "placebo": partial(_stand_in, make=lambda text, view: placebo_views(view)),
    "noise": partial(_stand_in, make=partial(noise_views, seed=SEED)),
    "remembered": _remembered,
    "half_nothing": partial(_half, stand_in="nothing"),
    "half_text": partial(_half, stand_in="text"),
    "half_previous": partial(_half, stand_in="previous"),
}
"""`kept` with the query set, `drawn` anew, in other ways, rendered, and stand-ins of features."""


# Encoders beside those that are fine-tuned, and what they make of kept features.


def _turn(bench: Bench) -> Tensor:
    """(dim, dim), a rotation drawn at random."""
    dim = bench.base.dim
    noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(SEED))
    return torch.linalg.qr(noise).Q


class Rotated(Encoder):
    """The same space in other coordinates: the same to DAR, another to a trained fusion."""

    def __init__(self, encoder: Encoder, turn: Tensor):
        self.encoder, self.turn = encoder, turn
        self.spec, self.digest = f"rotated:{encoder.spec}", encoder.digest

    dim = property(lambda self: self.encoder.dim)
    image_size = property(lambda self: self.encoder.image_size)

    def encode_texts(self, texts, **options) -> Tensor:
        return self.encoder.encode_texts(texts, **options) @ self.turn

    def encode_images(self, images, **options) -> Tensor:
        return self.encoder.encode_images(images, **options) @ self.turn

    def count_truncated(self, texts) -> int:
        return self.encoder.count_truncated(texts)


def _other_clip(bench: Bench) -> Encoder:
    """An encoder of the same recipe, from another seed and trained for less long."""
    recipe = bench.profile.clip
    recipe = replace(
        recipe,
        steps=recipe.steps // 5,
        num_scenes=recipe.num_scenes // 5,
        batch_size=recipe.batch_size // 2,
    )
    folder = bench.work_dir / "encoders" / "other_clip"
    if not (folder / "open_clip_config.json").is_file():
        train_clip(recipe, folder, seed=SEED + 1, device=bench.device,
                   num_workers=bench.num_workers, progress=bench.progress)  # fmt: skip
    return load_encoder(f"open_clip:{folder}", device=bench.device)


def _finetuned(bench: Bench, name: str, seed: int) -> Encoder:
    """An encoder that is trained by a recipe, from the profile's."""
    recipe = _named(bench.recipes, name, "encoder")
    folder = encoder_folder(bench.profile, name, seed)
    if not (folder / ENCODER_CONFIG).is_file():
        folder = bench.work_dir / "encoders" / name / str(seed)
    if (folder / ENCODER_CONFIG).is_file():
        return load_trained(folder, recipe, seed=seed, device=bench.device)
    train = training_data(
        bench.finetune_data("train"), bench.profile, recipe, num_workers=bench.num_workers
    )
    if name == SHUFFLED:
        train = replace(train, views=np.roll(train.views, 1, axis=0))
    val = as_read(bench.finetune_data("val"), bench.profile, "val", recipe)
    if recipe.eval_every >= recipe.steps:  # nothing is selected: a validation that costs nothing
        val = replace(val.first(1), gallery=val.gallery[:1])
    encoder = load_encoder(bench.profile.encoder, device=bench.device)
    return finetune(encoder, train, val, recipe, folder, seed=seed, progress=bench.progress)


ENCODERS: dict[str, Callable[[Bench], Encoder]] = {
    ZERO_SHOT: lambda bench: bench.base,
    "rotated": lambda bench: Rotated(bench.base, _turn(bench)),
    "other_clip": _other_clip,
}
KEPT_UNDER: dict[str, Callable[[Bench, Tensor], Tensor]] = {
    ZERO_SHOT: lambda bench, features: features,
    "rotated": lambda bench, features: features @ _turn(bench),
}
"""What kept features are under an encoder; under any other, views must be drawn."""


# Fusions: of a bench, texts, views (an axis of views before the last where there are several) and
# rounds, the queries; and rankings, which put scores or ranks together.


def _single(view: Tensor, text: Tensor) -> Tensor:
    return view if view.ndim == text.ndim else average_views(view)


def _tuned(bench: Bench, text: Tensor, view: Tensor, rounds: Tensor) -> Tensor:
    """The weighted sum whose weights validation chose."""
    val = Condition("", "", queries="val")
    early, late = tuned_weights(bench.fusion_data(val), bench.query_set("val").rounds)
    weight = torch.where(rounds < 2, early, late)[..., None]
    return F.normalize((1 - weight) * text + weight * view, dim=-1)


FUSIONS: dict[str, Callable[[Bench, Tensor, Tensor, Tensor], Tensor]] = {
    "text": lambda bench, text, view, rounds: text,
    "view": lambda bench, text, view, rounds: _single(view, text),
    "dar": lambda bench, text, view, rounds: dar_fusion(
        text, _single(view, text), round=rounds
    ),
    "dar_tuned": _tuned,
}


def _by_place(text, view, gallery, targets, rounds) -> Tensor:
    return reciprocal_rank_fusion(text, view, gallery, targets)


def _better_of_both(text, view, gallery, targets, rounds) -> Tensor:
    return torch.minimum(target_ranks(text, gallery, targets), target_ranks(view, gallery, targets))


def _by_scores(text, view, gallery, targets, rounds, *, together: Callable) -> Tensor:
    """Ranks by DAR's sum of scores, where those of several views are put `together` first."""
    firsts = first_equal(gallery)  # equal pictures tie
    columns = []
    for t, (text_weight, view_weight) in enumerate(zip(*dar_weights(rounds[0]), strict=True)):
        scores = text_weight * (text[:, t] @ gallery.T)
        scores = scores + together(view_weight * (view[:, t] @ gallery.T))
        scores = scores[:, firsts]
        columns.append((scores >= scores[targets, targets][:, None]).sum(dim=1) - 1)
    return torch.stack(columns, dim=1)


RANKINGS: dict[str, Callable[..., Tensor]] = {
    "rank_fusion": _by_place,
    "best_of_text_and_view": _better_of_both,
    "dar_of_scores": partial(_by_scores, together=lambda scores: scores.mean(dim=1)),
    "dar_of_best": partial(_by_scores, together=lambda scores: scores.amax(dim=1)),
}

"""Profiles: the sizes and names that a run uses. They never select other code.

`DAITIR_PROFILE` names the profile; `classroom` is the default.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from daitir.common.errors import DataError, naming


@dataclass(frozen=True)
class ClipRecipe:
    """How the dual encoder is trained: model by its registered open_clip name, data, optimiser."""

    model: str
    num_scenes: int
    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup_steps: int = 150
    clip_norm: float = 1.0


@dataclass(frozen=True)
class RecogniserRecipe:
    """How the recogniser is trained: channels of its first maps, data, optimiser."""

    steps: int
    num_scenes: int = 60_000
    batch_size: int = 128
    width: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    clip_norm: float = 5.0


@dataclass(frozen=True)
class DiffusionRecipe:
    """How the diffusion pipeline is trained: an autoencoder, a text encoder, then a U-Net.

    `unet_channels` are those of the levels of the U-Net, the first on the latents' grid. A step
    of the U-Net sees each of `batch_size` / `num_noises` pictures at `num_noises` noise levels.
    """

    image_size: int
    autoencoder_steps: int
    text_steps: int
    steps: int
    autoencoder_channels: tuple[int, ...] = (16, 24, 48, 72)
    latent_channels: int = 12
    unet_channels: tuple[int, ...] = (128, 128)
    autoencoder_batch_size: int = 16
    autoencoder_scenes: int = 40_000
    num_scenes: int = 40_000
    batch_size: int = 64
    num_noises: int = 2
    text_batch_size: int = 64
    autoencoder_learning_rate: float = 2e-3
    text_learning_rate: float = 1e-3
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    ema_decay: float = 0.998


@dataclass(frozen=True)
class LmRecipe:
    """How the language model is trained: its width and layers, data, optimiser.

    A step sees `batch_size` dialogues, each cut into windows of a few rounds. Beside them each of
    the first `steps` sees `num_captions` single captions, and each of the `answer_steps` that
    follow `num_answers` captions with answers about their objects.
    """

    steps: int
    answer_steps: int
    width: int = 160
    layers: int = 4
    heads: int = 4
    batch_size: int = 3
    num_captions: int = 24
    num_answers: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    clip_norm: float = 1.0


@dataclass(frozen=True)
class LitRecipe:
    """How the text head of the locked-image encoder is trained.

    `dim` is the joint space's; each of the first `num_classes` classes is said by its names, its
    definition and `sentences_per_class` sentences. Of the classes `num_val` decide between the
    penalties `ridges` of a ridge regression and a contrastive loss with the settings that follow,
    and `num_test` measure the choice.
    """

    dim: int = 256
    num_classes: int = 1000
    sentences_per_class: int = 3
    num_val: int = 200
    num_test: int = 200
    ridges: tuple[float, ...] = (3.0, 10.0, 30.0)
    steps: int = 100
    batch_size: int = 512
    temperature: float = 0.2
    learning_rate: float = 3e-3
    weight_decay: float = 1.0


@dataclass(frozen=True)
class FusionRecipe:
    """How a fusion is trained: its size, optimiser, and when to look at validation and to stop.

    `kind` is one of `daitir.recipes.fusion.KINDS`; it uses those of the sizes that it has.
    """

    kind: str
    steps: int = 1500
    projection_dim: int = 64
    hidden_dim: int = 128
    num_experts: int = 4
    dropout: float = 0.2
    use_gate: bool = True
    use_residual: bool = True
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    clip_norm: float = 3.0
    eval_every: int = 50
    patience: int = 10


DMCL_TERMS = ("text_target", "view_target", "fused_target", "text_view", "agreement")


@dataclass(frozen=True)
class EncoderRecipe:
    """How the encoder is fine-tuned on texts, views and targets: objective, data, optimiser.

    `terms` are those of `daitir.objectives.DMCL_WEIGHTS` that count, each with its published
    weight. Training selects on validation by the query that is ranked, `query`: the text, or the
    sum of text and view with DAR's weights. `text` is a convention of
    `daitir.data.dialogues.query_texts`. The features of a batch are computed in parts of
    `micro_batch_size`, of which only one needs memory for its gradients at a time. A layer learns
    with `layer_decay` times the rate of the one above it. `num_dialogues` are the first of the
    training dialogues, None for all. With `resampled_views` each drawn view of the training set
    has a rendered one beside it (`daitir.recipes.triples.with_resampled_views`). What training
    changed is stored with `rank`, None for all.
    """

    terms: tuple[str, ...] = DMCL_TERMS
    query: str = "dar"
    text: str = "current_rewrite"
    hard_negatives: bool = False
    learnable_weights: bool = False
    learnable_scale: bool = True
    num_dialogues: int | None = None
    resampled_views: bool = False
    steps: int = 300
    batch_size: int = 128
    micro_batch_size: int = 128
    learning_rate: float = 3e-4
    layer_decay: float = 0.9
    weight_decay: float = 0.05
    warmup_steps: int = 30
    clip_norm: float = 3.0
    eval_every: int = 50
    rank: int | None = 8

    @property
    def needs_views(self) -> bool:
        """Whether training or its selection looks at views."""
        return self.terms != DMCL_TERMS[:1] or self.query != "text"


@dataclass(frozen=True)
class Profile:
    """Sizes and names of one profile.

    `encoder`, `reformulator` and `generator` are specs for `load_encoder`, `load_reformulator` and
    `load_view_generator`; `queries` is the folder of query sets, or `mini` for those that come with
    the package. `fusions` are the fusions that are trained, by the name of the method, each with
    `num_fusion_seeds` seeds; `trained_fusions` is the folder where they lie, or `mini`. `encoders`,
    `num_encoder_seeds` and `trained_encoders` say the same of those that are fine-tuned. The
    `num_*` fields are sizes of the benchmark and of the query sets: dialogues of the main source
    and of each other one, and `views_per_dialogue` is how many rounds of a training or validation
    dialogue are drawn. `broken_shares` are the shares of stated facts that controlled views break.
    """

    name: str
    image_size: int
    encoder: str
    clip: ClipRecipe
    recogniser: RecogniserRecipe
    diffusion: DiffusionRecipe
    lm: LmRecipe
    num_train_dialogues: int
    num_val_dialogues: int
    num_test_dialogues: int
    num_other_dialogues: int
    num_gallery: int
    reformulator: str
    generator: str
    queries: str
    fusions: Mapping[str, FusionRecipe]
    trained_fusions: str
    encoders: Mapping[str, EncoderRecipe]
    trained_encoders: str
    views_per_dialogue: int = 4
    broken_shares: tuple[float, ...] = (0.05, 0.15, 0.30)
    num_fusion_seeds: int = 5
    num_encoder_seeds: int = 3
    lit: LitRecipe = LitRecipe()


# Beside an encoder of 2.9 M parameters each is within the share that ADaFuSE adds, 5.29%.
# A gate of one or two parameters has far to go and nothing to unsettle: it takes larger steps.
SMALL_FUSIONS = {
    "scalar_gate": FusionRecipe("scalar_gate", learning_rate=0.03),
    "cosine_gate": FusionRecipe("cosine_gate", learning_rate=0.03),
    "concat_mlp": FusionRecipe("concat_mlp", hidden_dim=196),
    "nrgr": FusionRecipe("nrgr", hidden_dim=22, num_experts=8),
    "adafuse": FusionRecipe("adafuse", projection_dim=64, hidden_dim=124),
}
# DMCL and its peers: the dialogue's text alone, as ChatIR does it, and the three InfoNCE terms; and
# our own: counterfactual views, and without the term that validation found to harm the fused query.
ENCODERS = {
    "finetune_text": EncoderRecipe(terms=DMCL_TERMS[:1], query="text"),
    "text_view": EncoderRecipe(terms=DMCL_TERMS[:3]),
    "dmcl": EncoderRecipe(),
    "dmcl_resampled": EncoderRecipe(
        terms=tuple(term for term in DMCL_TERMS if term != "text_view"), resampled_views=True
    ),
}
PROFILES = {
    "classroom": Profile(
        name="classroom",
        image_size=64,
        encoder="mini",
        clip=ClipRecipe(model="daitir-mini", num_scenes=50_000, steps=2500, batch_size=128),
        recogniser=RecogniserRecipe(steps=1000),
        diffusion=DiffusionRecipe(
            image_size=64, autoencoder_steps=3600, text_steps=2600, steps=4000
        ),
        lm=LmRecipe(steps=9000, answer_steps=2500),
        num_train_dialogues=3000,
        num_val_dialogues=500,
        num_test_dialogues=1000,
        num_other_dialogues=300,
        reformulator="mini",
        generator="mini",
        queries="mini",
        fusions=SMALL_FUSIONS,
        trained_fusions="mini",
        encoders=ENCODERS,
        trained_encoders="mini",
        num_gallery=5000,
    ),
    "gpu": Profile(
        name="gpu",
        image_size=128,
        encoder="open_clip:runs/gpu/clip",
        reformulator="runs/gpu/lm",
        generator="runs/gpu/diffusion",
        queries="runs/gpu/queries",
        fusions={
            "scalar_gate": SMALL_FUSIONS["scalar_gate"],
            "cosine_gate": SMALL_FUSIONS["cosine_gate"],
            "concat_mlp": FusionRecipe("concat_mlp"),
            "nrgr": FusionRecipe("nrgr", hidden_dim=2048, num_experts=8),
            "adafuse": FusionRecipe("adafuse"),
        },
        trained_fusions="runs/studies/gpu/fusions/zero_shot",  # `daitir study benchmark` does
        encoders={
            name: replace(recipe, steps=4000, batch_size=512, warmup_steps=400, learning_rate=1e-4)
            for name, recipe in ENCODERS.items()
        },
        trained_encoders="runs/studies/gpu/encoders",  # where `daitir study encoders` trains them
        clip=ClipRecipe(
            model="daitir-wide",
            num_scenes=400_000,
            steps=12_000,
            batch_size=512,
            learning_rate=5e-4,
            warmup_steps=500,
        ),
        recogniser=RecogniserRecipe(steps=6000, num_scenes=400_000),
        diffusion=DiffusionRecipe(
            image_size=128,
            autoencoder_steps=20_000,
            text_steps=10_000,
            steps=200_000,
            autoencoder_channels=(32, 64, 128, 256),
            unet_channels=(192, 320, 448),
            autoencoder_scenes=200_000,
            num_scenes=400_000,
            batch_size=256,
            text_batch_size=512,
            learning_rate=3e-4,
            warmup_steps=1000,
            ema_decay=0.9999,
        ),
        lm=LmRecipe(
            steps=20_000,
            answer_steps=10_000,
            width=256,
            layers=6,
            batch_size=64,
            num_captions=256,
            num_answers=256,
            learning_rate=1e-3,
        ),
        num_train_dialogues=20_000,
        num_val_dialogues=2000,
        num_test_dialogues=5000,
        num_other_dialogues=1000,
        num_gallery=20_000,
    ),
}


Recipe = FusionRecipe | EncoderRecipe


def with_settings(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """The recipe with other numbers, each given as text.

    Raises DataError for a name that is no number or switch of the recipe, and for a value that is
    none of its kind or too low.

    >>> with_settings(EncoderRecipe(), {"steps": "50", "learning_rate": "1e-5"}).steps
    50
    """
    numbers = {n: v for n, v in vars(recipe).items() if isinstance(v, int | float)}
    changes = {}
    for name, text in settings.items():
        if name not in numbers:
            raise DataError(f"no setting {name!r}; there are {', '.join(numbers)}")
        kind = type(numbers[name])
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if kind is float and type(value) is int:
            value = float(value)
        lowest = 1 if kind is int and name != "warmup_steps" else 0
        if type(value) is not kind or not lowest <= value < float("inf"):
            words = {bool: "true or false", int: f"a whole number from {lowest} on"}
            raise DataError(f"{name} is {words.get(kind, 'a number from 0 on')}, not {text!r}")
        changes[name] = value
    return replace(recipe, **changes)


def get_profile(name: str | None = None) -> Profile:
    """The profile of a name, or of `DAITIR_PROFILE`, or `classroom`.

    Raises DataError for an unknown name, and for `paper`, whose data are files and no scenes
    (`daitir.studies.paper`).

    >>> get_profile("classroom").num_gallery
    5000
    """
    if not name and os.environ.get("DAITIR_PROFILE"):
        with naming("DAITIR_PROFILE"):
            return get_profile(os.environ["DAITIR_PROFILE"])
    name = name or "classroom"
    if name == "paper":
        raise DataError("the profile paper has no scenes; `make run-gpu PROFILE=paper` runs it")
    if name not in PROFILES:
        raise DataError(f"unknown profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def check_models(profile: Profile, *kinds: str) -> None:
    """Raises DataError where a folder of models that a profile reads was not made yet.

    Args:
        kinds: of `daitir pretrain`: `clip`, `lm`, `diffusion`.
    """
    specs = {"clip": profile.encoder.removeprefix("open_clip:"), "lm": profile.reformulator,
             "diffusion": profile.generator}  # fmt: skip
    for kind in kinds:
        folder = specs[kind]
        if "/" in folder and "@" not in folder and not Path(folder).is_dir():
            raise DataError(
                f"{folder}: no such folder; the profile {profile.name} reads it, and `daitir "
                f"pretrain {kind} --profile {profile.name} --out {folder}` makes it"
            )

"""What the training of each model can be told: sizes, data and optimiser. Nothing here loads torch.

A recipe is read from a profile (`daitir.studies.profiles`) and given to the module that trains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from daitir.common.errors import DataError

TRAINING_SOURCES = ("human", "terse", "verbose", "degenerate", "unreliable")
"""The sources of dialogues that the tokeniser and the language model learn from, in turn."""


@dataclass(frozen=True)
class ClipRecipe:
    """The dual encoder; `model` is its registered name in open_clip."""

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
    """The recogniser; `width` is the number of channels of its first maps."""

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
    """The diffusion pipeline: an autoencoder, a text encoder, then a U-Net.

    A step of the U-Net sees `batch_size` / `num_noises` pictures at `num_noises` noise levels each.
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
    """The language model.

    A step sees `batch_size` dialogues, and beside them each of the first `steps` `num_captions`
    captions, and each of the `answer_steps` that follow `num_answers` captions with answers.
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
    """The text head of the locked-image encoder, whose joint space has `dim` dimensions.

    `num_val` classes decide between the penalties `ridges` of a ridge regression and a contrastive
    loss with the settings that follow, and `num_test` classes measure the choice.
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
    """A fusion; its `kind`, one of `daitir.fusion.TRAINED_FUSIONS`, uses the sizes that it has."""

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


@dataclass(frozen=True)
class EncoderRecipe:
    """The fine-tuning of an encoder on texts, views and targets.

    `objective` is one of `daitir.objectives.OBJECTIVES`, and `terms` are its terms that count.
    Training selects on validation by the ranks of `query`: `text`, `view`, or `dar`. `text` is a
    convention of `daitir.data.dialogues.query_texts`. The features of a batch are computed in parts
    of `micro_batch_size`, of which only one needs memory for its gradients at a time. A layer
    learns with `layer_decay` times the rate of the one above it. With `resampled_views` each drawn
    view of the training set has a rendered one beside it (`daitir.studies.training_sets`). What
    training changed is stored with `rank`. None stands for all terms, dialogues or ranks.
    """

    terms: tuple[str, ...] | None = None
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
    objective: str = "dmcl"


Recipe = FusionRecipe | EncoderRecipe


def check_setting(name: str, value: object, kind: type) -> bool | int | float | str:
    """The value of a setting, a whole number made a fraction where `kind` is float.

    Raises DataError where it is of another kind, or a number that is too low or not finite.

    >>> check_setting("learning_rate", 1, float)
    1.0
    """
    if kind is float and type(value) is int:
        value = float(value)
    lowest = 1 if kind is int and not name.endswith("warmup_steps") else 0
    is_number = kind in (int, float)
    if type(value) is not kind or (is_number and not lowest <= value < float("inf")):
        words = {bool: "true or false", int: f"a whole number from {lowest} on", str: "a text"}
        raise DataError(f"{name} is {words.get(kind, 'a number from 0 on')}, not {value!r}")
    return value


def with_settings(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """The recipe with other numbers, each given as text.

    Raises DataError for a name that is no number or switch of the recipe, and as `check_setting`.

    >>> with_settings(EncoderRecipe(), {"steps": "50", "learning_rate": "1e-5"}).steps
    50
    """
    numbers = {n: v for n, v in vars(recipe).items() if isinstance(v, int | float)}
    changes = {}
    for name, text in settings.items():
        if name not in numbers:
            raise DataError(f"no setting {name!r}; there are {', '.join(numbers)}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        changes[name] = check_setting(name, value, type(numbers[name]))
    return replace(recipe, **changes)

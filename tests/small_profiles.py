"""A profile and recipes whose runs take seconds."""

import dataclasses

from daitir.recipes.settings import EncoderRecipe, FusionRecipe
from daitir.studies.profiles import PROFILES


def first_of(queries, number):
    """A query set with its first dialogues alone."""
    parts = (getattr(queries, field.name) for field in dataclasses.fields(queries))
    return type(queries)(*(None if part is None else part[:number] for part in parts))


FUSION_RECIPE = FusionRecipe(
    "adafuse",
    steps=120,
    projection_dim=16,
    hidden_dim=32,
    batch_size=64,
    warmup_steps=5,
    eval_every=10,
    learning_rate=5e-3,
)
ENCODER_RECIPE = EncoderRecipe(steps=2, batch_size=6, warmup_steps=1, eval_every=2, rank=4)
SMALL = dataclasses.replace(
    PROFILES["classroom"],
    name="small",
    num_test_dialogues=6,
    num_other_dialogues=6,
    num_train_dialogues=6,
    num_val_dialogues=6,
    num_gallery=20,
    broken_shares=(0.15,),
    fusions={"adafuse": FusionRecipe("adafuse", steps=4, hidden_dim=16, eval_every=2)},
    num_fusion_seeds=2,
)

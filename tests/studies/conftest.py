"""Fixtures that several studies use."""

import dataclasses
import json

import pytest
from small_profiles import FUSION_RECIPE, first_of

from daitir.common.files import atomic_write
from daitir.models.encoders import load_encoder
from daitir.recipes.settings import ClipRecipe
from daitir.studies.benchmark import BENCHMARKS
from daitir.studies.profiles import PROFILES
from daitir.studies.queries import (
    MANIFEST_NAME,
    QUERIES_FOLDER,
    load_query_set,
    manifest_of,
    save_query_set,
)


@pytest.fixture
def small(tmp_path):
    """A profile of a few dialogues whose query sets are the first of the shipped ones."""
    encoder, folder = load_encoder("mini"), tmp_path / "queries"
    with atomic_write(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest_of(QUERIES_FOLDER)))
    for name in (*BENCHMARKS, "train", "val"):
        whole = load_query_set(name, encoder, QUERIES_FOLDER)
        save_query_set(first_of(whole, 4), folder, name)
    profile = dataclasses.replace(
        PROFILES["classroom"], name="small", num_other_dialogues=3, num_test_dialogues=4,
        num_train_dialogues=4, num_val_dialogues=4, num_gallery=12, queries=str(folder),
        fusions={"adafuse": dataclasses.replace(FUSION_RECIPE, steps=2)},
        clip=ClipRecipe("daitir-mini", num_scenes=40, steps=5, batch_size=8, warmup_steps=1),
    )  # fmt: skip
    return profile, encoder

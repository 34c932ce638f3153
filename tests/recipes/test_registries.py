"""What others add: a fusion, an objective and a source that are registered from outside."""

import csv
import dataclasses
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.fusion import TRAINED_FUSIONS, Fusion, first_logit_scale, register_fusion
from daitir.models.encoders import load_encoder
from daitir.objectives import OBJECTIVES, Objective, info_nce, register_objective
from daitir.recipes.finetune import finetune, needs_views
from daitir.recipes.fusion import FusionData, load_fusion, recall, train_fusion
from daitir.recipes.settings import TRAINING_SOURCES, EncoderRecipe, FusionRecipe
from daitir.recipes.triples import FinetuneData
from daitir.scenes import (
    SOURCES,
    controlled_view,
    dialogue,
    merge_facts,
    register_source,
    render_scenes,
    rewrites,
    sample_scenes,
    talk,
)
from daitir.scenes.export import export_scenes
from daitir.studies.queries import SETS

ROUNDS = (1, 5, 10)


class Weights(Fusion):
    """A weight of the text for each dimension, and a pair more in training."""

    def __init__(self, dim, *, hidden_dim):
        super().__init__()
        self.hidden_dim = hidden_dim  # of the recipe; another of its sizes is not asked for
        self.logits = torch.nn.Parameter(torch.zeros(dim))
        self.logit_scale = first_logit_scale()

    def forward(self, text_features, view_features):
        gate = self.logits.sigmoid().expand_as(text_features)
        fused = gate * text_features + (1 - gate) * view_features
        return F.normalize(fused, dim=-1), {"gate": gate}

    def more_pairs(self, text, view, target):
        return [(text, target)]


class TextTarget(Objective):
    """The text alone finds the target."""

    terms, needs_views = ("near",), False

    def forward(self, text, view, target, scale, *, labels=None, view_rows=None):
        loss = info_nce(text, target, scale, labels=labels)
        return loss, {"near": loss}


@pytest.fixture
def registered():
    register_fusion("weights", Weights)
    register_source("curt", partial(talk, style="terse"))
    register_objective("near", lambda recipe: TextTarget())
    yield
    del TRAINED_FUSIONS["weights"], SOURCES["curt"], OBJECTIVES["near"]


def drawn(split, number):
    """Texts and controlled views of dialogues of the source, and the targets."""
    scenes = sample_scenes(0, split, number)
    talks = [dialogue("curt", scene) for scene in scenes]
    texts = [[rewrites(turns)[t] for t in ROUNDS] for turns in talks]
    views = [
        controlled_view(merge_facts(turns[: t + 1]), broken_share=0.1, seed=f"{i}/{t}").scene
        for i, turns in enumerate(talks)
        for t in ROUNDS
    ]
    pictures = render_scenes(views).reshape(number, len(ROUNDS), 64, 64, 3)
    return FinetuneData(texts, torch.tensor([ROUNDS] * number), pictures, render_scenes(scenes))


def features(encoder, data):
    shape = (len(data.texts), len(ROUNDS), encoder.dim)
    texts = encoder.encode_texts([text for row in data.texts for text in row]).view(shape)
    views = encoder.encode_images(list(data.views.reshape(-1, 64, 64, 3))).view(shape)
    return FusionData(texts, views, encoder.encode_images(list(data.gallery)))


@pytest.mark.slow
def test_a_fusion_and_a_source_from_outside_are_trained_and_evaluated(registered, tmp_path):
    encoder = load_encoder("mini")
    data = [features(encoder, drawn(split, 24)) for split in ("train", "val")]
    recipe = FusionRecipe("weights", steps=20, batch_size=12, eval_every=5, learning_rate=0.05)
    model = train_fusion(*data, recipe, tmp_path / "fusion", progress=False)
    assert isinstance(model, Weights) and model.hidden_dim == recipe.hidden_dim
    assert not torch.equal(model.logits, torch.zeros(encoder.dim))
    again = load_fusion(tmp_path / "fusion", kind="weights")
    assert recall(again, data[1], 3) == recall(model, data[1], 3) > 3 / 24

    folder, table = tmp_path / "curt", tmp_path / "table.csv"
    export_scenes(folder, source="curt", num_dialogues=4, num_gallery=12, broken_share=0.1)
    command = ["evaluate", "--data", str(folder), "--encoder", "mini", "--out", str(table)]
    assert main([*command, "--fusion", f"weights:{tmp_path / 'fusion'}"]) == 0
    with table.open() as file:
        hits = [row["value"] for row in csv.DictReader(file) if row["metric"] == "hits_at_10"]
    assert hits and all(0 <= float(value) <= 1 for value in hits)


@pytest.mark.slow
def test_an_objective_from_outside_is_trained(registered, tmp_path):
    recipe = EncoderRecipe(
        objective="near", query="text", steps=2, batch_size=6, eval_every=2, warmup_steps=1
    )
    assert not needs_views(recipe) and needs_views(dataclasses.replace(recipe, query="dar"))
    data = drawn("train", 8)
    start = load_encoder("mini")
    tuned = finetune(load_encoder("mini"), data, data, recipe, tmp_path, progress=False)
    assert tuned.digest != start.digest
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert "near" in header and "text_target" not in header
    with pytest.raises(DataError, match="another recipe"):
        finetune(start, data, data, dataclasses.replace(recipe, objective="dmcl"), tmp_path)


def test_what_is_not_registered_is_refused_and_what_is_changes_nothing_else(registered):
    with pytest.raises(ValueError, match="unknown source 'curtt'; choose one of human, .*curt"):
        dialogue("curtt", sample_scenes(0, "val", 1)[0])
    assert "curt" not in TRAINING_SOURCES and "curt" not in SETS

"""CAST: its scores against the layer norm written out, its training, its folder."""

import dataclasses

import pytest
import torch
from torch.nn.functional import normalize

from daitir.common.errors import DataError
from daitir.recipes.cast import Cast, CastRecipe, cast_ranks, train_cast

RECIPE = CastRecipe(rank=2, steps=60, batch_size=16, warmup_steps=5, eval_every=20)


def unit(*shape):
    return normalize(torch.randn(shape), dim=-1)


def written_out(model, text, first, images):
    """Cosines of one text and each image, both changed one by one."""
    left, right, strength = (part[0] for part in model.change(text[None], first[None]))

    def changed(feature):
        return normalize(model.norm(feature + strength * (feature @ right) @ left.T), dim=0)

    return torch.stack([changed(text) @ changed(image) for image in images])


def test_scores_are_those_of_every_changed_picture():
    torch.manual_seed(0)
    model = Cast(12, 3).double()
    torch.nn.init.normal_(model.norm.weight, 1, 0.3)
    torch.nn.init.normal_(model.norm.bias, 0, 0.3)
    text, first, images = unit(4, 12).double(), unit(4, 12).double(), unit(7, 12).double()
    scores, strength = model(text, first, images)
    for i in range(4):
        assert torch.allclose(scores[i], written_out(model, text[i], first[i], images))
    assert ((strength > 0) & (strength < 1)).all()


def test_ranks_take_the_first_round_as_the_first_caption_and_count_ties():
    torch.manual_seed(1)
    model = Cast(8, 2).eval()
    text, gallery = unit(3, 4, 8), unit(9, 8)
    gallery[5] = gallery[1]  # a picture like the target of query 1
    found = cast_ranks(model, text, gallery, torch.arange(3))
    for i in range(3):
        for t in range(4):
            scores = written_out(model, text[i, t], text[i, 0], gallery)
            higher = {j for j in range(9) if scores[j] >= scores[i] and j != i}
            higher |= {5} if i == 1 else set()
            assert found[i, t] == len(higher)


def test_training_learns_and_its_folder_is_of_one_recipe_and_seed(tmp_path):
    torch.manual_seed(2)
    images = unit(40, 16)
    text = normalize(images[:, None] + 0.35 * torch.randn(40, 3, 16), dim=-1)
    data = (text[:30], images[:30], text[30:], images[30:].repeat_interleave(1, 0))
    model = train_cast(*data, tmp_path, RECIPE, progress=False)
    again = train_cast(*data, tmp_path, RECIPE, progress=False)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert one.equal(other)
    torch.manual_seed(0)
    start = Cast(16, 2)
    rows = slice(0, 30)
    for before, after in [[(m(text[rows, 2], text[rows, 0], images[rows])[0].softmax(1).diag())
                           for m in (start, model)]]:  # fmt: skip
        assert after.log().mean() > before.log().mean()
    for changed in ({"seed": 1}, {"recipe": dataclasses.replace(RECIPE, rank=3)}):
        options = {"recipe": RECIPE, "progress": False, **changed}
        with pytest.raises(DataError, match="another recipe, seed or encoder"):
            train_cast(*data, tmp_path, **options)

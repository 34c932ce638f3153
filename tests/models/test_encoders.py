"""Encoders: the interface over open_clip keeps what open_clip does."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.open_clip_encoders import CLIP_FOLDER, OWN_ARCHITECTURES, shortened_context
from daitir.scenes import render, sample_scenes

TEXTS = ["a red car at the beach", "a dog", "没有人 🙂", "", "word " * 300]


@pytest.fixture(scope="module")
def mini():
    return load_encoder("mini")


@pytest.fixture(scope="module")
def pictures():
    return [render(scene).image for scene in sample_scenes(0, "val", 6)]


def test_own_architectures_are_registered_with_open_clip():
    assert {"daitir-mini", "daitir-wide"} <= set(OWN_ARCHITECTURES) <= set(open_clip.list_models())


def test_features_are_unit_vectors_and_those_of_open_clip(mini, pictures):
    text_features = mini.encode_texts(TEXTS, batch_size=2)
    image_features = mini.encode_images(pictures, batch_size=4)
    assert text_features.shape == (len(TEXTS), mini.dim)
    assert image_features.shape == (len(pictures), mini.dim)
    for features in (text_features, image_features):
        assert torch.allclose(features.norm(dim=-1), torch.ones(len(features)), atol=1e-5)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{CLIP_FOLDER}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{CLIP_FOLDER}")
    with torch.no_grad():
        text = model.encode_text(tokenizer(TEXTS), normalize=True)
        pixels = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])
        image = model.encode_image(pixels, normalize=True)
    assert torch.allclose(text_features, text, atol=1e-5)
    assert torch.allclose(image_features, image, atol=1e-5)


def test_order_batches_and_repetition_do_not_matter(mini):
    texts = ["a dog", "a red car", "a dog"]
    features = mini.encode_texts(texts)
    assert torch.equal(features[0], features[2])
    assert torch.allclose(mini.encode_texts(texts[::-1], batch_size=1).flip(0), features, atol=1e-5)


def test_paths_and_arrays_give_the_same_features(mini, pictures, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(pictures[0]).save(path)
    assert torch.allclose(mini.encode_images([path]), mini.encode_images(pictures[:1]), atol=1e-6)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="empty.png"):
        mini.encode_images([tmp_path / "empty.png"])


@pytest.mark.slow
def test_one_text_and_one_picture_are_one(mini, pictures, tmp_path):
    assert torch.equal(mini.encode_texts("a dog"), mini.encode_texts(["a dog"]))
    path = tmp_path / "one.png"
    Image.fromarray(pictures[0]).save(path)
    expected = mini.encode_images([path])
    assert expected.shape == (1, mini.dim)
    one = Image.fromarray(pictures[0])
    for given in (path, str(path), [str(path)], (str(path),), one, pictures[0], iter([path])):
        assert torch.equal(mini.encode_images(given), expected)
    with pytest.raises(DataError, match="nowhere.jpg: cannot be read"):
        mini.encode_images("nowhere.jpg")


@pytest.mark.parametrize(
    ("given", "named"),
    [(5, "int"), (None, "NoneType"), (b"a dog", "bytes"), ({"a": 1}, "dict"), ({"a"}, "set"),
     ([b"a"], "bytes"), (["a", None], "NoneType"), ([["a"]], "list")],
)  # fmt: skip
def test_what_is_no_text_and_no_picture_is_named(mini, given, named):
    with pytest.raises(DataError, match=f"not {named}$"):
        mini.encode_texts(given)
    if given != ["a", None]:
        with pytest.raises(DataError, match=f"not {named}$"):
            mini.encode_images(given)


def test_arrays_that_are_no_pictures_are_refused(mini):
    for array in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)):
        with pytest.raises(DataError, match=r"uint8 \(height, width, 3\) is wanted, not "):
            mini.encode_images([array])
    with pytest.raises(DataError, match="not Tensor$"):
        mini.encode_images(torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_equal_pictures_have_equal_features_wherever_they_stand(mini, threads):
    rng = np.random.default_rng(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        some = rng.integers(0, 256, (66, 8, 8, 3), dtype=np.uint8)
        for number in (1, 2, 5, 9, 17, 31, 62):
            for batch_size in (1, 5, 7, 16, 64):
                # A twin of the first one in the middle and at the end.
                rows = [0, *range(1, number), 0, *range(number, number + 2), 0]
                found = mini.encode_images(some[rows], batch_size=batch_size)
                assert torch.equal(found[0], found[number]) and torch.equal(found[0], found[-1])
        alone = mini.encode_images(some[:1])
        assert torch.equal(mini.encode_images(some)[:1], alone)  # in another call too
    finally:
        torch.set_num_threads(before)


def test_truncation_is_counted(mini):
    assert mini.count_truncated(TEXTS) == 1
    end = mini.tokenizer.tokenizer.eos_token_id
    assert (mini.tokenizer(TEXTS) == end).sum(dim=1).tolist() == [1] * len(TEXTS)


def test_any_text_encodes_and_decodes(mini):
    for text in TEXTS[:4]:
        ids = mini.tokenizer.tokenizer(text)["input_ids"]
        assert mini.tokenizer.tokenizer.decode(ids[1:-1]) == text.lower()


def test_shortening_leaves_the_model_as_it_was(mini):
    before = mini.model.text.attn_mask
    with pytest.raises(RuntimeError), shortened_context(mini.model, 5):
        raise RuntimeError
    assert mini.model.text.attn_mask is before


@pytest.mark.slow
def test_a_classic_clip_architecture_works_too():
    encoder = load_encoder("open_clip:RN50")
    texts = ["a dog", "a much longer text about a dog " * 20]
    assert encoder.encode_texts(texts).shape == (2, encoder.dim)
    assert encoder.count_truncated(texts) == 1
    picture = np.zeros((50, 80, 3), dtype=np.uint8)
    assert encoder.encode_images([picture]).shape == (1, encoder.dim)


@pytest.mark.slow
def test_a_weights_file_can_be_named(mini):
    weights = CLIP_FOLDER / "open_clip_model.safetensors"
    other = load_encoder(f"open_clip:daitir-mini@{weights}")
    assert torch.allclose(other.encode_texts(TEXTS), mini.encode_texts(TEXTS), atol=1e-6)
    folder = load_encoder(f"open_clip:{CLIP_FOLDER}")
    assert torch.allclose(folder.encode_texts(TEXTS), mini.encode_texts(TEXTS), atol=1e-6)


class Evil:
    """What a pickle may do when it is read."""

    def __reduce__(self):
        return (pytest.fail, ("code in a checkpoint was run",))


def test_a_checkpoint_is_read_as_plain_tensors(mini, tmp_path):
    torch.save(mini.model.state_dict(), tmp_path / "plain.pt")
    found = load_encoder(f"open_clip:daitir-mini@{tmp_path / 'plain.pt'}")
    assert torch.allclose(found.encode_texts(TEXTS), mini.encode_texts(TEXTS), atol=1e-6)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match="pickle of more than plain tensors, .* as safetensors$"):
        load_encoder(f"open_clip:daitir-mini@{tmp_path / 'evil.pt'}")


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=f"{path.name}: no dual encoder: could not be"):
            load_encoder(f"open_clip:daitir-mini@{path}")


def test_threads_change_neither_features_nor_errors(mini, pictures, tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(len(pictures))]
    for path, image in zip(paths, pictures, strict=True):
        Image.fromarray(image).save(path)
    expected = mini.encode_images(paths, batch_size=4)
    for workers in (1, 3):
        assert torch.equal(mini.encode_images(paths, batch_size=4, workers=workers), expected)
    paths[1].write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png: empty"):
        mini.encode_images(paths, batch_size=2, workers=3)
    assert mini.encode_images([], workers=2).shape == (0, mini.dim)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clip", "unknown encoder 'clip'"),
        ("open_clip:", "unknown encoder"),
        ("open_clip:ViT-Z-99", "neither a folder .* nor an open_clip architecture"),
        ("open_clip:RN50@nowhere", "unknown weights 'nowhere'"),
        ("open_clip:RN50@", "name a tag or a file of weights after the @"),
        ("hf:", "unknown encoder"),
    ],
)
def test_unknown_specs_are_refused(spec, message):
    with pytest.raises(DataError, match=message):
        load_encoder(spec)


def test_weights_of_another_activation_are_refused_before_anything_is_fetched(monkeypatch):
    def create(*arguments, **options):
        raise RuntimeError("was reached")

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # nobody looks for a hub
    message = r"another quick_gelu .* than ViT-B-32's .*; use open_clip:ViT-B-32-quickgelu@openai"
    with pytest.raises(DataError, match=message):
        load_encoder("open_clip:ViT-B-32@openai")
    refused = 0
    for name, tag in open_clip.list_pretrained():
        with pytest.raises(DataError) as caught:
            load_encoder(f"open_clip:{name}@{tag}")
        if "was reached" not in str(caught.value):
            refused += 1
            spec = str(caught.value).rsplit("; use ", 1)[1]
            with pytest.raises(DataError, match="reached.*; without a network"):  # it can be used
                load_encoder(spec)
    assert 20 < refused < len(open_clip.list_pretrained()) / 2


def test_a_file_beside_a_configuration_with_another_activation_is_refused(tmp_path):
    config = json.loads((CLIP_FOLDER / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    for path in CLIP_FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "open_clip_model.safetensors"
    spec = f"open_clip:daitir-mini@{weights}"
    assert load_encoder(spec).dim == load_encoder("mini").dim
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=f"another quick_gelu .* use open_clip:{tmp_path}$"):
        load_encoder(spec)
    quick = load_encoder(f"open_clip:{tmp_path}").encode_texts(["a dog"])
    assert (quick - load_encoder("mini").encode_texts(["a dog"])).abs().max() > 1e-3


def test_folders_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no open_clip_config\.json"):
        load_encoder(f"open_clip:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(DataError, match="could not be loaded"):
        load_encoder(f"open_clip:{tmp_path}")


def test_weights_of_another_architecture_are_refused(tmp_path):
    weights = CLIP_FOLDER / "open_clip_model.safetensors"
    with pytest.raises(DataError, match="another embed_dim .* than daitir-wide's "):
        load_encoder(f"open_clip:daitir-wide@{weights}")  # its configuration lies beside it
    alone = shutil.copy(weights, tmp_path)
    with pytest.raises(DataError, match="could not be loaded"):
        load_encoder(f"open_clip:daitir-wide@{alone}")

"""Encoders of transformers: tiny models of each real class, from folders of the hub's form."""

import json
import shutil
import string

import pytest
import torch
from hub_models import save_encoder
from own_data import SAYINGS, make_own_data, picture
from transformers import (
    AutoModel,
    AutoProcessor,
    BlipForImageTextRetrieval,
    CLIPModel,
    GemmaTokenizer,
)

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.hf_encoders import HF_MODELS

pytestmark = pytest.mark.slow

TEXTS = ["a dog", "a red car at the beach", *SAYINGS[:4], "word " * 30]


@pytest.fixture(scope="module", params=HF_MODELS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            save_encoder(kind, made[kind])
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def encoder(kind, folders):
    return load_encoder(f"hf:{folders(kind)}")


@pytest.fixture(scope="module")
def pictures():
    return [picture(index).convert("RGB") for index in range(6)]


def _unit(features):
    return torch.nn.functional.normalize(features, dim=-1)


@torch.no_grad()
def _by_the_library(kind, folder, texts, pictures):
    """Features as the documentation of transformers makes them, one item after the other."""
    processor = AutoProcessor.from_pretrained(folder)
    pixels = [processor.image_processor(images=image, return_tensors="pt") for image in pictures]
    length = {"padding": "max_length"} if kind.startswith("siglip") else {}
    tokens = [
        processor.tokenizer(text, return_tensors="pt", truncation=True, max_length=40, **length)
        for text in texts
    ]
    if kind == "blip":
        model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
        score = torch.cat([
            torch.cat([
                model(t["input_ids"], p["pixel_values"], attention_mask=t["attention_mask"],
                      use_itm_head=False).itm_score for p in pixels], dim=1)
            for t in tokens
        ])  # fmt: skip
        return score
    model = AutoModel.from_pretrained(folder).eval()
    image = torch.cat([model.get_image_features(**p).pooler_output for p in pixels])
    # SigLIP was trained without a mask, whether or not the tokeniser gives one.
    keep = ("input_ids",) if kind.startswith("siglip") else ("input_ids", "attention_mask")
    tokens = [{name: t[name] for name in keep if name in t} for t in tokens]
    text = torch.cat([model.get_text_features(**t).pooler_output for t in tokens])
    return _unit(text) @ _unit(image).T


def test_scores_are_those_of_the_library(kind, encoder, folders, pictures):
    text = encoder.encode_texts(TEXTS, batch_size=3)
    image = encoder.encode_images(pictures, batch_size=4)
    assert text.shape == (len(TEXTS), encoder.dim) and image.shape == (6, encoder.dim)
    assert torch.allclose(text.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-5)
    expected = _by_the_library(kind, folders(kind), TEXTS, pictures)
    assert torch.allclose(text @ image.T, expected, atol=1e-4)
    assert (text @ image.T).std() > 1e-3  # features that all agree would agree with anything


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": True}])
def test_siglip_with_gemmas_tokeniser_reads_small_letters_without_a_mask(settings, tmp_path):
    symbols = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *string.ascii_letters, "▁"]
    symbols += [f"<0x{number:02X}>" for number in range(256)]
    tokenizer = GemmaTokenizer(
        vocab={symbol: number for number, symbol in enumerate(symbols)}, merges=[],
        add_bos_token=False, add_eos_token=True, padding_side="right", model_max_length=40,
    )  # fmt: skip
    model = save_encoder("siglip", tmp_path)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | settings | {"model_input_names": ["input_ids"]}))
    published = load_encoder(f"hf:{tmp_path}")
    texts = ["A Red Dog", "a red dog", "ZOO"]
    found = published.encode_texts(texts)
    assert torch.equal(found[0], found[1]) and (found[0] @ found[2]) < 0.9999
    tokens = tokenizer(["a red dog", "zoo"], padding="max_length", max_length=40,
                       return_tensors="pt")["input_ids"]  # fmt: skip
    with torch.no_grad():
        right = _unit(model.get_text_features(input_ids=tokens).pooler_output)
    assert torch.allclose(found[1:], right, atol=1e-6)
    path.write_text(json.dumps(kept | {"model_input_names": ["input_ids", "attention_mask"]}))
    again = load_encoder(f"hf:{tmp_path}")
    assert "attention_mask" in again.tokenizer("a")
    assert torch.equal(again.encode_texts(texts), found)
    path.write_text(json.dumps(kept | {"do_lower_case": False}))
    assert load_encoder(f"hf:{tmp_path}").count_truncated(texts) == 0
    found = load_encoder(f"hf:{tmp_path}").encode_texts(texts)
    assert found[0] @ found[1] < 0.9999


def test_preprocessing_is_the_librarys_own(kind, encoder, folders, pictures):
    processor = AutoProcessor.from_pretrained(folders(kind)).image_processor
    for image in pictures:
        expected = processor(images=[image], return_tensors="pt")
        ours = encoder.preprocess(image)
        assert set(ours) == set(expected)
        assert all(torch.equal(ours[name], expected[name][0]) for name in expected)


def test_sizes_and_truncation(kind, encoder):
    assert (encoder.context_length, encoder.image_size) == (40, 32)
    assert encoder.count_truncated(["a dog", "word " * 30, ""]) == 1
    lengths = [len(encoder.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert encoder.count_truncated(TEXTS) == sum(length > 40 for length in lengths) > 0
    if kind != "blip":  # whose released models do not keep it
        assert encoder.logit_scale == pytest.approx(encoder.model.logit_scale.exp().item())


def test_the_digest_tells_models_and_preprocessing_apart(kind, encoder, folders, tmp_path):
    assert load_encoder(f"hf:{folders(kind)}").digest == encoder.digest
    save_encoder(kind, tmp_path / "other", seed=1)
    assert load_encoder(f"hf:{tmp_path / 'other'}").digest != encoder.digest
    copy = shutil.copytree(folders(kind), tmp_path / "copy")
    path = copy / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"image_mean": [0.1, 0.2, 0.3]}))
    assert load_encoder(f"hf:{copy}").digest != encoder.digest


@pytest.mark.slow
def test_the_commands_run_on_it(kind, folders, tmp_path, capsys):
    make_own_data(tmp_path, num_pictures=14, num_dialogues=3, views=True)
    encoder = ["--encoder", f"hf:{folders(kind)}"]
    assert main(["embed", str(tmp_path), *encoder]) == 0
    assert "14 pictures and 12 views, 26 embedded now" in capsys.readouterr().out
    command = ["evaluate", "--data", str(tmp_path), "--fusion", "dar", *encoder]
    assert main([*command, "--out", str(tmp_path / "dar.csv")]) == 0
    assert "3 dialogues, 14 images" in capsys.readouterr().out


def _damaged(folder, copy, part):
    shutil.copytree(folder, copy)
    if part == "weights":
        (copy / "model.safetensors").write_bytes(b"half a file")
    elif part == "pickle":
        model = CLIPModel.from_pretrained(copy)
        torch.save(model.state_dict(), copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
    elif part == "kind":
        settings = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(settings | {"model_type": "bert"}))
    elif part == "layers":
        settings = json.loads((copy / "config.json").read_text())
        settings["text_config"]["num_hidden_layers"] = 3
        (copy / "config.json").write_text(json.dumps(settings))
    elif part == "code":
        settings = json.loads((copy / "config.json").read_text())
        code = {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}
        (copy / "config.json").write_text(json.dumps(settings | code))
        (copy / "evil.py").write_text("raise SystemExit('code of the model was run')")
    elif part == "sentencepiece":
        settings = json.loads((copy / "tokenizer_config.json").read_text())
        settings["tokenizer_class"] = "SiglipTokenizer"
        (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    else:
        (copy / part).unlink()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("config.json", r"no config\.json"),
        ("model.safetensors", "could not be loaded"),
        ("preprocessor_config.json", "could not be loaded"),
        ("weights", "could not be loaded"),
        ("pickle", "safetensors, not pickles"),
        ("kind", "a model of type 'bert'; use one of clip, siglip, siglip2, blip"),
        ("layers", "its weights do not fill a CLIPModel"),
        ("code", "'auto_map' asks to run code"),
        ("sentencepiece", "pip install sentencepiece"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(folders, tmp_path, part, message, monkeypatch):
    monkeypatch.setattr("daitir.models.hf_encoders.is_sentencepiece_available", lambda: False)
    _damaged(folders("clip"), tmp_path / "copy", part)
    with pytest.raises(DataError, match=message) as caught:
        load_encoder(f"hf:{tmp_path / 'copy'}")
    assert "\n" not in str(caught.value) and "copy" in str(caught.value)


def test_a_hub_that_cannot_be_reached_says_which_folder_to_use(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="without a network download .* its folder, hf:FOLDER"):
        load_encoder("hf:nobody/nothing@main")

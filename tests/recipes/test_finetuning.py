"""Fine-tuning the mini encoder for a few steps: it learns, resumes, and is kept as a small file."""

import json
import os
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from daitir.common.errors import DataError
from daitir.models.encoders import load_encoder
from daitir.models.finetuned import (
    CONFIG_NAME,
    DIFFERENCE_NAME,
    low_rank,
    save_finetuned,
)
from daitir.objectives import DMCL_TERMS
from daitir.recipes import finetune as finetune_module
from daitir.recipes.clip import mixed_precision
from daitir.recipes.finetune import finetune, layer_groups, load_trained
from daitir.recipes.settings import EncoderRecipe
from daitir.recipes.triples import FinetuneData
from daitir.scenes import (
    controlled_view,
    dialogue,
    merge_facts,
    render_scenes,
    rewrites,
    sample_scenes,
)
from daitir.studies.profiles import PROFILES
from daitir.studies.training_sets import encoder_folder

pytestmark = pytest.mark.slow

RECIPE = EncoderRecipe(
    steps=4, batch_size=12, micro_batch_size=12, warmup_steps=1, eval_every=2, rank=None
)


def pictures(split, number):
    """Dialogues with controlled views of rounds 4 and 10."""
    scenes = sample_scenes(0, split, number)
    talks = [dialogue("human", scene, seed=0) for scene in scenes]
    rounds = torch.tensor([[4, 10]] * number)
    views = [
        controlled_view(merge_facts(turns[: t + 1]), broken_share=0.15, seed=f"{i}/{t}").scene
        for i, turns in enumerate(talks)
        for t in (4, 10)
    ]
    texts = [rewrites(turns, seed=i) for i, turns in enumerate(talks)]
    return FinetuneData(
        [[row[4], row[10]] for row in texts],
        rounds,
        render_scenes(views).reshape(number, 2, 64, 64, 3),
        render_scenes(scenes),
    )


@pytest.fixture(scope="module")
def data():
    return pictures("train", 16), pictures("val", 8)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dmcl")
    return finetune(load_encoder("mini"), *data, RECIPE, folder, progress=False), folder


def same(a, b, tolerance=0.0):
    pairs = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, atol=tolerance, rtol=0) for x, y in pairs)


def test_a_run_writes_what_it_says(trained):
    encoder, folder = trained
    rows = (folder / "log.csv").read_text().splitlines()
    assert set(DMCL_TERMS) < set(rows[0].split(",")) and len(rows) == 2
    assert not same(encoder, load_encoder("mini"), 1e-4)
    assert same(encoder, load_encoder(f"finetuned:{folder}"))
    assert encoder.spec == f"finetuned:{folder}"
    settings = json.loads((folder / CONFIG_NAME).read_text())
    assert settings["base"] == "mini" and settings["recipe"]["steps"] == 4


def test_a_finished_run_is_read_and_another_refused(trained, data):
    encoder, folder = trained
    assert same(finetune(load_encoder("mini"), *data, RECIPE, folder), encoder)
    with pytest.raises(DataError, match="another recipe"):
        finetune(load_encoder("mini"), *data, replace(RECIPE, steps=7), folder)
    with pytest.raises(DataError, match="another seed"):
        finetune(load_encoder("mini"), *data, RECIPE, folder, seed=1)


def test_training_lowers_the_loss_on_what_it_sees(data, tmp_path):
    recipe = replace(RECIPE, steps=20, batch_size=16, eval_every=20)
    finetune(load_encoder("mini"), data[0], data[0], recipe, tmp_path, progress=False)
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    column = rows[0].index("loss")
    assert float(rows[-1][column]) < 0.7 * float(rows[1][column])


def test_an_interrupted_run_ends_as_an_uninterrupted_one(trained, data, tmp_path):
    encoder, _ = trained
    calls = 0

    class Killed(Exception):
        pass

    def killed(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == 6:  # in the third step, after the first checkpoint
            raise Killed
        return real(*arguments, **options)

    real = finetune_module.augment
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_module, "augment", killed)
        with pytest.raises(Killed):
            finetune(load_encoder("mini"), *data, RECIPE, tmp_path, progress=False)
    assert not (tmp_path / CONFIG_NAME).exists()
    again = finetune(load_encoder("mini"), *data, RECIPE, tmp_path, progress=False)
    assert same(again, encoder)


def test_gradient_caching_leaves_the_result_as_it_is(trained, data, tmp_path):
    encoder, _ = trained
    recipe = replace(RECIPE, micro_batch_size=5)
    parts = finetune(load_encoder("mini"), *data, recipe, tmp_path, progress=False)
    # bfloat16 products round otherwise in other shapes; Adam's first steps pass it on.
    assert relative_change(parts, encoder) < 0.1


def relative_change(a, b):
    """How far two fine-tuned encoders are apart, in units of how far they went."""
    start = load_encoder("mini").model.state_dict()
    one, other = (
        torch.cat([(t - start[n]).flatten() for n, t in e.model.state_dict().items()])
        for e in (a, b)
    )
    return ((one - other).norm() / other.norm()).item()


def _process(rank, port, data, folder):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    finetune(load_encoder("mini"), *data, RECIPE, folder, progress=False)


def _in_two_processes(data, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_process, (port, data, folder), nprocs=2)
    return load_encoder(f"finetuned:{folder}")


def test_two_processes_agree_with_one(trained, data, tmp_path):
    assert relative_change(_in_two_processes(data, tmp_path), trained[0]) < 0.1


def test_two_processes_agree_with_one_where_views_are_missing(trained, data, tmp_path):
    views = [list(row) for row in data[0].views]
    for i in (0, 3, 5, 6, 10, 11):
        views[i] = [None, None]
    gaps = [replace(data[0], views=views), data[1]]
    one = finetune(load_encoder("mini"), *gaps, RECIPE, tmp_path / "one", progress=False)
    lines = (tmp_path / "one" / "log.csv").read_text().splitlines()
    row = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    assert (12 - int(row["without_view"])) % 2 == 1  # a number that two cannot share
    assert relative_change(_in_two_processes(gaps, tmp_path / "two"), one) < 0.1
    assert relative_change(one, trained[0]) > 0.2


def test_text_alone_trains_without_views(data, tmp_path):
    blind = replace_views(data[0])
    recipe = replace(RECIPE, terms=("text_target",), query="text", steps=3)
    finetune(load_encoder("mini"), blind, data[1], recipe, tmp_path / "a", progress=False)
    finetune(load_encoder("mini"), data[0], data[1], recipe, tmp_path / "b", progress=False)
    assert same(*(load_encoder(f"finetuned:{tmp_path / name}") for name in "ab"))


def replace_views(data):
    return replace(data, views=np.zeros_like(data.views))


def test_a_learnable_scale_and_weights_move_or_stay(data, tmp_path):
    start = load_encoder("mini").logit_scale
    fixed = replace(RECIPE, steps=3, learnable_scale=False, learnable_weights=True)
    found = finetune(load_encoder("mini"), *data, fixed, tmp_path / "a", progress=False)
    assert found.logit_scale == pytest.approx(start, rel=1e-6)
    header, row = (tmp_path / "a" / "log.csv").read_text().splitlines()
    shares = {n: float(v) for n, v in zip(header.split(","), row.split(","), strict=True)}
    assert sum(shares[f"weight_{name}"] for name in DMCL_TERMS) == pytest.approx(1, abs=1e-4)


def test_a_recipe_may_take_the_first_dialogues_only(data, tmp_path):
    recipe = replace(RECIPE, steps=2, num_dialogues=8)
    few = finetune(load_encoder("mini"), *data, recipe, tmp_path / "a", progress=False)
    alike = finetune(
        load_encoder("mini"), data[0].first(8), data[1], recipe, tmp_path / "b", progress=False
    )
    assert same(few, alike)
    assert json.loads((tmp_path / "a" / "card.json").read_text())["dialogues"] == 8


def test_hard_negatives_raise_the_loss(data, tmp_path):
    losses = []
    for hard in (False, True):
        recipe = replace(RECIPE, steps=1, hard_negatives=hard)
        finetune(load_encoder("mini"), *data, recipe, tmp_path / str(hard), progress=False)
        header, row = (tmp_path / str(hard) / "log.csv").read_text().splitlines()
        losses.append(float(dict(zip(header.split(","), row.split(","), strict=True))["loss"]))
    assert losses[1] > losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": "sum"}, "unknown query"),
        ({"terms": ("text",)}, "unknown terms"),
        ({"terms": ()}, "nor all 0"),
        ({"objective": "triplet"}, "unknown objective 'triplet'; choose one of dmcl"),
        ({"batch_size": 1}, "no negatives"),
    ],
)
def test_a_bad_recipe_is_refused(data, tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        finetune(load_encoder("mini"), *data, replace(RECIPE, **changes), tmp_path)
    assert not any(tmp_path.iterdir())


def test_layers_learn_the_slower_the_deeper():
    model = load_encoder("mini").model
    names = {id(p): n for n, p in model.named_parameters()}
    scales = {names[id(p)]: g["scale"] for g in layer_groups(model, 0.1, 0.5) for p in g["params"]}
    assert len(scales) == len(names)
    assert scales["visual.proj"] == scales["logit_scale"] == scales["text.text_projection"] == 1
    assert scales["visual.transformer.resblocks.5.ln_1.weight"] == 0.5
    assert scales["visual.transformer.resblocks.0.ln_1.weight"] == 0.5**6
    assert scales["visual.conv1.weight"] == scales["visual.class_embedding"] == 0.5**7
    assert scales["text.transformer.resblocks.0.ln_1.weight"] == 0.5**4
    assert scales["text.token_embedding.weight"] == 0.5**5
    decays = {
        g["weight_decay"] for g in layer_groups(model, 0.1, 0.5) for p in g["params"] if p.ndim < 2
    }
    assert decays == {0.0}


def test_a_low_rank_difference_is_nearer_with_every_rank(trained, tmp_path):
    encoder, folder = trained
    base = load_encoder("mini")
    sizes, distances = [], []
    for rank in (2, 8, 64):
        save_finetuned(encoder, base, tmp_path / str(rank), rank=rank)
        kept = load_encoder(f"finetuned:{tmp_path / str(rank)}")
        distances.append(relative_change(kept, encoder))
        sizes.append((tmp_path / str(rank) / DIFFERENCE_NAME).stat().st_size)
    assert distances == sorted(distances, reverse=True) and sizes == sorted(sizes)
    assert sizes[0] < (folder / DIFFERENCE_NAME).stat().st_size / 10
    matrix = torch.randn(5, 7, dtype=torch.float64)
    left, right = low_rank(matrix, 5)
    assert torch.allclose(left @ right, matrix)


@pytest.mark.parametrize("name", PROFILES["classroom"].encoders)
def test_the_shipped_encoders_are_those_of_the_profile(name):
    profile = PROFILES["classroom"]
    folder = encoder_folder(profile, name, 0)
    encoders = load_encoder("mini"), load_trained(folder, profile.encoders[name])
    before, after = (encoder.encode_texts(["a red car"]) for encoder in encoders)
    assert 0.5 < float(before @ after.T) < 0.999


def test_a_bad_folder_is_refused(trained, tmp_path):
    _, folder = trained
    with pytest.raises(DataError, match="no such file"):
        load_encoder(f"finetuned:{tmp_path / 'nowhere'}")
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / DIFFERENCE_NAME).write_bytes(b"no weights")
    with pytest.raises(DataError, match="no fine-tuned encoder"):
        load_encoder(f"finetuned:{tmp_path / 'a'}")
    shutil.copytree(folder, tmp_path / "b")
    settings = json.loads((folder / CONFIG_NAME).read_text())
    (tmp_path / "b" / CONFIG_NAME).write_text(json.dumps(settings | {"base_digest": "0"}))
    with pytest.raises(DataError, match="from another mini"):
        load_encoder(f"finetuned:{tmp_path / 'b'}")
    shutil.copytree(folder, tmp_path / "c")
    save_finetuned(Small(), Small(), tmp_path / "c", facts=None)
    (tmp_path / "c" / CONFIG_NAME).write_text(json.dumps(settings))
    with pytest.raises(DataError, match="no difference to mini .*train it again"):
        load_encoder(f"finetuned:{tmp_path / 'c'}")


class Small:
    """Stands for an encoder of another architecture; only its weights are looked at."""

    spec, model, digest = "mini", nn.Linear(2, 2), "0"


@pytest.mark.parametrize("able", [{"avx512_bf16": True}, {"avx512_bf16": False}, None])
def test_bfloat16_is_used_only_where_the_processor_has_it(monkeypatch, able):
    if able is None:  # older versions of torch do not tell
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    with mixed_precision("cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    wanted = torch.bfloat16 if able == {"avx512_bf16": True} else torch.float32
    assert product.dtype == wanted

"""Training on a folder of own data, with real mini models, and evaluating what was trained."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hub_models import save_encoder
from own_data import make_own_data, picture

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data.datafolder import find_data
from daitir.data.dialogues import read_dialogues
from daitir.data.gallery import read_image
from daitir.fusion import build_fusion, dar_fusion
from daitir.models.encoders import load_encoder
from daitir.recipes import triples
from daitir.recipes.finetune import finetune, recalls
from daitir.recipes.fusion import recall
from daitir.recipes.own_training import encode_split, read_split, sample_gallery
from daitir.recipes.run import draw_views
from daitir.recipes.settings import EncoderRecipe, FusionRecipe
from daitir.recipes.triples import FinetuneData, seen_pixels

pytestmark = pytest.mark.slow

QUICK = ["--set", "steps=4", "batch_size=6", "eval_every=2", "warmup_steps=1"]
SPLITS = {"train": 7, "val": 4, "test": 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Dialogues of 3 to 9 rounds; one round has two views, two dialogues are about one picture."""
    folder = tmp_path_factory.mktemp("own") / "set"
    make_own_data(folder, num_pictures=18, splits=SPLITS, views=True)
    shutil.copy(folder / "views/train/2_1.jpg", folder / "views/train/2_1_1.jpg")
    path = folder / "dialogues" / "train.json"
    entries = json.loads(path.read_text("utf-8"))
    entries[6]["img"] = entries[0]["img"]
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


@pytest.fixture
def gaps(folder):
    """The same with rounds without a view: a whole training dialogue, one of val, one of test."""
    for name in ("train/0_0", "train/0_1", "train/0_2", "train/4_3", "val/1_2", "test/2_0"):
        (folder / "views" / f"{name}.jpg").unlink()
    return folder


@pytest.fixture(scope="module")
def mini():
    return load_encoder("mini")


def _split(folder, split, **options):
    data = find_data(folder)
    return read_split(data, split, data.dialogue_file(split), convention="raw_dialogue", **options)


def _train(method, folder, out, *more, encoder="mini"):
    command = ["train", method, "--data", str(folder), "--encoder", encoder, "--workers", "2"]
    return main([*command, *QUICK, "--out", str(out), *more])


def _evaluate(folder, fusion, out, *more, encoder="mini"):
    command = ["evaluate", "--data", str(folder), "--encoder", encoder, "--fusion", fusion]
    return main([*command, "--out", str(out), *more])


def test_a_split_is_read_as_plain_loops_read_it(whole):
    found = _split(whole, "train")
    talks = read_dialogues(whole / "dialogues/train.json", allow_duplicate_targets=True)
    for i, talk in enumerate(talks):
        rounds = [t for t in range(len(talk.rounds)) for _ in range(1 + ((i, t) == (2, 1)))]
        assert found.rounds[i] == rounds
        assert found.texts[i] == [", ".join(talk.rounds[: t + 1]) for t in rounds]
        names = [view.stem.split("_")[:2] for view in found.views[i]]
        assert names == [[str(i), str(t)] for t in rounds]
        assert found.gallery[found.targets[i]] == whole / "images" / talk.image
    assert len(found.gallery) == 6 and found.counts.tolist() == [3, 4, 6, 6, 7, 8, 9]
    assert len(_split(whole, "val").gallery) == 18


def test_rounds_without_a_view_are_refused_or_counted(gaps, mini, caplog):
    with pytest.raises(DataError, match="4 of 42 views are missing, in 2 of 7 .*: 0_0; 0_1; 0_2"):
        _split(gaps, "train")
    found = _split(gaps, "train", missing_views="text")
    assert found.num_without_view == 4 and found.views[0] == [None] * 3
    assert "text alone stands for them, 4 of 42 views are missing" in caplog.text
    viewed = encode_split(mini, found)
    assert viewed.counts.tolist() == [4, 6, 6, 6, 8, 9]
    assert "4 rounds without a view are left out, and with them 1 of 7 dialogues" in caplog.text
    assert viewed.targets.tolist() == [1, 2, 3, 4, 5, 0]
    with pytest.raises(DataError, match="no round has a view"):
        encode_split(mini, _split(gaps, "train", needs_views=False))


def test_features_and_recall_of_ragged_dialogues_are_those_of_plain_loops(whole, mini):
    torch.manual_seed(0)
    data = _split(whole, "val")
    found = encode_split(mini, data)
    model = build_fusion(mini.dim, FusionRecipe("nrgr", hidden_dim=8)).eval()
    gallery = mini.encode_images(data.gallery)
    hits, by_text, by_dar = [], [], []
    for i, views in enumerate(data.views):
        hits.append([])
        for k, view in enumerate(views):
            text = mini.encode_texts([data.texts[i][k]])[0]
            drawn = mini.encode_images([view])[0]
            assert torch.allclose(found.text_features[i, k], text, atol=1e-5)
            assert torch.allclose(found.view_features[i, k], drawn, atol=1e-5)
            queries = (model(text, drawn)[0].detach(), text,
                       dar_fusion(text, drawn, round=data.rounds[i][k]))  # fmt: skip
            for query, list_of_hits in zip(queries, (hits[-1], by_text, by_dar), strict=True):
                scores = gallery @ query
                rank = int((scores >= scores[data.targets[i]]).sum()) - 1
                list_of_hits.append(rank < 5)
    flat = [hit for row in hits for hit in row]
    assert recall(model, found, 5) == pytest.approx(np.mean(flat)) and 0 < np.mean(flat) < 1
    measured = recalls(mini, data, 5)
    assert measured["text"] == pytest.approx(np.mean(by_text))
    assert measured["dar"] == pytest.approx(np.mean(by_dar))


def test_a_round_without_a_view_is_measured_by_its_text(gaps, mini):
    data = _split(gaps, "val", missing_views="text")
    place = int(data.counts[0]) + 2
    pictures = [view for row in data.views for view in row]
    assert [number for number, view in enumerate(pictures) if view is None] == [place]
    lone = replace(
        data, texts=[[data.texts[1][2]]], rounds=[[2]], views=[[None]], targets=data.targets[1:2]
    )
    for k in (1, 5, 10):
        assert len(set(recalls(mini, lone, k).values())) == 1


def test_files_in_memory_and_on_disk_train_alike(whole, mini, tmp_path):
    """What the encoder sees of files is what it sees of the same pictures as arrays."""
    recipe = EncoderRecipe(steps=2, batch_size=5, eval_every=2, warmup_steps=1, rank=None)
    files = [_split(whole, split) for split in ("train", "val")]
    arrays = [
        replace(
            part,
            views=[list(seen_pixels(mini, row).numpy()) for row in part.views],
            gallery=seen_pixels(mini, part.gallery).numpy(),
        )
        for part in files
    ]
    found = [
        finetune(load_encoder("mini"), *data, recipe, tmp_path / name, workers=2, progress=False)
        for name, data in (("files", files), ("arrays", arrays))
    ]
    states = [encoder.model.state_dict().values() for encoder in found]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_equal_numbers_of_views_are_drawn_as_ever():
    counts = torch.full((50,), 4)
    drawn = draw_views(counts, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, torch.randint(4, (50,), generator=torch.Generator().manual_seed(3)))
    counts = torch.arange(1, 21).repeat(400)
    drawn = draw_views(counts, torch.Generator().manual_seed(0))
    for count in range(1, 21):
        assert set(drawn[counts == count].tolist()) == set(range(count))


@pytest.mark.parametrize("spec", ["mini", "tiny"])
def test_pixels_are_those_of_the_encoders_own_preprocessing(spec, whole, request):
    """`tiny` scales the shorter side and cuts the middle out; a bare resize would differ."""
    encoder = load_encoder(spec if spec == "mini" else request.getfixturevalue("tiny"))
    paths = _split(whole, "val").gallery
    pixels = seen_pixels(encoder, paths, workers=2)
    size = encoder.image_size
    assert pixels.shape == (18, size, size, 3) and pixels.dtype == torch.uint8
    *_, norm = encoder.preprocess.transforms
    ours = torch.stack([norm(p.permute(2, 0, 1) / 255) for p in pixels])
    own = torch.stack([encoder.preprocess(read_image(path)) for path in paths])
    assert torch.allclose(ours, own, atol=1e-6)
    features = encoder.encode_images(list(pixels.numpy())), encoder.encode_images(paths)
    assert torch.allclose(*features, atol=1e-5)


def test_a_fusion_trained_on_own_data_is_evaluated_on_it(folder, tmp_path, capsys):
    out = tmp_path / "nrgr"
    assert _train("nrgr", folder, out) == 0
    printed = capsys.readouterr().out
    assert "train: 7 dialogues of 3 to 9 views, 43 in all, 0 of them missing; 6 pictures" in printed
    assert f"texts: raw_dialogue of {folder / 'dialogues' / 'val.json'}" in printed
    assert f"use it with --fusion nrgr:{out}" in printed
    assert _evaluate(folder, f"nrgr:{out}", tmp_path / "nrgr.csv") == 0
    assert "without a view: 0 of 45 rounds" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "nrgr.csv")
    assert set(rows.method) == {"text", "nrgr"}
    # Another kind, another encoder, another folder, a name that is no fusion.
    assert _evaluate(folder, f"adafuse:{out}", tmp_path / "a.csv") == 2
    assert "config.json: a fusion of another kind" in capsys.readouterr().err
    other = load_encoder("mini")
    other.model.logit_scale.data += 1
    settings = json.loads((out / "origin.json").read_text())
    settings["encoder"] |= {"digest": other.digest, "spec": "open_clip:other"}
    (out / "origin.json").write_text(json.dumps(settings))
    assert _evaluate(folder, f"nrgr:{out}", tmp_path / "a.csv") == 2
    message = "was trained on another encoder (open_clip:other) than mini as it is now"
    assert message in capsys.readouterr().err
    assert _evaluate(folder, f"nrgr:{tmp_path / 'none'}", tmp_path / "a.csv") == 2
    assert "no such folder; `daitir train` writes it" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()
    with pytest.raises(SystemExit):
        _evaluate(folder, f"moe:{out}", tmp_path / "a.csv")
    assert "must be one of text, view, dar, scalar_gate:DIR" in capsys.readouterr().err


def test_a_fusion_of_a_transformers_encoder_with_missing_views(gaps, tmp_path, capsys):
    save_encoder("clip", tmp_path / "clip")
    encoder, out = f"hf:{tmp_path / 'clip'}", tmp_path / "adafuse"
    assert _train("adafuse", gaps, out, encoder=encoder) == 2
    assert "4 of 42 views are missing" in capsys.readouterr().err
    assert _train("adafuse", gaps, out, "--missing-views", "text", encoder=encoder) == 0
    assert "43 in all, 4 of them missing" in capsys.readouterr().out
    table = tmp_path / "adafuse.csv"
    assert _evaluate(gaps, f"adafuse:{out}", table, encoder=encoder) == 2
    capsys.readouterr()
    more = ["--missing-views", "text"]
    assert _evaluate(gaps, f"adafuse:{out}", table, *more, encoder=encoder) == 0
    printed = capsys.readouterr().out
    assert "without a view: 1 of 45 rounds, ranked by text alone" in printed
    assert _train("dmcl", gaps, tmp_path / "dmcl", *more, encoder=encoder) == 2
    message = f"error: {encoder}: only open_clip's dual encoders are fine-tuned"
    assert message in capsys.readouterr().err and not (tmp_path / "dmcl" / "log.csv").exists()


def test_dmcl_on_own_data_with_missing_views(gaps, tmp_path, capsys, tiny):  # noqa: F811
    out, more = tmp_path / "dmcl", ["--missing-views", "text", "--seed", "1"]
    assert _train("dmcl", gaps, out, *more, encoder=tiny) == 0
    printed = capsys.readouterr().out
    assert "43 in all, 4 of them missing" in printed
    assert f"use it with --encoder finetuned:{out}" in printed
    log = pd.read_csv(out / "log.csv")
    assert log["without_view"].between(0, 4).all() and np.isfinite(log["loss"]).all()
    kept = json.loads((out / "config.json").read_text())
    assert kept["recipe"]["text"] == "raw_dialogue" and kept["recipe"]["steps"] == 4
    # It is an encoder as any other: a fusion on top, and training that goes on from it.
    spec = f"finetuned:{out}"
    assert _train("cosine_gate", gaps, tmp_path / "top", *more, encoder=spec) == 0
    fusion = f"cosine_gate:{tmp_path / 'top'}"
    assert _evaluate(gaps, fusion, tmp_path / "a.csv", *more[:2], encoder=spec) == 0
    assert _evaluate(gaps, fusion, tmp_path / "a.csv", *more[:2], encoder=tiny) == 2
    assert f"another encoder ({spec})" in capsys.readouterr().err
    assert _train("text_view", gaps, tmp_path / "on", *more, encoder=spec) == 0


def test_an_interrupted_run_goes_on_and_ends_as_another(folder, tmp_path, monkeypatch, capsys):
    assert _train("dmcl", folder, tmp_path / "whole") == 0
    real, calls = triples.read_image, itertools.count(1)

    def interrupted(path):
        if next(calls) == 30:  # in the third step, after a checkpoint
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(triples, "read_image", interrupted)
    assert _train("dmcl", folder, tmp_path / "parts", "--workers", "1") == 130
    assert (tmp_path / "parts" / "checkpoint.safetensors").is_file()
    assert not (tmp_path / "parts" / "config.json").exists()
    monkeypatch.undo()
    # What is there is of this encoder and these data: of others it is not continued.
    (folder / "views/val/0_0.jpg").write_bytes((folder / "views/val/0_1.jpg").read_bytes())
    assert _train("dmcl", folder, tmp_path / "parts") == 2
    assert "holds a run with other data" in capsys.readouterr().err
    picture(1000).convert("RGB").save(folder / "views/val/0_0.jpg")
    assert _train("dmcl", folder, tmp_path / "parts") == 0
    encoders = [load_encoder(f"finetuned:{tmp_path / name}") for name in ("whole", "parts")]
    states = [encoder.model.state_dict() for encoder in encoders]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_another_run_in_the_folder_is_refused(folder, tmp_path, capsys, tiny):  # noqa: F811
    out = tmp_path / "out"
    assert _train("finetune_text", folder, out) == 0
    assert _train("finetune_text", folder, out) == 0  # the run that is there is read
    (folder / "dialogues/val.json").write_bytes((folder / "dialogues/test.json").read_bytes())
    capsys.readouterr()
    assert _train("finetune_text", folder, out) == 2
    assert f"{out}: holds a run with other data" in capsys.readouterr().err
    assert _train("finetune_text", folder, out, encoder=tiny) == 2
    assert "another encoder and other data" in capsys.readouterr().err


def test_validation_ranks_a_fixed_sample_of_the_gallery(whole, mini):
    """Each dialogue's rank is that in a plain loop over the pictures that are kept."""
    data = _split(whole, "val")
    few = sample_gallery(data, 9)
    assert len(few.gallery) == 9 and len(set(few.gallery)) == 9
    assert sample_gallery(data, 9).gallery == few.gallery
    aims = [data.gallery[i] for i in data.targets]
    assert [few.gallery[i] for i in few.targets] == aims
    assert set(few.gallery) <= set(data.gallery) and set(few.gallery) != set(data.gallery[:9])
    hits = []
    for i, row in enumerate(data.texts):
        for text in mini.encode_texts(row):
            scores = {path: float(mini.encode_images([path])[0] @ text) for path in few.gallery}
            hits.append(sum(s >= scores[aims[i]] for s in scores.values()) <= 3)
    assert recalls(mini, few, 3)["text"] == pytest.approx(np.mean(hits)) and 0 < np.mean(hits) < 1
    assert set(sample_gallery(data, 1).gallery) == set(aims)  # the targets stay
    assert sample_gallery(data, 100).gallery == data.gallery
    assert sample_gallery(data, 100).targets.tolist() == data.targets.tolist()


def test_the_sample_is_announced_and_belongs_to_the_run(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert _train("finetune_text", folder, out, "--val-images", "9") == 0
    printed = capsys.readouterr().out
    assert "validation ranks 9 of 18 pictures, the targets among them (--val-images)" in printed
    assert "R@10 on validation: " in printed and "; written to" in printed
    assert json.loads((out / "card.json").read_text())["validation_images"] == 9
    assert _train("finetune_text", folder, out, "--val-images", "10") == 2
    assert "holds a run with other data" in capsys.readouterr().err
    assert _train("nrgr", folder, tmp_path / "nrgr", "--val-images", "9") == 2
    assert "--val-images: for an encoder" in capsys.readouterr().err


def test_text_alone_is_trained_without_views(folder, tmp_path, capsys):
    shutil.rmtree(folder / "views")
    assert _train("finetune_text", folder, tmp_path / "out") == 0
    assert _train("dmcl", folder, tmp_path / "dmcl") == 2
    printed = capsys.readouterr().err
    assert f"{folder / 'views' / 'train'}: no such folder; views of the split 'train'" in printed
    assert "`daitir generate --data" in printed


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        ("dialogues/val.json", [], "has no dialogues/val.json; training needs the splits"),
        (None, ["--set", "stepz=3"], "no setting 'stepz'; there are hard_negatives"),
        (None, ["--set", "steps=0"], "steps is a whole number from 1 on, not 0"),
        (None, ["--set", "learning_rate=fast"], "learning_rate is a number from 0 on"),
        (None, ["--encoder", "open_clip:daitir-mini"], "random weights cannot be had again"),
        ("views/val/1_1.jpg", [], "val: 1 of 46 views are missing"),
    ],
)
def test_bad_input_is_named_before_work(folder, tmp_path, capsys, damage, arguments, message):
    if damage:
        (folder / damage).unlink()
    assert _train("dmcl", folder, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "log.csv").exists()


def test_options_of_own_data_need_own_data(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["train", "dmcl", "--encoder", "mini", "--text", "raw_dialogue", *out]) == 2
    assert "--encoder, --text: for --data DIR alone" in capsys.readouterr().err
    assert main(["train", "dmcl", "--data", str(tmp_path), *out]) == 2
    assert "--data needs --encoder SPEC" in capsys.readouterr().err


def test_rewrites_of_one_split_alone_are_refused(folder, tmp_path, capsys):
    (folder / "rewrites").mkdir()
    shutil.copy(folder / "dialogues/train.json", folder / "rewrites/train.json")
    assert _train("scalar_gate", folder, tmp_path / "out") == 2
    assert "one of train and val has rewrites and the other has none" in capsys.readouterr().err
    assert _train("scalar_gate", folder, tmp_path / "out", "--text", "raw_dialogue") == 0


def test_the_first_dialogues_keep_their_targets(whole):
    data = _split(whole, "train")
    few = data.first(3)
    assert isinstance(few, FinetuneData) and few.targets.tolist() == data.targets[:3].tolist()
    assert len(few.gallery) == len(data.gallery) and few.counts.tolist() == [3, 4, 6]

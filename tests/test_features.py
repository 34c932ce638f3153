"""Kept features are those of the encoder, of one model, whatever happened in between."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from own_data import make_own_data
from PIL import Image

from daitir import encoders
from daitir.cli import main
from daitir.encoders import load_encoder
from daitir.errors import DataError
from daitir.features import MANIFEST, CachedEncoder


@pytest.fixture(scope="module")
def mini():
    return load_encoder("mini")


@pytest.fixture
def paths(tmp_path):
    names = make_own_data(tmp_path / "set", num_pictures=11, num_dialogues=3)
    return [tmp_path / "set" / "images" / name for name in names]


def _cached(encoder, paths, folder=None, **options):
    root = paths[0].parents[2]
    return CachedEncoder(encoder, root, folder or root / "features", **options)


def test_features_are_those_of_the_encoder_in_the_order_asked(mini, paths):
    cached = _cached(mini, paths, shard_size=4, batch_size=3, workers=2)
    order = [*paths[::-1], paths[2]]
    found = cached.encode_images(order)
    plain = torch.cat([mini.encode_images([path]) for path in order])
    assert torch.allclose(found, plain, atol=1e-5)
    assert torch.equal(found[-1], found[8]) and cached.num_embedded == 11
    assert len(list(cached.folder.glob("*.safetensors"))) == 2
    manifest = json.loads((cached.folder / MANIFEST).read_text("utf-8"))
    assert manifest["model"] == {"spec": "mini", "digest": mini.digest, "dim": mini.dim}
    names = {file[0] for files in manifest["shards"].values() for file in files}
    assert names == {path.relative_to(cached.root).as_posix() for path in paths}


def test_what_is_there_is_not_embedded_again(mini, paths, monkeypatch):
    first = _cached(mini, paths).encode_images(paths[:8])
    monkeypatch.setattr(
        encoders, "read_image", lambda path: pytest.fail("read") if path in paths[:8] else _black()
    )
    again = _cached(mini, paths)
    assert torch.equal(again.encode_images(paths)[:8], first) and again.num_embedded == 3


def _black():
    return Image.new("RGB", (9, 9))


def test_arrays_and_files_elsewhere_pass_through(mini, paths, tmp_path):
    cached = _cached(mini, paths)
    array = np.zeros((5, 7, 3), dtype=np.uint8)
    _black().save(tmp_path / "elsewhere.png")
    found = cached.encode_images([array]), cached.encode_images([tmp_path / "elsewhere.png"])
    assert torch.allclose(*found, atol=1e-6) and not cached.folder.exists()
    assert cached.dim == mini.dim and torch.equal(
        cached.encode_texts(["a"]), mini.encode_texts(["a"])
    )


def test_a_changed_file_is_embedded_again(mini, paths):
    _cached(mini, paths).encode_images(paths)
    _black().save(paths[4])
    again = _cached(mini, paths)
    assert torch.allclose(
        again.encode_images(paths)[4], mini.encode_images([_black()])[0], atol=0.1
    )
    assert again.num_embedded == 1


@pytest.mark.parametrize("damage", ["weights", "preprocessing"])
def test_another_model_is_refused(mini, paths, damage):
    cached = _cached(mini, paths)
    cached.encode_images(paths[:2])
    other = load_encoder("mini")
    if damage == "weights":
        next(other.model.parameters()).data.mul_(1.001)
    else:
        other.preprocess.transforms.pop()
    with pytest.raises(DataError, match="holds features of another model"):
        _cached(other, paths)
    assert _cached(load_encoder("mini"), paths).encode_images(paths[:2]).shape == (2, mini.dim)


def test_a_killed_run_goes_on(mini, paths, monkeypatch):
    read, seen = encoders.read_image, []

    def dies(path):
        seen.append(path)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(encoders, "read_image", dies)
    with pytest.raises(KeyboardInterrupt):
        _cached(mini, paths, shard_size=3, batch_size=3).encode_images(paths)
    monkeypatch.undo()
    again = _cached(mini, paths, shard_size=3, batch_size=3)
    found = again.encode_images(paths)
    assert again.num_embedded == 5  # two shards were whole
    assert torch.allclose(found, mini.encode_images(paths), atol=1e-5)
    assert not [
        path for path in again.folder.iterdir() if path.name.startswith(".") and path.suffix
    ]


def test_an_unreadable_picture_is_named_and_the_rest_kept(mini, paths):
    paths[9].write_bytes(b"")
    with pytest.raises(DataError, match="bild-009.*0 bytes"):
        _cached(mini, paths, shard_size=3, batch_size=3, workers=2).encode_images(paths)
    assert len(_cached(mini, paths)._rows()) == 9
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        _cached(mini, paths).encode_images([paths[0].with_name("gone.png")])


def test_two_runs_at_once_lose_nothing(mini, paths):
    halves = (paths[:6], paths[6:])
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(_cached(mini, paths, shard_size=1, batch_size=1).encode_images, half)
            for half in halves
        ]
        found = torch.cat([run.result() for run in runs])
    assert torch.allclose(found, mini.encode_images(paths), atol=1e-5)
    assert len(_cached(mini, paths)._rows()) == 11


def test_a_lost_shard_is_made_again_and_a_damaged_one_named(mini, paths):
    cached = _cached(mini, paths, shard_size=4, batch_size=4)
    before = cached.encode_images(paths)
    first, second, _ = sorted(cached.folder.glob("*.safetensors"))
    first.unlink()
    again = _cached(mini, paths)
    assert torch.allclose(again.encode_images(paths), before, atol=1e-5)
    assert 3 <= again.num_embedded <= 4
    os.truncate(second, 50)
    with pytest.raises(DataError, match=f"{second.name}: damaged"):
        _cached(mini, paths).encode_images(paths)
    (cached.folder / MANIFEST).write_text("[]")
    with pytest.raises(DataError, match="no manifest of features"):
        _cached(mini, paths)


def test_the_command_embeds_what_evaluate_reads(tmp_path, capsys, monkeypatch):
    make_own_data(tmp_path, num_pictures=12, splits={"train": 2, "test": 3}, views=True)
    assert main(["embed", str(tmp_path), "--encoder", "mini"]) == 0
    printed = capsys.readouterr().out
    assert "12 pictures and 25 views, 37 embedded now" in printed
    assert str(tmp_path / "features" / "mini") in printed
    monkeypatch.setattr(encoders, "read_image", lambda path: pytest.fail("read again"))
    command = ["evaluate", "--data", str(tmp_path), "--encoder", "mini", "--fusion", "dar"]
    assert main([*command, "--out", str(tmp_path / "dar.csv")]) == 0
    assert main(["embed", str(tmp_path), "--encoder", "mini"]) == 0
    assert "0 embedded now" in capsys.readouterr().out
    assert main(["embed", str(tmp_path), "--encoder", "mini", "--device", "nonsense"]) == 2
    other = ["embed", str(tmp_path), "--encoder", "open_clip:daitir-mini", "--features"]
    assert main([*other, str(tmp_path / "features" / "mini")]) == 2
    assert "holds features of another model (mini)" in capsys.readouterr().err

"""Kept features are those of the encoder, of one model, whatever happened in between."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from own_data import make_own_data
from PIL import ExifTags, Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data import shards
from daitir.data.shards import PICTURES, TEXTS, KeptFeatures, read_shard
from daitir.models import encoder as encoder_module
from daitir.models import features
from daitir.models.encoders import load_encoder
from daitir.models.features import CachedEncoder, users_features_folder

pytestmark = pytest.mark.slow


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


def _kept(paths):
    return KeptFeatures(paths[0].parents[2] / "features", PICTURES)


def test_features_are_those_of_the_encoder_in_the_order_asked(mini, paths, monkeypatch):
    monkeypatch.setattr(features, "SHARD_SIZE", 4)
    cached = _cached(mini, paths, batch_size=3, workers=2)
    order = [*paths[::-1], paths[2]]
    found = cached.encode_images(order)
    plain = torch.cat([mini.encode_images([path]) for path in order])
    assert torch.allclose(found, plain, atol=1e-5)
    assert torch.equal(found[-1], found[8]) and cached.num_embedded == 11
    assert len(list(cached.folder.glob("*.safetensors"))) == 2
    parts = [read_shard(path) for path in cached.folder.glob("pictures-*.safetensors")]
    assert {(part.spec, part.digest, part.dim) for part in parts} == {
        ("mini", mini.digest, mini.dim)
    }
    for part in parts:  # what a shard says that it holds is what it holds
        own = mini.encode_images([cached.root / name for name in part.names])
        assert torch.allclose(part.features, own, atol=1e-5)
    names = [name for part in parts for name in part.names]
    assert sorted(names) == sorted(path.relative_to(cached.root).as_posix() for path in paths)


def test_what_is_there_is_not_embedded_again(mini, paths, monkeypatch):
    first = _cached(mini, paths).encode_images(paths[:8])
    monkeypatch.setattr(
        encoder_module,
        "read_image",
        lambda path: pytest.fail("read") if path in paths[:8] else _black(),
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
    assert cached.dim == mini.dim


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
    monkeypatch.setattr(features, "SHARD_SIZE", 3)
    read, seen = encoder_module.read_image, []

    def dies(path):
        seen.append(path)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(encoder_module, "read_image", dies)
    with pytest.raises(KeyboardInterrupt):
        _cached(mini, paths, batch_size=3).encode_images(paths)
    monkeypatch.undo()
    monkeypatch.setattr(features, "SHARD_SIZE", 3)
    again = _cached(mini, paths, batch_size=3)
    found = again.encode_images(paths)
    assert again.num_embedded == 5  # two batches were whole
    assert torch.allclose(found, mini.encode_images(paths), atol=1e-5)
    assert not [
        path for path in again.folder.iterdir() if path.name.startswith(".") and path.suffix
    ]


def test_an_unreadable_picture_is_named_and_the_rest_kept(mini, paths, monkeypatch):
    monkeypatch.setattr(features, "SHARD_SIZE", 3)
    paths[9].write_bytes(b"")
    with pytest.raises(DataError, match="bild-009.*0 bytes"):
        _cached(mini, paths, batch_size=3, workers=2).encode_images(paths)
    assert len(_kept(paths)) == 9
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        _cached(mini, paths).encode_images([paths[0].with_name("gone.png")])


def test_two_runs_at_once_lose_nothing(mini, paths, monkeypatch):
    monkeypatch.setattr(features, "SHARD_SIZE", 1)
    halves = (paths[:6], paths[6:])
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(_cached(mini, paths, batch_size=1).encode_images, half) for half in halves
        ]
        found = torch.cat([run.result() for run in runs])
    assert torch.allclose(found, mini.encode_images(paths), atol=1e-5)
    assert len(_kept(paths)) == 11


def test_a_lost_shard_is_made_again_and_a_damaged_one_named(mini, paths, monkeypatch):
    monkeypatch.setattr(features, "SHARD_SIZE", 4)
    cached = _cached(mini, paths, batch_size=4)
    before = cached.encode_images(paths)
    first, second, _ = sorted(cached.folder.glob("*.safetensors"))
    number = len(read_shard(first).names)
    first.unlink()
    again = _cached(mini, paths)
    assert torch.allclose(again.encode_images(paths), before, atol=1e-5)
    assert again.num_embedded == number
    os.truncate(second, 50)
    with pytest.raises(DataError, match=f"{second.name}: damaged.*remove it") as caught:
        _cached(mini, paths)
    assert "\n" not in str(caught.value)


def _edit(path, change, *, checksum=False):
    """Write a shard again with changed tensors and metadata."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    change(tensors, about)
    if checksum:
        about["checksum"] = shards._checksum(
            about["names"], tensors["stamps"].numpy(), tensors["features"]
        )
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=about)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, about: about.update(names=about["names"].replace('", "', '","')), "checksum"),
        (lambda t, about: about.update(names="[" * 100_000), "damaged"),
        (lambda t, about: about.update(names="[1, 2]"), "no list of names"),
        (lambda t, about: about.update(names='["one"]'), "1 names of 11 rows"),
        (lambda t, about: t.update(features=t["features"][1:]), "11 names of 10 rows"),
        (lambda t, about: t.update(stamps=t["stamps"][1:]), "11 names of 11 rows|10"),
        (lambda t, about: t.update(features=t["features"].roll(1, 0)), "another checksum"),
        (lambda t, about: t["features"][3].fill_(float("nan")), "another checksum"),
        (lambda t, about: t["stamps"][3].add_(1), "another checksum"),
        (lambda t, about: t.pop("features"), "damaged"),
        (lambda t, about: t.update(features=t["features"][:, :3]), "another model"),
        (lambda t, about: about.update(digest="other"), "another model"),
        (lambda t, about: about.pop("checksum"), "damaged"),
        (lambda t, about: about.clear(), "no features as this version keeps them"),
    ],
)
def test_a_shard_that_was_edited_is_refused_by_name(many, change, message):
    """An entry that is gone, or another order, would give pictures the features of others."""
    _cached(_Counting(), many).encode_images(many[:11])
    (path,) = _kept(many).folder.iterdir()
    _edit(path, change)
    with pytest.raises(DataError, match=f"{path.name}.*({message})") as caught:
        _cached(_Counting(), many).encode_images(many[:11])
    assert "\n" not in str(caught.value)


def test_names_in_a_shard_are_followed_nowhere(many):
    """A shard is found by its place; what it calls its rows is compared, never opened."""
    _cached(_Counting(), many).encode_images(many[:11])
    (path,) = _kept(many).folder.iterdir()
    _edit(
        path,
        lambda t, about: about.update(names=about["names"].replace("images/", "../images/")),
        checksum=True,
    )
    again = _cached(_Counting(), many)
    again.encode_images(many[:11])
    assert again.num_embedded == 11


def test_a_pipe_among_the_shards_hangs_nothing(many):
    _cached(_Counting(), many).encode_images(many[:11])
    os.mkfifo(_kept(many).folder / "pictures-0.safetensors")
    with pytest.raises(DataError, match="pictures-0.safetensors: damaged"):
        _cached(_Counting(), many)


class _Counting:
    """Stands for an encoder that counts, and does something before a picture or a batch."""

    spec, digest, dim = "counting", "0" * 64, 4

    def __init__(self, before=lambda number: None):
        self.before, self.number, self.texts = before, 0, []

    def _feature(self):
        self.before(self.number)
        self.number += 1
        return torch.nn.functional.normalize(torch.arange(1.0, 5) + self.number, dim=0)

    def image_batches(self, paths, *, batch_size, workers):
        for _ in paths:
            yield self._feature()[None]

    def encode_texts(self, texts, *, batch_size=256, progress=False):
        self.texts += texts
        return torch.stack([self._feature() for _ in texts])


@pytest.fixture
def many(tmp_path):
    folder = tmp_path / "set" / "images" / "deep"
    folder.mkdir(parents=True)
    for i in range(1000):
        (folder / f"{i:04}.png").write_bytes(b"%d" % i)
    return sorted(folder.iterdir())


def test_a_stopped_run_keeps_all_but_the_batch_under_way(many):
    def stop(number):
        if number == 704:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _cached(_Counting(stop), many).embed(many)
    assert len(_kept(many)) == 704
    assert _cached(_Counting(), many).embed(many) == 296
    assert len(_kept(many).shards) == 2


def test_a_killed_run_loses_the_last_seconds_alone(many, monkeypatch):
    """A second goes by for each picture; nobody tells the run that it ends."""
    clock = [0.0]
    monkeypatch.setattr(shards.time, "monotonic", lambda: clock[0])

    def tick(number):
        clock[0] += 1
        if number == 704:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        _cached(_Counting(tick), many).embed(many)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    kept = _kept(many)
    assert 704 - shards.KEEP_SECONDS <= len(kept) <= 704 and len(kept.shards) == 1
    assert _cached(_Counting(), many).embed(many) == 1000 - len(kept)


@pytest.mark.slow
def test_shards_do_not_become_more_by_time(many, monkeypatch):
    monkeypatch.setattr(shards, "KEEP_SECONDS", 0.0)
    _cached(_Counting(), many).embed(many[:100])
    assert len(_kept(many).shards) == 1 and len(_kept(many)) == 100


def test_features_that_are_not_finite_are_not_kept(many):
    encoder = _Counting()
    encoder.image_batches = lambda paths, **options: (
        torch.full((1, 4), float("nan") if path.stem == "0002" else 0.5) for path in paths
    )
    with pytest.raises(DataError, match="NaN or infinite features of images/deep/0002.png"):
        _cached(encoder, many).embed(many)
    assert read_shard(_kept(many).shards[0].path).names == [
        "images/deep/0000.png", "images/deep/0001.png",
    ]  # fmt: skip


def test_a_picture_that_was_turned_in_place_is_embedded_again_and_a_copy_is_not(mini, tmp_path):
    folder = tmp_path / "set" / "images" / "deep"
    folder.mkdir(parents=True)
    upright, turned = Image.Exif(), Image.Exif()
    upright[ExifTags.Base.Orientation], turned[ExifTags.Base.Orientation] = 1, 6
    paths = [folder / "a.jpg", folder / "b.jpg"]
    for path in paths:
        Image.effect_noise((40, 30), 80).save(path, exif=upright)
    _cached(mini, paths).encode_images(paths)
    before = paths[0].stat()
    content = paths[0].read_bytes().replace(upright.tobytes(), turned.tobytes())
    paths[0].write_bytes(content)
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    paths[1].rename(folder / "other")  # a copy that keeps the time
    (folder / "b.jpg").write_bytes((folder / "other").read_bytes())
    stamp = (folder / "other").stat()
    os.utime(paths[1], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with Image.open(paths[0]) as image:
        assert image.getexif()[ExifTags.Base.Orientation] == 6
    again = _cached(mini, paths)
    found = again.encode_images(paths)
    assert again.num_embedded == 1
    assert torch.allclose(found, mini.encode_images(paths), atol=1e-5)
    # Neither of the two rows that are kept of it now is of a third content.
    stamps = np.array([[before.st_size, before.st_mtime_ns, 0]])
    assert _kept(paths).find(["images/deep/a.jpg"], stamps, lambda i: 5).tolist() == [-1]


def test_texts_are_encoded_once(paths, monkeypatch):
    texts = ["a dog", "a cat", "a dog", "", "ein Hund \ud800"]
    first = _Counting()
    before = _cached(first, paths).encode_texts(texts, batch_size=2)
    assert first.texts == ["", "a dog", "a cat", "ein Hund \ud800"]
    assert torch.equal(before[0], before[2])
    second = _Counting()
    assert torch.equal(_cached(second, paths).encode_texts(texts), before) and not second.texts
    more = _cached(second, paths).encode_texts(["a cat", "a bird"])
    assert second.texts == ["a bird"] and torch.equal(more[0], before[1])
    kept = KeptFeatures(paths[0].parents[2] / "features", TEXTS)
    assert len(kept) == 5 and not len(_kept(paths))
    with pytest.raises(ValueError, match="no text"):
        _cached(load_encoder("mini"), paths, paths[0].parent / "x").encode_texts([])


def test_texts_that_are_kept_take_a_bounded_place(paths, monkeypatch, caplog):
    monkeypatch.setattr(features, "MAX_TEXTS", 3)
    cached = _cached(_Counting(), paths)
    cached.encode_texts(["a", "b"])
    assert cached.encode_texts(["a", "c", "d"]).shape == (3, 4)
    assert "keeps the features of 2 texts, and of 3 at most; 2 are encoded each time" in caplog.text
    assert len(KeptFeatures(cached.folder, TEXTS)) == 2


def test_texts_of_one_run_are_those_of_the_encoder_exactly(mini, paths):
    texts = [f"{'a big ' * (i % 7)}dog number {i}" for i in range(40)]
    cached = _cached(mini, paths)
    for _ in range(2):
        assert torch.equal(
            cached.encode_texts(texts, batch_size=8), mini.encode_texts(texts, batch_size=8)
        )


def test_evaluating_again_encodes_nothing(tmp_path, monkeypatch, capsys):
    make_own_data(tmp_path, num_pictures=12, splits={"test": 3}, views=True)
    command = ["evaluate", "--data", str(tmp_path), "--encoder", "mini", "--fusion", "dar"]
    assert main([*command, "--out", str(tmp_path / "1.csv")]) == 0
    monkeypatch.setattr(encoder_module.Encoder, "encode_texts", None)
    monkeypatch.setattr(encoder_module.Encoder, "image_batches", None)
    assert main([*command, "--out", str(tmp_path / "2.csv")]) == 0
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_the_place_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, two = (users_features_folder("pictures", digest) for digest in ("1", "2"))
    assert one.parent == tmp_path / "daitir" / "features" and one != two
    assert users_features_folder("./pictures", "1") == one
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert users_features_folder("x", "1").is_relative_to(tmp_path / "home" / ".cache")


def test_the_command_embeds_what_evaluate_reads(tmp_path, capsys, monkeypatch):
    make_own_data(tmp_path, num_pictures=12, splits={"train": 2, "test": 3}, views=True)
    assert main(["embed", str(tmp_path), "--encoder", "mini"]) == 0
    printed = capsys.readouterr().out
    assert "12 pictures and 25 views, 37 embedded now" in printed
    assert str(tmp_path / "features" / "mini-") in printed
    monkeypatch.setattr(encoder_module, "read_image", lambda path: pytest.fail("read again"))
    command = ["evaluate", "--data", str(tmp_path), "--encoder", "mini", "--fusion", "dar"]
    assert main([*command, "--out", str(tmp_path / "dar.csv")]) == 0
    assert main(["embed", str(tmp_path), "--encoder", "mini"]) == 0
    assert "0 embedded now" in capsys.readouterr().out
    assert main(["embed", str(tmp_path), "--encoder", "mini", "--device", "nonsense"]) == 2
    other = ["embed", str(tmp_path), "--encoder", "open_clip:daitir-mini", "--features"]
    (kept,) = (tmp_path / "features").iterdir()
    assert main([*other, str(kept)]) == 2
    assert "holds features of another model (mini)" in capsys.readouterr().err

"""The evaluation protocol on a small gallery, with encoders whose answers are known."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from own_data import make_own_data
from PIL import Image

from daitir import evaluation, metrics
from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data.datafolder import SearchData, find_data
from daitir.data.dialogues import Dialogue
from daitir.data.evaluate import evaluate as ranked
from daitir.data.gallery import list_images, read_image
from daitir.evaluation import RESULT_COLUMNS, write_rows
from daitir.fusion import NRGR, dar_fusion, fuse_views
from daitir.models.encoders import load_encoder

DIM = 16
NUM_IMAGES = 12


class ToyEncoder:
    """Obeys the interface of Encoder: a text is a number, an image its mean brightness."""

    dim = DIM
    context_length = 5

    def count_truncated(self, texts):
        return sum(len(text) > self.context_length for text in texts)

    def encode_texts(self, texts, *, batch_size=256, progress=False):
        return self._vectors([hash_free(text) for text in texts])

    def encode_images(self, images, *, batch_size=256, progress=False):
        return self._vectors([read_image(path).getpixel((0, 0))[0] for path in images])

    def _vectors(self, seeds):
        rows = [torch.randn(DIM, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def hash_free(text):
    return sum(map(ord, text)) % 200


def _image(path, value):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), (value,) * 3).save(path)


def evaluate(dialogues, *, images_dir, gallery, views_dir=None, text_convention=None, **options):
    folders = [views_dir] if isinstance(views_dir, Path) else views_dir or ()
    data = SearchData(dialogues, images_dir, gallery, folders, text_convention, name="human")
    return ranked(data, **options)


@pytest.fixture
def world(tmp_path):
    """Four dialogues of 3, 1, 2 and 3 rounds over twelve images, with views."""
    for index in range(NUM_IMAGES):
        _image(tmp_path / "images" / f"{index}.png", index)
    dialogues = [
        Dialogue(f"{index}.png", tuple(f"text {index} {t}" for t in range(length)))
        for index, length in enumerate([3, 1, 2, 3])
    ]
    for index, dialogue in enumerate(dialogues):
        for t in range(len(dialogue.rounds)):
            _image(tmp_path / "views" / f"{index}_{t}.png", 100 + 10 * index + t)
    return dialogues, {
        "images_dir": tmp_path / "images",
        "views_dir": tmp_path / "views",
        "gallery": list_images(tmp_path / "images"),
        "encoder": ToyEncoder(),
        "benchmark": "human",
        "text_convention": "current_rewrite",
    }


def _naive_ranks(dialogues, options, fusion):
    """Ranks by plain loops, as `ranks[dialogue][round]`."""
    encoder = options["encoder"]
    gallery = {
        name: encoder.encode_images([options["images_dir"] / name])[0]
        for name in options["gallery"]
    }
    ranks = []
    for index, dialogue in enumerate(dialogues):
        ranks.append([])
        for t, text in enumerate(dialogue.rounds):
            query = encoder.encode_texts([text])[0]
            view = encoder.encode_images([options["views_dir"] / f"{index}_{t}.png"])[0]
            if fusion == "view":
                query = view
            elif fusion == "dar":
                query = dar_fusion(query, view, round=t)
            scores = {name: float(query @ features) for name, features in gallery.items()}
            target = scores.pop(dialogue.image)
            ranks[-1].append(sum(score >= target for score in scores.values()))
    return ranks


def _unpadded(found, method):
    return [
        row[:length].tolist()
        for row, length in zip(found.ranks[method], found.lengths, strict=True)
    ]


@pytest.mark.parametrize("fusion", ["text", "view", "dar"])
def test_agrees_with_plain_loops(world, fusion):
    dialogues, options = world
    found = evaluate(dialogues, fusion=fusion, **options)
    assert list(found.ranks) == list(dict.fromkeys(["text", fusion]))
    for method in found.ranks:
        assert _unpadded(found, method) == _naive_ranks(dialogues, options, method)
        assert (found.ranks[method][1, 1:] == -1).all()
    assert found.lengths.tolist() == [3, 1, 2, 3]
    assert (found.num_texts, found.num_truncated, found.num_images) == (9, 9, NUM_IMAGES)
    has_rate = found.rows.query("metric == 'degradation_rate'").method.unique().tolist()
    assert has_rate == ([] if fusion == "text" else [fusion])


def test_several_views_of_a_round_are_averaged(world, tmp_path):
    dialogues, options = world
    copied = shutil.copytree(options["views_dir"], tmp_path / "again")
    once = evaluate(dialogues, fusion="dar", **options)
    options["views_dir"] = [options["views_dir"], copied]
    twice = evaluate(dialogues, fusion="dar", **options)
    pd.testing.assert_frame_equal(once.rows, twice.rows)
    (copied / "1_0.png").unlink()
    with pytest.raises(DataError, match="again: 1 of 9 views are missing"):
        evaluate(dialogues, fusion="dar", **options)


def test_rounds_with_different_numbers_of_views_agree_with_plain_loops(world):
    dialogues, options = world
    folder = options["views_dir"]
    for name, value in (("0_1_1", 33), ("0_1_7", 44), ("3_2_1", 55)):
        _image(folder / f"{name}.png", value)
    found = evaluate(dialogues, fusion="view", **options)
    encoder = options["encoder"]
    gallery = encoder.encode_images([options["images_dir"] / name for name in options["gallery"]])
    for index, dialogue in enumerate(dialogues):
        target = options["gallery"].index(dialogue.image)
        for t in range(len(dialogue.rounds)):
            files = sorted(folder.glob(f"{index}_{t}.png")) + sorted(folder.glob(f"{index}_{t}_*"))
            view = torch.nn.functional.normalize(encoder.encode_images(files).mean(0), dim=0)
            scores = gallery @ view
            rank = int((scores >= scores[target]).sum()) - 1
            assert found.ranks["view"][index, t] == rank
    assert len(list(folder.iterdir())) == 12


@pytest.mark.parametrize("fusion", ["view", "dar", "trained"])
def test_rounds_without_a_view_fall_back_to_text_where_asked(world, fusion):
    dialogues, options = world
    if fusion == "trained":
        torch.manual_seed(0)
        fusion = NRGR(DIM, hidden_dim=8).eval()
    for name in ("0_1", "3_0", "1_0"):
        (options["views_dir"] / f"{name}.png").unlink()
    for name, value in (("0_2_1", 33), ("2_0_5", 44)):
        _image(options["views_dir"] / f"{name}.png", value)
    with pytest.raises(DataError, match="3 of 9 views are missing"):
        evaluate(dialogues, fusion=fusion, method="x", **options)
    found = evaluate(dialogues, fusion=fusion, method="x", missing_views="text", **options)
    assert found.num_without_view == 3 and found.dialogue_indices.tolist() == [0, 1, 2, 3]
    encoder = options["encoder"]
    gallery = encoder.encode_images([options["images_dir"] / name for name in options["gallery"]])
    for index, dialogue in enumerate(dialogues):
        target = options["gallery"].index(dialogue.image)
        for t, said in enumerate(dialogue.rounds):
            text = encoder.encode_texts([said])[0]
            folder = options["views_dir"]
            files = sorted(folder.glob(f"{index}_{t}.png")) + sorted(
                folder.glob(f"{index}_{t}_*.png")
            )
            query = text
            if files:
                views = encoder.encode_images(files)
                if isinstance(fusion, NRGR):
                    with torch.no_grad():
                        query = fuse_views(fusion, text, views)[0]
                else:
                    query = torch.nn.functional.normalize(views.mean(0), dim=0)
                    query = dar_fusion(text, query, round=t) if fusion == "dar" else query
            scores = gallery @ query
            rank = int((scores >= scores[target]).sum()) - 1
            assert found.ranks["x"][index, t] == rank
            assert files or rank == found.ranks["text"][index, t]


def test_a_trained_fusion_is_computed_in_parts(world, monkeypatch):
    dialogues, options = world
    torch.manual_seed(0)
    fusion = NRGR(DIM, hidden_dim=8).eval()
    whole = evaluate(dialogues, fusion=fusion, method="nrgr", **options)
    monkeypatch.setattr(evaluation, "FUSED_AT_ONCE", 2)
    parts = evaluate(dialogues, fusion=fusion, method="nrgr", **options)
    pd.testing.assert_frame_equal(whole.rows, parts.rows)
    assert set(whole.rows.method) == {"text", "nrgr"}
    with pytest.raises(ValueError, match="give a method"):
        evaluate(dialogues, fusion=fusion, **options)


def test_the_table_is_tidy_and_agrees_with_the_metrics(world):
    dialogues, options = world
    found = evaluate(dialogues, fusion="dar", method="dar_controlled_05", seed=3, **options)
    rows = found.rows
    assert tuple(rows.columns) == RESULT_COLUMNS
    assert set(rows.benchmark) == {"human"} and set(rows.seed) == {3}
    assert set(rows.method) == {"text", "dar_controlled_05"}
    known = rows[rows.ci_low.notna()]
    assert set(rows.metric[rows.ci_low.isna()]) <= {"bri", "rank_drop"}
    assert (known.ci_low <= known.value + 1e-12).all()
    assert (known.value <= known.ci_high + 1e-12).all()
    ranks, baseline = found.ranks["dar_controlled_05"], found.ranks["text"]
    ours = rows[rows.method == "dar_controlled_05"].set_index("metric")
    expected = {
        "hits_at_10": metrics.hits_at_k(ranks, 10, lengths=found.lengths),
        "recall_at_10": metrics.recall_at_k(ranks, 10, lengths=found.lengths),
        "recall_at_1": metrics.recall_at_k(ranks, 1, lengths=found.lengths),
        "mrr": np.nanmean(metrics.reciprocal_rank_values(ranks, lengths=found.lengths), axis=0),
        "degradation_rate": metrics.degradation_rate(ranks, baseline, lengths=found.lengths),
        "degradation_rate_ln2": metrics.degradation_rate(
            ranks, baseline, margin=np.log(2), lengths=found.lengths
        ),
        "recall_at_10_gain": metrics.recall_at_k(ranks, 10, lengths=found.lengths)
        - metrics.recall_at_k(baseline, 10, lengths=found.lengths),
    }
    for metric, values in expected.items():
        np.testing.assert_allclose(ours.loc[metric, "value"], values)
        assert ours.loc[metric, "round"].tolist() == [0, 1, 2]
    assert ours.loc["mrr", "num_queries"].tolist() == [4, 3, 2]
    assert ours.loc["hits_at_10", "num_queries"].tolist() == [4, 4, 4]
    bri = ours.loc["bri"]
    assert bri["round"] == 2
    assert bri["value"] == pytest.approx(
        metrics.best_log_rank_integral(ranks, lengths=found.lengths)
    )


def test_unreadable_images_are_an_error_or_a_counted_exclusion(world, caplog):
    dialogues, options = world
    for name in ("3.png", "7.png"):
        (options["images_dir"] / name).write_bytes(b"no image")
    with pytest.raises(DataError, match="2 of 12 images are unreadable"):
        evaluate(dialogues, **options)
    found = evaluate(dialogues, skip_unreadable=True, fusion="view", **options)
    assert found.num_images == 10
    assert found.dialogue_indices.tolist() == [0, 1, 2]
    assert "1 of 4 dialogues have an unreadable target: 3.png" in caplog.text
    for index in range(3):
        (options["images_dir"] / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no dialogue is left"):
        evaluate(dialogues, skip_unreadable=True, **options)


def test_a_truncated_image_stops_the_run_with_its_name(world):
    dialogues, options = world
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = options["images_dir"] / "5.png"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"5\.png: truncated"):
        evaluate(dialogues, **options)


def test_checks_every_file_before_the_encoder_starts(world):
    dialogues, options = world

    class Untouched:
        def __getattr__(self, name):
            raise AssertionError(f"the encoder's {name} was used")

    options["encoder"] = Untouched()
    (options["views_dir"] / "0_0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 9 images are unreadable: .*0_0\.png"):
        evaluate(dialogues, fusion="dar", **options)
    with pytest.raises(DataError, match="1 of 5 dialogues have a target outside .*: z.png"):
        evaluate([*dialogues, Dialogue("z.png", ("x",))], **options)
    with pytest.raises(DataError, match="no dialogues"):
        evaluate([], **options)
    twice = options | {"gallery": [*options["gallery"], "0.png"]}
    with pytest.raises(DataError, match="twice"):
        evaluate(dialogues, **twice)
    with pytest.raises(DataError, match="needs a folder of views"):
        evaluate(dialogues, fusion="dar", **options | {"views_dir": None})
    with pytest.raises(ValueError, match="unknown fusion"):
        evaluate(dialogues, fusion="sum", **options)
    with pytest.raises(ValueError, match="'text' is taken"):
        evaluate(dialogues, fusion="dar", method="text", **options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.index_fill(0, torch.tensor([2]), float("nan")), "for 1 of 12 images.* 2;"),
        (lambda f: f.index_fill(0, torch.tensor([4]), 0.0), "for 1 of 12 images.* 4;"),
        (lambda f: f[:, :-1], r"shape \(12, 15\) for 12 images of dimension 16"),
        (lambda f: f[:-1], r"shape \(11, 16\) for 12 images"),
    ],
)
def test_refuses_features_that_are_no_unit_vectors(world, damage, message):
    dialogues, options = world

    class Damaged(ToyEncoder):
        def encode_images(self, images, **kwargs):
            return damage(super().encode_images(images, **kwargs))

    with pytest.raises(DataError, match=message):
        evaluate(dialogues, **options | {"encoder": Damaged()})


def test_a_collapsed_encoder_ranks_last(world):
    dialogues, options = world

    class Collapsed(ToyEncoder):
        def _vectors(self, seeds):
            return super()._vectors([0] * len(seeds))

    found = evaluate(dialogues, **options | {"encoder": Collapsed()})
    assert (found.ranks["text"][found.ranks["text"] >= 0] == NUM_IMAGES - 1).all()


@pytest.mark.slow
def test_one_call_on_a_folder_does_what_the_command_does(tmp_path):
    make_own_data(tmp_path / "set", num_pictures=20, num_dialogues=6, views=True)
    options = ["--encoder", "mini", "--fusion", "dar", "--out", str(tmp_path / "t.csv")]
    assert main(["evaluate", "--data", str(tmp_path / "set"), *options]) == 0
    data = find_data(tmp_path / "set")
    found = ranked(data, encoder=load_encoder("mini"), fusion="dar")
    write_rows(tmp_path / "again.csv", found.rows)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()
    assert set(found.rows["benchmark"]) == {"set"}
    files = data.files("test", text="raw_dialogue")
    few = ranked(files.read(num_dialogues=2), encoder=load_encoder("mini"))
    assert few.dialogue_indices.tolist() == [0, 1]
    with pytest.raises(DataError, match="has 6 dialogues, fewer than --num-dialogues 7"):
        files.read(num_dialogues=7)
    with pytest.raises(DataError, match="has no split 'val'"):
        data.files("val")

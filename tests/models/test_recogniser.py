"""The recogniser reads rendered scenes, and its recipe runs end to end."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models.recogniser import (
    NO_VALUE,
    RECOGNISER_FOLDER,
    VALUES,
    Recogniser,
    RecogniserNet,
    load_recogniser,
    to_pixels,
    to_scenes,
    to_values,
)
from daitir.recipes.checkpoint import LOG_NAME
from daitir.recipes.recogniser import (
    crowded_scene,
    degrade,
    degraded,
    train_recogniser,
)
from daitir.recipes.run import Run
from daitir.scenes import (
    Scene,
    SceneObject,
    holds,
    render,
    render_scenes,
    sample_scenes,
    split_of,
    world,
)
from daitir.studies.profiles import PROFILES
from daitir.studies.quality import (
    QUALITY_COLUMNS,
    drawing_quality,
    recogniser_quality,
    update_table,
)

TINY = dataclasses.replace(
    PROFILES["classroom"].recogniser, width=4, num_scenes=24, batch_size=8, steps=3, warmup_steps=1
)


@pytest.fixture(scope="module")
def mini():
    return load_recogniser()


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(0, "val", 100)


def without_jitter(scene):
    objects = sorted((dataclasses.replace(o, jitter=(0, 0)) for o in scene.objects), key=str)
    return dataclasses.replace(scene, objects=tuple(objects))


def certain(scenes):
    """Logits that are sure of the truth, by a plain loop over scenes and cells."""
    shapes = {name: (len(scenes),) if name in ("place", "time", "weather") else (len(scenes), 6)
              for name in VALUES}  # fmt: skip
    logits = {name: torch.zeros(*shape, len(VALUES[name])) for name, shape in shapes.items()}
    for index, scene in enumerate(scenes):
        for name in ("place", "time", "weather"):
            logits[name][index, VALUES[name].index(getattr(scene, name))] = 50
        for number, cell in enumerate(world.CELLS):
            item = next((o for o in scene.objects if (o.column, o.row) == cell), None)
            if item is None:
                logits["category"][index, number, 0] = 50
                continue
            for name in ("category", "colour", "size"):
                if getattr(item, name) is not None:
                    logits[name][index, number, VALUES[name].index(getattr(item, name))] = 50
    return logits


@pytest.mark.slow
def test_it_reads_rendered_scenes(mini, scenes):
    read = mini.read(render_scenes(scenes))
    right = [
        np.mean([holds(fact, reading) for fact in scene.facts])
        for scene, reading in zip(scenes, read, strict=True)
    ]
    assert np.mean(right) > 0.95
    whole = [
        without_jitter(scene) == without_jitter(reading)
        for scene, reading in zip(scenes, read, strict=True)
    ]
    assert np.mean(whole) > 0.8


def test_values_are_what_the_logits_of_the_truth_decode_to_and_give_back_the_scene(scenes):
    truth = to_values(scenes)
    for name, logits in certain(scenes).items():
        known = truth[name] != NO_VALUE
        assert torch.equal(logits.argmax(dim=-1)[known], truth[name][known])
    coloured = sum(item.colour is not None for scene in scenes for item in scene.objects)
    assert (truth["colour"] != NO_VALUE).sum() == coloured
    for scene, again in zip(scenes, to_scenes(truth), strict=True):
        assert set(again.facts) == set(scene.facts)


def test_pictures_of_any_size_and_kind_are_read_alike(mini, tmp_path):
    scene = Scene("beach", "day", "clear", (SceneObject("dog", None, "large", "left", "front"),))
    Image.fromarray(render(scene).image).save(tmp_path / "dog.png")
    images = [
        tmp_path / "dog.png", render(scene).image, Image.fromarray(render(scene, 128).image),
        Image.fromarray(render(scene, 128).image).convert("RGBA"), render(scene, 200).image,
    ]  # fmt: skip
    for reading in mini.read(images, batch_size=2):
        assert without_jitter(reading) == scene


def test_two_of_a_kind_are_read_in_their_cells(mini):
    dogs = [SceneObject("dog", None, "large", column, "front") for column in ("left", "right")]
    scene = Scene("park", "day", "clear", tuple(dogs))
    assert without_jitter(mini.read([render(scene).image])[0]) == without_jitter(scene)


def test_crowded_scenes_are_of_the_split_and_fill_every_number_of_cells():
    crowd = [crowded_scene(0, index) for index in range(300)]
    assert {split_of(scene) for scene in crowd} == {"train"}
    assert {len(scene.objects) for scene in crowd} == set(range(7))
    twice = [len({o.category for o in s.objects}) < len(s.objects) for s in crowd]
    assert 0.05 < np.mean(twice) < 0.7
    assert crowd[7] == crowded_scene(0, 7) != crowded_scene(1, 7)


def test_degrading_is_seeded_and_keeps_the_picture(scenes):
    images = render_scenes(scenes[:8])
    worse = degraded(images)
    assert worse.shape == images.shape and worse.dtype == np.uint8
    assert np.array_equal(worse, degraded(images)) and not np.array_equal(worse, images)
    assert np.abs(worse.astype(int) - images).mean() < 30
    pixels = degrade(to_pixels(torch.from_numpy(images)))
    assert pixels.min() >= -1 and pixels.max() <= 1


@pytest.mark.slow
def test_the_recipe_trains_resumes_and_its_folder_loads(tmp_path):
    train_recogniser(TINY, Run(tmp_path / "one", progress=False))
    train_recogniser(TINY, Run(tmp_path / "two", progress=False))
    one, two = (load_recogniser(str(tmp_path / name)).model for name in ("one", "two"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    with (tmp_path / "one" / LOG_NAME).open() as file:
        assert set(VALUES) < set(next(csv.DictReader(file)))
    card = json.loads((tmp_path / "one" / "card.json").read_text())
    assert card["parameters"] == sum(p.numel() for p in one.parameters())
    with pytest.raises(DataError, match="another seed"):
        train_recogniser(TINY, Run(tmp_path / "one", seed=1, progress=False))


def test_the_shipped_one_is_small(mini):
    assert sum(p.numel() for p in mini.model.parameters()) <= 1_500_000
    assert sum(path.stat().st_size for path in RECOGNISER_FOLDER.iterdir()) < 2_500_000


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.uint8), r"image 1: .*an array of uint8"),
        (np.zeros((64, 64, 3), np.float32), "not float32"),
        (np.zeros((0, 64, 3), np.uint8), "image 1"),
    ],
)
def test_arrays_that_are_no_images_are_refused(mini, image, message):
    with pytest.raises(DataError, match=message):
        mini.read([np.zeros((64, 64, 3), np.uint8), image])


def test_files_that_are_no_images_are_refused(mini, tmp_path):
    (tmp_path / "view.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"view\.png"):
        mini.read([tmp_path / "view.png"])


def test_folders_that_are_no_recogniser_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"config\.json: no such file"):
        load_recogniser(str(tmp_path / "nothing"))
    folder = tmp_path / "broken"
    shutil.copytree(RECOGNISER_FOLDER, folder)
    (folder / "recogniser.safetensors").write_bytes(b"half a file")
    with pytest.raises(DataError, match="no recogniser"):
        load_recogniser(str(folder))
    shutil.copy(RECOGNISER_FOLDER / "recogniser.safetensors", folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["values"]["place"] = ["moon"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="another world"):
        load_recogniser(str(folder))
    (folder / "config.json").write_text("[]")
    with pytest.raises(DataError, match="no recogniser"):
        load_recogniser(str(folder))


@pytest.mark.slow
def test_quality_counts_as_a_plain_loop_does(scenes):
    torch.manual_seed(0)
    recogniser = Recogniser("untrained", RecogniserNet(4), "untrained")
    table = recogniser_quality(recogniser, num_scenes=20).set_index(["split", "measure"])["value"]
    assert len(table) == 2 * 2 * 6
    val = sample_scenes(0, "val", 20)
    read = recogniser.read(render_scenes(val))
    cells = [
        next((o.category for o in scene.objects if (o.column, o.row) == cell), None)
        for scenes in (val, read) for scene in scenes for cell in world.CELLS
    ]  # fmt: skip
    agree = np.mean([a == b for a, b in zip(cells[:120], cells[120:], strict=True)])
    assert table["val", "category"] == pytest.approx(agree)
    places = np.mean([a.place == b.place for a, b in zip(val, read, strict=True)])
    assert table["val", "place"] == pytest.approx(places)


def test_a_perfect_drawer_has_perfect_quality(mini):
    scenes = [
        Scene("beach", "day", "clear", (SceneObject("dog", None, "large", "left", "front"),)),
        Scene("park", "night", "clear", (SceneObject("car", "red", "large", "right", "front"),)),
    ]

    def value(drawn, measure):
        return np.nanmean(drawing_quality(render_scenes(drawn), scenes, mini)[measure])

    for measure in ("place", "time", "weather", "object", "colour", "size", "position"):
        assert value(scenes, measure) == 1
    assert value(scenes, "invented") == 0
    assert value(scenes[::-1], "object") == 0 and value(scenes[::-1], "invented") == 1
    other = dataclasses.replace(scenes[1].objects[0], colour="blue", row="back")
    changed = [scenes[0], dataclasses.replace(scenes[1], objects=(other,))]
    assert value(changed, "object") == 1 and value(changed, "colour") == 0
    assert value(changed, "position") == 0.5


def test_rows_of_other_models_stay_in_the_table(tmp_path):
    def rows(model, value):
        cells = (model, "val", "place", value, value, value, 2)
        return pd.DataFrame([cells], columns=QUALITY_COLUMNS)

    path = tmp_path / "quality.csv"
    for model, value in (("a", 0.5), ("b", 0.25), ("a", 1.0)):
        update_table(path, rows(model, value))
    table = pd.read_csv(path)
    assert dict(zip(table["model"], table["value"], strict=True)) == {"a": 1.0, "b": 0.25}
    path.write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="no table of quality"):
        update_table(path, rows("a", 1.0))


def test_the_commands(tmp_path, capsys, monkeypatch):
    tiny = dataclasses.replace(PROFILES["classroom"], name="tiny", recogniser=TINY)
    monkeypatch.setitem(PROFILES, "tiny", tiny)
    out = str(tmp_path / "tiny")
    arguments = ["--profile", "tiny", "--workers", "1", "--out"]
    assert main(["pretrain", "recogniser", *arguments, out]) == 0
    assert "written to" in capsys.readouterr().out
    table = str(tmp_path / "quality.csv")
    assert main(["quality", "recogniser", "--out", table, "--spec", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err

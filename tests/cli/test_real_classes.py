"""The whole chain on tiny models of the classes that the papers use, offline, from folders."""

import json
import shutil

import pandas as pd
import pytest
from hub_models import save_chat_model, save_encoder, save_pipeline, tiny_pipeline
from own_data import make_own_data, talk
from PIL import ExifTags, Image

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.data.dialogues import read_dialogues
from daitir.models.reformulation import load_reformulator
from daitir.models.views import load_view_generator, view_seed


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a pipeline of each kind, a chat model and an encoder."""
    root = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(root / "sd")
    save_pipeline("sdxl", root / "sdxl")
    save_pipeline("sd3", root / "sd3")
    save_chat_model(root / "llama")
    save_encoder("clip", root / "clip")
    return root


@pytest.mark.slow
def test_the_chain_from_a_folder_to_a_table(models, tmp_path, capsys):
    data = tmp_path / "set"
    make_own_data(data, num_pictures=8, splits={"train": 1, "test": 2})
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Say {curly} and describe:\n{dialogue}\nCaption:", encoding="utf-8")
    refine = ["refine", "--data", str(data), "--model", str(models / "llama")]
    assert main([*refine, "--prompt", str(prompt)]) == 0
    assert "asked for again" in capsys.readouterr().out
    refined = read_dialogues(data / "rewrites" / "test.json")
    assert [len(d.rounds) for d in refined] == [len(talk(1)), len(talk(2))]
    generate = ["generate", "--data", str(data), "--pipeline", str(models / "sdxl")]
    generate += ["--steps", "1", "--batch-size", "3", "--cache", str(tmp_path / "cache")]
    assert main(generate) == 0
    assert "9 views of 2 dialogues, of current_rewrite of" in capsys.readouterr().out
    with Image.open(data / "views" / "test" / "1_4.webp") as view:
        facts = json.loads(view.getexif()[ExifTags.Base.ImageDescription])
    assert facts["prompt"] == refined[1].rounds[4] and facts["seed"] == view_seed(0, 1, 4)
    assert facts["pipeline"] == str(models / "sdxl") and facts["steps"] == 1
    encoder = ["--encoder", f"hf:{models / 'clip'}"]
    assert main(["embed", str(data), *encoder]) == 0
    assert "8 pictures and 9 views" in capsys.readouterr().out
    out = tmp_path / "dar.csv"
    command = ["evaluate", "--data", str(data), "--fusion", "dar", "--split", "test", *encoder]
    assert main([*command, "--out", str(out)]) == 0
    rows = pd.read_csv(out)
    assert set(rows.method) == {"text", "dar"} and rows["round"].max() == 4
    assert main(["lint", str(data)]) == 0
    assert main([*refine[:-1], "mini", "--split", "train", "--prompt", str(prompt)]) == 2
    assert "leave the prompt out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
def test_pipelines_of_each_kind_draw(models, kind, tmp_path):
    generator = load_view_generator(str(models / kind), steps=2)
    prompts, seeds = ["a dog", "a dog", "有人吗？ 🙂"], [1, 2, 1]
    paths = generator.generate(prompts, seeds, tmp_path, batch_size=2)
    assert len(set(paths)) == 3
    first = [Image.open(path).tobytes() for path in paths]
    assert first[0] != first[1]
    alone = generator.draw(["a dog"], [2])[0]
    assert alone.size == Image.open(paths[1]).size
    assert load_view_generator(str(models / kind), steps=2).digest == generator.digest


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "read"), [("sd", 32), ("sdxl", 40), ("sd3", 256)])
def test_truncation_is_what_no_text_encoder_reads(models, kind, read):
    generator = load_view_generator(str(models / kind))
    # One token a letter or a word, start and end beside them.
    fits, cut = (" ".join("a" * number) for number in (read - 2, read + 200))
    assert generator.count_truncated([fits, cut]) == 1


def test_a_black_view_is_refused(models, tmp_path, monkeypatch):
    generator = load_view_generator(str(models / "sd"), steps=1)
    black = Image.new("RGB", (8, 8))
    monkeypatch.setattr(generator.pipeline.image_processor, "postprocess", lambda *a, **k: [black])
    with pytest.raises(DataError, match="1 of 1 views are black, that of 'a dog'"):
        generator.generate(["a dog"], [1], tmp_path, batch_size=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "load"),
    [("sdxl/unet", load_view_generator), ("llama", load_reformulator)],
)
def test_pickles_are_refused(models, tmp_path, part, load):
    name = part.split("/")[0]
    copy = shutil.copytree(models / name, tmp_path / name)
    (weights,) = (tmp_path / part).glob("*.safetensors")
    stem = "diffusion_pytorch_model" if name == "sdxl" else "pytorch_model"
    weights.rename(weights.with_name(f"{stem}.bin"))
    with pytest.raises(DataError, match=f"{name}: no "):
        load(str(copy))


@pytest.mark.parametrize("load", [load_view_generator, load_reformulator])
def test_a_hub_that_cannot_be_reached_says_so(load, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="without a network"):
        load("nobody/nothing")

"""Encoders are found in one registry, which may be added to from outside the package."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from own_data import make_own_data

from daitir.cli import main
from daitir.common.errors import DataError
from daitir.models.encoders import Encoder, load_encoder
from daitir.models.registry import ENCODER_KINDS, encoder_forms, register_encoder


class Letters(Encoder):
    """Counts letters of texts, and means of colours of pictures: the least that an encoder has."""

    def __init__(self, spec, device):
        model = torch.nn.Linear(3, 8).requires_grad_(False)
        super().__init__(
            spec, model, self._pixels, None, device, context_length=10, image_size=8,
            origin="letters",
        )  # fmt: skip

    def _pixels(self, image):
        return np.array(image.convert("RGB").resize((8, 8)))

    def _text_features(self, texts):
        return torch.tensor([[text.count(letter) + 0.1 for letter in "abcdefgh"] for text in texts])

    def _token_counts(self, texts):
        return [len(text) for text in texts]

    def _image_features(self, inputs):
        return self.model(inputs.float().mean(dim=(1, 2)))


@pytest.fixture
def toy():
    register_encoder("toy", lambda name, device: Letters(f"toy:{name}", device))
    yield "toy:letters"
    del ENCODER_KINDS["toy"]


def test_an_encoder_from_outside_is_one_of_all(toy, tmp_path, capsys):
    encoder = load_encoder(toy)
    assert (encoder.spec, encoder.dim, encoder.context_length) == ("toy:letters", 8, 10)
    assert encoder.count_truncated(["a dog", "a very big dog"]) == 1
    assert encoder.encode_texts(["a dog", "a cab"]).norm(dim=1).tolist() == pytest.approx([1, 1])
    assert encoder.digest == load_encoder(toy).digest
    assert encoder.digest != load_encoder(toy, dtype=torch.bfloat16).digest
    pictures = np.full((2, 8, 8, 3), [[[[9]]], [[[200]]]], np.uint8)
    assert encoder.encode_images(pictures).shape == (2, 8)
    with pytest.raises(DataError, match="use mini, lit, .* finetuned:FOLDER or toy:NAME$"):
        load_encoder("toy")
    make_own_data(tmp_path, num_pictures=5, num_dialogues=2)
    command = ["evaluate", "--data", str(tmp_path), "--encoder", toy, "--fusion", "text"]
    assert main([*command, "--out", str(tmp_path / "table.csv")]) == 0
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "or toy:NAME" in " ".join(capsys.readouterr().out.split())


def test_a_kind_is_registered_once():
    with pytest.raises(ValueError, match="'hf' is registered already"):
        register_encoder("hf", load_encoder)


@pytest.mark.parametrize("spec", ["mini:x", "lit:", "nothing", "finetuned", "hf", ""])
def test_specs_of_no_form_are_refused_with_the_forms(spec):
    with pytest.raises(DataError) as caught:
        load_encoder(spec)
    assert str(caught.value) == f"unknown encoder {spec!r}; use {encoder_forms()}"


def test_the_registry_loads_no_library():
    code = (
        "import sys; from daitir.models.registry import encoder_forms; encoder_forms();"
        "assert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

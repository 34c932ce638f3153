"""Fixtures that several folders of tests use."""

import json

import pytest

TINY = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The spec of a tiny open_clip model with random weights in a file."""
    import open_clip  # late: many tests need none of these
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "daitir-test-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "daitir-test-tiny.json")
    torch.manual_seed(0)
    weights = open_clip.create_model("daitir-test-tiny").state_dict()
    save_file(weights, folder / "weights.safetensors")
    return f"open_clip:daitir-test-tiny@{folder / 'weights.safetensors'}"

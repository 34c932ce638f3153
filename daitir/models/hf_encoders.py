"""Dual encoders of transformers: CLIP, SigLIP, SigLIP 2 and BLIP for image–text retrieval."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import is_sentencepiece_available

from daitir.common.errors import DataError
from daitir.models.encoder import Encoder
from daitir.models.hub import NO_CODE, check_source, read_weights, reading
from daitir.models.identity import identity, model_files

HF_MODELS = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
    "blip": "BlipForImageTextRetrieval",
}
"""The class that is loaded, by the `model_type` of a model's config.json."""


class HfEncoder(Encoder):
    """A dual encoder of transformers, with its library's own preprocessing and tokeniser."""

    def __init__(self, spec: str, model, image_processor, tokenizer, device, **options):
        self.image_processor = image_processor
        text, vision = model.config.text_config, model.config.vision_config
        self._is_siglip = model.config.model_type.startswith("siglip")
        self._is_blip = model.config.model_type == "blip"
        # SigLIP 2 was trained on small letters, which Gemma's own tokeniser does not make.
        told = getattr(tokenizer, "init_kwargs", {})
        names = f"{type(tokenizer).__name__} {told.get('tokenizer_class')}"
        self._lowers = self._is_siglip and told.get("do_lower_case", "Gemma" in names)
        if hasattr(vision, "num_patches"):  # SigLIP 2 keeps the picture's shape, not its size
            options["image_size"] = int(vision.num_patches**0.5) * vision.patch_size
        else:
            options["image_size"] = vision.image_size
        context = min(tokenizer.model_max_length, text.max_position_embeddings)
        options["context_length"] = context
        super().__init__(spec, model, self._pixels, tokenizer, device, **options)

    def _pixels(self, image: Image.Image) -> dict[str, Tensor]:
        inputs = self.image_processor(images=[image], return_tensors="pt")
        return {name: values[0] for name, values in inputs.items()}

    def _preprocessing(self) -> str:
        return str(self.image_processor.to_dict())

    def _cleaned(self, texts: list[str]) -> list[str]:
        return [text.lower() for text in texts] if self._lowers else texts

    def _token_counts(self, texts: list[str]) -> list[int]:
        return super()._token_counts(self._cleaned(texts))

    def _text_features(self, batch: list[str]) -> Tensor:
        # SigLIP reads its padding: it was trained on texts of one length, without a mask, though
        # a tokeniser that was saved again may give one.
        options = (["input_ids"], "max_length") if self._is_siglip else ()
        tokens = self.tokens(self._cleaned(batch), *options)
        if self._is_blip:
            return self.model.text_proj(self.model.text_encoder(**tokens).last_hidden_state[:, 0])
        return _pooled(self.model.get_text_features(**tokens))

    def _image_features(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: values.to(self.device) for name, values in batch.items()}
        if self._is_blip:
            return self.model.vision_proj(self.model.vision_model(**inputs).last_hidden_state[:, 0])
        return _pooled(self.model.get_image_features(**inputs))


def _pooled(output) -> Tensor:
    """The features: transformers 4 gives them bare, 5 as a part of its output."""
    return getattr(output, "pooler_output", output)


def load_hf(name: str, *, device: str | torch.device = "cpu") -> HfEncoder:
    """The encoder, in single precision, of a folder in the hub's format or a name of the hub."""
    spec, folder = f"hf:{name}", Path(name) if Path(name).is_dir() else None
    if folder and not (folder / "config.json").is_file():
        raise DataError(f"{folder}: no config.json; hf: reads folders of transformers models")
    source, _, revision = (name, "", "") if folder else name.partition("@")
    options = NO_CODE | ({"revision": revision} if revision else {})
    check_source(source, revision or None)
    local, advice = None if folder else "hf:FOLDER", "; it reads safetensors, not pickles"
    with reading(spec, "dual encoder", local=local, advice=advice):
        kind = transformers.AutoConfig.from_pretrained(source, **options).model_type
        if kind not in HF_MODELS:
            raise DataError(f"{spec}: a model of type {kind!r}; use one of {', '.join(HF_MODELS)}")
        kind_of_model = getattr(transformers, HF_MODELS[kind])
        model = read_weights(kind_of_model, spec, source, dtype=torch.float32, **options)
        processor = transformers.AutoImageProcessor.from_pretrained(source, **options)
        wanted = get_tokenizer_config(source, **options).get("tokenizer_class", "")
        # Without the package transformers would quietly take another tokeniser than the model's.
        if wanted.startswith("SiglipTokenizer") and not is_sentencepiece_available():
            raise DataError(f"{spec}: its tokeniser needs a package; pip install sentencepiece")
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        files = model_files(check_source(source, revision or None))
    origin = identity(library="transformers", kind=kind, files=files)
    return HfEncoder(spec, model, processor, tokenizer, device, folder=folder, origin=origin)

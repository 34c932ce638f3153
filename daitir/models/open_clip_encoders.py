"""Dual encoders of open_clip: an architecture by its name, or a folder that tells everything."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME as OPEN_CLIP_CONFIG
from open_clip.factory import _find_checkpoint_in_dir
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.pretrained import download_pretrained
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from daitir.common.errors import DataError
from daitir.common.files import read_json
from daitir.models import ASSETS, TOKENIZER_FOLDER
from daitir.models.encoder import Encoder
from daitir.models.hub import NO_CODE, check_source, reading
from daitir.models.identity import TOKENIZER_FILES, identity, model_files

logger = logging.getLogger(__name__)

CLIP_FOLDER = ASSETS / "clip"
ARCHITECTURES = Path(__file__).parent / "configs"
OWN_ARCHITECTURES = tuple(sorted(path.stem for path in ARCHITECTURES.glob("*.json")))
open_clip.add_model_config(ARCHITECTURES)

_CHECKOUT = Path(__file__).parents[2]
_WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth")
_PREPARATION = tuple(field.name for field in dataclasses.fields(PreprocessCfg))
# Settings that may differ while the features stay the same: what only training heeds, where parts
# came from, and which class holds the same layers.
_WITHOUT_EFFECT = (
    "custom_text", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "patch_dropout",
    "timm_drop", "timm_drop_path", "timm_model_pretrained", "hf_model_name", "hf_model_pretrained",
    "hf_tokenizer_name", "output_tokens",
)  # fmt: skip


class OpenClipEncoder(Encoder):
    """A dual encoder of open_clip, with its library's own preprocessing and tokeniser."""

    def __init__(self, spec: str, model, tokenizer, device, **options):
        size, settings = model.visual.image_size, PreprocessCfg(**model.visual.preprocess_cfg)
        preprocess = image_transform_v2(settings, is_train=False)
        options["context_length"] = tokenizer.context_length
        options["image_size"] = size[0] if isinstance(size, tuple) else size
        super().__init__(spec, model, preprocess, tokenizer, device, **options)

    def _text_features(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts)
        length = length_read(self.model, tokens)
        with shortened_context(self.model, length):
            return self.model.encode_text(tokens[:, :length].to(self.device))

    def _token_counts(self, texts: list[str]) -> list[int]:
        if not hasattr(self.tokenizer, "tokenizer"):
            return [len(self.tokenizer.encode(text)) + 2 for text in texts]
        cleaned = [self.tokenizer.clean_fn(text) for text in texts]  # a Hugging Face tokeniser
        return [len(ids) for ids in self.tokenizer.tokenizer(cleaned)["input_ids"]]


def length_read(model, tokens: Tensor) -> int:
    """How many of the tokens (num_texts, context) of an open_clip model decide its features.

    In a causal tower that reads its features off one token, no token looks at what stands behind
    it, and the rest costs time only. Elsewhere all count.
    """
    tower = _shortenable(model)
    if tower is None:
        return tokens.shape[1]
    ends = tokens if tower.pool_type == "argmax" else (tokens == tower.eos_id).int()
    return int(ends.argmax(dim=1).max()) + 1


@contextmanager
def shortened_context(model, length: int) -> Iterator[None]:
    """Let a text tower read texts of `length` tokens, as `length_read` tells; else leave it."""
    tower = _shortenable(model)
    if tower is None:
        yield
        return
    mask = tower.attn_mask
    tower.attn_mask = mask[:length, :length]
    try:
        yield
    finally:
        tower.attn_mask = mask


def _shortenable(model):
    """The text tower of a model where it can read fewer tokens than its context has, else None."""
    tower = getattr(model, "text", None)
    mask, pooling = (getattr(tower, name, None) for name in ("attn_mask", "pool_type"))
    causal = isinstance(mask, Tensor) and mask.ndim == 2
    whole = getattr(tower, "cls_emb", None) is not None  # CoCa reads a token at the very end
    return tower if causal and not whole and pooling in ("argmax", "eos") else None


def load_mini(_: str = "", *, device: str | torch.device = "cpu") -> OpenClipEncoder:
    """The dual encoder that comes with the package."""
    return _load_folder("mini", CLIP_FOLDER, device)


def load_open_clip(name: str, *, device: str | torch.device = "cpu") -> OpenClipEncoder:
    """The encoder of NAME, NAME@PRETRAINED, NAME@FILE or FOLDER; DataError as `load_encoder`.

    Pictures are prepared as in the training of the weights: as the `open_clip_config.json` beside a
    file says, else as all tags of the name say; where neither tells, a warning names what is
    assumed. A folder is relative to the working directory or to the checkout.
    """
    spec = f"open_clip:{name}"
    name, at, weights = name.partition("@")
    if name not in open_clip.list_models():
        for folder in (Path(name), _CHECKOUT / name):
            if folder.is_dir() and not weights:
                return _load_folder(spec, folder, device)
        known = "a folder (`daitir pretrain clip` makes one) nor an open_clip architecture"
        known += " (open_clip.list_models() lists those)"
        raise DataError(f"unknown encoder {spec!r}: {name} is neither {known}")
    if at and not weights:
        raise DataError(f"unknown encoder {spec!r}: name a tag or a file of weights after the @")
    tags = open_clip.list_pretrained_tags_by_model(name)
    is_tag = weights in tags  # open_clip takes the tag where a file has its name
    if weights and not is_tag and not Path(weights).is_file():
        fault = f"neither a file nor one of its tags ({', '.join(tags) or 'it has none'})"
        raise DataError(f"unknown weights {weights!r} for {name}: {fault}")
    file = Path(weights).absolute() if weights and not is_tag else None
    beside = _read_settings(file.with_name(OPEN_CLIP_CONFIG)) if file else {}
    config = open_clip.get_model_config(name)
    if beside:
        check_source(file.parent)
        if isinstance(beside.get("model_cfg"), dict):
            _check_architecture(name, file, beside["model_cfg"], file.parent)
    # Where a tag does not tell, the architecture does (roberta-ViT-B-32).
    if is_tag and open_clip.get_pretrained_cfg(name, weights).get("quick_gelu"):
        quick = config | {"quick_gelu": True}
        _check_architecture(name, weights, quick, f"{name}-quickgelu@{weights}")
    text, is_own = config["text_cfg"], name in OWN_ARCHITECTURES
    keys = () if is_own else ("hf_model_name", "hf_tokenizer_name")
    hub_names = [text[key] for key in keys if text.get(key)]
    for hub_name in hub_names:  # before any of it is read
        check_source(hub_name)
    preparation = _preparation(name, weights, tags, beside)
    forced = {key: value for key, value in (preparation or {}).items() if key != "size"}
    local = f"open_clip:{name}@FILE" if is_tag or hub_names else None
    # A tag's weights may lie outside the hub, where errors explain themselves.
    advice = f"; without a network download the weights elsewhere, {local}" if is_tag else ""
    with reading(spec, "dual encoder", local=local, advice=advice):
        read = str(file or weights) or None
        model = open_clip.create_model(name, read, force_preprocess_cfg=forced)
        tokenizer = _tokenizer(f"local-dir:{CLIP_FOLDER}" if is_own else name, text)
        if is_tag:
            file = Path(download_pretrained(open_clip.get_pretrained_cfg(name, weights)))
    if file is None:
        logger.warning("%s: no weights named, the encoder is random", spec)
        return OpenClipEncoder(spec, model, tokenizer, device)
    sources = [TOKENIZER_FOLDER] if is_own else map(check_source, hub_names)
    origin = _origin(config, preparation, file, sources)
    return OpenClipEncoder(spec, model, tokenizer, device, origin=origin)


def _load_folder(spec: str, folder: Path, device: str | torch.device) -> OpenClipEncoder:
    """The encoder of a folder with configuration, weights and tokeniser; DataError without one."""
    path = folder / OPEN_CLIP_CONFIG
    if not path.is_file():
        raise DataError(f"{folder}: no {OPEN_CLIP_CONFIG}; `daitir pretrain clip` writes one")
    check_source(folder)
    settings = _read_settings(path)
    config = settings.get("model_cfg")
    if not isinstance(config, dict) or not isinstance(config.get("text_cfg"), dict):
        raise DataError(f"{path}: could not be loaded (it holds no model_cfg)")
    text, tower = config["text_cfg"], config["text_cfg"].get("hf_model_name")
    if tower:
        check_source(tower)
    with reading(folder, "dual encoder", local="open_clip:FOLDER" if tower else None):
        weights = _find_weights(folder)
        model = open_clip.create_model(f"local-dir:{folder}")
        tokenizer = _tokenizer(f"local-dir:{folder}", text)
    sources = [folder] if text.get("hf_tokenizer_name") else []
    sources += [check_source(tower)] if tower else []
    origin = _origin(config, settings.get("preprocess_cfg"), weights, sources)
    return OpenClipEncoder(spec, model, tokenizer, device, folder=folder, origin=origin)


def _tokenizer(source: str, text: dict):
    no_code = NO_CODE if text.get("hf_tokenizer_name") else {}  # open_clip's own knows no such
    return open_clip.get_tokenizer(source, context_length=text.get("context_length"), **no_code)


def _find_weights(folder: Path) -> Path:
    """The file of weights that open_clip reads. Raises DataError for none, or an unclear choice."""
    weights, known = _find_checkpoint_in_dir(folder), "open_clip_model.safetensors"
    if weights is None:
        instead = "an architecture with random weights is open_clip:NAME"
        raise DataError(f"{folder}: no weights in it ({known}); {instead}")
    several = [path for path in folder.iterdir() if path.suffix in _WEIGHTS_SUFFIXES]
    if len(several) > 1 and "model" not in Path(weights).stem:
        fault = "holds several files of weights, none of a known name"
        raise DataError(f"{folder}: {fault}; name the one meant {known}")
    return Path(weights)


def _origin(
    config: dict, preparation: dict | None, weights: Path, sources: Iterable[Path | None]
) -> str:
    files = [model_files(source, TOKENIZER_FILES) for source in sources if source is not None]
    facts = {"model": config, "preprocessing": preparation, "weights": weights, "text": files}
    return identity(library="open_clip", **facts)


def _read_settings(path: Path) -> dict:
    """What an `open_clip_config.json` says, nothing where there is none."""
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _preparation(name: str, weights: str, tags: list[str], beside: dict) -> dict | None:
    """How the weights of a tag or a file want pictures prepared; None where nothing is known."""
    if isinstance(beside.get("preprocess_cfg"), dict):
        return beside["preprocess_cfg"]
    if not weights:
        return None
    if name in OWN_ARCHITECTURES:  # `daitir pretrain clip` prepares all alike
        return _read_settings(CLIP_FOLDER / OPEN_CLIP_CONFIG)["preprocess_cfg"]
    asked = [weights] if weights in tags else tags
    told = [open_clip.get_pretrained_cfg(name, tag) for tag in asked]
    known = [{key: s[key] for key in _PREPARATION if s.get(key) is not None} for s in told]
    if known and all(settings == known[0] for settings in known):
        return known[0]
    logger.warning(
        "open_clip:%s@%s: does not tell how its pictures were prepared, and the tags of %s %s; "
        "CLIP's mean, deviation and crop are assumed; put the %s of the weights beside the file",
        name, weights, name, "differ" if known else "are none", OPEN_CLIP_CONFIG,
    )  # fmt: skip
    return None


def _check_architecture(name: str, weights: object, config: dict, instead: object) -> None:
    """Raises DataError where weights were trained in another architecture than a name's.

    The shapes may fit, so open_clip loads them, at best with a warning, and all features are wrong.
    """
    ours, theirs = map(_with_effect, (open_clip.get_model_config(name), config))
    for setting in ours | theirs:
        its, named = theirs.get(setting), ours.get(setting)
        if its != named:
            fault = f"these weights were trained with another {setting} ({its})"
            rather = f"than {name}'s ({named}); use open_clip:{instead}"
            raise DataError(f"open_clip:{name}@{weights}: {fault} {rather}")


def _with_effect(config: dict) -> dict[str, object]:
    """The settings of a `model_cfg` that change features, by their names, with open_clip's own."""
    defaults = {"vision_cfg": CLIPVisionCfg(), "text_cfg": CLIPTextCfg()}
    settings = {"quick_gelu": False}
    for key, value in config.items():
        if key in defaults and isinstance(value, dict):
            whole = dataclasses.asdict(defaults[key]) | value
            settings |= {f"{key}.{name}": setting for name, setting in whole.items()}
        else:
            settings[key] = value
    return {
        name: list(setting) if isinstance(setting, tuple) else setting
        for name, setting in settings.items()
        if name.rpartition(".")[2] not in _WITHOUT_EFFECT
    }

"""Dual encoders of open_clip: an architecture by its name, or a folder that tells everything."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import open_clip
import torch
from open_clip.factory import _find_checkpoint_in_dir
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, set_model_preprocess_cfg
from open_clip.pretrained import download_pretrained
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

from daitir.common.errors import DataError
from daitir.common.files import read_json
from daitir.models.encoders import (
    CONFIG_NAME,
    MINI_FOLDER,
    OWN_ARCHITECTURES,
    TOKENIZER_FOLDER,
    Encoder,
)
from daitir.models.hub import (
    NO_CODE,
    check_source,
    first_line,
    no_questions,
    offline_if_unreachable,
    why_missing,
)
from daitir.models.identity import TOKENIZER_FILES, identity, model_files

logger = logging.getLogger(__name__)

_CHECKOUT = Path(__file__).parents[2]
_WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth")
_PREPARATION = tuple(field.name for field in dataclasses.fields(PreprocessCfg))
# What a configuration may say otherwise while the features stay the same: what only training
# heeds, where parts came from, and in which class the same layers are held.
_WITHOUT_EFFECT = (
    "custom_text", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "patch_dropout",
    "timm_drop", "timm_drop_path", "timm_model_pretrained", "hf_model_name", "hf_model_pretrained",
    "hf_tokenizer_name", "output_tokens",
)  # fmt: skip


def load_open_clip(name: str, *, device: str | torch.device = "cpu") -> Encoder:
    """The encoder of what follows `open_clip:` in a spec: NAME, NAME@PRETRAINED or FOLDER.

    Pictures are prepared as the weights were trained: of a file by the `open_clip_config.json`
    beside it, else as all tags of the name say; where neither tells, a warning names what is
    assumed. Raises DataError as `load_encoder` does.
    """
    spec = f"open_clip:{name}"
    name, _, pretrained = name.partition("@")
    if name not in open_clip.list_models():
        for folder in (Path(name), _CHECKOUT / name):
            if folder.is_dir() and not pretrained:
                return load_folder(spec, folder, device=device)
        raise DataError(
            f"unknown encoder {spec!r}: {name} is neither a folder (`daitir pretrain clip` makes "
            "one) nor an open_clip architecture (open_clip.list_models() lists those)"
        )
    if spec.endswith("@"):
        raise DataError(f"unknown encoder {spec!r}: name a tag or a file of weights after the @")
    tags = open_clip.list_pretrained_tags_by_model(name)
    file = Path(pretrained) if pretrained and Path(pretrained).is_file() else None
    if pretrained and pretrained not in tags and file is None:
        raise DataError(
            f"unknown weights {pretrained!r} for {name}: neither a file nor one of its tags "
            f"({', '.join(tags) or 'it has none'})"
        )
    if pretrained in tags:  # open_clip takes the tag where a file has its name
        file = None
    beside = _settings(file.with_name(CONFIG_NAME)) if file is not None else {}
    if file is not None and beside:
        check_source(file.parent)
    _check_architecture(name, pretrained, beside)
    config = open_clip.get_model_config(name)
    text, own = config["text_cfg"], name in OWN_ARCHITECTURES
    parts = [] if own else [text[key] for key in ("hf_model_name", "hf_tokenizer_name")
                            if text.get(key)]  # fmt: skip
    for part in parts:
        check_source(part)
    prepared = _prepared(name, pretrained, beside)
    from_hub = bool(pretrained) and file is None
    advice = ""
    if from_hub:
        advice = f"; without a network download the weights elsewhere, open_clip:{name}@FILE"
    with offline_if_unreachable(wanted=from_hub or bool(parts)), _one_line(spec, advice):
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=str(file.absolute()) if file is not None else pretrained or None
        )
        if prepared is not None and not from_hub:
            preprocess = _prepare(model, prepared)
        if own:
            length = text["context_length"]
            tokenizer = HFTokenizer(TOKENIZER_FOLDER, context_length=length, **NO_CODE)
        else:
            tokenizer = open_clip.get_tokenizer(name, **_no_code(text))
        if from_hub:
            file = Path(download_pretrained(open_clip.get_pretrained_cfg(name, pretrained)))
    origin = None
    if file is None:
        logger.warning("%s: no weights named, the encoder is random", spec)
    else:
        sources = [TOKENIZER_FOLDER] if own else [check_source(part) for part in parts]
        origin = _origin(config, prepared, file, sources)
    return Encoder(spec, model, preprocess, tokenizer, device, origin=origin)


def load_folder(spec: str, folder: Path, *, device: str | torch.device = "cpu") -> Encoder:
    """The encoder of a folder with configuration, weights and tokeniser.

    Raises DataError where one is missing or damaged, and where the folder asks for code to be run.
    """
    if not (folder / CONFIG_NAME).is_file():
        raise DataError(f"{folder}: no {CONFIG_NAME}; `daitir pretrain clip` writes one")
    check_source(folder)
    settings = _settings(folder / CONFIG_NAME)
    config = settings.get("model_cfg")
    if not isinstance(config, dict) or not isinstance(config.get("text_cfg"), dict):
        raise DataError(f"{folder / CONFIG_NAME}: could not be loaded (it holds no model_cfg)")
    text = config["text_cfg"]
    tower = text.get("hf_model_name")
    if tower:
        check_source(tower)
    with _one_line(folder):
        weights = _find_checkpoint_in_dir(folder)
    if weights is None:
        raise DataError(
            f"{folder}: no weights in it (open_clip_model.safetensors); an architecture with "
            "random weights is open_clip:NAME"
        )
    known = "model" in Path(weights).stem
    if not known and sum(len(list(folder.glob(f"*{s}"))) for s in _WEIGHTS_SUFFIXES) > 1:
        raise DataError(
            f"{folder}: holds several files of weights, none of a known name; name the one meant "
            "open_clip_model.safetensors"
        )
    name = f"local-dir:{folder}"
    with offline_if_unreachable(wanted=bool(tower)), _one_line(folder):
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name, **_no_code(text))
    sources = [folder] if text.get("hf_tokenizer_name") else []
    sources += [check_source(tower)] if tower else []
    origin = _origin(config, settings.get("preprocess_cfg"), Path(weights), sources)
    return Encoder(spec, model, preprocess, tokenizer, device, folder=folder, origin=origin)


def _origin(
    config: dict, prepared: dict | None, weights: Path, sources: list[Path | None]
) -> str:
    files = [model_files(source, TOKENIZER_FILES) for source in sources if source is not None]
    return identity(
        library="open_clip", model=config, preprocessing=prepared, weights=weights, text=files
    )


def _no_code(text: dict) -> dict:
    """What `get_tokenizer` is told; open_clip's own tokeniser knows no such word."""
    return NO_CODE if text.get("hf_tokenizer_name") else {}


@contextmanager
def _one_line(spec: object, advice: str = "") -> Iterator[None]:
    """What fails within it is a DataError of one line."""
    try:
        with no_questions():
            yield
    except UnpicklingError as error:
        raise DataError(
            f"{spec}: could not be loaded; the file is damaged, or a pickle of more than plain "
            "tensors, which could run any code; save the weights as safetensors"
        ) from error
    except Exception as error:  # a damaged file raises nearly anything, deep in the libraries
        reason = (why_missing(error) if advice else None) or first_line(error)
        raise DataError(f"{spec}: could not be loaded ({reason}){advice}") from error


def _settings(path: Path) -> dict:
    """What an `open_clip_config.json` says, nothing where there is none."""
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _prepared(name: str, pretrained: str, beside: dict) -> dict | None:
    """How the weights of a tag or a file want pictures prepared; None where nothing is known."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        return _preparation(open_clip.get_pretrained_cfg(name, pretrained))
    if isinstance(beside.get("preprocess_cfg"), dict):
        return beside["preprocess_cfg"]
    if not pretrained:
        return None
    if name in OWN_ARCHITECTURES:  # `daitir pretrain clip` prepares all alike
        return _settings(MINI_FOLDER / CONFIG_NAME)["preprocess_cfg"]
    known = [_preparation(open_clip.get_pretrained_cfg(name, tag)) for tag in tags]
    if known and all(one == known[0] for one in known):
        return known[0]
    logger.warning(
        "open_clip:%s@%s: does not tell how its pictures were prepared, and the tags of %s %s; "
        "CLIP's mean, deviation and crop are assumed; put the %s of the weights beside the file",
        name, pretrained, name, "differ" if known else "are none", CONFIG_NAME,
    )  # fmt: skip
    return None


def _preparation(settings: dict) -> dict:
    return {key: settings[key] for key in _PREPARATION if settings.get(key) is not None}


def _prepare(model, settings: dict):
    """Let a model's pictures be prepared as the settings say, at the size that it sees."""
    settings = {key: value for key, value in settings.items() if key != "size"}
    merged = merge_preprocess_dict(model.visual.preprocess_cfg, settings)
    set_model_preprocess_cfg(model, merged)
    return image_transform_v2(PreprocessCfg(**merged), is_train=False)


def _check_architecture(name: str, pretrained: str, beside: dict) -> None:
    """Raises DataError where weights are known to expect another architecture than the name has.

    The shapes may fit, so open_clip loads them, at best with a warning, and all features are wrong.
    """
    has = open_clip.get_model_config(name)
    settings = beside.get("model_cfg")
    if isinstance(settings, dict):  # a hub's folder tells of its weights
        wants, spec = settings, Path(pretrained).parent
        ours, theirs = _with_effect(has), _with_effect(wants)
        differing = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    elif pretrained in open_clip.list_pretrained_tags_by_model(name):
        # Where a tag does not tell, the architecture does (roberta-ViT-B-32).
        quick = open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu")
        differing = ["quick_gelu"] if quick and not has.get("quick_gelu") else []
        spec = f"{name}-quickgelu@{pretrained}"
    else:
        return
    if differing:
        computes = "QuickGELU" if has.get("quick_gelu") else "GELU"
        what = differing[0]
        if what == "quick_gelu":
            what = f"activation than {name}'s, which is {computes}"
        else:
            what = f"{what} than {name}'s"
        raise DataError(
            f"open_clip:{name}@{pretrained}: these weights were trained with another {what}; use "
            f"open_clip:{spec}"
        )


def _with_effect(config: dict) -> dict[str, object]:
    """The settings of a `model_cfg` that change features, by their names, with open_clip's own."""
    defaults = {"vision_cfg": CLIPVisionCfg(), "text_cfg": CLIPTextCfg()}
    found = {"quick_gelu": False}
    for key, value in config.items():
        if key in defaults and isinstance(value, dict):
            whole = dataclasses.asdict(defaults[key]) | value
            counted = [name for name in whole if name not in _WITHOUT_EFFECT]
            found |= {f"{key}.{name}": whole[name] for name in counted}
        elif key not in _WITHOUT_EFFECT:
            found[key] = value
    return {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}

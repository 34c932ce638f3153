"""The shipped models as graphs and weights that run in a browser.

Each is exported by torch, optimised once, and parted: the graph, whose large weights lie elsewhere,
and the weights, in half precision, which loses nothing, since they are shipped so, or in 8 bits.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, external_data_helper, numpy_helper
from packs import Part
from torch import Tensor, nn
from torch.nn import functional as F

import daitir.fusion
from daitir.common.files import read_json
from daitir.models.encoders import load_encoder
from daitir.models.open_clip_encoders import CLIP_FOLDER, shortened_context
from daitir.models.views import load_view_generator
from daitir.recipes.fusion import load_fusion
from daitir.studies.profiles import get_profile
from daitir.studies.training_sets import encoder_folder, fusion_folder

OPSET = 18
MOST_STEPS = 16  # that the page offers
WEIGHTS = "weights"  # the file that a graph names
SMALL = 16  # numbers; what has no more stays in the graph
PROFILE = get_profile("classroom")


class Call(nn.Module):
    """A function of a model as a module of its own, which is what torch exports."""

    def __init__(self, model: nn.Module, call: Callable[..., Tensor]):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self.model, *inputs)


def is_large(weights: np.ndarray) -> bool:
    """A table of few numbers, such as frequencies, bears no rounding, and masks are vast."""
    return weights.ndim > 1 and weights.size > 2048 and np.abs(weights).max() < 6e4


def exact(weights: np.ndarray) -> str:
    """The kind of a part that loses nothing of the weights."""
    with np.errstate(over="ignore"):
        return "half" if np.array_equal(weights, weights.astype(np.float16)) else "float"


@dataclass(frozen=True)
class Exported:
    """A graph and its weights, in the order in which they lie in their file."""

    graph: bytes
    weights: dict[str, np.ndarray]
    axes: dict[str, int]  # of the channels of each

    def parts(self, kind: str, levels: int = 127) -> list[Part]:
        """The weights of a pack, of which large matrices are of a kind and the rest is exact."""
        return [
            Part(w, kind if is_large(w) else exact(w), self.axes[name], levels)
            for name, w in self.weights.items()
        ]

    @property
    def model(self) -> onnx.ModelProto:
        """The whole model again."""
        model = onnx.load_from_string(self.graph)
        for tensor in model.graph.initializer:
            if tensor.name in self.weights:
                tensor.CopyFrom(numpy_helper.from_array(self.weights[tensor.name], tensor.name))
        return model


def export(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    lengths: Mapping[str, tuple[int, int]] | None = None,
) -> Exported:
    """A module as a graph; `lengths` names inputs whose axis 1 may be as long as a range allows."""
    shapes = None
    if lengths:
        dims = {
            name: torch.export.Dim(name, min=low, max=high) for name, (low, high) in lengths.items()
        }
        shapes = (tuple({1: dims[name]} if name in dims else {} for name in inputs),)
    torch.backends.mha.set_fastpath_enabled(False)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, light = Path(folder, "whole.onnx"), Path(folder, "light.onnx")
        torch.onnx.export(
            module.eval(), tuple(inputs.values()), whole, input_names=list(inputs), verbose=False,
            output_names=["out"], dynamo=True, external_data=False, opset_version=OPSET,
            dynamic_shapes=shapes,
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(light)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
        return parted(onnx.load(light))


def parted(model: onnx.ModelProto) -> Exported:
    weights, offset = {}, 0
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) <= SMALL:
            continue
        weights[tensor.name] = numpy_helper.to_array(tensor).copy()
        size = weights[tensor.name].nbytes
        external_data_helper.set_external_data(tensor, WEIGHTS, offset, size)
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        offset += size
    products = {
        name for node in model.graph.node if node.op_type == "MatMul" for name in node.input
    }
    axes = {name: w.ndim - 1 if name in products else 0 for name, w in weights.items()}
    del model.graph.value_info[:]
    for node in model.graph.node:  # where in the source it came from
        del node.metadata_props[:]
        node.doc_string = ""
    return Exported(model.SerializeToString(), weights, axes)


def text_tower(encoder) -> Exported:
    tokens = encoder.tokenizer(["a red car on a beach at night"])[:, :20]

    def call(model, tokens):
        with shortened_context(model, tokens.shape[1]):
            return F.normalize(model.encode_text(tokens), dim=-1)

    return export(
        Call(encoder.model, call), {"tokens": tokens}, {"tokens": (3, encoder.context_length)}
    )


def image_tower(encoder) -> Exported:
    """From pixels of 0 to 255."""
    mean, std = (
        torch.tensor(encoder.model.visual.preprocess_cfg[name])[:, None, None]
        for name in ("mean", "std")
    )

    def call(model, pixels):
        return F.normalize(model.encode_image((pixels / 255 - mean) / std), dim=-1)

    size = encoder.image_size
    return export(Call(encoder.model, call), {"pixels": 255 * torch.rand(1, 3, size, size)})


def difference(before: Exported, after: Exported, rank: int) -> tuple[list[dict], list[Part]]:
    """What training changed in the weights: of matrices two factors, and all of the rest."""
    facts, parts = [], []
    for name, start in before.weights.items():
        end = after.weights[name].astype(np.float64)
        change = np.where(
            end == start, 0, end - np.where(end == start, 0, start)
        )  # masks are infinite
        if change.ndim == 2 and rank * sum(change.shape) < change.size:
            left, values, right = np.linalg.svd(change, full_matrices=False)
            root = np.sqrt(values[:rank])
            if (
                np.abs((left[:, :rank] * root) @ (root[:, None] * right[:rank]) - change).max()
                < 1e-5
            ):
                facts.append({"rows": len(left), "rank": rank})
                parts += [
                    Part(left[:, :rank] * root, "float"),
                    Part(root[:, None] * right[:rank], "float"),
                ]
                continue
        facts.append({"rows": 0})
        parts.append(Part(change, "float"))
    return facts, parts


def adafuse(encoder) -> Exported:
    recipe = PROFILE.fusions["adafuse"]
    model = load_fusion(
        fusion_folder(PROFILE, "adafuse", 0), dim=encoder.dim, seed=0, recipe=recipe
    )
    check, daitir.fusion._check_pair = daitir.fusion._check_pair, lambda *pair: None
    one = F.normalize(torch.ones(1, encoder.dim), dim=-1)
    try:
        return export(Call(model, lambda m, *pair: m(*pair)[0]), {"text": one, "view": one.flip(1)})
    finally:
        daitir.fusion._check_pair = check


def pipeline_parts(pipeline) -> dict[str, Exported]:
    """Text encoder, U-Net with and without the words, and decoder."""
    tokens = torch.ones(1, pipeline.tokenizer.model_max_length, dtype=torch.int64)
    words = pipeline.text_encoder(tokens)[0].detach()
    channels, side = pipeline.unet.config.in_channels, pipeline.unet.config.sample_size
    latents = torch.randn(1, channels, side, side)
    read = Call(pipeline.text_encoder, lambda model, tokens: model(input_ids=tokens)[0])
    denoise = Call(
        pipeline.unet, lambda model, x, t, c: model(x, t, encoder_hidden_states=c).sample
    )
    decode = Call(pipeline.vae, lambda model, z: model.decode(z).sample)
    noisy = {
        "x": latents.repeat(2, 1, 1, 1),
        "t": torch.tensor([500, 500]),
        "c": words.repeat(2, 1, 1),
    }
    return {
        "words": export(read, {"tokens": tokens}),
        "denoise": export(denoise, noisy),
        "decode": export(decode, {"z": latents}),
    }


def schedule(pipeline, steps: int) -> list[list[float]]:
    """For each step its time and five numbers, with which it is a line of arithmetic.

    With latents z and the predicted velocity v the clean latents are `alpha z - sigma v`; the next
    latents are `keep z + now clean + before (clean of the step before)`. Equation of DPM-Solver++
    of the second order with the midpoint, whose last step is of the first.
    """
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    ratios = scheduler.sigmas.double().numpy()
    alpha = 1 / np.sqrt(ratios**2 + 1)
    sigma = ratios * alpha
    rows, times = [], scheduler.timesteps.tolist()
    with np.errstate(divide="ignore"):
        snr = np.log(alpha) - np.log(sigma)
    for i, time in enumerate(times):
        keep, now, before = 0.0, 1.0, 0.0
        if i < steps - 1:
            step = snr[i + 1] - snr[i]
            keep, now = sigma[i + 1] / sigma[i], -alpha[i + 1] * np.expm1(-step)
            if i:
                before = -now * 0.5 * step / (snr[i] - snr[i - 1])
                now -= before
        rows.append([time, *map(float, (alpha[i], sigma[i], keep, now, before))])
    return rows


def load() -> tuple:
    """The models of the profile: encoder, DMCL's, and the pipeline."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    dmcl = load_encoder(f"finetuned:{encoder_folder(PROFILE, 'dmcl', 0)}")
    return load_encoder(PROFILE.encoder), dmcl, load_view_generator(PROFILE.generator).pipeline


def facts(encoder, pipeline) -> dict:
    """What the page needs to know of the models beside their weights."""
    folder = CLIP_FOLDER
    tokenizer, unet = pipeline.tokenizer, pipeline.unet.config
    return {
        "tokenizer": read_json(folder / "tokenizer.json"),
        "tokenizerConfig": read_json(folder / "tokenizer_config.json"),
        "context": encoder.context_length,
        "prompt": tokenizer.model_max_length,
        "end": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
        "latents": {
            "channels": unet.in_channels,
            "side": unet.sample_size,
            "scaling": pipeline.vae.config.scaling_factor,
        },
        "schedules": {steps: schedule(pipeline, steps) for steps in range(2, MOST_STEPS + 1)},
    }

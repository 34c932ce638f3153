"""What the papers' setting costs: GPU-hours, memory, disk and money, by arithmetic.

Hours are operations over peak times utilisation. The counts are the field's; the operations were
counted on the real classes; peaks and prices are cited. The utilisation is an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from daitir.common.errors import DataError

UTILISATION = (0.20, 0.35, 0.50)
"""Assumed shares of the peak: few, expected, many."""
HALF_BYTES = 2  # of a number at half precision
STATE_BYTES = 16  # of a trained parameter: half-precision weight and gradient, AdamW's in single
AT_ONCE = "the whole batch at once"
PASSES = 3  # forward, and backward twice as much
# What two pictures and a text leave in memory for the backward pass, with fused attention: 34 bytes
# for each token, feature and layer (Korthikanti et al. 2022, arXiv 2205.05198, equation 1).
ACTIVATION_BYTES = 34.0 * (2 * 197 + 256) * 768 * 12


@dataclass(frozen=True)
class ModelCost:
    """A forward pass of one item: multiplications and additions of products and convolutions."""

    parameters: int
    operations: float
    item: str
    source: str


# name | parameters | operations | item | source, as benchmarks/count_operations.py counts them.
# ViT-B-16 has the size of DMCL's BEiT-3 base, which is in none of the libraries.
_COUNTED = """
clip_image | 87_849_216 | 8_817_623_040 | picture of 224 pixels | open_clip ViT-B-32
clip_text | 63_428_097 | 5_959_540_736 | text of 77 tokens | open_clip ViT-B-32
vit_b16_image | 86_192_640 | 35_126_906_880 | picture of 224 pixels | open_clip ViT-B-16
vit_b16_text | 63_428_097 | 5_959_540_736 | text of 77 tokens | open_clip ViT-B-16
blip_base_image | 86_090_496 | 110_967_164_928 | picture of 384 pixels | BLIP base for retrieval
blip_base_text | 137_258_496 | 45_902_462_976 | text of 256 tokens | BLIP base for retrieval
blip_large_image | 303_690_752 | 382_130_552_832 | picture of 384 pixels | BLIP large for retrieval
blip_large_text | 141_977_088 | 45_902_462_976 | text of 256 tokens | BLIP large for retrieval
sd21_step | 865_910_724 | 804_257_464_320 | evaluation on 64 × 64 latents | Stable Diffusion 2.1
sd21_text | 340_387_840 | 44_616_140_800 | prompt of 77 tokens | Stable Diffusion 2.1
sdxl_step | 2_567_463_684 | 1_588_778_762_240 | evaluation on 64 × 64 latents | SDXL-Turbo
sdxl_text | 693_021_440 | 96_970_818_560 | prompt of 77 tokens | SDXL-Turbo
vae_decode | 83_653_863 | 2_514_518_933_504 | view of 512 pixels | Stable Diffusion
lm | 8_030_261_248 | 15_009_849_344 | token | Llama 3.1 8B
"""
MODELS = {
    name: ModelCost(int(parameters), int(operations), item, source)
    for name, parameters, operations, item, source in (
        map(str.strip, line.split("|")) for line in _COUNTED.strip().splitlines()
    )
}
LM_STATE = 2 * HALF_BYTES * 32 * 8 * 128  # keys and values of a token: layers, heads, their width
PIPELINES = {  # evaluations for a view: steps, and twice with guidance, as often as the text
    "SD 2.1, 50 steps with guidance": {"sd21_text": 2, "sd21_step": 100, "vae_decode": 1},
    "SDXL-Turbo, 4 steps": {"sdxl_text": 1, "sdxl_step": 4, "vae_decode": 1},
}


@dataclass(frozen=True)
class Card:
    """A GPU, or a number of them that work together."""

    name: str
    peak: float  # operations a second in half precision, without sparsity
    memory: float  # bytes of one card
    bandwidth: float  # bytes a second of its memory
    hourly: float  # US dollars that one card costs for an hour
    number: int = 1
    scaling: float = 1.0  # share of the cards' joint speed that is left
    source: str = ""


_RTX_4090 = Card(
    "RTX 4090", peak=165.2e12, memory=24e9, bandwidth=1008e9, hourly=0.69,
    source="NVIDIA's Ada whitepaper; price: RunPod as cited by usagepricing.com, 2026",
)  # fmt: skip
_H100 = Card(
    "H100 SXM", peak=989.4e12, memory=80e9, bandwidth=3350e9, hourly=2.95,
    source="NVIDIA's data sheet, without sparsity; price: median of on-demand offers in the GPU "
    "index of AIMultiple, 20 May 2026",
)  # fmt: skip
CARDS = (_RTX_4090, _H100, replace(_H100, name="8 × H100 SXM", number=8, scaling=0.9))


@dataclass(frozen=True)
class Setting:
    """The counts of the papers' setting; those that nobody published are marked as assumed."""

    num_dialogues: int = 2064
    num_rounds: int = 11
    num_sources: int = 5
    num_gallery: int = 50_000
    num_train: int = 123_287
    views_per_round: int = 1
    drawn_rounds: int = 11  # of a training dialogue; all, assumed
    epochs: int = 50  # of ADaFuSE and of DMCL, each
    batch_size: int = 128
    micro_batch_size: int = 32  # samples in a backward pass, assumed
    fusion_parameters: int = 11_812_614
    feature_dim: int = 256
    refined_tokens: int = 60  # of a caption, assumed
    prompt_tokens: int = 170  # assumed: a hundred, and the dialogues' mean of fifty words
    batch_lm: int = 64  # dialogues that the language model sees together, assumed
    view_bytes: float = 40e3  # of a picture of 512 pixels as WebP, assumed
    picture_bytes: Mapping[str, float] = field(
        default_factory=lambda: {
            "COCO 2017 unlabelled": 20_126_613_414, "COCO 2014 train": 13_510_573_713,
            "COCO 2014 val": 6_645_013_297,
        }
    )  # fmt: skip


class Stage(NamedTuple):
    """A part of the work."""

    stage: str
    option: str = ""  # which of several ways, where there are some
    items: int = 0
    operations: float = 0.0  # of one item
    memory: float = 0.0  # bytes that one card must hold
    disk: float = 0.0  # bytes that are kept
    # Bytes that one item reads one after the other: they bound the speed where little is computed
    # for each, as when a language model writes.
    serial_bytes: float = 0.0


def stages(setting: Setting, costs: Mapping[str, ModelCost] = MODELS) -> list[Stage]:
    """All parts of the work, those with several `option`s once for each."""

    def weights(*names: str) -> int:
        return HALF_BYTES * sum(costs[name].parameters for name in names)

    queries = {
        "test": setting.num_dialogues * setting.num_rounds * setting.num_sources,
        "train": setting.num_train * setting.drawn_rounds,
    }
    views = {split: number * setting.views_per_round for split, number in queries.items()}
    pictures, num_queries = setting.num_gallery + setting.num_train, sum(queries.values())
    models = weights("lm") + sum(weights(*uses) for uses in PIPELINES.values())
    tokens = setting.prompt_tokens + setting.refined_tokens
    samples, fusion = setting.epochs * setting.num_train, setting.fusion_parameters
    image, text = costs["vit_b16_image"], costs["blip_base_text"]
    trained = image.parameters + text.parameters
    ranks = queries["test"] * 2.0 * setting.num_gallery * setting.feature_dim
    return [
        Stage("download pictures", disk=sum(setting.picture_bytes.values())),
        Stage("download models", disk=models),
        *(
            Stage(f"refine {split}", "", number, tokens * costs["lm"].operations,
                  memory=weights("lm") + setting.batch_lm * tokens * LM_STATE,
                  # Each new token reads all weights once for a whole batch.
                  serial_bytes=setting.refined_tokens * weights("lm") / setting.batch_lm)
            for split, number in queries.items()
        ),
        *(
            Stage(f"draw {split}", option, number,
                  sum(times * costs[name].operations for name, times in uses.items()),
                  memory=weights(*uses), disk=number * setting.view_bytes)
            for option, uses in PIPELINES.items()
            for split, number in views.items()
        ),
        *(
            Stage(f"embed {name}", encoder, number, costs[f"{encoder}_{tower}"].operations,
                  memory=weights(f"{encoder}_image", f"{encoder}_text"),
                  disk=4.0 * setting.feature_dim * number)
            for encoder in ("clip", "blip_base", "blip_large")
            for name, number, tower in (
                ("pictures", pictures, "image"),
                ("views", sum(views.values()), "image"),
                ("texts", num_queries, "text"),
            )
        ),
        Stage("train ADaFuSE", "", samples, PASSES * 2.0 * fusion, memory=STATE_BYTES * fusion),
        *(
            Stage("train DMCL", option, samples, passes * (2 * image.operations + text.operations),
                  memory=STATE_BYTES * trained + batch_size * ACTIVATION_BYTES, disk=4.0 * trained)
            for option, passes, batch_size in (
                # In parts the features are computed once more, without what backward needs.
                ("", PASSES + 1, setting.micro_batch_size),
                (AT_ONCE, PASSES, setting.batch_size),
            )
        ),
        Stage("rank, a method", "", 1, ranks, memory=setting.num_gallery * 1024.0),
    ]  # fmt: skip


def plan_table(
    work: Sequence[Stage],
    cards: Sequence[Card] = CARDS,
    utilisation: Sequence[float] = UTILISATION,
) -> pd.DataFrame:
    """One row for each stage and card: hours, memory, disk and money.

    `gpu_hours` are of one card, whichever of arithmetic and memory takes longer, and
    `gpu_hours_low` where many of its operations are used; `clock_hours` and `usd` are with all of a
    card's number at work. `fits` tells whether one card's memory is enough for weights, kept states
    and training's activations. Raises DataError for shares that fall or are not above 0.
    """
    few, expected, many = utilisation
    if not 0 < few <= expected <= many <= 1:
        raise DataError(
            "must be three shares of the peak, few, expected, many, that do not fall and are at "
            f"most 1, not {few:g} {expected:g} {many:g}"
        )
    table = pd.DataFrame(work).merge(
        pd.DataFrame(map(asdict, cards)), how="cross", suffixes=("", "_of_card")
    )
    reading = table["serial_bytes"] / table["bandwidth"]
    for name, share in (("", expected), ("_low", many), ("_high", few)):
        computing = table["operations"] / (table["peak"] * share)
        table[f"gpu_hours{name}"] = table["items"] * np.maximum(computing, reading) / 3600
    table["clock_hours"] = table["gpu_hours"] / (table["number"] * table["scaling"])
    table["usd"] = table["clock_hours"] * table["number"] * table["hourly"]
    table["memory_gb"], table["disk_gb"] = table["memory"] / 1e9, table["disk"] / 1e9
    table["fits"] = table["memory"] <= table["memory_of_card"]
    table = table.rename(columns={"name": "card", "operations": "operations_per_item"})
    return table[[
        "stage", "option", "card", "items", "operations_per_item", "gpu_hours", "gpu_hours_low",
        "gpu_hours_high", "clock_hours", "usd", "memory_gb", "fits", "disk_gb",
    ]]  # fmt: skip


def totals(
    table: pd.DataFrame, *, pipeline: str, encoder: str = "blip_base", without: Sequence[str] = ()
) -> pd.DataFrame:
    """Sums of a plan by card, for one pipeline and one encoder, without some stages.

    Raises ValueError for an option that the table does not have.
    """
    for option in (pipeline, encoder):
        if option not in set(table["option"]):
            known = ", ".join(sorted(set(table["option"]) - {""}))
            raise ValueError(f"no option {option!r}; there are {known}")
    rows = table[table["option"].isin(("", pipeline, encoder)) & ~table["stage"].isin(without)]
    summed = ("gpu_hours", "gpu_hours_low", "gpu_hours_high", "clock_hours", "usd", "disk_gb")
    how = dict.fromkeys(summed, "sum") | {"memory_gb": "max"}
    return rows.groupby("card", sort=False).agg(how)


def break_even(first: Card, second: Card) -> float:
    """The ratio of operations a dollar; above 1 the first is cheaper at equal utilisation."""
    one, other = (card.peak * card.scaling / card.hourly for card in (first, second))
    return one / other

"""What the papers' setting costs: GPU-hours, memory, disk and money, by arithmetic.

Hours are operations over peak times utilisation. The counts are the field's; the operations come
from `daitir.studies.workload`; peaks and prices are cited; the utilisation is an assumption, and
the reader's to change. Nothing here was measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from daitir.common.errors import DataError
from daitir.studies.workload import DIALOGUE_TOKENS, LLAMA, ModelCost

UTILISATION = (0.20, 0.35, 0.50)
"""Assumed shares of the peak: few, expected, many."""
HALF = 2  # bytes of a number at half precision
TRAINED = 16  # bytes a parameter: half-precision weight and gradient, and AdamW's four in single
AT_ONCE = "the whole batch at once"
PASSES = 3  # forward, and backward twice as much


@dataclass(frozen=True)
class Card:
    """A GPU, or several.

    Attributes:
        peak: operations a second in half precision, sums in single precision, without sparsity.
        memory: bytes of one card.
        bandwidth: bytes a second of its memory.
        hourly: US dollars that one card costs for an hour.
        number: how many work together.
        scaling: share of the cards' joint speed that is left.
        source: where the figures come from, with the date of the price.
    """

    name: str
    peak: float
    memory: float
    bandwidth: float
    hourly: float
    number: int = 1
    scaling: float = 1.0
    source: str = ""


_H100 = {
    "peak": 989.4e12, "memory": 80e9, "bandwidth": 3350e9, "hourly": 2.95,
    "source": "NVIDIA's data sheet, without sparsity; price: median of on-demand offers in the GPU "
    "index of AIMultiple, 20 May 2026",
}  # fmt: skip
CARDS = (
    Card(
        "RTX 4090", peak=165.2e12, memory=24e9, bandwidth=1008e9, hourly=0.69,
        source="NVIDIA's Ada whitepaper; price: RunPod as cited by usagepricing.com, 2026",
    ),
    Card("H100 SXM", **_H100),
    Card("8 × H100 SXM", **_H100, number=8, scaling=0.9),
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The counts of the papers' setting; those that nobody published are marked as assumed.

    Attributes:
        epochs: of ADaFuSE and of DMCL, each.
        micro_batch_size: samples whose backward pass needs memory at a time; not published.
        refined_tokens: of a caption, assumed.
        prompt_tokens: of the instruction and the dialogue so far, assumed: a hundred, and the
            dialogues' mean of fifty words.
        drawn_rounds: rounds of a training dialogue that are drawn; all, assumed.
        batch_lm: dialogues that the language model sees together, assumed.
        view_bytes: of a picture of 512 pixels as WebP, assumed.
    """

    num_dialogues: int = 2064
    num_rounds: int = 11
    num_sources: int = 5
    num_gallery: int = 50_000
    num_train: int = 123_287
    views_per_round: int = 1
    drawn_rounds: int = 11
    epochs: int = 50
    batch_size: int = 128
    micro_batch_size: int = 32
    fusion_parameters: int = 11_812_614
    feature_dim: int = 256
    refined_tokens: int = 60
    prompt_tokens: int = 170
    batch_lm: int = 64
    view_bytes: float = 40e3
    picture_bytes: Mapping[str, float] = field(
        default_factory=lambda: {
            "COCO 2017 unlabelled": 20_126_613_414, "COCO 2014 train": 13_510_573_713,
            "COCO 2014 val": 6_645_013_297,
        }
    )  # fmt: skip

    @property
    def test_queries(self) -> int:
        """Rounds of all test dialogues of all sources."""
        return self.num_dialogues * self.num_rounds * self.num_sources

    @property
    def train_queries(self) -> int:
        """Rounds of training dialogues that are refined and drawn."""
        return self.num_train * self.drawn_rounds


PIPELINES = {
    # evaluations of the U-Net a view: steps, twice with guidance
    "SD 2.1, 50 steps with guidance": ("sd21", 100),
    "SDXL-Turbo, 4 steps": ("sdxl", 4),
}


@dataclass(frozen=True)
class Stage:
    """A part of the work.

    Attributes:
        option: which of several ways, where there are some.
        items: how many.
        operations: of one item.
        memory: bytes that one card must hold.
        disk: bytes that are kept.
        serial_bytes: bytes of memory that must be read one after the other for one item, which
            bounds the speed where little is computed for each, as when a language model writes.
    """

    name: str
    items: int
    operations: float
    option: str = ""
    memory: float = 0.0
    disk: float = 0.0
    serial_bytes: float = 0.0


def gpu_hours(stage: Stage, card: Card, utilisation: float) -> float:
    """Hours of one card for a stage, whichever of arithmetic and memory takes longer.

    >>> card = Card("x", peak=1e12, memory=1, bandwidth=1e9, hourly=1.0)
    >>> gpu_hours(Stage("draw", items=3600, operations=5e11), card, 0.5)
    1.0
    """
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation lies above 0 and at most at 1, not at {utilisation}")
    computed = stage.operations / (card.peak * utilisation)
    read = stage.serial_bytes / card.bandwidth
    return stage.items * max(computed, read) / 3600


def clock_hours(stage: Stage, card: Card, utilisation: float) -> float:
    """Hours on the clock with all of a card's number at work."""
    return gpu_hours(stage, card, utilisation) / (card.number * card.scaling)


def dollars(stage: Stage, card: Card, utilisation: float) -> float:
    """What the hours on the clock cost, for all cards."""
    return clock_hours(stage, card, utilisation) * card.number * card.hourly


def activation_bytes(tokens: int, width: int, layers: int) -> float:
    """What one sequence leaves in memory for the backward pass, with fused attention.

    34 bytes for each token, feature and layer: Korthikanti et al. 2022 (arXiv 2205.05198), their
    equation 1 without the attention's weights.

    >>> activation_bytes(tokens=197, width=768, layers=12) / 1e6
    61.728768
    """
    return 34.0 * tokens * width * layers


def stages(setting: Setting, costs: Mapping[str, ModelCost]) -> list[Stage]:
    """All parts of the work, those with several `option`s once for each.

    Args:
        costs: of `daitir.studies.workload.model_costs`.
    """
    refine = _refining(setting, costs["lm"])
    downloads = {
        "refine": HALF * costs["lm"].parameters, **{
            option: HALF * sum(costs[part].parameters
                               for part in (f"{key}_text", f"{key}_step", "vae_decode"))
            for option, (key, _) in PIPELINES.items()
        }
    }  # fmt: skip
    found = [
        Stage("download pictures", 0, 0.0, disk=sum(setting.picture_bytes.values())),
        Stage("download models", 0, 0.0, disk=sum(downloads.values())),
        Stage("refine test", setting.test_queries, **refine),
        Stage("refine train", setting.train_queries, **refine),
    ]
    for option, (key, evaluations) in PIPELINES.items():
        view = {
            "operations": evaluations * costs[f"{key}_step"].operations
            + costs[f"{key}_text"].operations * (2 if evaluations > 50 else 1)
            + costs["vae_decode"].operations,
            "memory": downloads[option],
        }
        for part, queries in (("test", setting.test_queries), ("train", setting.train_queries)):
            number = queries * setting.views_per_round
            disk = number * setting.view_bytes
            found.append(Stage(f"draw {part}", number, **view, option=option, disk=disk))
    found += _embedding(setting, costs)
    found += _training(setting, costs)
    ranks = setting.test_queries * 2.0 * setting.num_gallery * setting.feature_dim
    found.append(Stage("rank, a method", 1, ranks, memory=setting.num_gallery * 1024.0))
    return found


def _refining(setting: Setting, lm: ModelCost) -> dict[str, float]:
    tokens = setting.prompt_tokens + setting.refined_tokens
    weights = HALF * lm.parameters
    head = LLAMA["hidden_size"] // LLAMA["num_attention_heads"]
    kept = 2 * HALF * LLAMA["num_hidden_layers"] * LLAMA["num_key_value_heads"] * head
    return {
        "operations": tokens * lm.operations,
        # Each new token reads all weights once for a whole batch.
        "serial_bytes": setting.refined_tokens * weights / setting.batch_lm,
        "memory": weights + setting.batch_lm * tokens * kept,
    }


def _embedding(setting: Setting, costs: Mapping[str, ModelCost]) -> list[Stage]:
    views = (setting.test_queries + setting.train_queries) * setting.views_per_round
    texts = setting.test_queries + setting.train_queries
    found = []
    for encoder in ("clip", "blip_base", "blip_large"):
        image, text = costs[f"{encoder}_image"], costs[f"{encoder}_text"]
        weights = HALF * (image.parameters + text.parameters)
        for name, items, cost in (
            ("pictures", setting.num_gallery + setting.num_train, image),
            ("views", views, image),
            ("texts", texts, text),
        ):
            disk = 4.0 * setting.feature_dim * items
            found.append(Stage(f"embed {name}", items, cost.operations, encoder, weights, disk))
    return found


def _training(setting: Setting, costs: Mapping[str, ModelCost]) -> list[Stage]:
    samples = setting.epochs * setting.num_train
    fusion = PASSES * 2.0 * setting.fusion_parameters
    image, text = costs["vit_b16_image"], costs["blip_base_text"]
    parameters = image.parameters + text.parameters
    kept = 2 * activation_bytes(197, 768, 12) + activation_bytes(DIALOGUE_TOKENS, 768, 12)
    forward, state = 2 * image.operations + text.operations, TRAINED * parameters
    return [
        Stage("train ADaFuSE", samples, fusion, memory=TRAINED * setting.fusion_parameters),
        # In parts the features are computed once more, without what the backward pass needs.
        Stage(
            "train DMCL", samples, (PASSES + 1) * forward,
            memory=state + setting.micro_batch_size * kept, disk=4.0 * parameters,
        ),
        Stage(
            "train DMCL", samples, PASSES * forward, AT_ONCE,
            memory=state + setting.batch_size * kept, disk=4.0 * parameters,
        ),
    ]  # fmt: skip


def plan_table(
    parts: Sequence[Stage],
    cards: Sequence[Card] = CARDS,
    utilisation: Sequence[float] = UTILISATION,
) -> pd.DataFrame:
    """One row for each stage and card: hours, memory, disk and money.

    `utilisation` is few, expected and many; `gpu_hours_low` belongs to many. `fits` tells whether
    the memory of one card is enough; what the computation needs beside weights, kept states and
    training's activations is not counted.
    """
    many, expected, few = sorted(utilisation, reverse=True)
    rows = []
    for stage in parts:
        for card in cards:
            rows.append({
                "stage": stage.name, "option": stage.option, "card": card.name,
                "items": stage.items, "operations_per_item": stage.operations,
                "gpu_hours": gpu_hours(stage, card, expected),
                "gpu_hours_low": gpu_hours(stage, card, many),
                "gpu_hours_high": gpu_hours(stage, card, few),
                "clock_hours": clock_hours(stage, card, expected),
                "usd": dollars(stage, card, expected),
                "memory_gb": stage.memory / 1e9, "fits": stage.memory <= card.memory,
                "disk_gb": stage.disk / 1e9,
            })  # fmt: skip
    return pd.DataFrame(rows)


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
    kept = table[table["option"].isin(("", pipeline, encoder)) & ~table["stage"].isin(without)]
    sums = kept.groupby("card", sort=False)[
        ["gpu_hours", "gpu_hours_low", "gpu_hours_high", "clock_hours", "usd", "disk_gb"]
    ].sum()
    return sums.assign(memory_gb=kept.groupby("card")["memory_gb"].max())


def cards_at(prices: Mapping[str, float], cards: Sequence[Card] = CARDS) -> tuple[Card, ...]:
    """The same cards at other hourly prices of one card, by name.

    Raises DataError for a card that is not among them.
    """
    unknown = set(prices) - {card.name for card in cards}
    if unknown:
        names = ", ".join(card.name for card in cards)
        raise DataError(f"no card {sorted(unknown)[0]!r}; there are {names}")
    return tuple(replace(card, hourly=prices.get(card.name, card.hourly)) for card in cards)


def break_even(first: Card, second: Card) -> float:
    """How much more of its peak the first card may waste before the second is the cheaper.

    The ratio of operations a dollar; above 1 the first is cheaper at equal utilisation.

    >>> round(break_even(CARDS[0], CARDS[1]), 2)
    0.71
    """
    per_dollar = [card.peak * card.scaling / card.hourly for card in (first, second)]
    return per_dollar[0] / per_dollar[1]

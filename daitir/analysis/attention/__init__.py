"""Attention as an instrument: recorded, turned into maps, measured against masks and nulls."""

from daitir.analysis.attention.faithfulness import (
    Curves,
    deletion_insertion,
    mask_share,
    pointing_hits,
    randomised,
)
from daitir.analysis.attention.record import (
    CrossAttention,
    attention_layers,
    explicit_attention,
    record_attention,
    record_cross_attention,
    text_tower,
)
from daitir.analysis.attention.relevance import (
    Relevance,
    attention_maps,
    grad_cam,
    image_pixels,
    patch_maps,
    relevance,
    relevance_maps,
    rollout,
    rollout_maps,
)
from daitir.analysis.attention.render import before_after, head_grid, show_maps, token_strip

__all__ = [
    "CrossAttention",
    "Curves",
    "Relevance",
    "attention_layers",
    "attention_maps",
    "before_after",
    "deletion_insertion",
    "explicit_attention",
    "grad_cam",
    "head_grid",
    "image_pixels",
    "mask_share",
    "patch_maps",
    "pointing_hits",
    "randomised",
    "record_attention",
    "record_cross_attention",
    "relevance",
    "relevance_maps",
    "rollout",
    "rollout_maps",
    "show_maps",
    "text_tower",
    "token_strip",
]

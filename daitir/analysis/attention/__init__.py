"""Attention as an instrument: recorded, turned into maps, measured against masks and nulls."""
# ruff: noqa: F401, what is imported here is what the package gives

from daitir.analysis.attention.maps import (
    attention_maps,
    deletion_insertion,
    image_pixels,
    mask_share,
    pointing_hits,
    randomised,
    relevance,
    relevance_maps,
    rollout,
    rollout_maps,
)
from daitir.analysis.attention.record import record_attention, record_cross_attention
from daitir.analysis.attention.render import before_after, head_grid, show_maps, token_strip

"""The geometry of features: what a space looks like, and what becomes of one cue in it."""

from daitir.analysis.geometry.nullspace import (
    attenuation,
    cue_jacobian,
    effect_of_removal,
    equal_noise,
    null_basis,
    principal_angles,
    project_out,
    random_span,
    share_in_span,
    target_span,
)
from daitir.analysis.geometry.probes import beaten_shares, fit_probe, layer_features
from daitir.analysis.geometry.spaces import (
    alignment_values,
    effective_rank,
    jackknife_interval,
    leave_out,
    linear_cka,
    modality_gap,
    spectrum,
    uniformity,
    unit,
)

__all__ = [
    "alignment_values", "attenuation", "beaten_shares", "cue_jacobian", "effect_of_removal",
    "effective_rank", "equal_noise", "fit_probe", "jackknife_interval", "layer_features",
    "leave_out", "linear_cka", "modality_gap", "null_basis", "principal_angles", "project_out",
    "random_span", "share_in_span", "spectrum", "target_span", "uniformity", "unit",
]  # fmt: skip

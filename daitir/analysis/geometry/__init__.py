"""The geometry of features: what a space looks like, and what becomes of one cue in it."""
# ruff: noqa: F401, what is imported here is what the package gives

from daitir.analysis.geometry.nullspace import (
    cue_jacobian,
    equal_noise,
    null_basis,
    project_out,
    share_in_span,
    target_span,
)
from daitir.analysis.geometry.spaces import (
    effective_rank,
    linear_cka,
    modality_gap,
    spectrum,
    uniformity,
)

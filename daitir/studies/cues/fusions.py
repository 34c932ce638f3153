"""What fusions do with a cue of the view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from daitir.fusion import dar_fusion
from daitir.studies.cues.samples import CueFeatures
from daitir.studies.cues.tables import CueTable


def add_fusions(
    table: CueTable, found: CueFeatures, fusions: Mapping[str, Sequence[nn.Module]]
) -> None:
    """What DAR and trained fusions do with δ: its gain, and how much the residual cancels."""
    sample = table.sample
    index = [pair.view for pair in sample.pairs]
    text, delta = found.texts[index], found.displacements(sample)
    pair = (found.views[index], found.changed)
    fused = [dar_fusion(text, view, round=sample.rounds[index]) for view in pair]
    gain = (fused[0] - fused[1]).norm(dim=-1) / delta.norm(dim=-1)
    table.add_pairs("fusion_gain", "before", gain, where="dar")
    for name, models in fusions.items():
        gains, cosines = [], []
        for model in models:
            residuals: list[Tensor] = []
            hook = model.output.register_forward_hook(
                lambda module, inputs, output, into=residuals: into.append(output)
            )
            with torch.no_grad():
                fused = [model(text, view)[0] for view in pair]
            hook.remove()
            gains.append((fused[0] - fused[1]).norm(dim=-1) / delta.norm(dim=-1))
            cosines.append(torch.cosine_similarity(residuals[0] - residuals[1], delta, dim=-1))
        table.add_pairs("fusion_gain", "before", torch.stack(gains).mean(dim=0), where=name)
        table.add_pairs("residual_cosine", "before", torch.stack(cosines).mean(dim=0), where=name)

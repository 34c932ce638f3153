"""Fine-tuned encoders as small files: what training changed in the weights of another encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from daitir.common.errors import DataError, reading_trained
from daitir.common.files import atomic_write, read_json, write_json
from daitir.models.encoder import Encoder
from daitir.models.identity import CONFIG_NAME, identity

DIFFERENCE_NAME = "difference.safetensors"


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (rows, rank), (rank, columns) nearest to a matrix (Eckart and Young, 1936).

    >>> left, right = low_rank(torch.ones(3, 4), 1)
    >>> torch.allclose(left @ right, torch.ones(3, 4))
    True
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def save_finetuned(
    encoder: Encoder,
    base: Encoder,
    folder: Path,
    *,
    rank: int | None = None,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write what distinguishes an encoder from its base, in half precision.

    Differences of matrices are kept as two factors of `rank`, where that is smaller. `facts` go
    into `config.json` beside the spec of the base.
    """
    start = base.model.state_dict()
    tensors = {}
    for name, tensor in encoder.model.state_dict().items():
        difference = tensor.detach().cpu().float() - start[name].detach().cpu().float()
        matrix = difference.flatten(1) if difference.ndim > 1 else difference[None]
        if rank is not None and rank * sum(matrix.shape) < matrix.numel():
            left, right = low_rank(matrix, rank)
            tensors |= {f"{name}.left": left, f"{name}.right": right}
        else:
            tensors[name] = difference
    settings = {"base": base.spec, "base_digest": base.digest, "rank": rank}
    with atomic_write(folder / DIFFERENCE_NAME) as temporary:
        save_file({name: t.half().contiguous() for name, t in tensors.items()}, temporary)
    write_json(folder / CONFIG_NAME, settings | dict(facts or {}))


def load_finetuned(
    folder: str | Path, *, device: str | torch.device, load_base: Callable[..., Encoder]
) -> Encoder:
    """The encoder of a folder that `save_finetuned` wrote, upon the one that `load_base` loads."""
    folder, command = Path(folder), "daitir train dmcl"
    config, difference = folder / CONFIG_NAME, folder / DIFFERENCE_NAME
    with reading_trained("fine-tuned encoder", config, difference, command=command):
        settings = read_json(config)
        spec, digest = settings["base"], settings["base_digest"]
        tensors = {name: tensor.float() for name, tensor in load_file(difference).items()}
    try:
        encoder = load_base(spec, device=device)
    except RecursionError as error:
        raise DataError(f"{config}: names itself as its base; train again") from error
    if encoder.digest != digest:
        raise DataError(f"{folder}: was fine-tuned from another {spec}; train it again")
    with reading_trained(f"difference to {spec}", difference, command=command):
        for name, weights in encoder.model.state_dict().items():
            change = tensors.get(name)
            if change is None:
                change = tensors[f"{name}.left"] @ tensors[f"{name}.right"]
            # In single precision on the CPU, so that it is the same on every device.
            weights.copy_((weights.cpu().float() + change.view(weights.shape)).to(weights))
    encoder.spec, encoder.folder = f"finetuned:{folder}", folder
    encoder.came_from(identity(library="finetuned", base=digest, difference=difference))
    return encoder

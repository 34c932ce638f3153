"""daitir: diffusion-augmented interactive text-to-image retrieval, as a runnable book.

What `__all__` names is imported when it is first used, so that `import daitir` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for editors and type checkers
    from daitir.common.errors import DataError
    from daitir.data.datafolder import find_data
    from daitir.data.dialogues import Dialogue, query_texts, read_dialogues, write_dialogues
    from daitir.data.evaluate import evaluate
    from daitir.evaluation import result_rows
    from daitir.fusion import NRGR, ADaFuSE, dar_fusion
    from daitir.metrics import (
        best_log_rank_integral,
        bootstrap_interval,
        hits_at_k,
        paired_bootstrap,
        recall_at_k,
    )
    from daitir.models.encoders import load_encoder
    from daitir.models.reformulation import load_reformulator
    from daitir.models.views import load_view_generator
    from daitir.objectives import DMCLLoss, info_nce
    from daitir.recipes.fusion import load_fusion
    from daitir.retrieval import reciprocal_rank_fusion, target_ranks
    from daitir.studies.profiles import get_profile

__version__ = "0.1.0"
__all__ = [
    "NRGR", "ADaFuSE", "DMCLLoss", "DataError", "Dialogue", "best_log_rank_integral",
    "bootstrap_interval", "dar_fusion", "evaluate", "find_data", "get_profile", "hits_at_k",
    "info_nce", "load_encoder", "load_fusion", "load_reformulator", "load_view_generator",
    "paired_bootstrap", "query_texts", "read_dialogues", "recall_at_k", "reciprocal_rank_fusion",
    "result_rows", "target_ranks", "write_dialogues",
]  # fmt: skip

# The names of each module; `daitir.book.provenance` reads the map too.
_NAMES = {
    "daitir.common.errors": ["DataError"],
    "daitir.data.datafolder": ["find_data"],
    "daitir.data.dialogues": ["Dialogue", "query_texts", "read_dialogues", "write_dialogues"],
    "daitir.data.evaluate": ["evaluate"],
    "daitir.evaluation": ["result_rows"],
    "daitir.fusion": ["NRGR", "ADaFuSE", "dar_fusion"],
    "daitir.metrics": [
        "best_log_rank_integral", "bootstrap_interval", "hits_at_k", "paired_bootstrap",
        "recall_at_k",
    ],
    "daitir.models.encoders": ["load_encoder"],
    "daitir.models.reformulation": ["load_reformulator"],
    "daitir.models.views": ["load_view_generator"],
    "daitir.objectives": ["DMCLLoss", "info_nce"],
    "daitir.recipes.fusion": ["load_fusion"],
    "daitir.retrieval": ["reciprocal_rank_fusion", "target_ranks"],
    "daitir.studies.profiles": ["get_profile"],
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]

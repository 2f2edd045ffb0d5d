"""Audio tagging with Dilated Convolution with Learnable Spacings (DCLS).

What is named here is imported at first use: tagging with an exported model never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import preprocessing  # noqa: F401 - turns ONNX Runtime's telemetry off before another library imports it

if TYPE_CHECKING:
    from audioset_dcls.models.checkpoint import load_checkpoint
    from audioset_dcls.models.trunks import create_model
    from audioset_dcls.tagging.tagger import Tagger

__version__ = "0.1.0"
__all__ = ["Tagger", "create_model", "load_checkpoint"]

_WHERE = {
    "Tagger": "audioset_dcls.tagging.tagger",
    "create_model": "audioset_dcls.models.trunks",
    "load_checkpoint": "audioset_dcls.models.checkpoint",
}


# Not by preprocessing.lazy: where `preprocessing` is a stranger's, audioset_dcls.commands must come to say so.
def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    rooms = ("cluster", "dcls", "evaluation", "export", "inference", "models", "store", "tagging", "training")
    return sorted({*globals(), *__all__, *rooms})

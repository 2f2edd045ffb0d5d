"""Audio tagging with Dilated Convolution with Learnable Spacings (DCLS).

What is named here is imported at first use: tagging with an exported model never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import preprocessing  # noqa: F401 - turns ONNX Runtime's telemetry off before another library imports it
from preprocessing.lazy import exports

if TYPE_CHECKING:
    from audioset_dcls.models.checkpoint import load_checkpoint
    from audioset_dcls.models.trunks import create_model
    from audioset_dcls.tagging.tagger import Tagger

__version__ = "0.1.0"
__all__ = ["Tagger", "create_model", "load_checkpoint"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "audioset_dcls.models.checkpoint": ("load_checkpoint",),
        "audioset_dcls.models.trunks": ("create_model",),
        "audioset_dcls.tagging.tagger": ("Tagger",),
    },
)

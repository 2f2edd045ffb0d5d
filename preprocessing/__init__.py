"""From files to tensors: decoding, log-mel, augmentation, AudioSet to HDF5 and back. Knows audio, knows no model.

What is named here is imported at first use: `from preprocessing import read_audio` does not import torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from preprocessing.lazy import exports

if TYPE_CHECKING:
    from preprocessing.audio import SAMPLE_RATE, AudioError, iter_audio, read_audio
    from preprocessing.log_mel import LogMel, pad_or_trim

# ONNX Runtime 1.32 writes a device id below ~/.cache/Microsoft and reports to its maker unless this is set before it is
# imported, by torch.onnx for example. Child processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = ["SAMPLE_RATE", "AudioError", "LogMel", "iter_audio", "pad_or_trim", "read_audio"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "preprocessing.audio": (
            "SAMPLE_RATE",
            "AudioError",
            "iter_audio",
            "read_audio",
        ),
        "preprocessing.log_mel": (
            "LogMel",
            "pad_or_trim",
        ),
    },
)

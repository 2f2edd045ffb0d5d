"""Checkpoint -> ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.lazy import exports

if TYPE_CHECKING:
    from audioset_dcls.export.onnx import Exported, export

__all__ = ["Exported", "export"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "audioset_dcls.export.onnx": (
            "Exported",
            "export",
        ),
    },
)

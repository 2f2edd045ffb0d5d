"""The one place that imports ONNX Runtime and opens its sessions. Runs without torch.

Its telemetry is off: the package's `__init__` sees to that before any other library can import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from preprocessing.terminal import first_line

_FATAL_ONLY = 4  # ONNX Runtime's log severity: what it prints of an error, it raises too


def onnx_runtime() -> ModuleType:
    """The module `onnxruntime`, quiet and without telemetry."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    return onnxruntime


def onnx_quantization() -> ModuleType:
    """The module `onnxruntime.quantization`, with its `shape_inference` imported."""
    import onnxruntime.quantization
    import onnxruntime.quantization.shape_inference

    return onnxruntime.quantization


def available_providers() -> list[str]:
    """Names of the execution providers that this ONNX Runtime has, e.g. "CPUExecutionProvider"."""
    return list(onnx_runtime().get_available_providers())


def open_session(path: str | Path, providers: Sequence[str], threads: int = 1, memory_pattern: bool = True) -> Any:
    """An `onnxruntime.InferenceSession` on an ONNX file.

    threads: for one operator. memory_pattern: plan memory for the first shape; False for inputs of varying length.
    Raises ValueError with the first line of what ONNX Runtime says of a file that it cannot open.
    """
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = memory_pattern
    try:
        return runtime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise ValueError(first_line(error)) from error

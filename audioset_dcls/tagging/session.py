"""The one place that imports ONNX Runtime and opens its sessions. Runs without torch.

Its telemetry is off: the package's `__init__` sees to that before any other library can import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from audioset_dcls.tagging import contract
from preprocessing import checks
from preprocessing.constants import LogMelSettings
from preprocessing.terminal import first_line, printable

FORMAT = "1"  # of an exported tagger's metadata and outputs; also in the names of cached exports
_FATAL_ONLY = 4  # ONNX Runtime's log severity: what it prints of an error, it raises too
SAMPLE_RATES = (1_000, 384_000)  # Hz that a file may ask for
SECONDS = (0.1, 3600.0)  # that its window and hop may last
_LONGEST_LIST = 500  # characters of what a file lacks
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def onnx_runtime() -> ModuleType:
    """The module `onnxruntime`, quiet and without telemetry."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    return onnxruntime


def onnx_quantization() -> ModuleType:
    """The module `onnxruntime.quantization`."""
    import onnxruntime.quantization

    return onnxruntime.quantization


def available_providers() -> list[str]:
    """Names of the execution providers that this ONNX Runtime has, e.g. "CPUExecutionProvider"."""
    return list(onnx_runtime().get_available_providers())


def open_session(path: str | Path, providers: Sequence[str], threads: int = 1, memory_pattern: bool = True) -> Any:
    """An `onnxruntime.InferenceSession` on an ONNX file.

    Args:
        threads: for one operator.
        memory_pattern: plan memory for the first shape; False for inputs of varying length.

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


class ModelError(ValueError):
    """A tagger that cannot be opened. The message is one line: the name, what is wrong, what to do."""


class OnnxModel:
    """A tagger written by `dcls-export`, or by others to the same contract (`contract.py`).

    Attributes: `path`; `labels`, display names in the order of the scores; `sample_rate`, Hz; `metadata`, whatever else
    the file says of itself (model, license, scores, ...); `outputs`, their names: "scores", and "embedding" and
    "log_mel" if it has them; `log_mel_settings`, of its output "log_mel".

    `run` may be called from several threads at once. On the CPU each call uses one core: two calls side by side use two
    cores better than one call split in two, which waits at every layer.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        self.path, self.device = Path(path), device
        if device not in PROVIDERS:
            raise ModelError(f"device {device!r} is unknown; use one of {', '.join(PROVIDERS)}")
        if PROVIDERS[device] not in available_providers():
            raise ModelError(
                f"device {device!r}: this onnxruntime has no CUDA; pip install onnxruntime-gpu, or use cpu"
            )
        try:
            # no memory pattern: it would be for one length, and clips come in all
            self._session = open_session(self.path, [PROVIDERS[device]], memory_pattern=False)
        except ValueError as error:
            raise ModelError(f"{self.path}: {_why_unreadable(self.path, error)}") from error
        self.outputs = frozenset(output.name for output in self._session.get_outputs())
        properties = self._session.get_modelmeta().custom_metadata_map
        inputs = [(given.name, given.type, given.shape) for given in self._session.get_inputs()]
        if lacks := contract.missing(inputs, self.outputs, properties):
            told = printable("; ".join(lacks))[:_LONGEST_LIST]
            raise ModelError(f"{self.path}: not a tagger: it lacks {told}; docs/api.md has the contract")
        try:
            self.labels, self.sample_rate, self.metadata = _facts(self._session, properties)
            self.log_mel_settings = _log_mel_settings(self.metadata)
        except ValueError as error:
            raise ModelError(f"{self.path}: {error}; export the checkpoint again with dcls-export") from None

    def run(self, waveforms: np.ndarray, outputs: Sequence[str] = ("scores",)) -> list[np.ndarray]:
        """waveforms (B, samples) float32 -> the named outputs, each with B rows.

        "scores" (B, C) independent sigmoid probabilities; "embedding" (B, D); "log_mel" (B, 1, 128, frames) normalised.
        Raises ModelError if the file is no such model after all, or lacks one of these outputs.
        """
        self.require(*outputs)
        try:
            values = self._session.run(list(outputs), {"waveform": np.ascontiguousarray(waveforms, np.float32)})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"{self.path}: fails on a waveform of {waveforms.shape} ({first_line(error)})") from error
        shapes = dict(zip(outputs, (value.shape for value in values), strict=True))
        if shapes.get("scores", (0, len(self.labels)))[1:] != (len(self.labels),):
            raise ModelError(f"{self.path}: scores of shape {shapes['scores']} for {len(self.labels)} labels")
        return values

    def require(self, *outputs: str) -> None:
        """Raises ModelError if the file lacks one of these outputs."""
        if absent := [name for name in outputs if name not in self.outputs]:
            raise ModelError(f'{self.path}: has no output "{absent[0]}", which this needs; use a tagger that has it')


def _facts(session: Any, properties: Mapping[str, str]) -> tuple[tuple[str, ...], int, dict[str, Any]]:
    """Labels, sample rate in Hz, and the rest of what a tagger's file says of itself. Raises ValueError."""
    outputs = {output.name: output for output in session.get_outputs()}
    labels = checks.labels(checks.parse_json(properties["labels"], "labels"))
    classes = (outputs["scores"].shape or [None])[-1]
    if isinstance(classes, int) and classes != len(labels):
        raise ValueError(f"{len(labels)} labels for {classes} scores")
    rate = checks.integer(checks.parse_json(properties["sample_rate"], "sample_rate"), "sample_rate", *SAMPLE_RATES)
    metadata = {key: _plain(value) for key, value in properties.items() if key not in ("labels", "sample_rate")}
    if metadata.get("masked"):
        checks.labels(metadata["masked"])
    if "clip_seconds" in metadata:
        checks.number(metadata["clip_seconds"], "clip_seconds", *SECONDS)
    if "hop_seconds" in metadata:
        checks.number(metadata["hop_seconds"], "hop_seconds", SECONDS[0], metadata.get("clip_seconds", SECONDS[1]))
    return labels, rate, metadata


def _log_mel_settings(metadata: Mapping[str, Any]) -> LogMelSettings:
    config = metadata.get("model")
    return LogMelSettings.from_dict(config.get("log_mel") if isinstance(config, dict) else None)


def _plain(value: str) -> Any:
    """What `dcls-export` wrote: JSON, or a text as it is."""
    try:
        return checks.plain(checks.parse_json(value, ""), "")
    except ValueError:
        return value


def _why_unreadable(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "no such file; check --model"
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model; run git lfs pull"
    return f"no ONNX model that ONNX Runtime can open; copy or export it again ({error})"

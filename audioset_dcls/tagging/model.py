"""An exported tagger in ONNX Runtime: waveforms -> scores, embeddings, log-mel. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.folders import cache_folder, data_folder

EMBEDDED = "tagger.onnx"  # in checkpoints/: what `Tagger()` opens
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ModelError(ValueError):
    """A tagger that cannot be opened. The message is one line: the name, what is wrong, what to do."""


class OnnxModel:
    """A tagger written by `dcls-export`.

    Attributes: `path`; `labels`, display names in the order of the scores; `sample_rate`, Hz; `metadata`, whatever else
    the file says of itself (model, license, scores, ...).

    `run` may be called from several threads at once. On the CPU each call uses one core: two calls side by side use two
    cores better than one call split in two, which waits at every layer.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        import onnxruntime

        self.path = Path(path)
        if device not in PROVIDERS:
            raise ModelError(f"device {device!r} is unknown; use one of {', '.join(PROVIDERS)}")
        if PROVIDERS[device] not in onnxruntime.get_available_providers():
            raise ModelError(
                f"device {device!r}: this onnxruntime has no CUDA; pip install onnxruntime-gpu, or use cpu"
            )
        onnxruntime.set_default_logger_severity(3)  # its warnings about the machine tell a user nothing
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = 1
        settings.enable_mem_pattern = False  # plans memory for one shape; clips come in all lengths
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), settings, providers=[PROVIDERS[device]])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{self.path}: {_why_unreadable(self.path, error)}") from error
        self.device = device
        properties = self._session.get_modelmeta().custom_metadata_map
        inputs, outputs = (
            self._session.get_inputs(),
            {output.name: output.shape for output in self._session.get_outputs()},
        )
        if (
            [i.name for i in inputs] != ["waveform"]
            or not {"scores", "embedding"} <= outputs.keys()
            or "labels" not in properties
        ):
            raise ModelError(f"{self.path}: not a tagger written by dcls-export; export the checkpoint with it")
        self.metadata = {key: _plain(value) for key, value in properties.items()}
        self.labels: tuple[str, ...] = tuple(self.metadata.pop("labels"))
        self.sample_rate = int(self.metadata.pop("sample_rate"))

    def run(self, waveforms: np.ndarray, outputs: Sequence[str] = ("scores",)) -> list[np.ndarray]:
        """waveforms (B, samples) float32 -> the named outputs, each with B rows.

        "scores" (B, C) independent sigmoid probabilities; "embedding" (B, D); "log_mel" (B, 1, 128, frames) normalised.
        """
        return self._session.run(list(outputs), {"waveform": np.ascontiguousarray(waveforms, np.float32)})


def open_model(model: str | Path | None = None, device: str = "cpu") -> OnnxModel:
    """The embedded tagger (None), an exported one (a path ending in .onnx), or what `load_checkpoint` takes.

    A checkpoint or a published name is exported on first use and kept in the cache. Raises ModelError.
    """
    if model is None:
        return OnnxModel(embedded_tagger(), device)
    path = Path(model)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ModelError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; check --model")
        return OnnxModel(path, device)
    return OnnxModel(_exported(model), device)


def embedded_tagger() -> Path:
    """The tagger that comes with the project. Raises ModelError where it is missing."""
    try:
        path = data_folder("checkpoints") / EMBEDDED
    except FileNotFoundError as error:
        raise ModelError(str(error)) from error
    if not path.is_file():
        raise ModelError(
            f"{path}: no embedded tagger in this installation; give one with --model tagger.onnx "
            "(dcls-export CHECKPOINT tagger.onnx makes one)"
        )
    return path


def _exported(model: str | Path) -> Path:
    """The ONNX file of a checkpoint or published name, made on first use; named by the checkpoint's content."""
    try:
        from audioset_dcls.models.checkpoint import load_checkpoint
        from audioset_dcls.tagging.export import export, fingerprint
    except ImportError as error:
        raise ModelError(
            f"{model}: only .onnx files work without {error.name}; pip install audioset-dcls for others"
        ) from error
    try:
        loaded = load_checkpoint(model)
        target = cache_folder() / "exported" / f"{fingerprint(loaded)}.onnx"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            export(loaded, target)
    except (OSError, ValueError) as error:  # CheckpointError and DownloadError among them
        raise ModelError(str(error)) from error
    return target


def _plain(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _why_unreadable(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "no such file; check --model"
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model; run git lfs pull"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return f"no ONNX model that ONNX Runtime can open; copy or export it again ({reason})"

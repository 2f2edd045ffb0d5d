"""An exported tagger in ONNX Runtime: waveforms -> scores, embeddings, log-mel. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.folders import cache_folder, data_folder
from preprocessing import checks
from preprocessing.constants import LogMelSettings
from preprocessing.onnx_session import available_providers, open_session
from preprocessing.terminal import first_line

EMBEDDED = "tagger.onnx"  # in checkpoints/: what `Tagger()` opens
SAMPLE_RATES = (1_000, 384_000)  # Hz that a file may ask for
SECONDS = (0.1, 3600.0)  # that its window and hop may last
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ModelError(ValueError):
    """A tagger that cannot be opened. The message is one line: the name, what is wrong, what to do."""


class OnnxModel:
    """A tagger written by `dcls-export`.

    Attributes: `path`; `labels`, display names in the order of the scores; `sample_rate`, Hz; `metadata`, whatever else
    the file says of itself (model, license, scores, ...); `log_mel_settings`, of its output "log_mel".

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
        try:
            self.labels, self.sample_rate, self.metadata = _facts(self._session)
            self.log_mel_settings = _log_mel_settings(self.metadata)
        except ValueError as error:
            raise ModelError(f"{self.path}: {error}; export the checkpoint again with dcls-export") from None

    def run(self, waveforms: np.ndarray, outputs: Sequence[str] = ("scores",)) -> list[np.ndarray]:
        """waveforms (B, samples) float32 -> the named outputs, each with B rows.

        "scores" (B, C) independent sigmoid probabilities; "embedding" (B, D); "log_mel" (B, 1, 128, frames) normalised.
        Raises ModelError if the file is no such model after all.
        """
        try:
            values = self._session.run(list(outputs), {"waveform": np.ascontiguousarray(waveforms, np.float32)})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"{self.path}: fails on a waveform of {waveforms.shape} ({first_line(error)})") from error
        shapes = dict(zip(outputs, (value.shape for value in values), strict=True))
        if shapes.get("scores", (0, len(self.labels)))[1:] != (len(self.labels),):
            raise ModelError(f"{self.path}: scores of shape {shapes['scores']} for {len(self.labels)} labels")
        return values


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


def _facts(session: Any) -> tuple[tuple[str, ...], int, dict[str, Any]]:
    """Labels, sample rate in Hz, and the rest of what a tagger's file says of itself. Raises ValueError."""
    properties = session.get_modelmeta().custom_metadata_map
    inputs = [(given.name, given.type, len(given.shape)) for given in session.get_inputs()]
    outputs = {output.name: output for output in session.get_outputs()}
    if inputs != [("waveform", "tensor(float)", 2)] or not {"scores", "embedding"} <= outputs.keys():
        raise ValueError("not a tagger written by dcls-export")
    if not {"labels", "sample_rate"} <= properties.keys():
        raise ValueError("not a tagger written by dcls-export: it lacks labels or sample rate")
    labels = checks.labels(checks.parse_json(properties["labels"], "labels"))
    classes = (outputs["scores"].shape or [None])[-1]
    if isinstance(classes, int) and classes != len(labels):
        raise ValueError(f"{len(labels)} labels for {classes} scores")
    rate = checks.integer(checks.parse_json(properties["sample_rate"], "sample_rate"), "sample_rate", *SAMPLE_RATES)
    metadata = {key: _plain(value) for key, value in properties.items() if key not in ("labels", "sample_rate")}
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

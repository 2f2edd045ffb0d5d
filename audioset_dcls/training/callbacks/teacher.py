"""Another tagger whose scores are learned from."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from audioset_dcls.models import CheckpointError, load_checkpoint
from audioset_dcls.models.waveform import WaveformTagger
from audioset_dcls.training.onnx_teacher import OnnxTeacher
from preprocessing.clips.layout import INT16_SCALE
from preprocessing.constants import SAMPLE_RATE


class Teacher(Callback):
    """Scores each training batch as it is made: adds "teacher", (B, C), and "embedding", (B, D), if it has one.

    Args:
        source: what `load_checkpoint` takes, or an ONNX or TorchScript file from waveform, float32 (B, samples) at
            32 kHz within ±1, to scores in [0, 1] (B, C) and, optionally, a pooled embedding (B, D). Of an ONNX file's
            outputs "scores" is taken, else the first, and "embedding"; of a TorchScript file's the first and the
            second.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = source
        self._onnx = self._module = None
        if str(source).endswith(".onnx"):
            self._onnx = OnnxTeacher(source, torch.get_num_threads())
        else:
            self._module = _teacher_module(source)
        _, embedding = self.score(torch.zeros(2, SAMPLE_RATE))
        self.embedding_size = 0 if embedding is None else embedding.shape[1]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._module is None:
            return
        self._module.to(trainer.strategy.root_device)
        if trainer.strategy.root_device.type == "cpu" and isinstance(self._module, torch.jit.ScriptModule):
            self._module = torch.jit.optimize_for_inference(torch.jit.freeze(self._module))  # 1.3 x as fast

    @torch.inference_mode()
    def score(self, waveform: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, samples) -> scores (B, C), embedding (B, D) or None."""
        if self._onnx is not None:
            scores, embedding = self._onnx(waveform.cpu().numpy())
            return torch.from_numpy(scores), None if embedding is None else torch.from_numpy(embedding)
        assert self._module is not None
        output = self._module(waveform)
        return (output, None) if isinstance(output, Tensor) else (output[0], output[1] if len(output) > 1 else None)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        waveform = batch["waveform"].to(torch.float32) / INT16_SCALE
        scores, embedding = self.score(waveform)
        if scores.shape != batch["target"].shape:
            raise ValueError(
                f"{self.source}: scores of shape {tuple(scores.shape)}, the labels have {tuple(batch['target'].shape)}"
            )
        batch["teacher"] = scores.to(waveform.device).clone()
        if embedding is not None:
            batch["embedding"] = embedding.to(waveform.device).clone()


class _TaggerTeacher(WaveformTagger):
    """Scores (B, C) in place of logits."""

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        logits, embedding = super().forward(waveform)
        return logits.sigmoid(), embedding


def _teacher_module(source: str | Path) -> nn.Module:
    """Raises FileNotFoundError, and CheckpointError for a file that is neither a checkpoint nor TorchScript."""
    try:
        # channels-last is what the quicker convolutions take on a CPU
        return _TaggerTeacher(load_checkpoint(source)).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except CheckpointError:
        if not zipfile.is_zipfile(source) or not any(
            name.endswith("/constants.pkl") for name in zipfile.ZipFile(source).namelist()
        ):
            raise
        return torch.jit.load(source, map_location="cpu").eval()

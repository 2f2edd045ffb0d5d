"""What accompanies a training: checkpoints, a log, averaged weights, a teacher, and a watch over the DCLS positions."""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor, nn

from audioset_dcls.dcls import DclsNd, fold
from audioset_dcls.dcls.kernel import MIN_DEVIATION, MIN_HALF_WIDTH
from audioset_dcls.evaluation.runs import CHECKPOINT
from audioset_dcls.models import AudioTagger, CheckpointError, load_checkpoint
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.teacher import OnnxTeacher
from preprocessing.clips.file import INT16_SCALE
from preprocessing.constants import SAMPLE_RATE
from preprocessing.files import atomic_write
from preprocessing.log_mel import LogMel

_log = logging.getLogger(__name__)


def is_due(trainer: L.Trainer, every_n_steps: int, last_step: int) -> bool:
    """Whether a step after `last_step`, inside the epoch, is one of every `every_n_steps`; 0: never."""
    step = trainer.global_step
    return bool(every_n_steps) and step % every_n_steps == 0 and step > last_step and not trainer.is_last_batch


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it. Lightning would write it to $TMPDIR, which may be small."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises OSError, which names the checkpoint, e.g. if the disk is full."""
        try:
            # a Python file: torch's own writer does not tell why it could not write
            with atomic_write(Path(path)) as unfinished, unfinished.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch closes its archive after the OSError and then fails itself
            cause = error.__context__ if isinstance(error, RuntimeError) else error
            if not isinstance(cause, OSError):
                raise
            raise OSError(cause.errno, cause.strerror, str(path)) from error


class Checkpoints(Callback):
    """`last.ckpt` every so many steps and after each epoch, `best.ckpt` whenever the validation's mAP rises.

    every_n_steps: optimiser steps between two saves inside an epoch; 0 saves after epochs only.
    """

    def __init__(self, folder: Path, every_n_steps: int = 0) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self.best = -1.0
        self._saved_step = 0

    def save(self, trainer: L.Trainer, name: str) -> None:
        for logger in trainer.loggers:
            logger.save()  # a resumed run goes on from this step's row
        trainer.save_checkpoint(self.folder / name)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        if is_due(trainer, self.every_n_steps, self._saved_step):
            self._saved_step = trainer.global_step
            self.save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        score = module.map if isinstance(module, TaggingModule) else None
        if score is not None and score > self.best and not trainer.sanity_checking:
            self.best = score
            self.save(trainer, CHECKPOINT)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.save(trainer, "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "saved_step": self._saved_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self._saved_step = state_dict["best"], state_dict["saved_step"]


class EpochLog(Callback):
    """A line in the job's log after each validation, for those who watch a file and not a progress bar."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, TaggingModule) and pl_module.map is not None:
            minutes = (time.monotonic() - self._started) / 60
            epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            _log.info("%s: mAP %.2f %%, %.1f minutes", epoch, 100 * pl_module.map, minutes)


class WeightAverage(WeightAveraging):
    """Averaged weights, used in validation and saved as the checkpoints' "state_dict".

    decay: of the exponential moving average, e.g. 0.999; it starts lower, (1 + n) / (10 + n) after n steps, so that the
        random first weights are forgotten. None: the plain mean of all steps.
    start: share of the training after which averaging begins; before, the average is the current weights.
    """

    def __init__(self, decay: float | None = 0.999, start: float = 0.0) -> None:
        super().__init__(multi_avg_fn=self._move)
        self.decay, self.start = decay, start
        self.updates = 0  # since `start`
        self._share = 1.0  # of the current weights in the next average
        self._total_steps = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module moves there only later
        super().setup(trainer, pl_module, stage)
        if isinstance(pl_module, TaggingModule):
            self._total_steps = pl_module.total_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        if step_idx < self.start * self._total_steps:
            self._share = 1.0
            return True
        self.updates += 1
        mean = 1 / self.updates
        self._share = mean if self.decay is None else max(1 - self.decay, 9 / (9 + self.updates))
        return True

    def _move(self, average: Any, current: Any, count: Any) -> None:
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, self._share)
        else:
            torch._foreach_copy_(average, current)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.updates = state_dict["updates"]


class Teacher(Callback):
    """Scores each training batch as it is made: adds "teacher", (B, C), and "embedding", (B, D), where it has one.

    source: what `load_checkpoint` takes, or an ONNX or TorchScript file from waveform, float32 (B, samples) in [-1, 1]
        at 32 kHz, to scores in [0, 1] (B, C) and, optionally, a pooled embedding (B, D). Of an ONNX file's outputs
        "scores" is taken, else the first, and "embedding"; of a TorchScript file's the first and the second.
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


class _TaggerTeacher(nn.Module):
    """Waveform (B, samples) -> scores (B, C) and embedding (B, D) of a tagger."""

    def __init__(self, model: AudioTagger) -> None:
        super().__init__()
        fold(model)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.log_mel = LogMel(model.log_mel_settings)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.forward_features(self.log_mel(waveform))
        head = self.model.trunk.forward_head
        return head(features).float().sigmoid(), head(features, pre_logits=True)


def _teacher_module(source: str | Path) -> nn.Module:
    """Raises FileNotFoundError, and CheckpointError for a file that is neither a checkpoint nor TorchScript."""
    try:
        return _TaggerTeacher(load_checkpoint(source)).eval()
    except CheckpointError:
        if not zipfile.is_zipfile(source) or not any(
            name.endswith("/constants.pkl") for name in zipfile.ZipFile(source).namelist()
        ):
            raise
        return torch.jit.load(source, map_location="cpu").eval()


class PositionStatistics(Callback):
    """Logs, for each set of positions, where the elements are, how they moved, how wide they are, how many sit outside.

    positions/<layer>/speed: mean distance that an element moved since the row before, in cells per 1000 steps (thesis
        2.10).
    positions/<layer>/spread_frequency, spread_time: standard deviation of the positions along each axis, in cells.
    positions/<layer>/deviation: mean standard deviation (Gauss) or half width (triangle), in cells.
    positions/<layer>/border: share of elements within half a cell of the border (thesis 2.11): where it grows, the
        kernel is too small or the positions' learning rate too high.
    every_n_steps: optimiser steps between two rows inside an epoch; 0 writes after epochs only.
    """

    def __init__(self, every_n_steps: int = 0) -> None:
        self.every_n_steps = every_n_steps
        self.previous: dict[str, Tensor] = {}
        self.step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.previous:
            self.previous = {name: layer.positions.detach().clone() for name, layer in layers(pl_module)}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        if is_due(trainer, self.every_n_steps, self.step):
            self.log_positions(trainer.global_step, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.log_positions(trainer.global_step, pl_module)

    def log_positions(self, step: int, module: L.LightningModule) -> None:
        row = {}
        for name, layer in layers(module):
            positions = layer.positions.detach()
            moved = (positions - self.previous[name].to(positions)).square().sum(0).sqrt()
            row[f"positions/{name}/speed"] = 1000 * moved.mean().item() / max(step - self.step, 1)
            for axis, along in enumerate(("frequency", "time")):
                row[f"positions/{name}/spread_{along}"] = positions[axis].std().item()
            row[f"positions/{name}/border"] = border_share(layer)
            if layer.deviations is not None:
                least = MIN_DEVIATION if layer.interpolation == "gauss" else MIN_HALF_WIDTH
                row[f"positions/{name}/deviation"] = layer.deviations.detach().abs().mean().item() + least
            self.previous[name] = positions.clone()
        self.step = step
        if row and isinstance(module, TaggingModule):
            module.log_row(step, row)

    def state_dict(self) -> dict[str, Any]:
        return {"previous": self.previous, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.previous, self.step = state_dict["previous"], state_dict["step"]


def layers(module: Any) -> Iterator[tuple[str, DclsNd]]:
    """One DCLS layer, with its name, for each set of positions: those that share them have the same."""
    seen: set[int] = set()
    for name, layer in module.model.named_modules():
        if isinstance(layer, DclsNd) and id(layer.positions) not in seen:
            seen.add(id(layer.positions))
            yield name.removeprefix("trunk."), layer


def border_share(layer: DclsNd) -> float:
    """Share of elements with a coordinate within half a cell of where `clamp_positions` stops it."""
    near = [
        (row < 0.5 - size // 2) | (row > size - 1 - size // 2 - 0.5)
        for row, size in zip(layer.positions.detach(), layer.dilated_kernel_size, strict=True)
    ]
    return torch.stack(near).any(0).float().mean().item()

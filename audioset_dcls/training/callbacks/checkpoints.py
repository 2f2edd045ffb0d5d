"""Checkpoint files, and the log of epochs."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import TorchCheckpointIO

from audioset_dcls.evaluation.runs import CHECKPOINT
from audioset_dcls.training.module import TaggingModule
from preprocessing.files import atomic_write

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

    Args:
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
    """A line an epoch; without a terminal, which would show a bar, another at least every `seconds`."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self._started = self._told = time.monotonic()
        self._batches = 0  # since the start of this process

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin, self._batches = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches += 1
        now = time.monotonic()
        if not trainer.is_global_zero or sys.stderr.isatty() or now - self._told < self.seconds:
            return
        self._told = now
        of_epoch = int(trainer.num_training_batches)
        left = (trainer.max_epochs or 0) * of_epoch - trainer.current_epoch * of_epoch - batch_idx - 1
        minutes = left * (now - self._begin) / self._batches / 60
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        _log.info(
            "epoch %d of %s, batch %d of %d: loss %.4g, learning rate %.2g, about %.0f minutes left",
            *(trainer.current_epoch + 1, trainer.max_epochs, batch_idx + 1, of_epoch),
            *(float(outputs["loss"].detach()), rate, minutes),
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, TaggingModule) and pl_module.map is not None:
            minutes = (time.monotonic() - self._started) / 60
            epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            _log.info("%s: mAP %.2f %%, %.1f minutes", epoch, 100 * pl_module.map, minutes)

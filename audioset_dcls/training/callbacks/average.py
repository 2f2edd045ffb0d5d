"""Averaged weights."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging

from audioset_dcls.training.module import TaggingModule


class WeightAverage(WeightAveraging):
    """Averaged weights, used in validation and saved as the checkpoints' "state_dict".

    Args:
        decay: of the exponential moving average, e.g. 0.999; it starts lower, (1 + n) / (10 + n) after n steps, so that
            the random first weights are forgotten. None: the plain mean of all steps.
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
            self._total_steps = pl_module.schedule.total_steps

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

"""Where the elements of DCLS layers are, and how they move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from audioset_dcls.dcls import DclsNd
from audioset_dcls.dcls.kernel import MIN_DEVIATION, MIN_HALF_WIDTH
from audioset_dcls.training.callbacks.checkpoints import is_due
from audioset_dcls.training.module import TaggingModule


class PositionStatistics(Callback):
    """Logs, for each set of positions, where the elements are, how they moved, how wide they are, how many sit outside.

    positions/<layer>/speed: mean distance that an element moved since the row before, in cells per 1000 steps (thesis
        2.10).
    positions/<layer>/spread_frequency, spread_time: standard deviation of the positions along each axis, in cells.
    positions/<layer>/deviation: mean standard deviation (Gauss) or half width (triangle), in cells.
    positions/<layer>/border: share of elements within half a cell of the border (thesis 2.11): where it grows, the
        kernel is too small or the positions' learning rate too high.

    Args:
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

"""Parameter groups, optimiser and learning rate schedule of the reference recipe."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from audioset_dcls.dcls import dcls_layers


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, position_lr_factor: float = 5.0
) -> list[dict[str, Any]]:
    """`model`'s trainable parameters in three groups, each tensor once however many layers share it.

    `decay`: convolution and linear weights. `no_decay`: biases, norms, layer scales: pulling them to zero regularises
    nothing. `positions`: positions and deviations of DCLS layers, without decay, which would draw the elements to the
    kernel's centre, and at `position_lr_factor` times the learning rate (thesis 3.4: they learn slower than weights).
    """
    spacings = {
        id(parameter)
        for layer in dcls_layers(model)
        for parameter in (layer.positions, layer.deviations)
        if parameter is not None
    }
    groups: dict[str, dict[str, Any]] = {
        "decay": {"lr": lr, "weight_decay": weight_decay},
        "no_decay": {"lr": lr, "weight_decay": 0.0},
        "positions": {"lr": lr * position_lr_factor, "weight_decay": 0.0},
    }
    for name, parameter in model.named_parameters():  # gives a shared tensor once
        if not parameter.requires_grad:
            continue
        if id(parameter) in spacings:
            group = "positions"
        elif parameter.ndim <= 1 or name.endswith((".bias", ".gamma")):  # FastViT's layer scales are (C, 1, 1)
            group = "no_decay"
        else:
            group = "decay"
        groups[group].setdefault("params", []).append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if "params" in group]


def create_optimizer(
    model: nn.Module,
    name: str = "adamw",
    lr: float = 4e-3,
    weight_decay: float = 0.05,
    position_lr_factor: float = 5.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """AdamW, or timm's LAMB, over `parameter_groups`. Raises ValueError for another name."""
    groups = parameter_groups(model, lr, weight_decay, position_lr_factor)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas)
    if name == "lamb":
        from timm.optim.lamb import Lamb

        return Lamb(groups, lr=lr, betas=betas)
    raise ValueError(f"optimizer {name!r} is not known: adamw or lamb")


@dataclass(frozen=True)
class Schedule:
    """Of the learning rate, in optimiser steps."""

    total_steps: int
    warmup_steps: int = 0
    min_lr: float = 1e-6
    decay_start: float = 0.0
    """Share of the steps after which the rate falls; from the warm-up to there it stays."""


def warmup_cosine(optimizer: torch.optim.Optimizer, schedule: Schedule, lr: float) -> LambdaLR:
    """Linear from 0 to the group's rate, then a half cosine to min_lr / lr of it, step by step."""
    warmup, total, min_factor = schedule.warmup_steps, schedule.total_steps, schedule.min_lr / lr
    first = max(warmup, round(schedule.decay_start * total))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, max(0, step - first) / max(1, total - 1 - first))
        return min_factor + (1 - min_factor) * (1 + cos(pi * progress)) / 2

    return LambdaLR(optimizer, factor)

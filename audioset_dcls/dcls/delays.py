"""Delays of a spiking network as positions of causal DCLS layers (2306.17670).

A synapse that answers d time steps late is one tap of a causal kernel, d steps before the present. While training, the
tap is a Gaussian, wide at first so that its position gets a gradient from far away, then ever narrower; for inference
each delay is a whole number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audioset_dcls.dcls.conv import Dcls1d, DclsNd, dcls_layers
from audioset_dcls.dcls.folding import fold
from audioset_dcls.dcls.kernel import MIN_DEVIATION

NARROWEST = 0.5  # cells; where DCLS-Gauss starts, and the paper's schedule ends


def synaptic_delays(layer: Dcls1d) -> Tensor:
    """(out_channels, in_channels / groups, kernel_count): how many steps before the present each element is.

    >>> layer = Dcls1d(1, 1, kernel_count=1, dilated_kernel_size=25, padding="causal")
    >>> _ = nn.init.constant_(layer.positions, 12.0)  # the last cell of 25
    >>> synaptic_delays(layer).item()
    0.0
    """
    (size,) = layer.dilated_kernel_size
    return (size - 1 - size // 2) - layer.positions[0]


@torch.no_grad()
def spread_delays(model: nn.Module) -> None:
    """Start positions uniformly over the whole kernel: a delay far from the right one is still near another."""
    for layer in _delay_layers(model):
        for row, size in zip(layer.positions, layer.dilated_kernel_size, strict=True):
            row.uniform_(-(size // 2), (size - 1) - size // 2)


@torch.no_grad()
def narrow_delays(model: nn.Module, progress: float, until: float = 0.25) -> float:
    """Set the standard deviations of all layers to where the paper's schedule has them; call it before each epoch.

    They fall exponentially from half the kernel to NARROWEST, and are no longer learned.

    Args:
        progress: share of the training that is over, 0 to 1.
        until: share after which they stay narrow; the default is the paper's.

    Returns the widest standard deviation, in cells.
    """
    widest = 0.0
    for layer in _delay_layers(model):
        assert layer.deviations is not None
        layer.deviations.requires_grad_(False)
        for row, size in zip(layer.deviations, layer.dilated_kernel_size, strict=True):
            start = max(size // 2, NARROWEST)
            sigma = start * (NARROWEST / start) ** min(1.0, progress / until)
            row.fill_(sigma - MIN_DEVIATION)
            widest = max(widest, sigma)
    return widest


@torch.no_grad()
def round_delays(model: nn.Module) -> nn.Module:
    """Fold the model, each element on the cell next to its position: whole delays, one tap each; returns the model."""
    for layer in _delay_layers(model):
        layer.positions.round_()
        layer.clamp_positions()
        layer.interpolation = "bilinear"  # at a whole position one cell alone
        layer.deviations = None
    return fold(model)


def _delay_layers(model: nn.Module) -> list[DclsNd]:
    layers = list(dcls_layers(model))
    wrong = {layer.interpolation for layer in layers} - {"gauss"}
    if not layers or wrong:
        there = f"layers with interpolation {', '.join(sorted(wrong))}" if wrong else "no DCLS layers"
        raise ValueError(f"learning delays needs DCLS layers with interpolation 'gauss'; the model has {there}")
    return layers

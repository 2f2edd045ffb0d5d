"""Choosing among equal operators by timing them once, as cuDNN's benchmark mode does."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

_MOST_SHAPES = 256  # beyond, the caller's own rule decides: every length of clip would be timed anew
_CALLS = 3
_enabled = False
_winners: dict[Hashable, int] = {}

Operator = Callable[[Tensor, Tensor], Tensor]


def set_benchmark(enabled: bool) -> None:
    """Let `depthwise_conv2d` time its operators on the first use of a shape on a device, and keep the quickest.

    Off by default: a cost model decides, so that a run takes the same operators, and rounds the same, each time. It is
    for machines that the model was not fitted on, and for GPUs, where the model always takes torch's. Without effect
    while `torch.use_deterministic_algorithms` is on, and in traced or compiled graphs. Turning it off forgets what was
    timed.
    """
    global _enabled
    _enabled = enabled
    if not enabled:
        _winners.clear()


def is_benchmarking() -> bool:
    return _enabled and not torch.are_deterministic_algorithms_enabled()


def quickest(
    operators: Sequence[Operator], input: Tensor, weight: Tensor, key: Hashable, training: bool, default: int
) -> int:
    """The index of the operator that takes the least time for tensors like these.

    Args:
        operators: from input and weight to the same output.
        key: what else the time depends on, e.g. the padding.
        training: time the forward and the backward pass, else the forward pass alone.
        default: the answer if too many shapes have been timed.
    """
    of_tensors = (
        (tensor.shape, tensor.dtype, tensor.stride() if tensor is input else None, tensor.device)
        for tensor in (input, weight)
    )
    full_key = (*of_tensors, key, training, torch.get_num_threads())
    if full_key not in _winners:
        if len(_winners) >= _MOST_SHAPES:
            return default
        times = [_seconds(operator, input, weight, training) for operator in operators]
        _winners[full_key] = times.index(min(times))
    return _winners[full_key]


def _seconds(operator: Operator, input: Tensor, weight: Tensor, training: bool) -> float:
    """The least of some calls, after one that warms up."""
    x, k = (tensor.detach().requires_grad_(training) for tensor in (input, weight))
    least = float("inf")
    with torch.set_grad_enabled(training), torch.autocast(input.device.type, enabled=False):
        for call in range(1 + _CALLS):
            began = _now(input.device)
            output = operator(x, k)
            if training:
                torch.autograd.grad(output, (x, k), torch.ones_like(output))
            took = _now(input.device) - began
            least = min(least, took) if call else least
    return least


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

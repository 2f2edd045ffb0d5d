"""Choosing among equal operators by timing them once, as cuDNN's benchmark mode does."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial

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
    for machines that the model was not fitted on, and for GPUs, where the model always takes torch's: there it chooses
    among `candidates.py`, forward and backward apart, and how the kernel is made. Without effect while
    `torch.use_deterministic_algorithms` is on, in traced graphs, and in those compiled for a CPU. Turning it off
    forgets what was timed.
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
    x, k = (tensor.detach().requires_grad_(training) for tensor in (input, weight))

    def run(operator: Operator) -> None:
        with torch.set_grad_enabled(training), torch.autocast(input.device.type, enabled=False):
            output = operator(x, k)
            if training:
                torch.autograd.grad(output, (x, k), torch.ones_like(output))

    return quickest_run([partial(run, operator) for operator in operators], full_key, input.device, default)


def quickest_run(
    runs: Sequence[Callable[[], object]], key: Hashable, device: torch.device, default: int, may_fail: bool = False
) -> int:
    """The index of the run that takes the least time; timed once for a key.

    Args:
        key: all that the times depend on.
        default: the answer if too many keys have been timed, while a CUDA graph is recorded, and if all fail.
        may_fail: a run that raises is left out: a device may lack the memory, the registers or the instructions for it.
    """
    if key not in _winners:
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if len(_winners) >= _MOST_SHAPES or capturing:
            return default
        times = [_seconds(run, device, may_fail) for run in runs]
        _winners[key] = times.index(min(times)) if min(times) < float("inf") else default
    return _winners[key]


def _seconds(run: Callable[[], object], device: torch.device, may_fail: bool) -> float:
    """The least of some calls, after one that warms up; infinite if it fails."""
    least = float("inf")
    try:
        for call in range(1 + _CALLS):
            began = _now(device)
            run()
            took = _now(device) - began
            least = min(least, took) if call else least
    except Exception as error:  # Triton's, CUDA's and torch's share no base class
        if not may_fail:
            raise
        warnings.warn(f"an operator cannot be used here: {type(error).__name__}: {error}", stacklevel=2)
        return float("inf")
    return least


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

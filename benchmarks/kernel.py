"""Kernel construction against `dcls` 0.1.1: 23 x 23, 26 elements, Gauss; forward, forward + backward, peak memory.

    python benchmarks/kernel.py [--threads 2] [--device cpu]

Times are the fastest of several runs, memory is the allocator's peak in one forward + backward; ratios are of this run.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable

import torch
from DCLS.construct.modules import ConstructKernel2d

from audioset_dcls.dcls import construct_kernel

SIZE, COUNT = 23, 26


def fastest(run: Callable[[], object], device: str, seconds: float = 1.0) -> float:
    """Milliseconds of the fastest run within about `seconds`, at least three after one to warm up."""
    run()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def peak_megabytes(run: Callable[[], object], device: str) -> float:
    """The most that one run holds of the allocator's memory at a time, beside what was there before."""
    run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler
    assert results is not None
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = torch.cuda.get_device_name() if options.device == "cuda" else torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {platform.machine()} {name}, {options.threads} threads; ms and MB")
    print(f"{'channels':>8} | {'forward: dcls':>14} {'ours':>8} {'ratio':>7}", end="")
    print(f" | {'f + b: dcls':>12} {'ours':>8} {'ratio':>7}", end="")
    print(f" | {'memory: dcls':>12} {'ours':>7} {'ratio':>7} | difference")
    for channels in (96, 192, 384, 768):
        row(channels, options.device)


def row(channels: int, device: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(channels, 1, COUNT, device=device).requires_grad_()
    positions = torch.randn(2, channels, 1, COUNT, device=device).mul_(3).clamp_(-11, 11).requires_grad_()
    deviations = torch.full_like(positions, 0.23).requires_grad_()
    leaves = (weight, positions, deviations)
    reference = ConstructKernel2d(channels, channels, channels, COUNT, (SIZE, SIZE), "gauss")

    def ours() -> torch.Tensor:
        return construct_kernel(weight, positions, deviations, (SIZE, SIZE))

    def theirs() -> torch.Tensor:
        return reference(weight, positions.flip(0), deviations.flip(0))

    difference = float((ours() - theirs()).detach().abs().max())
    grad = torch.randn(channels, 1, SIZE, SIZE, device=device)
    builders = (theirs, ours)
    with torch.no_grad():
        forward = [fastest(build, device) for build in builders]
    steps = [lambda build=build: torch.autograd.grad(build(), leaves, grad) for build in builders]
    both = [fastest(step, device) for step in steps]
    memory = [peak_megabytes(step, device) for step in steps]
    line = f"{channels:8} | {forward[0]:14.2f} {forward[1]:8.3f} {forward[0] / forward[1]:6.0f}x"
    line += f" | {both[0]:12.1f} {both[1]:8.2f} {both[0] / both[1]:6.0f}x"
    print(f"{line} | {memory[0]:12.0f} {memory[1]:7.1f} {memory[0] / memory[1]:6.0f}x | {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()

"""The depthwise convolution against torch's, per shape of the paper's stages: forward, and forward + backward.

    python benchmarks/depthwise.py [--batch 8] [--kernel 23] [--threads 2]

Torch is given the better of its two memory formats, and the part of the kernel that can touch the map. Times are the
fastest of several runs; the last columns are ratios within this run and the relative error against float64.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls.depthwise import crop_to_reach, is_spectral_faster
from audioset_dcls.dcls.spectral import correlate

SHAPES = [(96, 64, 62), (192, 32, 31), (384, 16, 15), (768, 8, 7)]


def fastest(run: Callable[[], object], seconds: float = 1.0) -> float:
    """Milliseconds of the fastest run within about `seconds`, at least three after one to warm up."""
    run()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 50):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def training_step(convolve: Callable[[Tensor, Tensor], Tensor], input: Tensor, weight: Tensor, grad: Tensor) -> None:
    torch.autograd.grad(convolve(input, weight), (input, weight), grad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--kernel", type=int, default=23)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, ", end="")
    print(f"{options.threads} threads, batch {options.batch}, kernel {options.kernel} x {options.kernel}, float32, ms")
    print(f"{'shape':>18} {'torch fwd':>10} {'spectral':>9} {'7x7':>7} {'ratio':>6}", end="")
    print(f" | {'torch f+b':>10} {'spectral':>9} {'7x7':>7} {'ratio':>6} {'error':>8}  chosen (inference, training)")
    for channels, height, width in SHAPES:
        row(options.batch, channels, height, width, options.kernel)


def row(batch: int, channels: int, height: int, width: int, kernel: int) -> None:
    torch.manual_seed(0)
    whole = torch.randn(channels, 1, kernel, kernel)
    weight, padding = crop_to_reach(whole, (kernel // 2, kernel // 2), (height, width))
    small = torch.randn(channels, 1, 7, 7).requires_grad_()
    weight = weight.contiguous().requires_grad_()
    contiguous = torch.randn(batch, channels, height, width)
    inputs = [contiguous.requires_grad_(), contiguous.detach().contiguous(memory_format=torch.channels_last)]
    inputs[1].requires_grad_()
    grads = [torch.randn_like(x) for x in inputs]

    def ours(x: Tensor, k: Tensor) -> Tensor:
        return correlate(x, k, *padding)

    def of_torch(x: Tensor, k: Tensor) -> Tensor:
        return F.conv2d(x, k, padding=padding, groups=channels)

    def seven(x: Tensor, k: Tensor) -> Tensor:
        return F.conv2d(x, k, padding=3, groups=channels)

    exact = F.conv2d(inputs[1].double(), weight.double(), padding=padding, groups=channels)
    error = float((ours(inputs[1], weight).detach() - exact).abs().max() / exact.abs().max())
    with torch.no_grad():
        forward = [min(fastest(lambda x=x: of_torch(x, weight)) for x in inputs)]  # type: ignore[misc]
        forward += [fastest(lambda: ours(inputs[1], weight))]
        forward += [min(fastest(lambda x=x: seven(x, small)) for x in inputs)]  # type: ignore[misc]
        inference_choice = is_spectral_faster(inputs[1], weight, padding)
    pairs = list(zip(inputs, grads, strict=True))
    both = [min(fastest(lambda x=x, g=g: training_step(of_torch, x, weight, g)) for x, g in pairs)]  # type: ignore[misc]
    both += [fastest(lambda: training_step(ours, inputs[1], weight, grads[1]))]
    both += [min(fastest(lambda x=x, g=g: training_step(seven, x, small, g)) for x, g in pairs)]  # type: ignore[misc]
    training_choice = is_spectral_faster(inputs[1], weight, padding, training=True)
    shape = f"({batch}, {channels}, {height}, {width})"
    chosen = ", ".join("spectral" if choice else "torch" for choice in (inference_choice, training_choice))
    print(f"{shape:>18} {forward[0]:10.1f} {forward[1]:9.1f} {forward[2]:7.1f} {forward[0] / forward[1]:5.1f}x", end="")
    print(
        f" | {both[0]:10.1f} {both[1]:9.1f} {both[2]:7.1f} {both[0] / both[1]:5.1f}x {error:8.1e}  {chosen}", flush=True
    )


if __name__ == "__main__":
    main()

"""The depthwise convolution against torch's, per shape of the paper's stages: forward, and forward + backward.

    python benchmarks/depthwise.py [--batch 8] [--kernel 23] [--threads 2] [--slow-places]

Torch is given the better of its two memory formats, and the part of the kernel that can touch the map. Times are the
fastest of several runs; the error is against float64. --slow-places: the forward pass of torch's operator alone, for
widths and memory formats, with random cells and with a tenth of them subnormal.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls.depthwise import choose, crop_to_reach, in_strips, spectral

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
    parser.add_argument("--slow-places", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, ", end="")
    if options.slow_places:
        print(f"{options.threads} threads, batch {options.batch}, 96 x 64 x 62, float32, ms of F.conv2d")
        return slow_places(options.batch)
    print(f"{options.threads} threads, batch {options.batch}, kernel {options.kernel} x {options.kernel}, float32, ms")
    print(f"{'shape':>18} {'torch fwd':>10} {'spectral':>9} {'7x7':>7}", end="")
    print(f" | {'torch f+b':>10} {'strips':>8} {'spectral':>9} {'7x7':>7} {'error':>8}  chosen (inference, training)")
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

    def of_torch(x: Tensor, k: Tensor) -> Tensor:
        return F.conv2d(x, k, padding=padding, groups=channels)

    def seven(x: Tensor, k: Tensor) -> Tensor:
        return F.conv2d(x, k, padding=3, groups=channels)

    last = inputs[1]
    exact = F.conv2d(last.double(), weight.double(), padding=padding, groups=channels).detach()
    outputs = [ours(last, weight, padding).detach() for ours in (in_strips, spectral)]
    error = max(float((output - exact).abs().max() / exact.abs().max()) for output in outputs)
    with torch.no_grad():
        forward = [min(fastest(lambda x=x: of_torch(x, weight)) for x in inputs)]  # type: ignore[misc]
        forward += [fastest(lambda: spectral(last, weight, padding))]
        forward += [min(fastest(lambda x=x: seven(x, small)) for x in inputs)]  # type: ignore[misc]
    pairs = list(zip(inputs, grads, strict=True))
    both = [min(fastest(lambda x=x, g=g: training_step(of_torch, x, weight, g)) for x, g in pairs)]  # type: ignore[misc]
    for ours in (in_strips, spectral):
        step = partial(training_step, partial(ours, padding=padding), last, weight, grads[1])
        both += [fastest(step)]
    both += [min(fastest(lambda x=x, g=g: training_step(seven, x, small, g)) for x, g in pairs)]  # type: ignore[misc]
    shape = f"({batch}, {channels}, {height}, {width})"
    chosen = ", ".join(choose(last, weight, padding, training).__name__ for training in (False, True))
    print(f"{shape:>18} {forward[0]:10.1f} {forward[1]:9.1f} {forward[2]:7.1f}", end="")
    print(f" | {both[0]:10.1f} {both[1]:8.1f} {both[2]:9.1f} {both[3]:7.1f} {error:8.1e}  {chosen}", flush=True)


def slow_places(batch: int) -> None:
    print(f"{'kernel':>10} {'contiguous':>10} {'channels-last':>13} {'to 15':>8} {'with subnormal cells':>20}")
    contiguous = torch.randn(batch, 96, 64, 62)
    last = contiguous.contiguous(memory_format=torch.channels_last)

    def milliseconds(x: Tensor, weight: Tensor) -> float:
        return fastest(lambda: F.conv2d(x, weight, padding=(5, weight.shape[3] // 2), groups=96))

    with torch.no_grad():
        for width in (3, 7, 9, 11, 12, 13, 14, 15, 19, 23):
            weight = torch.randn(96, 1, 11, width)
            tenth = torch.rand_like(weight) < 0.1
            widened = F.pad(weight, (0, max(0, 15 - width)))
            times = [milliseconds(contiguous, weight), milliseconds(last, weight)]
            times += [milliseconds(last, widened), milliseconds(last, weight.masked_fill(tenth, 1e-40))]
            row = f"{f'11 x {width}':>10} {times[0]:10.2f} {times[1]:13.2f} {times[2]:8.2f} {times[3]:20.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()

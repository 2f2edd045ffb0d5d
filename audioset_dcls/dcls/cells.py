"""Depthwise convolutions of small maps as one product of cells by cells for each channel, in one batched call.

Output o of a map is the sum over its cells i of x[i] T[i, o], where T[i, o] is the tap that lies between them, or zero.
T has the square of the map's cells, so that this is for maps of some hundred cells.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_CELLS = 256  # of a map: T would have 64 k numbers a channel


def correlate(input: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """`F.conv2d(input, weight, padding=padding, groups=channels)`; a half precision is summed up in float32."""
    taps, _ = _indices(input, weight, padding)
    y = product(_channels_first(input), _matrices(weight, taps, input.dtype)).to(input.dtype)
    return y.transpose(0, 1).unflatten(2, _out_size(input, weight, padding))


def correlate_backward(grad: Tensor, input: Tensor, weight: Tensor, padding: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Gradients of input, in its dtype, and of the kernel, in float32."""
    taps, pairs = _indices(input, weight, padding)
    x, g = _channels_first(input), _channels_first(grad.to(input.dtype))
    grad_input = product(g, _matrices(weight, taps, input.dtype).transpose(1, 2)).to(input.dtype)
    of_pairs = F.pad(product(x.transpose(1, 2), g).flatten(1), (0, 1))
    # gathered, not scattered: the sums are in a fixed order
    grad_weight = of_pairs[:, pairs].sum(-1)
    return grad_input.transpose(0, 1).unflatten(2, input.shape[2:]), grad_weight.view(weight.shape)


def product(a: Tensor, b: Tensor) -> Tensor:
    """(N, m, k) and (N, k, n) -> (N, m, n) in float32 at least, also of half precisions."""
    if a.dtype in (torch.bfloat16, torch.float16):
        if a.device.type == "cuda":
            return torch.bmm(a, b, out_dtype=torch.float32)
        a, b = a.float(), b.float()  # other devices lack it; float32 holds the same products
    return torch.bmm(a, b)


def _channels_first(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (C, B, cells)."""
    return x.flatten(2).transpose(0, 1)


def _matrices(weight: Tensor, taps: Tensor, dtype: torch.dtype) -> Tensor:
    """T for each channel: (C, cells, out cells)."""
    return F.pad(weight.flatten(1), (0, 1)).to(dtype)[:, taps]


def _out_size(input: Tensor, weight: Tensor, padding: tuple[int, int]) -> tuple[int, int]:
    height, width = (n + 2 * p - k + 1 for n, k, p in zip(input.shape[2:], weight.shape[2:], padding, strict=True))
    return height, width


def _indices(input: Tensor, weight: Tensor, padding: tuple[int, int]) -> tuple[Tensor, Tensor]:
    sizes = (tuple(input.shape[2:]), _out_size(input, weight, padding), tuple(weight.shape[2:]), padding)
    return _taps_and_pairs(*sizes, input.device)


@lru_cache(maxsize=64)
def _taps_and_pairs(
    size: tuple[int, int],
    out_size: tuple[int, int],
    kernel: tuple[int, int],
    padding: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The tap between each cell and output cell, (cells, out cells), and the pairs of each tap, (taps, most pairs).

    Both point behind the last one where there is none.
    """
    along = [
        torch.arange(n)[:, None] - torch.arange(out)[None, :] + pad
        for n, out, pad in zip(size, out_size, padding, strict=True)
    ]
    valid = [(tap >= 0) & (tap < k) for tap, k in zip(along, kernel, strict=True)]
    tap = along[0][:, None, :, None] * kernel[1] + along[1][None, :, None, :]
    inside = valid[0][:, None, :, None] & valid[1][None, :, None, :]
    taps = torch.where(inside, tap, kernel[0] * kernel[1]).reshape(size[0] * size[1], out_size[0] * out_size[1])
    counts = torch.bincount(taps.flatten(), minlength=kernel[0] * kernel[1] + 1)[:-1]
    order = taps.flatten().argsort(stable=True)[: int(counts.sum())]
    place = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    pairs = torch.full((len(counts), max(1, int(counts.max()))), taps.numel())
    pairs[taps.flatten()[order], place] = order
    return taps.to(device), pairs.to(device)

"""Depthwise convolutions by torch's own operator, the kernel's gradient in strips of three columns.

On an x86 CPU oneDNN is quick at all parts of a depthwise convolution but one: the gradient of a kernel wider than 3
cells takes 10 to 50 times as long as the forward pass. The columns of that gradient do not depend on each other: those
from j on are the gradient of a narrow kernel that meets the input j cells further on,

    dK[y, j + i] = sum_o  g[o] x[o + (y, j + i) - padding],   i = 0, 1, 2

so that the narrow convolution's quick operator gives them, three at a time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls.spectral import gradients_like, output_like, register_gradients

STRIP = 3  # columns, the most that oneDNN has a quick weight gradient for


def is_quick(input: Tensor) -> bool:
    """Whether oneDNN's operators for x86 take such tensors: not float64, and not with less than AVX2."""
    quick = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return quick and input.device.type == "cpu" and input.dtype != torch.float64


@torch.library.custom_op("audioset_dcls::depthwise_conv2d_strips", mutates_args=())
def correlate(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    """`F.conv2d` with stride 1 and a group a channel; the output is channels-last."""
    x, k = _working(input), _working(weight)
    return F.conv2d(x, k, padding=(pad_height, pad_width), groups=weight.shape[0]).to(input.dtype)


@torch.library.custom_op("audioset_dcls::depthwise_conv2d_strips_backward", mutates_args=())
def correlate_backward(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    """Gradients of input and kernel, each in its dtype."""
    g, x, k = _working(grad), _working(input), _working(weight)
    grad_input = _gradients(g, x, k, (pad_height, pad_width), (True, False, False))[0]
    # a kernel higher than the map is slow as well, unless the padding is part of the map
    rows = pad_height if weight.shape[2] > x.shape[2] else 0
    padded = F.pad(x, (pad_width, pad_width, rows, rows))
    columns = []
    for first in range(0, weight.shape[3], STRIP):
        strip = k[..., first : first + STRIP]
        met = padded[..., first : first + g.shape[3] + strip.shape[3] - 1]
        columns.append(_gradients(g, met, strip, (pad_height - rows, 0), (False, True, False))[1])
    grad_weight = torch.cat(columns, 3).to(weight.dtype)
    return grad_input.to(input.dtype), grad_weight.contiguous()


def _gradients(
    grad: Tensor, input: Tensor, weight: Tensor, padding: tuple[int, int], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor]:
    steps = ((1, 1), padding, (1, 1), False, (0, 0))
    grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, input, weight, None, *steps, weight.shape[0], wanted
    )
    return grad_input, grad_weight


def _working(x: Tensor) -> Tensor:
    """Channels-last, in float32 at least: half precisions are for storage."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).contiguous(memory_format=torch.channels_last)


correlate.register_fake(output_like)
correlate_backward.register_fake(gradients_like)
register_gradients(correlate, correlate_backward)

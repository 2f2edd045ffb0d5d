"""Depthwise convolutions by torch's own operator, steered around what oneDNN is slow at.

On an x86 CPU the gradient of a kernel wider than 3 cells takes 10 to 50 times as long as the forward pass. The columns
of that gradient do not depend on each other: those from j on are the gradient of a narrow kernel that meets the input j
cells further on,

    dK[y, j + i] = sum_o  g[o] x[o + (y, j + i) - padding],   i = 0, 1, 2

so that the narrow convolution's quick operator gives them, three at a time. With AVX-512, kernels 11 to 13 cells wide
take up to 2.7 times as long as wider ones, so that zeros are put around them; and the gradient of the input is quicker
as the convolution with the kernel turned around than by its own operator from there on. In bfloat16, kernels of 14
cells and more never end if there are few channels (torch 2.11): all is computed in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls.spectral import gradients_like, output_like, register_gradients, working

STRIP = 3  # columns, the most that oneDNN has a quick weight gradient for
_SLOW_WIDTHS = range(11, 14)  # with AVX-512


def has_avx512() -> bool:
    """Whether torch uses AVX-512 on this CPU."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def is_quick(input: Tensor) -> bool:
    """Whether oneDNN's operators for x86 take such tensors: not float64, and not with less than AVX2."""
    quick = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return quick and input.device.type == "cpu" and input.dtype != torch.float64


@torch.library.custom_op("audioset_dcls::depthwise_conv2d_strips", mutates_args=())
def correlate(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    """`F.conv2d` with stride 1 and a group a channel; the output is channels-last."""
    with torch.autocast(input.device.type, enabled=False):
        return convolve(_working(input), _working(weight), (pad_height, pad_width)).to(input.dtype)


def convolve(input: Tensor, weight: Tensor, padding: tuple[int, int], bias: Tensor | None = None) -> Tensor:
    """`F.conv2d` with stride 1 and a group a channel, never at a width that is slow on this CPU."""
    width = weight.shape[3]
    if width in _SLOW_WIDTHS and _in_avx512(input):
        zeros = (_SLOW_WIDTHS.stop - width + 1) // 2
        weight, padding = F.pad(weight, (zeros, zeros)), (padding[0], padding[1] + zeros)
    return F.conv2d(input, weight, bias, padding=padding, groups=weight.shape[0])


def _in_avx512(input: Tensor) -> bool:
    return is_quick(input) and input.dtype == torch.float32 and has_avx512()


@torch.library.custom_op("audioset_dcls::depthwise_conv2d_strips_backward", mutates_args=())
def correlate_backward(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    """Gradients of input and kernel, each in its dtype."""
    g, x, k = _working(grad), _working(input), _working(weight)
    turned_padding = (weight.shape[2] - 1 - pad_height, weight.shape[3] - 1 - pad_width)
    if weight.shape[3] >= _SLOW_WIDTHS.stop and min(turned_padding) >= 0 and _in_avx512(x):
        grad_input = convolve(g, k.flip(2, 3), turned_padding)
    else:
        grad_input = gradients(g, x, k, (pad_height, pad_width), (True, False))[0]
    # a kernel higher than the map is slow as well, unless the padding is part of the map
    rows = pad_height if weight.shape[2] > x.shape[2] else 0
    padded = F.pad(x, (pad_width, pad_width, rows, rows))
    columns = []
    for first in range(0, weight.shape[3], STRIP):
        strip = k[..., first : first + STRIP]
        met = padded[..., first : first + g.shape[3] + strip.shape[3] - 1]
        columns.append(gradients(g, met, strip, (pad_height - rows, 0), (False, True))[1])
    grad_weight = torch.cat(columns, 3).to(weight.dtype)
    return grad_input.to(input.dtype), grad_weight.contiguous()


def gradients(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    padding: tuple[int, int],
    wanted: tuple[bool, bool] = (True, True),
) -> tuple[Tensor, Tensor]:
    """Of input and kernel, those that are wanted, by torch's own operator; all tensors of one dtype."""
    steps = ((1, 1), padding, (1, 1), False, (0, 0))
    grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, input, weight, None, *steps, weight.shape[0], (*wanted, False)
    )
    return grad_input, grad_weight


def _working(x: Tensor) -> Tensor:
    """Channels-last, in float32 at least: half precisions are for storage."""
    return working(x).permute(0, 3, 1, 2)


correlate.register_fake(output_like)
correlate_backward.register_fake(gradients_like)
register_gradients(correlate, correlate_backward)

"""The kernel of Gauss elements in Triton, one launch each way, and a convolution whose gradient goes to the elements.

With a and b the profiles of an element along height and width, A and B their sums, N = A B + eps (`kernel.py`), and G
the gradient of the dense kernel, an element's weight w and a parameter p of its profile a have the gradients

    dL/dw = q / N,     dL/dp = w / N (q_p - q A_p B / N),     q = sum G a b,     q_p = sum G a_p b,     A_p = sum a_p

where a_p is da/dp; so along width. All are linear in G, so that each row of G can be projected as soon as it is there:
`elements_gradient` never writes G. It sums the rows' parts afterwards, in a fixed order.

None of it has run on a GPU: it is tested in Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from audioset_dcls.dcls.kernel import MIN_DEVIATION, NORMALISATION_EPS
from audioset_dcls.dcls.triton_depthwise import (
    INTERPRETED,
    WEIGHT_BLOCKS,
    correlate,
    input_gradient,
    kernel_rows_gradient,
    tuned,
    weight_constants,
    weight_sizes,
)

_MIN_DEVIATION = tl.constexpr(MIN_DEVIATION)
_EPS = tl.constexpr(NORMALISATION_EPS)
PARAMETERS = 5  # of an element: weight, two positions, two deviations


@triton.jit
def _profile(cell, is_cell, position, deviation):  # type: ignore[no-untyped-def]
    """a, da/dposition, da/ddeviation of one element at cells counted from the centre; 0 where it is no cell."""
    precision = 1 / (tl.abs(deviation) + _MIN_DEVIATION)
    distance = cell - position
    scaled = distance * precision
    value = tl.where(is_cell, tl.exp(-0.5 * scaled * scaled), 0.0)
    of_position = value * scaled * precision
    sign = tl.where(deviation > 0, 1.0, tl.where(deviation < 0, -1.0, 0.0))
    return value, of_position, of_position * scaled * sign


@triton.jit
def _element(weight, positions, deviations, kernel, kernels, m, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Weight, positions and deviations of element m of a kernel."""
    at = kernel * COUNT + m
    beyond = kernels * COUNT
    return (
        tl.load(weight + at),
        tl.load(positions + at),
        tl.load(positions + beyond + at),
        tl.load(deviations + at),
        tl.load(deviations + beyond + at),
    )


@triton.jit
def _construct(  # type: ignore[no-untyped-def]
    weight,
    positions,
    deviations,
    dense,
    kernels,
    COUNT: tl.constexpr,  # noqa: N803
    KH: tl.constexpr,  # noqa: N803
    KW: tl.constexpr,  # noqa: N803
    KH_PADDED: tl.constexpr,  # noqa: N803
    KW_PADDED: tl.constexpr,  # noqa: N803
):
    kernel = tl.program_id(0)
    i, j = tl.arange(0, KH_PADDED), tl.arange(0, KW_PADDED)
    total = tl.zeros((KH_PADDED, KW_PADDED), tl.float32)
    for m in range(COUNT):
        w, y, x, y_width, x_width = _element(weight, positions, deviations, kernel, kernels, m, COUNT)
        a, _, _ = _profile(i - KH // 2, i < KH, y, y_width)
        b, _, _ = _profile(j - KW // 2, j < KW, x, x_width)
        total += (w / (tl.sum(a) * tl.sum(b) + _EPS)) * a[:, None] * b[None, :]
    tl.store(
        dense + kernel * (KH * KW) + i[:, None] * KW + j[None, :], total, mask=(i < KH)[:, None] & (j < KW)[None, :]
    )


@triton.jit
def _project(  # type: ignore[no-untyped-def]
    gradient,
    i,
    weight,
    positions,
    deviations,
    projected,
    kernel,
    kernels,
    COUNT: tl.constexpr,  # noqa: N803
    KH: tl.constexpr,  # noqa: N803
    KW: tl.constexpr,  # noqa: N803
    KH_PADDED: tl.constexpr,  # noqa: N803
    KW_PADDED: tl.constexpr,  # noqa: N803
):
    """Rows i of the dense kernel's gradient, zero beyond the kernel, onto the elements: 5 numbers each."""
    every, j = tl.arange(0, KH_PADDED), tl.arange(0, KW_PADDED)
    for m in range(COUNT):
        w, y, x, y_width, x_width = _element(weight, positions, deviations, kernel, kernels, m, COUNT)
        a, a_position, a_width = _profile(i - KH // 2, i < KH, y, y_width)
        whole, whole_position, whole_width = _profile(every - KH // 2, every < KH, y, y_width)
        b, b_position, b_width = _profile(j - KW // 2, j < KW, x, x_width)
        along = tl.sum(gradient * b[None, :], axis=1)
        q = tl.sum(along * a)
        sum_a, sum_b = tl.sum(whole), tl.sum(b)
        norm = sum_a * sum_b + _EPS
        each = q / norm
        share = w / norm
        at = projected + kernel * (5 * COUNT) + m
        tl.store(at, each)
        tl.store(at + COUNT, share * (tl.sum(along * a_position) - each * tl.sum(whole_position) * sum_b))
        of_b_position = tl.sum(tl.sum(gradient * b_position[None, :], axis=1) * a)
        tl.store(at + 2 * COUNT, share * (of_b_position - each * tl.sum(b_position) * sum_a))
        tl.store(at + 3 * COUNT, share * (tl.sum(along * a_width) - each * tl.sum(whole_width) * sum_b))
        of_b_width = tl.sum(tl.sum(gradient * b_width[None, :], axis=1) * a)
        tl.store(at + 4 * COUNT, share * (of_b_width - each * tl.sum(b_width) * sum_a))


@triton.jit
def _construct_backward(  # type: ignore[no-untyped-def]
    gradient,
    weight,
    positions,
    deviations,
    projected,
    kernels,
    COUNT: tl.constexpr,  # noqa: N803
    KH: tl.constexpr,  # noqa: N803
    KW: tl.constexpr,  # noqa: N803
    KH_PADDED: tl.constexpr,  # noqa: N803
    KW_PADDED: tl.constexpr,  # noqa: N803
):
    kernel = tl.program_id(0)
    i, j = tl.arange(0, KH_PADDED), tl.arange(0, KW_PADDED)
    mask = (i < KH)[:, None] & (j < KW)[None, :]
    rows = tl.load(gradient + kernel * (KH * KW) + i[:, None] * KW + j[None, :], mask=mask, other=0.0)
    _project(rows, i, weight, positions, deviations, projected, kernel, kernels, COUNT, KH, KW, KH_PADDED, KW_PADDED)


@triton.jit
def _elements_gradient(  # type: ignore[no-untyped-def]
    x,
    g,
    weight,
    positions,
    deviations,
    projected,
    channels,
    height,
    width,
    out_height,
    pad_height,
    pad_width,
    COUNT: tl.constexpr,  # noqa: N803
    ROW_COUNT: tl.constexpr,  # noqa: N803
    OUT_WIDTH: tl.constexpr,  # noqa: N803
    KH: tl.constexpr,  # noqa: N803
    KW: tl.constexpr,  # noqa: N803
    KH_PADDED: tl.constexpr,  # noqa: N803
    KW_PADDED: tl.constexpr,  # noqa: N803
    WINDOWED: tl.constexpr,  # noqa: N803
    IN: tl.constexpr,  # noqa: N803
    OUT: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    KERNEL_ROWS: tl.constexpr,  # noqa: N803
):
    """The part of KERNEL_ROWS kernel rows in the gradients of one channel's elements."""
    channel, part = tl.program_id(1), tl.program_id(0)
    rows = kernel_rows_gradient(
        x, g, channel, part * KERNEL_ROWS, channels, height, width, out_height, pad_height, pad_width, ROW_COUNT,
        OUT_WIDTH, KH, KW, KW_PADDED, WINDOWED, IN, OUT, PRECISION, ROWS, KERNEL_ROWS,
    )  # fmt: skip
    _project(
        rows, part * KERNEL_ROWS + tl.arange(0, KERNEL_ROWS), weight, positions, deviations,
        projected + part * channels * (5 * COUNT), channel, channels, COUNT, KH, KW, KH_PADDED, KW_PADDED,
    )  # fmt: skip


_ELEMENTS_GRADIENT = tuned(_elements_gradient, WEIGHT_BLOCKS, reset=["projected"])
_SMALLEST_PART = min(blocks["KERNEL_ROWS"] for blocks in (WEIGHT_BLOCKS[:1] if INTERPRETED else WEIGHT_BLOCKS))


def construct(weight: Tensor, positions: Tensor, deviations: Tensor, size: tuple[int, int]) -> Tensor:
    """`construct_kernel(..., "gauss")` of float32 elements in two dimensions: (out, in / groups, *size)."""
    dense = weight.new_empty(*weight.shape[:2], *size)
    kernels = weight.shape[0] * weight.shape[1]
    elements = (weight.contiguous(), positions.contiguous(), deviations.contiguous())
    _construct[(kernels,)](*elements, dense, kernels, **_constants(weight, size))
    return dense


def construct_backward(
    grad: Tensor, weight: Tensor, positions: Tensor, deviations: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight, positions and deviations from that of the dense kernel."""
    kernels = weight.shape[0] * weight.shape[1]
    projected = weight.new_empty(kernels, PARAMETERS, weight.shape[2])
    elements = (weight.contiguous(), positions.contiguous(), deviations.contiguous())
    size = (grad.shape[2], grad.shape[3])
    _construct_backward[(kernels,)](grad.contiguous(), *elements, projected, kernels, **_constants(weight, size))
    return _unpacked(projected, weight)


def elements_gradient(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    deviations: Tensor,
    size: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a depthwise layer's elements from that of its output."""
    x, g = input.contiguous(), grad.contiguous()
    channels, _, count = weight.shape
    parts = triton.cdiv(size[0], _SMALLEST_PART)
    projected = weight.new_zeros(parts, channels, PARAMETERS, count)  # blocks of more rows leave parts at zero
    elements = (weight.contiguous(), positions.contiguous(), deviations.contiguous())
    _ELEMENTS_GRADIENT[lambda meta: (triton.cdiv(size[0], meta["KERNEL_ROWS"]), channels)](
        x, g, *elements, projected, *weight_sizes(x, g, padding),
        **(_constants(weight, size) | weight_constants(x, g, size)),
    )  # fmt: skip
    return _unpacked(projected.sum(0), weight)


@torch.library.custom_op("audioset_dcls::construct_gauss", mutates_args=())
def construct_gauss(weight: Tensor, positions: Tensor, deviations: Tensor, height: int, width: int) -> Tensor:
    """`construct` with gradients of the first order."""
    return construct(weight, positions, deviations, (height, width))


@torch.library.custom_op("audioset_dcls::construct_gauss_backward", mutates_args=())
def _construct_gauss_backward(
    grad: Tensor, weight: Tensor, positions: Tensor, deviations: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return construct_backward(grad, weight, positions, deviations)


@torch.library.custom_op("audioset_dcls::gauss_depthwise_conv2d", mutates_args=())
def _convolve(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    deviations: Tensor,
    height: int,
    width: int,
    pad_height: int,
    pad_width: int,
) -> tuple[Tensor, Tensor]:
    """The output, and the dense kernel for the backward pass."""
    dense = construct(weight, positions, deviations, (height, width))
    return correlate(input, dense, (pad_height, pad_width)), dense


@torch.library.custom_op("audioset_dcls::gauss_depthwise_conv2d_backward", mutates_args=())
def _convolve_backward(
    grad: Tensor,
    input: Tensor,
    dense: Tensor,
    weight: Tensor,
    positions: Tensor,
    deviations: Tensor,
    pad_height: int,
    pad_width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size, padding = (dense.shape[2], dense.shape[3]), (pad_height, pad_width)
    grad_input = input_gradient(grad, dense, (input.shape[2], input.shape[3]), padding)
    return grad_input, *elements_gradient(grad, input, weight, positions, deviations, size, padding)


def gauss_depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    deviations: Tensor,
    size: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """A DCLS layer's depthwise convolution; its backward pass gives the elements' gradients and no dense one.

    Shape: input (batch, channels, height, width), float32 or a half precision; weight (channels, 1, count), positions
    and deviations (2, channels, 1, count), float32 -> as `depthwise_conv2d`.
    """
    output, _ = _convolve(input, weight, positions, deviations, *size, *padding)
    return output


def _constants(weight: Tensor, size: tuple[int, int]) -> dict[str, int]:
    return {
        "COUNT": weight.shape[2],
        "KH": size[0],
        "KW": size[1],
        "KH_PADDED": triton.next_power_of_2(size[0]),
        "KW_PADDED": triton.next_power_of_2(size[1]),
    }


def _unpacked(projected: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(kernels, 5, count) -> gradients of weight (out, in, count), positions and deviations (2, out, in, count)."""
    by_parameter = projected.transpose(0, 1).reshape(PARAMETERS, *weight.shape)
    return by_parameter[0].contiguous(), by_parameter[1:3].contiguous(), by_parameter[3:].contiguous()


def _setup_construct(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3])


def _backward_construct(ctx, grad):  # type: ignore[no-untyped-def]
    return *_construct_gauss_backward(grad, *ctx.saved_tensors), None, None


def _setup_convolve(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    input, weight, positions, deviations, _, _, *ctx.padding = inputs
    ctx.save_for_backward(input, output[1], weight, positions, deviations)
    ctx.mark_non_differentiable(output[1])


def _backward_convolve(ctx, grad, _):  # type: ignore[no-untyped-def]
    return *_convolve_backward(grad, *ctx.saved_tensors, *ctx.padding), None, None, None, None


@construct_gauss.register_fake
def _dense_like(weight: Tensor, positions: Tensor, deviations: Tensor, height: int, width: int) -> Tensor:
    return weight.new_empty(*weight.shape[:2], height, width)


@_convolve.register_fake
def _output_like(  # type: ignore[no-untyped-def]
    input, weight, positions, deviations, height, width, pad_height, pad_width
) -> tuple[Tensor, Tensor]:
    batch, channels, in_height, in_width = input.shape
    out_size = (in_height + 2 * pad_height - height + 1, in_width + 2 * pad_width - width + 1)
    return input.new_empty(batch, channels, *out_size), weight.new_empty(channels, 1, height, width)


@_construct_gauss_backward.register_fake
def _elements_like(grad: Tensor, weight: Tensor, positions: Tensor, deviations: Tensor):  # type: ignore[no-untyped-def]
    return torch.empty_like(weight), torch.empty_like(positions), torch.empty_like(deviations)


@_convolve_backward.register_fake
def _gradients_like(  # type: ignore[no-untyped-def]
    grad, input, dense, weight, positions, deviations, pad_height, pad_width
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return input.new_empty(input.shape), *(torch.empty_like(element) for element in (weight, positions, deviations))


construct_gauss.register_autograd(_backward_construct, setup_context=_setup_construct)
_convolve.register_autograd(_backward_convolve, setup_context=_setup_convolve)

"""The large-kernel depthwise convolution: which operator takes which size, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls import candidates, strips
from audioset_dcls.dcls.benchmark import is_benchmarking, quickest
from audioset_dcls.dcls.spectral import (
    Axis,
    axes,
    correlate,
    correlate_backward,
    correlate_spectrum,
    gradients_like,
    kernel_spectrum,
    output_like,
    working,
)


def depthwise_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Depthwise (cross-)correlation with stride 1, like `F.conv2d(input, weight, bias, padding=padding,
    groups=channels)`.

    Args:
        input: (batch, channels, height, width), any dtype; channels-last is quickest.
        weight: (channels, 1, kernel_height, kernel_width). May have more precision than the input (float32 beside
            bfloat16).
        bias: (channels,) or None.
        padding: zeros on both sides of height and width.

    Returns:
        (batch, channels, height + 2 padding - kernel_height + 1, ...), in the input's dtype (autocast's, if enabled).
        In channels-last format unless torch's own operator was taken (see `choose`), and if compiled.
    """
    if not input.is_meta and torch.is_autocast_enabled(input.device.type):  # autocast knows no meta tensors
        input = input.to(torch.get_autocast_dtype(input.device.type))
    bias = None if bias is None else bias.to(input.dtype)
    training = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    compiled = torch.compiler.is_compiling()
    measured = candidates.is_measured(input.device) and input.numel() > 0
    if is_traced() or (compiled and input.device.type != "cpu" and not measured):  # a graph is for any size of map
        return direct(input, weight, padding, bias)
    if measured:
        cropped, cut_padding = crop_to_reach(weight, padding, (input.shape[-2], input.shape[-1]))
        output = candidates.measured(input, cropped, *cut_padding)
    elif not compiled:
        return _quicker(input, weight, bias, padding, training, measure=is_benchmarking())
    else:
        output = _convolve(input, weight, padding[0], padding[1], training)  # it chooses when it runs, for any size
    return output if bias is None else output + bias.view(-1, 1, 1)


class FixedKernel:
    """A depthwise convolution whose kernel rarely changes: its spectrum is kept from one call to the next.

    Holds the spectrum for the size of map seen last, about ten times the kernel's own memory, and a copy of the kernel:
    comparing is the only way to notice every change (writes through `.data`, NumPy or `vector_to_parameters` leave no
    trace).
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[object, ...], Tensor, Tensor] | None = None  # what it is for, kernel, spectrum

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        """`depthwise_conv2d` without gradients: a spectrum is kept until the kernel, a size or a type changes."""
        cropped, cut_padding = crop_to_reach(weight, padding, (input.shape[-2], input.shape[-1]))
        if choose(input, cropped, cut_padding) is not spectral:
            return depthwise_conv2d(input, weight, bias, padding)
        height, width = axes(input, cropped, *cut_padding)
        x = working(input)
        key = (cropped.dtype, x.dtype, input.shape[-2:], cut_padding)
        kept = self._kept  # read once: another thread may replace it meanwhile
        if kept is None or kept[0] != key or not torch.equal(kept[1], cropped):
            kernel = cropped.detach().clone()
            self._kept = kept = key, kernel, kernel_spectrum(kernel, height, width, x)
        y = correlate_spectrum(x, kept[2], height, width).to(input.dtype)
        return (y if bias is None else y.add_(bias.to(y.dtype))).permute(0, 3, 1, 2)


def crop_to_reach(weight: Tensor, padding: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The part of the kernel that can touch a map of this size, and the padding that goes with it: exact.

    A tap at offset d from the output cell meets input only if -out_size < d < in_size.
    """
    reach = []
    for kernel_size, pad, n in zip(weight.shape[-2:], padding, size, strict=True):
        out = n + 2 * pad - kernel_size + 1
        first, last = max(0, pad - out + 1), min(kernel_size, pad + n)
        # F.conv2d takes one padding for both sides: cut equally, as far as the shorter side allows
        cut = min(first, kernel_size - last, pad)
        reach.append((cut, kernel_size - cut, pad - cut))
    (top, bottom, pad_height), (left, right, pad_width) = reach
    if top or left:
        weight = weight[..., top:bottom, left:right]
    return weight, (pad_height, pad_width)


Operator = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]

# Wider kernels take oneDNN 40 times as long on contiguous maps as on channels-last ones.
_WIDEST_CONTIGUOUS = 13


def choose(input: Tensor, weight: Tensor, padding: tuple[int, int], training: bool = False) -> Operator:
    """The quickest of `direct`, `in_strips` and `spectral` here, by a cost model fitted to measurements.

    In multiply-adds of the direct convolution: 0.37 for one of the transforms, 33 for a coefficient's 4 x 4 products,
    on 2 cores with AVX2 (docs/performance.md); with AVX-512 the direct convolution gains twice as much as the
    transforms. In training strips are quicker up to 1.3 times the spectra's cost, counted with the multiply-adds on the
    padding. On CUDA torch's own operator is taken unless `set_benchmark` is on: nothing has been measured there.
    """
    if input.device.type != "cpu" or input.numel() == 0:
        return direct
    height, width = (Axis(n, k, p) for n, k, p in zip(input.shape[-2:], weight.shape[-2:], padding, strict=True))
    if min(height.out_size, width.out_size) < 1:
        return direct
    to_coefficients = width.period * height.n * width.n + height.period * width.period * height.n
    back = width.period * height.out_size * width.out_size + height.period * width.period * height.out_size
    of_spectra = 0.37 * (to_coefficients + back) + 33 * height.period * width.period
    taps = float(height.taps * width.taps)
    if not training:
        if taps * (0.45 if strips.has_avx512() else 1) > of_spectra:
            return spectral
        half = input.dtype in (torch.bfloat16, torch.float16)
        return in_strips if half and strips.is_quick(input) and width.k > _WIDEST_CONTIGUOUS else direct
    # a kernel larger than the map leaves torch's fast path for the weight gradient
    outgrown = height.k > height.n or width.k > width.n
    if width.k <= strips.STRIP and not outgrown:
        return direct
    if not strips.is_quick(input):
        taps *= 30 if outgrown else 2 if height.k * width.k < 64 else 4
        return direct if taps < of_spectra else spectral
    with_padding = height.k * height.out_size * width.k * width.out_size
    return in_strips if with_padding < 1.3 * of_spectra else spectral


def is_traced() -> bool:
    """While a graph is recorded for another runtime, which knows convolutions and not our operator."""
    return torch.jit.is_tracing() or _is_exporting() or torch.onnx.is_in_onnx_export()  # type: ignore[attr-defined]


@torch.compiler.assume_constant_result  # asked directly, torch.compile says that everything is exported (torch 2.11)
def _is_exporting() -> bool:
    return torch.compiler.is_exporting()


def _quicker(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int],
    training: bool,
    measure: bool = False,
) -> Tensor:
    weight, padding = crop_to_reach(weight, padding, (input.shape[-2], input.shape[-1]))
    operator = choose(input, weight, padding, training)
    if measure and input.numel():
        operators = (direct, spectral, in_strips) if training and strips.is_quick(input) else (direct, spectral)
        runs = [partial(each, padding=padding) for each in operators]
        operator = operators[quickest(runs, input, weight, padding, training, default=operators.index(operator))]
    if operator is direct:
        return direct(input, weight, padding, bias)
    output = operator(input, weight, padding)
    return output if bias is None else output + bias.view(-1, 1, 1)


def direct(input: Tensor, weight: Tensor, padding: tuple[int, int], bias: Tensor | None = None) -> Tensor:
    """Torch's own operator."""
    weight = weight.to(input.dtype)
    if is_traced() or input.device.type != "cpu":
        return F.conv2d(input, weight, bias, padding=padding, groups=weight.shape[0])
    if weight.shape[3] > _WIDEST_CONTIGUOUS and input.dtype == torch.float32:
        input = input.contiguous(memory_format=torch.channels_last)
    return strips.convolve(input, weight, padding, bias)


def in_strips(input: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    return strips.correlate(input, weight, *padding)


def spectral(input: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    return correlate(input, weight, *padding)


@torch.library.custom_op("audioset_dcls::depthwise_conv2d_in_a_graph", mutates_args=())
def _convolve(input: Tensor, weight: Tensor, pad_height: int, pad_width: int, training: bool) -> Tensor:
    """`depthwise_conv2d` for compiled graphs: to choose the path there would fix or guard every size."""
    output = _quicker(input, weight, None, (pad_height, pad_width), training)
    return output.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("audioset_dcls::depthwise_conv2d_in_a_graph_backward", mutates_args=())
def _convolve_backward(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    kernel, padding = crop_to_reach(weight, (pad_height, pad_width), (input.shape[-2], input.shape[-1]))
    operator = choose(input, kernel, padding, training=True)
    if operator is spectral:
        grad_input, grad_kernel = correlate_backward(grad, input, kernel, *padding)
    elif operator is in_strips:
        grad_input, grad_kernel = strips.correlate_backward(grad, input, kernel, *padding)
    else:
        grad_input, grad_kernel = strips.gradients(grad, input, kernel.to(input.dtype), padding)
    beyond_height, beyond_width = pad_height - padding[0], pad_width - padding[1]
    grad_weight = F.pad(grad_kernel.to(weight.dtype), (beyond_width, beyond_width, beyond_height, beyond_height))
    return grad_input.contiguous(memory_format=torch.channels_last), grad_weight.contiguous()


def _setup_in_a_graph(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    input, weight, ctx.pad_height, ctx.pad_width, _ = inputs
    ctx.save_for_backward(input, weight)


def _backward_in_a_graph(ctx, grad):  # type: ignore[no-untyped-def]
    return *_convolve_backward(grad, *ctx.saved_tensors, ctx.pad_height, ctx.pad_width), None, None, None


_convolve.register_fake(lambda *arguments: output_like(*arguments[:4]))
_convolve_backward.register_fake(gradients_like)
_convolve.register_autograd(_backward_in_a_graph, setup_context=_setup_in_a_graph)

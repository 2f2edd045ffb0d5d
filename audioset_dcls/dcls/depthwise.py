"""The large-kernel depthwise convolution, forward and backward.

Torch's own depthwise convolution takes a time that grows with the area of the kernel, and its weight gradient is worse
still. Here the convolution is a product of spectra, and the transforms are matrix products with C, the cosines and
sines of the odd frequencies

    theta_k = pi (2 k + 1) / N,   k = 0 ... N/2 - 1;      X = C x,  C = [cos(theta_k i); sin(theta_k i)],   x = 2/N C^T
    X

applied along height and width. A matrix product beats an FFT on maps of this size (8 to 64 cells a side): it runs at
the machine's peak, reads and writes channels-last directly, needs no sizes that factor, and transforms only the cells
that exist. Frequencies lie half a bin off those of the DFT, so no bin is real and the inverse is the transpose. With
X = (x_c, x_s) and K = (k_c, k_s) along one axis, correlation becomes

    y_c = x_c k_c + x_s k_s,      y_s = x_s k_c - x_c k_s                                             (1)

and along two axes the same once more: four real numbers a frequency pair, multiplied like two nested complex ones. The
products beyond the map wrap around with the sign changed; N is chosen so that they wrap into cells that are not read.

The backward pass is the transpose of each step, so the spectra of the output's gradient serve the gradients of both
input and kernel. Both operators are bilinear: their own gradients are made of each other.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Bounds of the spectra held at a time: about the size of a last-level cache; larger batches go through in parts.
_SPECTRUM_BYTES = 20 << 20


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
        In channels-last format where the spectral path was taken (see `is_spectral_faster`), and where compiled.
    """
    if torch.is_autocast_enabled(input.device.type):
        input = input.to(torch.get_autocast_dtype(input.device.type))
    bias = None if bias is None else bias.to(input.dtype)
    training = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    compiled = torch.compiler.is_compiling()
    if is_traced() or (compiled and input.device.type != "cpu"):  # a recorded graph is for any size of map
        return _direct(input, weight, bias, padding)
    if not compiled:
        return _quicker(input, weight, bias, padding, training)
    output = _convolve(input, weight, padding[0], padding[1], training)  # for any size, too: it chooses when it runs
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
        if not is_spectral_faster(input, cropped, cut_padding):
            return depthwise_conv2d(input, weight, bias, padding)
        height, width = _axes(input, cropped, *cut_padding)
        x = _working(input)
        key = (cropped.dtype, x.dtype, input.shape[-2:], cut_padding)
        kept = self._kept  # read once: another thread may replace it meanwhile
        if kept is None or kept[0] != key or not torch.equal(kept[1], cropped):
            kernel = cropped.detach().clone()
            self._kept = kept = key, kernel, _kernel_spectrum(kernel, height, width, x)
        y = _correlate_spectrum(x, kept[2], height, width).to(input.dtype)
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


def is_spectral_faster(input: Tensor, weight: Tensor, padding: tuple[int, int], training: bool = False) -> bool:
    """Whether the spectral path beats torch's own convolution here, by a cost model fitted to measurements.

    On 2 cores with AVX2 (docs/performance.md): 0.1 ns a multiply-add of the direct convolution, 0.37 of that for one of
    the transforms, 3.3 ns for a coefficient's 4 x 4 products. A training step costs 3 forwards here; torch's costs 6
    up to 7 x 7, 12 to 24 above, and 90 where the kernel is larger than the map. On CUDA torch's own operator is taken:
    the spectral one has not been measured there.
    """
    if input.device.type != "cpu" or input.numel() == 0:
        return False
    height, width = (_Axis(n, k, p) for n, k, p in zip(input.shape[-2:], weight.shape[-2:], padding, strict=True))
    if min(height.out_size, width.out_size) < 1:
        return False
    to_coefficients = width.period * height.n * width.n + height.period * width.period * height.n
    back = width.period * height.out_size * width.out_size + height.period * width.period * height.out_size
    spectral = 0.37 * (to_coefficients + back) + 33 * height.period * width.period
    direct = float(height.taps * width.taps)
    if training:
        # a kernel larger than the map leaves torch's fast path for the weight gradient
        outgrown = height.k > height.n or width.k > width.n
        direct *= 30 if outgrown else 2 if height.k * width.k < 64 else 4
    return direct > spectral


def is_traced() -> bool:
    """While a graph is recorded for another runtime, which knows convolutions and not our operator."""
    return torch.jit.is_tracing() or _is_exporting() or torch.onnx.is_in_onnx_export()


@torch.compiler.assume_constant_result  # asked directly, torch.compile says that everything is exported (torch 2.11)
def _is_exporting() -> bool:
    return torch.compiler.is_exporting()


def _quicker(input: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], training: bool) -> Tensor:
    weight, padding = crop_to_reach(weight, padding, (input.shape[-2], input.shape[-1]))
    if not is_spectral_faster(input, weight, padding, training):
        return _direct(input, weight, bias, padding)
    output = _correlate(input, weight, padding[0], padding[1])
    return output if bias is None else output + bias.view(-1, 1, 1)


def _direct(input: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    return F.conv2d(input, weight.to(input.dtype), bias, padding=padding, groups=weight.shape[0])


class _Axis:
    """Sizes along one axis: `n` cells, correlated with `k` taps after padding by `pad` on both sides."""

    def __init__(self, n: int, k: int, pad: int) -> None:
        self.n, self.k, self.pad = n, k, pad
        self.out_size = n + 2 * pad - k + 1
        # cells read by output o: o - pad ... o - pad + k - 1; what wraps must miss 0 ... n - 1 on either side
        wrapped = max(n + pad, self.out_size + k - 1 - pad)
        self.period = wrapped + wrapped % 2

    @property
    def taps(self) -> int:
        """Multiply-adds of the direct convolution, without those on the padding."""
        return sum(min(self.n, o - self.pad + self.k) - max(0, o - self.pad) for o in range(self.out_size))

    def bases(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Matrices (period, n), (period, k) and (period, out_size): input, kernel and output cells -> coefficients."""
        return (
            _basis(self.period, 0, self.n, like.dtype, like.device),
            _basis(self.period, -self.pad, self.k, like.dtype, like.device),
            _basis(self.period, 0, self.out_size, like.dtype, like.device),
        )


@lru_cache(maxsize=256)
def _basis(period: int, first: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cosines, then sines, of the odd frequencies at `count` cells from `first` on: (period, count)."""
    theta = math.pi / period * (2 * torch.arange(period // 2, dtype=torch.float64) + 1)
    angles = torch.outer(theta, torch.arange(first, first + count, dtype=torch.float64))
    return torch.cat([angles.cos(), angles.sin()]).to(device=device, dtype=dtype)


def _transform(x: Tensor, height_basis: Tensor, width_basis: Tensor) -> Tensor:
    """(B, H, W, C) cells -> (B, 2, bins_height, 2, bins_width * C) coefficients (cosine and sine along each axis)."""
    rows = width_basis @ x
    coefficients = height_basis @ rows.flatten(2)
    return coefficients.view(x.shape[0], 2, height_basis.shape[0] // 2, 2, -1)


def _transform_back(coefficients: Tensor, height_basis: Tensor, width_basis: Tensor, channels: int) -> Tensor:
    """The transpose of `_transform`: (B, 2, bins_height, 2, bins_width * C) -> (B, H, W, C)."""
    rows = height_basis.T @ coefficients.view(coefficients.shape[0], height_basis.shape[0], -1)
    return width_basis.T @ rows.view(*rows.shape[:2], width_basis.shape[0], channels)


_Component = tuple[int, int]  # cosine (0) or sine (1) along height and width
_Terms = list[tuple[_Component, _Component, _Component, int]]


def _terms() -> _Terms:
    """Equation (1) on two axes: y[p, q] += sign * x[r, s] * k[t, u] as ((p, q), (r, s), (t, u), sign)."""
    one_axis = [(0, 0, 0, 1), (0, 1, 1, 1), (1, 1, 0, 1), (1, 0, 1, -1)]
    return [((p, q), (r, s), (t, u), a * b) for p, r, t, a in one_axis for q, s, u, b in one_axis]


_OUTPUT = _terms()
_OF_INPUT = [(x, y, k, sign) for y, x, k, sign in _OUTPUT]  # its transpose in x
_OF_KERNEL = [(k, y, x, sign) for y, x, k, sign in _OUTPUT]  # its transpose in k, for each clip


def _multiply(a: Tensor, b: Tensor, terms: _Terms) -> Tensor:
    """Spectra a (B, 2, bh, 2, bwC) and b, of the same shape or without B -> sum of sign * a * b for each target."""
    product = torch.empty_like(a)
    started: set[_Component] = set()
    for target, of_a, of_b, sign in terms:
        component = product[:, target[0], :, target[1]]
        factors = a[:, of_a[0], :, of_a[1]], b[..., of_b[0], :, of_b[1], :]
        if target in started:
            component.addcmul_(*factors, value=sign)
        else:  # the first term of each target has the sign +
            torch.mul(*factors, out=component)
            started.add(target)
    return product


def _working(x: Tensor) -> Tensor:
    """As (B, H, W, C), contiguous, in float32 at least: half precisions are for storage, not for spectra."""
    x = x.permute(0, 2, 3, 1)
    return x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


def _parts(height: _Axis, width: _Axis, x: Tensor) -> list[slice]:
    """Equal parts of the batch whose spectra keep to the bound."""
    clip_bytes = height.period * width.period * x.shape[-1] * x.element_size()
    count = math.ceil(x.shape[0] * clip_bytes / _SPECTRUM_BYTES)
    step = math.ceil(x.shape[0] / max(1, count))
    return [slice(start, start + step) for start in range(0, x.shape[0], max(1, step))]


def _axes(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> tuple[_Axis, _Axis]:
    return _Axis(input.shape[2], weight.shape[2], pad_height), _Axis(input.shape[3], weight.shape[3], pad_width)


def _kernel_spectrum(weight: Tensor, height: _Axis, width: _Axis, like: Tensor) -> Tensor:
    """(C, 1, kernel_height, kernel_width) -> (2, bins_height, 2, bins_width * C), with the factors of the way back."""
    (_, height_basis, _), (_, width_basis, _) = height.bases(like), width.bases(like)
    cells = weight.to(like.dtype).permute(1, 2, 3, 0).contiguous()
    return _transform(cells, height_basis, width_basis)[0] * (4 / (height.period * width.period))


def _correlate_spectrum(x: Tensor, k: Tensor, height: _Axis, width: _Axis) -> Tensor:
    """(B, H, W, C) cells and the kernel's spectrum -> (B, H', W', C) cells."""
    (in_h, _, out_h), (in_w, _, out_w) = height.bases(x), width.bases(x)
    channels = x.shape[-1]
    y = x.new_empty(x.shape[0], height.out_size, width.out_size, channels)
    for clips in _parts(height, width, x):
        y[clips] = _transform_back(_multiply(_transform(x[clips], in_h, in_w), k, _OUTPUT), out_h, out_w, channels)
    return y


@torch.library.custom_op("audioset_dcls::depthwise_conv2d", mutates_args=())
def _correlate(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    height, width = _axes(input, weight, pad_height, pad_width)
    x = _working(input)
    y = _correlate_spectrum(x, _kernel_spectrum(weight, height, width, x), height, width)
    return y.to(input.dtype).permute(0, 3, 1, 2)


@_correlate.register_fake
def _output_like(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    batch, channels, height, width = input.shape
    out_height, out_width = height + 2 * pad_height - weight.shape[2] + 1, width + 2 * pad_width - weight.shape[3] + 1
    return input.new_empty(batch, out_height, out_width, channels).permute(0, 3, 1, 2)


@torch.library.custom_op("audioset_dcls::depthwise_conv2d_backward", mutates_args=())
def _correlate_backward(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    height, width = _axes(input, weight, pad_height, pad_width)
    x, g = _working(input), _working(grad)
    (in_h, ker_h, out_h), (in_w, ker_w, out_w) = height.bases(x), width.bases(x)
    channels, scale = x.shape[-1], 4 / (height.period * width.period)
    k = _kernel_spectrum(weight, height, width, x)
    grad_k = torch.zeros_like(k)
    grad_x = torch.empty_like(x)
    for clips in _parts(height, width, x):
        grad_spectrum = _transform(g[clips], out_h, out_w)
        grad_k += _multiply(grad_spectrum, _transform(x[clips], in_h, in_w), _OF_KERNEL).sum(0)
        grad_x[clips] = _transform_back(_multiply(grad_spectrum, k, _OF_INPUT), in_h, in_w, channels)
    grad_weight = _transform_back(grad_k[None] * scale, ker_h, ker_w, channels)
    return grad_x.to(input.dtype).permute(0, 3, 1, 2), grad_weight.permute(3, 0, 1, 2).to(weight.dtype).contiguous()


@_correlate_backward.register_fake
def _gradients_like(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = input.shape
    return input.new_empty(batch, height, width, channels).permute(0, 3, 1, 2), weight.new_empty(weight.shape)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    input, weight, ctx.pad_height, ctx.pad_width = inputs
    ctx.save_for_backward(input, weight)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    grad_input, grad_weight = _correlate_backward(grad, *ctx.saved_tensors, ctx.pad_height, ctx.pad_width)
    return grad_input, grad_weight, None, None


def _setup_double(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    grad, input, weight, ctx.pad_height, ctx.pad_width = inputs
    ctx.save_for_backward(grad, input, weight)


def _backward_double(ctx, grad_input, grad_weight):  # type: ignore[no-untyped-def]
    # with A(x, k) the forward: <u, dA/dx(g, k)> + <v, dA/dk(g, x)> = <g, A(u, k) + A(x, v)>, bilinear in all
    grad, input, weight = ctx.saved_tensors
    pads = (ctx.pad_height, ctx.pad_width)
    of_grad = _correlate(grad_input, weight, *pads) + _correlate(input, grad_weight, *pads)
    of_input, of_weight = _correlate_backward(grad, grad_input, grad_weight, *pads)
    return of_grad, of_input, of_weight, None, None


_correlate.register_autograd(_backward, setup_context=_setup)
_correlate_backward.register_autograd(_backward_double, setup_context=_setup_double)


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
    if is_spectral_faster(input, kernel, padding, training=True):
        grad_input, grad_kernel = _correlate_backward(grad, input, kernel, *padding)
    else:
        steps, groups = ((1, 1), padding, (1, 1), False, (0, 0)), weight.shape[0]
        grad_input, grad_kernel, _ = torch.ops.aten.convolution_backward(
            grad, input, kernel.to(input.dtype), None, *steps, groups, (True, True, False)
        )
    beyond_height, beyond_width = pad_height - padding[0], pad_width - padding[1]
    grad_weight = F.pad(grad_kernel.to(weight.dtype), (beyond_width, beyond_width, beyond_height, beyond_height))
    return grad_input.contiguous(memory_format=torch.channels_last), grad_weight.contiguous()


def _setup_in_a_graph(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    input, weight, ctx.pad_height, ctx.pad_width, _ = inputs
    ctx.save_for_backward(input, weight)


def _backward_in_a_graph(ctx, grad):  # type: ignore[no-untyped-def]
    return *_convolve_backward(grad, *ctx.saved_tensors, ctx.pad_height, ctx.pad_width), None, None, None


_convolve.register_fake(lambda *arguments: _output_like(*arguments[:4]))
_convolve_backward.register_fake(_gradients_like)
_convolve.register_autograd(_backward_in_a_graph, setup_context=_setup_in_a_graph)

"""Large depthwise convolutions as products of spectra, forward and backward.

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
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]  # of matrices, broadcast over the leading axes

# Bounds of the spectra held at a time: about the size of a last-level cache; larger batches go through in parts.
_SPECTRUM_BYTES = 20 << 20


class Axis:
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


def _transform(x: Tensor, height_basis: Tensor, width_basis: Tensor, product: Product = torch.matmul) -> Tensor:
    """(B, H, W, C) cells -> (B, 2, bins_height, 2, bins_width * C) coefficients (cosine and sine along each axis)."""
    rows = product(width_basis, x)
    coefficients = product(height_basis, rows.flatten(2))
    return coefficients.view(x.shape[0], 2, height_basis.shape[0] // 2, 2, -1)


def _transform_back(
    coefficients: Tensor, height_basis: Tensor, width_basis: Tensor, channels: int, product: Product = torch.matmul
) -> Tensor:
    """The transpose of `_transform`: (B, 2, bins_height, 2, bins_width * C) -> (B, H, W, C)."""
    rows = product(height_basis.T, coefficients.view(coefficients.shape[0], height_basis.shape[0], -1))
    return product(width_basis.T, rows.view(*rows.shape[:2], width_basis.shape[0], channels))


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
    components, of_a, of_b = ([half.unbind(-2) for half in whole.unbind(-4)] for whole in (product, a, b))
    started: set[_Component] = set()
    for target, (p, q), (r, s), sign in terms:
        component, factors = components[target[0]][target[1]], (of_a[p][q], of_b[r][s])
        if target in started:
            component.addcmul_(*factors, value=sign)
        else:  # the first term of each target has the sign +
            torch.mul(*factors, out=component)
            started.add(target)
    return product


def working(x: Tensor) -> Tensor:
    """As (B, H, W, C), contiguous, in float32 at least: half precisions are for storage, not for spectra."""
    x = x.permute(0, 2, 3, 1)
    return x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


def _parts(height: Axis, width: Axis, x: Tensor) -> list[slice]:
    """Equal parts of the batch whose spectra keep to the bound."""
    clip_bytes = height.period * width.period * x.shape[-1] * x.element_size()
    count = math.ceil(x.shape[0] * clip_bytes / _SPECTRUM_BYTES)
    step = math.ceil(x.shape[0] / max(1, count))
    return [slice(start, start + step) for start in range(0, x.shape[0], max(1, step))]


def axes(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> tuple[Axis, Axis]:
    return Axis(input.shape[2], weight.shape[2], pad_height), Axis(input.shape[3], weight.shape[3], pad_width)


def kernel_spectrum(weight: Tensor, height: Axis, width: Axis, like: Tensor) -> Tensor:
    """(C, 1, kernel_height, kernel_width) -> (2, bins_height, 2, bins_width * C), with the factors of the way back."""
    (_, height_basis, _), (_, width_basis, _) = height.bases(like), width.bases(like)
    cells = weight.to(like.dtype).permute(1, 2, 3, 0).contiguous()
    return _transform(cells, height_basis, width_basis)[0] * (4 / (height.period * width.period))


def correlate_spectrum(x: Tensor, k: Tensor, height: Axis, width: Axis, product: Product = torch.matmul) -> Tensor:
    """(B, H, W, C) cells and the kernel's spectrum -> (B, H', W', C) cells."""
    (in_h, _, out_h), (in_w, _, out_w) = height.bases(x), width.bases(x)
    channels = x.shape[-1]
    y = x.new_empty(x.shape[0], height.out_size, width.out_size, channels)
    for clips in _parts(height, width, x):
        spectrum = _multiply(_transform(x[clips], in_h, in_w, product), k, _OUTPUT)
        y[clips] = _transform_back(spectrum, out_h, out_w, channels, product)
    return y


@torch.library.custom_op("audioset_dcls::depthwise_conv2d", mutates_args=())
def correlate(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    with torch.autocast(input.device.type, enabled=False):  # else the products would be in bfloat16
        return correlate_by(torch.matmul, input, weight, pad_height, pad_width)


def correlate_by(product: Product, input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    """The convolution with the transforms of maps by `product`; the kernel's own is always a `torch.matmul`."""
    height, width = axes(input, weight, pad_height, pad_width)
    x = working(input)
    y = correlate_spectrum(x, kernel_spectrum(weight, height, width, x), height, width, product)
    return y.to(input.dtype).permute(0, 3, 1, 2)


@correlate.register_fake
def output_like(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    batch, channels, height, width = input.shape
    out_height, out_width = height + 2 * pad_height - weight.shape[2] + 1, width + 2 * pad_width - weight.shape[3] + 1
    return input.new_empty(batch, out_height, out_width, channels).permute(0, 3, 1, 2)


@torch.library.custom_op("audioset_dcls::depthwise_conv2d_backward", mutates_args=())
def correlate_backward(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    with torch.autocast(input.device.type, enabled=False):
        return correlate_backward_by(torch.matmul, grad, input, weight, pad_height, pad_width)


def correlate_backward_by(
    product: Product, grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    """Gradients of input and kernel, with the transforms of maps by `product`."""
    height, width = axes(input, weight, pad_height, pad_width)
    x, g = working(input), working(grad)
    (in_h, ker_h, out_h), (in_w, ker_w, out_w) = height.bases(x), width.bases(x)
    channels, scale = x.shape[-1], 4 / (height.period * width.period)
    k = kernel_spectrum(weight, height, width, x)
    grad_k = torch.zeros_like(k)
    grad_x = torch.empty_like(x)
    for clips in _parts(height, width, x):
        grad_spectrum = _transform(g[clips], out_h, out_w, product)
        grad_k += _multiply(grad_spectrum, _transform(x[clips], in_h, in_w, product), _OF_KERNEL).sum(0)
        grad_x[clips] = _transform_back(_multiply(grad_spectrum, k, _OF_INPUT), in_h, in_w, channels, product)
    grad_weight = _transform_back(grad_k[None] * scale, ker_h, ker_w, channels)
    return grad_x.to(input.dtype).permute(0, 3, 1, 2), grad_weight.permute(3, 0, 1, 2).to(weight.dtype).contiguous()


@correlate_backward.register_fake
def gradients_like(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = input.shape
    return input.new_empty(batch, height, width, channels).permute(0, 3, 1, 2), weight.new_empty(weight.shape)


def register_gradients(forward: Any, backward: Any) -> None:
    """Makes two operators with the signatures of `correlate` and `correlate_backward` differentiable, twice."""

    def setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        input, weight, *ctx.padding = inputs
        ctx.save_for_backward(input, weight)

    def first(ctx, grad):  # type: ignore[no-untyped-def]
        return *backward(grad, *ctx.saved_tensors, *ctx.padding), None, None

    def setup_second(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        grad, input, weight, *ctx.padding = inputs
        ctx.save_for_backward(grad, input, weight)

    def second(ctx, grad_input, grad_weight):  # type: ignore[no-untyped-def]
        # with A(x, k) the forward: <u, dA/dx(g, k)> + <v, dA/dk(g, x)> = <g, A(u, k) + A(x, v)>, bilinear in all
        grad, input, weight = ctx.saved_tensors
        of_grad = forward(grad_input, weight, *ctx.padding) + forward(input, grad_weight, *ctx.padding)
        of_input, of_weight = backward(grad, grad_input, grad_weight, *ctx.padding)
        return of_grad, of_input, of_weight, None, None

    forward.register_autograd(first, setup_context=setup)
    backward.register_autograd(second, setup_context=setup_second)


register_gradients(correlate, correlate_backward)

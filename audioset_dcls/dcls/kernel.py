"""From weights, positions and widths to a dense kernel: the construction step of DCLS.

Notation of arXiv 2112.03740 and 2306.00817: a kernel of size s_1 x ... x s_n is the sum of `kernel_count` elements;
element m has a weight w_m and, along every axis i, a position p_mi (in cells from the centre s_i // 2) and, for the
triangle and the Gauss, a width. Every interpolation is a product over the axes, and so is its normalisation:

    K[y, x] = sum_m  w_m / (A_m B_m + eps) * a_m[y] * b_m[x],      A_m = sum_y a_m[y],   B_m = sum_x b_m[x]

Hence one profile of s_i numbers per element and axis suffices, contracted by one batched matrix product; the
(s_1 x s_2 x kernel_count) tensor of the definition is never built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bilinear", "triangle", "gauss"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
# What `dcls` calls its versions -> what it is called here.
INTERPOLATION_OF_VERSION = {"v0": "bilinear", "v1": "bilinear", "max": "triangle", "gauss": "gauss"}

MIN_DEVIATION = 0.27  # cells; below it a Gaussian falls between the cells and its gradient vanishes (2306.00817, 3)
MIN_HALF_WIDTH = 1.0  # cells; a triangle of half width 1 is the bilinear interpolation
NORMALISATION_EPS = 1e-7


def has_deviations(interpolation: str) -> bool:
    """Whether the interpolation has a learnable width beside the position."""
    return interpolation != "bilinear"


def check_interpolation(interpolation: str) -> None:
    """Raises ValueError for another one than INTERPOLATIONS; tells what a version of `dcls` is called here."""
    if interpolation in INTERPOLATIONS:
        return
    here = INTERPOLATION_OF_VERSION.get(interpolation)
    hint = f"; {interpolation!r} of dcls is {here!r} here" if here else ""
    raise ValueError(f"interpolation {interpolation!r} is none of {', '.join(INTERPOLATIONS)}{hint}")


def profile(positions: Tensor, deviations: Tensor | None, size: int, interpolation: str) -> Tensor:
    """The unnormalised interpolation of every element along one axis: (...,) positions -> (..., size).

    >>> profile(torch.tensor([0.25]), None, 5, "bilinear")
    tensor([[0.0000, 0.0000, 0.7500, 0.2500, 0.0000]])
    """
    # counted from the centre: cell minus position is then exact where it matters, close to the position
    cells = torch.arange(size, dtype=positions.dtype, device=positions.device) - size // 2
    if interpolation == "bilinear":
        below = positions.floor().unsqueeze(-1)
        rest = positions.unsqueeze(-1) - below
        # written with floor() rather than |x|: at a whole position the gradient still points to the next cell
        return torch.where(cells == below, 1 - rest, 0.0) + torch.where(cells == below + 1, rest, 0.0)
    assert deviations is not None
    distance = cells - positions.unsqueeze(-1)
    if interpolation == "triangle":
        return (deviations.abs().unsqueeze(-1) + MIN_HALF_WIDTH - distance.abs()).relu()
    precision = (1 / (deviations.abs() + MIN_DEVIATION)).unsqueeze(-1)
    if torch.compiler.is_compiling():  # compiled, _Gaussian has no gradients (torch 2.11); the compiler fuses as well
        exponent = -0.5 * (distance * precision).square()
        return F.threshold(exponent, _least_exponent(exponent.dtype), -math.inf).exp()
    return _Gaussian.apply(distance, precision)


def _least_exponent(dtype: torch.dtype) -> float:
    """Below it a Gaussian is zero: the product of two profiles and a weight must not become a subnormal number.

    A CPU takes a hundred times as long to multiply by those, and they are lost in any sum.
    """
    return 0.4 * math.log(torch.finfo(dtype).tiny)  # float32: -35, 7e-16


class _Gaussian(torch.autograd.Function):
    """exp(-(distance * precision)^2 / 2) with a precision (..., 1) for each row of distances (..., size).

    A function of its own because the construction is memory-bound: it holds two tensors of full size for the backward
    pass where the composition of torch's operators holds five, and makes half the passes. Its backward pass is
    differentiable.
    """

    @staticmethod
    def forward(ctx: Any, distance: Tensor, precision: Tensor) -> Tensor:
        exponent = (distance * precision).square_().mul_(-0.5)
        value = F.threshold(exponent, _least_exponent(exponent.dtype), -math.inf, inplace=True).exp_()
        ctx.save_for_backward(distance, precision, value)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        distance, precision, value = ctx.saved_tensors
        slope = grad * value * distance
        of_precision = -precision * (slope * distance).sum(-1, keepdim=True)
        return slope * -precision.square(), of_precision


def construct_kernel(
    weight: Tensor,
    positions: Tensor,
    deviations: Tensor | None,
    dilated_kernel_size: Sequence[int],
    interpolation: Interpolation = "gauss",
) -> Tensor:
    """The dense kernel of DCLS elements, in one, two or three dimensions.

    Args:
        weight: (out_channels, in_channels / groups, kernel_count).
        positions: (n, out_channels, in_channels / groups, kernel_count), in cells from the centre (size // 2). Row i
            moves along kernel axis i in torch's order: for n = 2 row 0 is the height (frequency), row 1 the width
            (time). `dcls` 0.1.1 has the rows the other way round, except in its bilinear "v0".
        deviations: like `positions`, or None for "bilinear". The half width of a triangle is |deviation| + 1, the
            standard deviation of a Gaussian |deviation| + 0.27.
        dilated_kernel_size: the n sizes of the dense kernel.
        interpolation: "bilinear" (2112.03740, eq. 4: not normalised), "triangle" or "gauss" (2306.00817, eq. 2-4:
            each element sums to 1 over the kernel, so that its weight keeps its meaning while its width changes).

    Returns:
        (out_channels, in_channels / groups, *dilated_kernel_size), in the weights' dtype; computed without autocast.

    Raises:
        ValueError: shapes or interpolation that do not fit.
    """
    sizes = tuple(dilated_kernel_size)
    check_interpolation(interpolation)
    if positions.shape != (len(sizes), *weight.shape):
        raise ValueError(f"positions {tuple(positions.shape)} should be {(len(sizes), *weight.shape)}")
    if has_deviations(interpolation) and (deviations is None or deviations.shape != positions.shape):
        raise ValueError(f"{interpolation!r} needs deviations of shape {tuple(positions.shape)}")
    device = "cpu" if weight.is_meta else weight.device.type  # autocast knows no meta tensors
    with torch.autocast(device, enabled=False):
        return _contract(weight, _profiles(positions, deviations, sizes, interpolation), interpolation)


def _profiles(positions: Tensor, deviations: Tensor | None, sizes: tuple[int, ...], interpolation: str) -> list[Tensor]:
    """One (out, in / groups, kernel_count, size) profile per axis."""
    if len(set(sizes)) == 1:  # all axes in one go: half the launches of the usual square kernel
        return list(profile(positions, deviations, sizes[0], interpolation).unbind())
    widths = [None] * len(sizes) if deviations is None else list(deviations.unbind())
    return [profile(p, d, s, interpolation) for p, d, s in zip(positions.unbind(), widths, sizes, strict=True)]


def _contract(weight: Tensor, profiles: list[Tensor], interpolation: str) -> Tensor:
    if interpolation != "bilinear":
        sums = [p.sum(-1) for p in profiles]
        total = sums[0]
        for axis_sum in sums[1:]:
            total = total * axis_sum
        weight = weight / (total + NORMALISATION_EPS)
    *leading, last = profiles
    rows = weight.unsqueeze(-1)
    for axis in leading:  # (out, in, count, s_1 ... s_k): the outer product over all axes but the last
        rows = (rows.unsqueeze(-1) * axis.unsqueeze(-2)).flatten(-2)
    kernel = rows.transpose(-1, -2) @ last
    return kernel.reshape(*weight.shape[:2], *(p.shape[-1] for p in profiles))

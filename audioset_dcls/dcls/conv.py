"""Convolutions whose kernel is built from learnable elements: drop-in for `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`.

In `Dcls1d`, `Dcls2d` and `Dcls3d` elements move along all axes of the kernel. In `Dcls2_1d`, `Dcls3_1d`, `Dcls3_2d`
they move along the last one or two alone; each tap along the other axes, which stay dense, has elements of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audioset_dcls.dcls import candidates
from audioset_dcls.dcls.depthwise import FixedKernel, depthwise_conv2d, is_traced
from audioset_dcls.dcls.kernel import (
    MIN_DEVIATION,
    MIN_HALF_WIDTH,
    Interpolation,
    check_interpolation,
    construct_kernel,
    has_deviations,
)

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_GAUSS_END = 6.1  # standard deviations: exp(-6.1² / 2) = 8e-9
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class DclsNd(nn.Module):
    """What all DCLS layers share.

    Args:
        in_channels, out_channels, stride, padding, groups, bias, padding_mode, device, dtype: as in `nn.Conv2d`. There
            is no `dilation`: the spacings are what is learned. `Dcls1d` also takes padding="causal", all of it before
            the input: an output depends on no later input, and the output is as long as with "same".
        kernel_count: elements a kernel; the number of weights, where a dense kernel has its area. With dense axes:
            elements a dense tap.
        dilated_kernel_size: size of the kernel along the axes on which the elements move. This and what follows are
            given by name: `dcls` has them in another order.
        dense_kernel_size: size along the dense axes of `Dcls2_1d`, `Dcls3_1d` and `Dcls3_2d`.
        interpolation: "gauss" (default: the best of the three in 2306.00817, table 1), "triangle" or "bilinear".
        position_std: positions start at N(0, position_std) cells from the centre; the default is 2112.03740's, 3.1.

    Attributes:
        weight: (out_channels, in_channels / groups, *dense_kernel_size, kernel_count).
        positions: (n, *weight.shape), cells from the centre; row i moves along the i-th of the axes that are not dense.
        deviations: as positions; None for "bilinear". See `construct_kernel`.
        kernel_size: of the kernel that is convolved with, along all axes.
    """

    dimensions: int
    dense_dimensions = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        *,
        dilated_kernel_size: int | Sequence[int],
        dense_kernel_size: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        interpolation: Interpolation = "gauss",
        position_std: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n = self.dimensions
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{in_channels} and {out_channels} channels are not divisible by {groups} groups")
        check_interpolation(interpolation)
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f"padding_mode {padding_mode!r} is none of zeros, reflect, replicate, circular")
        if isinstance(kernel_count, bool) or not isinstance(kernel_count, int) or kernel_count < 1:
            raise ValueError(
                f"kernel_count={kernel_count!r} should be a whole number from 1: how many elements the whole kernel "
                "has, not how many along an axis"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_count = kernel_count
        self.dilated_kernel_size = _tuple(dilated_kernel_size, len(self.learned_axes))
        if not self.dense_dimensions and dense_kernel_size != 1:
            raise ValueError(f"dense_kernel_size={dense_kernel_size!r}: {type(self).__name__} has no dense axes")
        self.dense_kernel_size = _tuple(dense_kernel_size, self.dense_dimensions)
        self.stride = _tuple(stride, n)
        if isinstance(padding, str):
            known = ("same", "valid", "causal") if n == 1 else ("same", "valid")
            if padding not in known:
                raise ValueError(f"padding {padding!r} is neither a number nor one of {', '.join(known)}")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' needs a stride of 1")
            self.padding: tuple[int, ...] | str = padding
        else:
            self.padding = _tuple(padding, n)
        self.padding_mode = padding_mode
        self.interpolation = interpolation
        self.position_std = position_std
        shape = (out_channels, in_channels // groups, *self.dense_kernel_size, kernel_count)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.positions = nn.Parameter(torch.empty((len(self.dilated_kernel_size), *shape), device=device, dtype=dtype))
        self.deviations: nn.Parameter | None
        if has_deviations(interpolation):
            self.deviations = nn.Parameter(
                torch.empty((len(self.dilated_kernel_size), *shape), device=device, dtype=dtype)
            )
        else:
            self.register_parameter("deviations", None)
        self.bias: nn.Parameter | None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights and bias as `nn.Conv2d`; positions N(0, position_std) cells; deviations 0.23 (Gauss) or 0."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        nn.init.normal_(self.positions, 0, self.position_std)
        self.clamp_positions()
        if self.deviations is not None:
            nn.init.constant_(self.deviations, 0.23 if self.interpolation == "gauss" else 0.0)

    @torch.no_grad()
    def clamp_positions(self) -> None:
        """Bring the positions back onto the kernel's cells; call it after every optimiser step (2112.03740, 3.1)."""
        for axis, size in enumerate(self.dilated_kernel_size):
            self.positions[axis].clamp_(-(size // 2), (size - 1) - size // 2)

    def repulsive_loss(self) -> Tensor:
        """Mean overlap of pairs of elements, relu(1 - distance in cells): keeps elements from collapsing into one."""
        points = self.positions.flatten(1, -2).permute(1, 2, 0)
        first, second = torch.triu_indices(self.kernel_count, self.kernel_count, offset=1, device=points.device)
        if first.numel() == 0:
            return self.positions.sum() * 0
        # the root's gradient is infinite if two elements coincide: a tiny distance keeps it finite
        distance = ((points[:, first] - points[:, second]).square().sum(-1) + 1e-12).sqrt()
        return (1 - distance).relu().mean()

    def dense_kernel(self) -> Tensor:
        """The kernel that the elements make: (out_channels, in_channels / groups, *kernel_size)."""
        return self._kernel(self.dilated_kernel_size)

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return (*self.dense_kernel_size, *self.dilated_kernel_size)

    @property
    def learned_axes(self) -> tuple[int, ...]:
        """The kernel's axes along which the elements move, one a row of `positions`."""
        return tuple(range(self.dense_dimensions, self.dimensions))

    def _kernel(self, sizes: tuple[int, ...]) -> Tensor:
        """The dense kernel with these sizes along the learned axes; each dense tap is a kernel of its own."""
        taps = (-1, self.kernel_count)
        kernel = construct_kernel(
            self.weight.reshape(self.out_channels, *taps),
            self.positions.reshape(len(sizes), self.out_channels, *taps),
            None if self.deviations is None else self.deviations.reshape(len(sizes), self.out_channels, *taps),
            sizes,
            self.interpolation,
        )
        return kernel.reshape(*self.weight.shape[:-1], *sizes)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, in_channels, *size), or without batch -> as `nn.Conv2d` with a kernel of the dilated size.

        On a CPU only the part of the kernel that the elements reach is built and convolved; see `reach`.
        """
        sizes, padding = self.dilated_kernel_size, self.padding
        recorded = torch.compiler.is_compiling() or is_traced()
        if not recorded and candidates.is_measured(input.device) and self._is_plane_of_gauss(input):
            return self._by_quickest(input)
        if self.weight.device.type == "cpu" and not recorded:
            # elsewhere reading the positions would wait for the device at every step
            sizes, padding = self._within_reach()
        return convolve(input, self._kernel(sizes), self.bias, self.stride, padding, self.groups, self.padding_mode)

    def _is_plane_of_gauss(self, input: Tensor) -> bool:
        """Whether this is a depthwise convolution that `candidates.gauss_convolution` knows."""
        depthwise = self.groups == self.in_channels == self.out_channels and input.dim() == 4 and input.numel() > 0
        plain = set(self.stride) == {1} and self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return self.interpolation == "gauss" and self.dimensions == 2 and depthwise and plain

    def _by_quickest(self, input: Tensor) -> Tensor:
        assert self.deviations is not None
        assert not isinstance(self.padding, str)
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(torch.get_autocast_dtype(input.device.type))
        output = candidates.gauss_convolution(
            input,
            (self.weight, self.positions, self.deviations),
            (self.dilated_kernel_size[0], self.dilated_kernel_size[1]),
            (self.padding[0], self.padding[1]),
            lambda x, kernel, padding: depthwise_conv2d(x, kernel, None, padding),
        )
        return output if self.bias is None else output + self.bias.to(output.dtype).view(-1, 1, 1)

    @torch.no_grad()
    def reach(self) -> list[int]:
        """For each learned axis, how many cells from the centre the farthest element comes, at most half the kernel.

        A Gaussian ends at 6.1 standard deviations, with 1e-8 of its height: what lies beyond is lost in float32.
        """
        farthest = self.positions.abs()
        if self.interpolation == "bilinear":
            farthest = farthest + 1
        else:
            assert self.deviations is not None
            widths = self.deviations.abs()
            gauss = self.interpolation == "gauss"
            farthest = farthest + (_GAUSS_END * (widths + MIN_DEVIATION) if gauss else widths + MIN_HALF_WIDTH)
        ends = farthest.flatten(1).amax(1).double().ceil().tolist()
        # a position that is not finite reaches everywhere
        return [
            int(end) if end < size // 2 else size // 2 for end, size in zip(ends, self.dilated_kernel_size, strict=True)
        ]

    def _within_reach(self) -> tuple[tuple[int, ...], tuple[int, ...] | str]:
        """Learned sizes and padding of the kernel without the cells, alike on both sides, that no element reaches."""
        most = most_cut(self.kernel_size, self.padding)
        cuts, sizes = [0] * self.dimensions, []
        for axis, size, end in zip(self.learned_axes, self.dilated_kernel_size, self.reach(), strict=True):
            cuts[axis] = max(0, min(most[axis], (size - 1) // 2 - end))
            sizes.append(size - 2 * cuts[axis])
        return tuple(sizes), cut_padding(self.padding, cuts)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_count={self.kernel_count}"
        text += f", dilated_kernel_size={self.dilated_kernel_size}, stride={self.stride}, padding={self.padding}"
        if self.dense_dimensions:
            text += f", dense_kernel_size={self.dense_kernel_size}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return f"{text}, interpolation={self.interpolation}"


class Dcls1d(DclsNd):
    """`nn.Conv1d` with learnable spacings; see `DclsNd`.

    >>> Dcls1d(4, 8, kernel_count=3, dilated_kernel_size=9, padding=4)(torch.zeros(2, 4, 20)).shape
    torch.Size([2, 8, 20])
    """

    dimensions = 1


class Dcls2d(DclsNd):
    """`nn.Conv2d` with learnable spacings; see `DclsNd`.

    >>> layer = Dcls2d(96, 96, kernel_count=26, dilated_kernel_size=23, padding=11, groups=96)
    >>> layer(torch.zeros(1, 96, 64, 62)).shape
    torch.Size([1, 96, 64, 62])
    """

    dimensions = 2


class Dcls3d(DclsNd):
    """`nn.Conv3d` with learnable spacings; see `DclsNd`.

    >>> Dcls3d(4, 4, kernel_count=5, dilated_kernel_size=(3, 5, 7), padding="same")(torch.zeros(1, 4, 4, 6, 8)).shape
    torch.Size([1, 4, 4, 6, 8])
    """

    dimensions = 3


class Dcls2_1d(DclsNd):  # noqa: N801 - the reference's name
    """`nn.Conv2d` with learnable spacings along the last axis; the first, of `dense_kernel_size`, is dense.

    >>> layer = Dcls2_1d(4, 4, kernel_count=2, dense_kernel_size=3, dilated_kernel_size=9, padding=(1, 4), groups=4)
    >>> layer.weight.shape, layer.dense_kernel().shape
    (torch.Size([4, 1, 3, 2]), torch.Size([4, 1, 3, 9]))
    """

    dimensions = 2
    dense_dimensions = 1


class Dcls3_1d(DclsNd):  # noqa: N801 - the reference's name
    """`nn.Conv3d` with learnable spacings along the last axis; the first two are dense.

    >>> layer = Dcls3_1d(4, 4, kernel_count=2, dense_kernel_size=(3, 5), dilated_kernel_size=9, groups=4)
    >>> layer.weight.shape, layer.dense_kernel().shape
    (torch.Size([4, 1, 3, 5, 2]), torch.Size([4, 1, 3, 5, 9]))
    """

    dimensions = 3
    dense_dimensions = 2


class Dcls3_2d(DclsNd):  # noqa: N801 - the reference's name
    """`nn.Conv3d` with learnable spacings along the last two axes; the first, video's time for example, is dense.

    >>> layer = Dcls3_2d(4, 4, kernel_count=5, dense_kernel_size=3, dilated_kernel_size=(7, 9), groups=4)
    >>> layer.weight.shape, layer.dense_kernel().shape
    (torch.Size([4, 1, 3, 5]), torch.Size([4, 1, 3, 7, 9]))
    """

    dimensions = 3
    dense_dimensions = 1


class Dcls2dK1d(DclsNd):
    """`nn.Conv2d` with a kernel of one row or column, as `Dcls1d` has it.

    Args:
        flat_axis: along which the kernel has one cell: 0 the height, 1 the width. `dcls` has it the other way round.

    >>> Dcls2dK1d(4, 4, kernel_count=2, dilated_kernel_size=9, flat_axis=0).dense_kernel().shape
    torch.Size([4, 4, 1, 9])
    """

    dimensions = 2

    def __init__(
        self, in_channels: int, out_channels: int, kernel_count: int, *, flat_axis: int = 1, **options: Any
    ) -> None:
        if flat_axis not in (0, 1):
            raise ValueError(f"flat_axis={flat_axis!r} is neither 0, the height, nor 1, the width")
        self.flat_axis = flat_axis  # first: the base's shapes follow from it
        super().__init__(in_channels, out_channels, kernel_count, **options)

    @property
    def kernel_size(self) -> tuple[int, ...]:
        (size,) = self.dilated_kernel_size
        return (1, size) if self.flat_axis == 0 else (size, 1)

    @property
    def learned_axes(self) -> tuple[int, ...]:
        return (1 - self.flat_axis,)

    def _kernel(self, sizes: tuple[int, ...]) -> Tensor:
        return super()._kernel(sizes).unsqueeze(2 + self.flat_axis)


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` for large depthwise kernels: same parameters and output, by the quicker operator if there is one."""

    _fixed: FixedKernel | None = None

    def forward(self, input: Tensor) -> Tensor:
        watched = torch.is_grad_enabled() or torch.compiler.is_compiling() or is_traced()
        if not watched and not torch.is_autocast_enabled(input.device.type) and self._fits(input):
            self._fixed = self._fixed or FixedKernel()
            return self._fixed(input, self.weight, self.bias, self.padding)  # type: ignore[arg-type]
        padding = self.padding if isinstance(self.padding, str) else tuple(self.padding)
        return convolve(input, self.weight, self.bias, self.stride, padding, self.groups, self.padding_mode)

    def _fits(self, input: Tensor) -> bool:
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str) and set(self.stride) == {1}
        return plain and input.dim() == 4 and self.groups == self.out_channels == input.shape[1]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_fixed"}  # spectra are made anew


def dcls_layers(model: nn.Module) -> Iterator[DclsNd]:
    """The DCLS layers of a model, each once."""
    return (module for module in model.modules() if isinstance(module, DclsNd))


def convolve(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    groups: int,
    padding_mode: str = "zeros",
) -> Tensor:
    """`F.conv*d` with the padding options of `nn.Conv*d`, by way of `depthwise_conv2d` if it applies."""
    sizes = kernel.shape[2:]
    n = len(sizes)
    if isinstance(padding, str):
        total = [0 if padding == "valid" else size - 1 for size in sizes]
        before = total if padding == "causal" else [t // 2 for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
    else:
        before = after = list(padding)
    if padding_mode != "zeros" or before != after:
        # F.pad counts from the last axis to the first
        amounts = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
        input = F.pad(input, amounts, mode="constant" if padding_mode == "zeros" else padding_mode)
        before = [0] * n
    depthwise = groups == kernel.shape[0] and kernel.shape[1] == 1 and groups == input.shape[-n - 1]
    if depthwise and n < 3 and set(stride) == {1} and input.dim() == n + 2:
        if n == 1:
            return depthwise_conv2d(input.unsqueeze(2), kernel.unsqueeze(2), bias, (0, before[0])).squeeze(2)
        return depthwise_conv2d(input, kernel, bias, (before[0], before[1]))
    convolution: Any = _CONV[n]
    return convolution(input, kernel, bias, stride, before, 1, groups)


def most_cut(sizes: Sequence[int], padding: Sequence[int] | str) -> list[int]:
    """Cells that can be cut off each side of each axis of a kernel so that smaller padding keeps the output's size."""
    beyond_middle = [(size - 1) // 2 for size in sizes]
    if padding == "same":
        return beyond_middle
    paddings = [0] * len(sizes) if isinstance(padding, str) else padding  # "causal" pads one side alone
    return [min(pair) for pair in zip(beyond_middle, paddings, strict=True)]


def cut_padding(padding: tuple[int, ...] | str, cuts: Sequence[int]) -> tuple[int, ...] | str:
    """The padding of a kernel after `cuts` cells are cut off each side of its axes."""
    return padding if isinstance(padding, str) else tuple(p - cut for p, cut in zip(padding, cuts, strict=True))


def _tuple(value: int | Sequence[int], n: int) -> tuple[int, ...]:
    values = (value,) * n if isinstance(value, int) else tuple(value)
    if len(values) != n:
        raise ValueError(f"{value!r} should be a number or {n} numbers")
    return values

"""Surgery: DCLS layers in place of a model's depthwise convolutions, and plain convolutions in place of DCLS layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audioset_dcls.dcls.conv import Dcls1d, Dcls2d, Dcls3d, DclsNd, DepthwiseConv2d, cut_padding, most_cut
from audioset_dcls.dcls.kernel import Interpolation
from audioset_dcls.dcls.warm_start import fit_elements

_DCLS: dict[type[nn.Module], type[DclsNd]] = {nn.Conv1d: Dcls1d, nn.Conv2d: Dcls2d, nn.Conv3d: Dcls3d}


@dataclass(frozen=True)
class Replacement:
    """One replaced layer."""

    name: str
    channels: int
    kernel_size: tuple[int, ...]
    shared_with: str | None
    """The first layer that has the same positions and deviations, None for that layer itself."""
    relative_error: float | None
    """|dense kernel of the elements - trained kernel| / |trained kernel| after a warm start, else None."""


@dataclass(frozen=True)
class Folded:
    """One folded layer."""

    name: str
    kernel_size: tuple[int, ...]
    """Before cropping."""
    cropped_size: tuple[int, ...]
    lost: float
    """The largest share of a channel's L1 norm that was cropped."""


def is_seven_by_seven(name: str, module: nn.Module) -> bool:
    """The default rule, the reference's: 7 x 7, stride 1, as many outputs as inputs."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (7, 7) and module.stride == (1, 1)


def replace_depthwise(
    model: nn.Module,
    kernel_count: int = 26,
    dilated_kernel_size: int | Sequence[int] = 23,
    interpolation: Interpolation = "gauss",
    only: Callable[[str, nn.Module], bool] | None = None,
    share: bool = True,
    warm_start: bool | Literal["narrow"] = False,
    position_std: float = 0.5,
) -> list[Replacement]:
    """Replace a model's depthwise convolutions by DCLS ones, in place.

    Args:
        model: any model; a layer that occurs twice in it stays one layer.
        kernel_count, dilated_kernel_size: the defaults are the paper's (2309.13972): two numbers an element are
            positions, two deviations, and these are shared, so 26 elements cost no more parameters than 49 weights.
        only: which layers, by name and module; default: `is_seven_by_seven`. Depthwise ones with as many outputs as
            inputs are taken from among them.
        share: one set of positions and deviations for all replaced layers with the same number of channels, which in
            the models of the paper are those of one stage.
        warm_start: fit the elements to the kernels that are there, rather than start from N(0, 0.02) weights around the
            centre; layers that share positions are fitted together. "narrow": leave them on the kernels' cells, as
            narrow as they get, for kernels of no more than `kernel_count` cells.
        position_std: of the positions at the start, in cells, without warm_start; the default is 2112.03740's, 3.1.

    Returns:
        What was replaced, in the model's order; empty if nothing matched.

    Raises:
        ValueError: a matching layer that has a dilation, or whose output size the new kernel cannot keep.
    """
    chosen = only or is_seven_by_seven
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in (*_DCLS, DepthwiseConv2d) and name and _is_depthwise(module) and chosen(name, module):
            found.setdefault(module, []).append(name)
    groups: dict[object, list[tuple[nn.Module, DclsNd]]] = {}
    for conv in found:
        layer = _dcls_like(conv, kernel_count, dilated_kernel_size, interpolation, position_std)
        key = (layer.out_channels, layer.dimensions) if share else conv
        groups.setdefault(key, []).append((conv, layer))
    report: dict[nn.Module, Replacement] = {}
    for members in groups.values():
        first = members[0][1]
        for _, layer in members[1:]:
            layer.positions, layer.deviations = first.positions, first.deviations
        errors: Sequence[float | None] = [None] * len(members)
        if warm_start:
            errors = fit_elements(
                [layer for _, layer in members], [_dense(conv) for conv, _ in members], warm_start != "narrow"
            )
        leader = found[members[0][0]][0]
        for (conv, layer), error in zip(members, errors, strict=True):
            name = found[conv][0]
            size = tuple(int(n) for n in _dense(conv).shape[2:])
            report[conv] = Replacement(name, layer.out_channels, size, None if name == leader else leader, error)
            for alias in found[conv]:
                _set(model, alias, layer)
    return [report[conv] for conv in found]


def fold(
    model: nn.Module,
    tolerance: float | None = 1e-6,
    plain: bool = False,
    report: Callable[[Folded], object] | None = None,
) -> nn.Module:
    """Replace DCLS layers by plain convolutions with the same output, in place; returns the model.

    Kernels are cropped to the smallest box around their centre, each side its own, and the padding with them, so that
    outputs keep their size. The state dict of the folded model has `weight` and `bias` alone. A model that is itself
    such a layer cannot be changed in place: use what is returned.

    Args:
        model: layers that were folded before are cropped too.
        tolerance: the most that cropping may change an output cell, as a share of the kernel's L1 norm times the
            largest input. 0 crops zeros alone; None crops nothing.
        plain: depthwise layers become `nn.Conv2d`, for TorchScript, FX and other runtimes. Default: `DepthwiseConv2d`,
            an `nn.Conv2d` that takes the quicker operator.
        report: is called with each folded layer.
    """
    folded: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, DclsNd | DepthwiseConv2d):
            continue
        if module not in folded:
            folded[module], told = _folded(name, module, tolerance, plain)
            if report is not None:
                report(told)
        if name:
            _set(model, name, folded[module])
        else:
            return folded[module]
    return model


def match_kernel_sizes(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Crop a folded model's depthwise kernels, in place, to the sizes that they have in a state dict.

    Kernels that no crop gives the size there stay as they are.
    """
    for name, module in list(model.named_modules(remove_duplicate=False)):
        wanted = weights.get(f"{name}.weight")
        if isinstance(module, DepthwiseConv2d) and wanted is not None and wanted.dim() == module.weight.dim():
            cuts = [divmod(size - new, 2) for size, new in zip(module.kernel_size, wanted.shape[2:], strict=True)]
            fits = all(0 <= cut <= most for (cut, _), most in zip(cuts, _most_cut(module), strict=True))
            if name and fits and not any(rest for _, rest in cuts):
                _set(model, name, _convolution(module, module.weight, [cut for cut, _ in cuts], plain=False))


def _is_depthwise(conv: nn.Module) -> bool:
    return bool(conv.groups == conv.in_channels == conv.out_channels)


def _dense(conv: nn.Module) -> Tensor:
    weight = conv.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _dcls_like(
    conv: nn.Module,
    kernel_count: int,
    dilated_kernel_size: int | Sequence[int],
    interpolation: Interpolation,
    position_std: float,
) -> DclsNd:
    assert isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if any(d != 1 for d in conv.dilation):
        raise ValueError(f"{conv}: a convolution with a dilation cannot be replaced")
    kind = next(dcls for plain, dcls in _DCLS.items() if isinstance(conv, plain))
    layer = kind(
        conv.in_channels,
        conv.out_channels,
        kernel_count,
        dilated_kernel_size=dilated_kernel_size,
        stride=conv.stride,
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        interpolation=interpolation,
        position_std=position_std,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    layer.padding = _same_output_padding(conv, layer.dilated_kernel_size)
    nn.init.normal_(layer.weight, 0, 0.02)
    if conv.bias is not None:
        layer.bias = nn.Parameter(conv.bias.detach().clone())
    return layer.train(conv.training)


def _same_output_padding(conv: nn.Module, sizes: tuple[int, ...]) -> tuple[int, ...] | str:
    """The padding that gives the output size of the old kernel."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if conv.padding == "same":
        return "same"
    old = (0,) * len(sizes) if conv.padding == "valid" else tuple(int(p) for p in conv.padding)
    growth = [size - k for size, k in zip(sizes, conv.kernel_size, strict=True)]
    new = tuple(p + g // 2 for p, g in zip(old, growth, strict=True))
    if all(g % 2 == 0 for g in growth) and min(new) >= 0:
        return new
    if all(k == 2 * p + 1 for k, p in zip(conv.kernel_size, old, strict=True)) and set(conv.stride) == {1}:
        return "same"
    raise ValueError(f"{conv}: no padding gives a kernel of size {sizes} the same output size")


def _folded(
    name: str, layer: DclsNd | DepthwiseConv2d, tolerance: float | None, plain: bool
) -> tuple[nn.Module, Folded]:
    with torch.no_grad():
        kernel = layer.dense_kernel() if isinstance(layer, DclsNd) else layer.weight
    size = tuple(kernel.shape[2:])
    cuts, lost = ([0] * len(size), 0.0) if tolerance is None else _cuts(kernel, tolerance, _most_cut(layer))
    told = Folded(name, size, tuple(n - 2 * cut for n, cut in zip(size, cuts, strict=True)), lost)
    return _convolution(layer, kernel, cuts, plain), told


def _most_cut(layer: DclsNd | DepthwiseConv2d) -> list[int]:
    return most_cut(layer.dilated_kernel_size if isinstance(layer, DclsNd) else layer.kernel_size, layer.padding)


def _cuts(kernel: Tensor, tolerance: float, most: Sequence[int]) -> tuple[list[int], float]:
    """Cells to cut off each side of each axis for the smallest box, and the largest share of an L1 norm outside it."""
    shells = kernel.detach().cpu().double().abs().sum(1)
    for axis, n in enumerate(kernel.shape[2:], 1):  # mass by distance from the border
        distance = torch.minimum(torch.arange(n), n - 1 - torch.arange(n))
        shape = (*shells.shape[:axis], (n + 1) // 2, *shells.shape[axis + 1 :])
        shells = shells.new_zeros(shape).index_add_(axis, distance, shells)
    norm = shells.flatten(1).sum(1, keepdim=True)
    # outside a box is what lies outside along the first axis, plus what lies inside there and outside along the second,
    # ...; sums alone, so that it is 0 for zeros alone
    outside = shells.new_zeros(())
    for axis in range(1, shells.dim()):
        below = shells.cumsum(axis).roll(1, axis)
        below.select(axis, 0).zero_()
        others = tuple(range(axis + 1, shells.dim()))
        outside = outside + (below.sum(others, keepdim=True) if others else below)
        shells = shells.flip(axis).cumsum(axis).flip(axis)
    outside = outside[(slice(None), *(slice(cut + 1) for cut in most))].flatten(1)
    allowed = (outside <= tolerance * norm).all(0)
    allowed[0] = True  # also for kernels that are not finite
    cells = torch.ones(())
    for n, cut in zip(kernel.shape[2:], most, strict=True):
        cells = cells[..., None] * (n - 2 * torch.arange(cut + 1))
    best = int(cells.flatten().masked_fill(~allowed, torch.inf).argmin())
    lost = float((outside[:, best] / norm[:, 0]).nan_to_num().amax())
    return [int(cut) for cut in torch.unravel_index(torch.tensor(best), cells.shape)], lost


def _convolution(layer: DclsNd | DepthwiseConv2d, kernel: Tensor, cuts: Sequence[int], plain: bool) -> nn.Module:
    """A convolution like the layer, with its kernel and padding cut on each side."""
    depthwise = kernel.dim() == 4 and layer.groups == layer.in_channels == layer.out_channels
    quick = depthwise and not plain
    kind: Any = DepthwiseConv2d if quick else {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[kernel.dim()]
    size = kernel.shape[2:]
    box = [slice(cut, n - cut) for cut, n in zip(cuts, size, strict=True)]
    conv: nn.Module = kind(
        layer.in_channels,
        layer.out_channels,
        tuple(n - 2 * cut for cut, n in zip(cuts, size, strict=True)),
        stride=layer.stride,
        padding=cut_padding(layer.padding, cuts),
        groups=layer.groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    cropped = kernel.detach()[(slice(None), slice(None), *box)].clone(memory_format=torch.contiguous_format)
    conv.weight = nn.Parameter(cropped, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        conv.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
    return conv.train(layer.training)


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)

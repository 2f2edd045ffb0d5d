"""DCLS layers in place of a model's convolutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from audioset_dcls.dcls.conv import Dcls1d, Dcls2d, Dcls3d, DclsNd, DepthwiseConv2d
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


class NothingReplacedError(ValueError):
    """No convolution of the model matches the rule."""


def is_seven_by_seven(name: str, module: nn.Module) -> bool:
    """The default rule of `replace_depthwise`, the reference's: 7 x 7, stride 1, as many outputs as inputs."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (7, 7) and module.stride == (1, 1)


def is_three_by_three(name: str, module: nn.Module) -> bool:
    """The default rule of `replace_convolutions`: 3 x 3, of any stride and groups."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


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
        What was replaced, in the model's order.

    Raises:
        NothingReplacedError: a ValueError, if nothing matched; says what is there.
        ValueError: a matching layer that has a dilation, or whose output size the new kernel cannot keep.
    """
    rule = only or is_seven_by_seven

    def chosen(name: str, module: nn.Module) -> bool:
        return _is_depthwise(module) and rule(name, module)

    elements = (kernel_count, dilated_kernel_size, interpolation, position_std)
    return _replace(model, chosen, elements, share, warm_start)


def replace_convolutions(
    model: nn.Module,
    kernel_count: int = 5,
    dilated_kernel_size: int | Sequence[int] = 7,
    interpolation: Interpolation = "bilinear",
    only: Callable[[str, nn.Module], bool] | None = None,
    share: bool = True,
    warm_start: bool | Literal["narrow"] = False,
    position_std: float = 0.5,
) -> list[Replacement]:
    """Replace a model's convolutions, dense and strided ones too, by DCLS ones, in place; else as `replace_depthwise`.

    Args:
        kernel_count, dilated_kernel_size, interpolation: the defaults are those of the authors' ResNet-50.
        only: which layers, by name and module; default: `is_three_by_three`.
        share: one set of positions and deviations for all replaced layers with the same numbers of inputs and outputs;
            it has as many numbers for each element as one layer has weights, twice.

    >>> import torch
    >>> network = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    >>> [replaced.name for replaced in replace_convolutions(network)], network(torch.zeros(1, 4, 16, 16)).shape
    (['0', '1'], torch.Size([1, 8, 8, 8]))
    """
    elements = (kernel_count, dilated_kernel_size, interpolation, position_std)
    return _replace(model, only or is_three_by_three, elements, share, warm_start)


def _replace(
    model: nn.Module,
    chosen: Callable[[str, nn.Module], bool],
    elements: tuple[int, int | Sequence[int], Interpolation, float],
    share: bool,
    warm_start: bool | Literal["narrow"],
) -> list[Replacement]:
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in (*_DCLS, DepthwiseConv2d) and name and chosen(name, module):
            found.setdefault(module, []).append(name)
    if not found:
        raise NothingReplacedError(_what_is_there(model))
    groups: dict[object, list[tuple[nn.Module, DclsNd]]] = {}
    for conv in found:
        layer = _dcls_like(conv, *elements)
        key = layer.positions.shape if share else conv
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
                model.set_submodule(alias, layer)
    return [report[conv] for conv in found]


def _what_is_there(model: nn.Module) -> str:
    """A line for who replaced nothing: the model's convolutions, and the rules that would take them."""
    kinds: Counter[tuple[bool, tuple[int, ...], tuple[int, ...]]] = Counter()
    for module in model.modules():
        if type(module) in (*_DCLS, DepthwiseConv2d):
            conv: Any = module
            if max(conv.kernel_size) > 1:
                kinds[_is_depthwise(conv), tuple(conv.kernel_size), tuple(conv.stride)] += 1
    if not kinds:
        return "no convolution matches; the model has none with a kernel of more than one cell"
    counted = [
        f"{count} {'depthwise' if depthwise else 'dense'} of {' x '.join(map(str, size))}, stride {max(stride)}"
        for (depthwise, size, stride), count in kinds.most_common()
    ]
    depthwise, size, _ = kinds.most_common(1)[0][0]
    function = "replace_depthwise" if depthwise else "replace_convolutions"
    return (
        f"no convolution matches; the model has {'; '.join(counted)}. Most are replaced by "
        f"{function}(model, only=lambda name, conv: conv.kernel_size == {size}, ...)"
    )


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

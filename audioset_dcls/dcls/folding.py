"""Plain convolutions in place of DCLS layers: for inference, export, and what else knows `nn.Conv*d` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from audioset_dcls.dcls.conv import DclsNd, DepthwiseConv2d, cut_padding, most_cut


@dataclass(frozen=True)
class Folded:
    """One folded layer."""

    name: str
    kernel_size: tuple[int, ...]
    """Before cropping."""
    cropped_size: tuple[int, ...]
    lost: float
    """The largest share of a channel's L1 norm that was cropped."""


def fold(
    model: nn.Module,
    tolerance: float | None = 1e-6,
    plain: bool = False,
    report: Callable[[Folded], object] | None = None,
) -> nn.Module:
    """Replace DCLS layers by plain convolutions with the same output, in place; returns the model.

    Kernels are cropped to the smallest box around their centre, each side its own, and the padding with them, so that
    outputs keep their size. The state dict of the folded model has `weight` and `bias` alone. A causal kernel becomes
    the first half of a centred one. A model that is itself such a layer cannot be changed in place: use what is
    returned. timm's `reparameterize_model` can follow.

    Args:
        model: layers that were folded before are cropped too.
        tolerance: the most that cropping may change an output cell, as a share of the kernel's L1 norm times the
            largest input. 0 crops zeros alone; None crops nothing.
        plain: depthwise layers become `nn.Conv2d`, for TorchScript, FX and other runtimes. Default: `DepthwiseConv2d`,
            an `nn.Conv2d` that takes the quicker operator.
        report: is called with each folded layer.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, DclsNd | DepthwiseConv2d):
            names.setdefault(module, []).append(name)
    dense = {layer: _dense(layer) for layer in names}
    none = {layer: [0] * (kernel.dim() - 2) for layer, (kernel, _) in dense.items()}
    cuts = none if tolerance is None else {layer: _cuts(*of, tolerance) for layer, of in dense.items()}
    for branches in _branches(model, names):
        fewest = min(min(cuts[layer]) for layer in branches)  # timm's `reparameterize` sums square kernels of one size
        cuts |= {layer: [fewest] * len(cuts[layer]) for layer in branches}
    for layer, (kernel, padding) in dense.items():
        conv = _convolution(layer, kernel, padding, cuts[layer], plain)
        if report is not None:
            report(Folded(names[layer][0], tuple(kernel.shape[2:]), conv.kernel_size, _lost(kernel, cuts[layer])))
        if names[layer] == [""]:
            return conv
        for name in names[layer]:
            model.set_submodule(name, conv)
    for block in model.modules():
        if type(block).__name__ == "RepVggDw":  # by name: timm is not imported here
            block.fuse = partial(_fuse_repvgg, block)  # type: ignore[assignment] # its own knows 3 x 3 kernels alone
    return model


def match_kernel_sizes(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Crop a folded model's depthwise kernels, in place, to the sizes that they have in a state dict.

    Kernels that no crop gives the size there stay as they are.
    """
    for name, module in list(model.named_modules(remove_duplicate=False)):
        wanted = weights.get(f"{name}.weight")
        if isinstance(module, DepthwiseConv2d) and wanted is not None and wanted.dim() == module.weight.dim():
            kernel, padding = _dense(module)
            cuts = [divmod(size - new, 2) for size, new in zip(module.kernel_size, wanted.shape[2:], strict=True)]
            most = most_cut(module.kernel_size, padding)
            fits = all(0 <= cut <= limit for (cut, _), limit in zip(cuts, most, strict=True))
            if name and fits and not any(rest for _, rest in cuts):
                plain = _convolution(module, kernel, padding, [cut for cut, _ in cuts], plain=False)
                model.set_submodule(name, plain)


@torch.no_grad()
def _dense(layer: nn.Module) -> tuple[Tensor, tuple[int, ...] | str]:
    """The dense kernel, and the padding that goes with it: a causal one is given as many zeros after the present."""
    assert isinstance(layer, DclsNd | DepthwiseConv2d)
    kernel = layer.dense_kernel() if isinstance(layer, DclsNd) else layer.weight
    padding = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
    if padding == "causal":
        before = kernel.shape[-1] - 1
        return F.pad(kernel, (0, before)), (before,)
    return kernel, padding


def _branches(model: nn.Module, layers: Mapping[nn.Module, list[str]]) -> list[list[nn.Module]]:
    """The layers of each block that merges parallel branches by `reparameterize`, timm's MobileOne for example."""
    blocks: dict[str, list[nn.Module]] = {}
    for layer, names in layers.items():
        parts = names[0].split(".")[:-1]
        above = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        block = next((name for name in above if hasattr(model.get_submodule(name), "reparameterize")), None)
        if block is not None:
            blocks.setdefault(block, []).append(layer)
    return list(blocks.values())


def _cuts(kernel: Tensor, padding: tuple[int, ...] | str, tolerance: float) -> list[int]:
    """Cells to cut off each side of each axis, for the smallest box."""
    most = most_cut(kernel.shape[2:], padding)
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
    return [int(cut) for cut in torch.unravel_index(torch.tensor(best), cells.shape)]


def _box(kernel: Tensor, cuts: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), slice(None), *(slice(cut, n - cut) for cut, n in zip(cuts, kernel.shape[2:], strict=True)))


def _lost(kernel: Tensor, cuts: Sequence[int]) -> float:
    """The largest share of a channel's L1 norm that cropping takes away."""
    mass = kernel.detach().cpu().double().abs()
    outside = mass.clone()
    outside[_box(kernel, cuts)] = 0
    return float((outside.flatten(1).sum(1) / mass.flatten(1).sum(1)).nan_to_num().amax())


def _convolution(
    layer: nn.Module, kernel: Tensor, padding: tuple[int, ...] | str, cuts: Sequence[int], plain: bool
) -> Any:
    """A convolution like the layer, with its kernel and padding cut on each side."""
    assert isinstance(layer, DclsNd | DepthwiseConv2d)
    depthwise = kernel.dim() == 4 and layer.groups == layer.in_channels == layer.out_channels
    quick = depthwise and not plain
    kind: Any = DepthwiseConv2d if quick else {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[kernel.dim()]
    cropped = kernel.detach()[_box(kernel, cuts)].clone(memory_format=torch.contiguous_format)
    conv: nn.Module = kind(
        layer.in_channels,
        layer.out_channels,
        tuple(cropped.shape[2:]),
        stride=layer.stride,
        padding=cut_padding(padding, cuts),
        groups=layer.groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    conv.weight = nn.Parameter(cropped, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        conv.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
    return conv.train(layer.training)


@torch.no_grad()
def _fuse_repvgg(block: Any) -> nn.Module:
    """timm's `RepVggDw` in eval mode, bn(conv(x) + conv1(x) + x), as one convolution, for a kernel of any odd size."""
    conv = fuse_conv_bn_eval(block.conv.c.eval(), block.conv.bn.eval())
    point = fuse_conv_bn_eval(block.conv1.c.eval(), block.conv1.bn.eval()) if block.legacy else block.conv1
    conv.weight[:, 0, conv.padding[0], conv.padding[1]] += point.weight[:, 0, 0, 0] + 1
    conv.bias += point.bias
    return conv if block.legacy else fuse_conv_bn_eval(conv, block.bn.eval())

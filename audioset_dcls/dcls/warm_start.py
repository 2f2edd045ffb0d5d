"""Fit DCLS elements to trained dense kernels: least squares over weights, positions and deviations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls.conv import DclsNd
from audioset_dcls.dcls.kernel import construct_kernel

_STEPS = 150
_LEARNING_RATE = 0.05  # cells a step, for positions and deviations
_RIDGE = 1e-6  # keeps the normal equations solvable where two elements coincide


def fit_elements(layers: Sequence[DclsNd], kernels: Sequence[Tensor]) -> list[float]:
    """Set the elements of layers that share positions so that their dense kernels come close to the given ones.

    The elements start on the cells that carry most of the kernels' energy, as narrow as they get: a kernel of at most
    `kernel_count` taps is reproduced at once (exactly by the triangle and the bilinear, up to the Gaussian's tails by
    the Gauss). Then positions and deviations follow the gradient, with the best weights solved for at each step
    (variable projection); each channel keeps the best it has seen.

    Args:
        layers: DCLS layers with one and the same `positions` and `deviations`.
        kernels: one (out_channels, in_channels / groups, *size) dense kernel a layer, no larger than the dilated size.

    Returns:
        |fitted - given| / |given| for each layer.
    """
    first = layers[0]
    sizes = first.dilated_kernel_size
    targets = torch.stack([_centred(kernel.double(), sizes) for kernel in kernels])  # (layers, out, in, *sizes)
    positions = _strongest_cells(targets.square().sum(0), first.kernel_count)
    deviations = torch.zeros_like(positions)
    weights, loss = _solve(targets, positions, deviations, first)
    best = [weights, positions, deviations, loss]
    moving = [positions.clone().requires_grad_()]
    if first.deviations is not None:
        # |deviation| has no gradient at 0
        moving.append(torch.full_like(positions, 0.05).requires_grad_())
    optimizer = torch.optim.Adam(moving, lr=_LEARNING_RATE)
    for _ in range(_STEPS):
        positions, deviations = moving[0], moving[-1] if len(moving) > 1 else torch.zeros_like(moving[0])
        with torch.no_grad():
            weights, loss = _solve(targets, positions, deviations, first)
            best = _better(best, [weights, positions, deviations, loss])
        optimizer.zero_grad()
        # at the best weights the gradient through them is zero: they count as constants
        _squared_errors(targets, weights, positions, deviations, first).backward()
        optimizer.step()
        with torch.no_grad():
            for axis, size in enumerate(sizes):
                moving[0][axis].clamp_(-(size // 2), (size - 1) - size // 2)
    weights, positions, deviations, _ = best
    with torch.no_grad():
        first.positions.copy_(positions)
        if first.deviations is not None:
            first.deviations.copy_(deviations)
        errors = []
        for layer, weight, kernel, target in zip(layers, weights, kernels, targets, strict=True):
            layer.weight.copy_(weight)
            norm = kernel.double().norm()
            errors.append(float((layer.dense_kernel().double() - target).norm() / norm) if norm > 0 else 0.0)
    return errors


def _centred(kernel: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The kernel in the middle of one of the given sizes, centre cell on centre cell."""
    amounts: list[int] = []
    for size, k in reversed(list(zip(sizes, kernel.shape[2:], strict=True))):
        before = size // 2 - k // 2
        if before < 0 or before + k > size:
            raise ValueError(f"a kernel of size {tuple(kernel.shape[2:])} does not fit into one of size {sizes}")
        amounts += [before, size - k - before]
    return F.pad(kernel, amounts)


def _strongest_cells(energy: Tensor, count: int) -> Tensor:
    """Positions (n, out, in, count) of the cells with most energy; cells repeat where there are fewer than `count`."""
    sizes = energy.shape[2:]
    flat = energy.flatten(2)
    order = flat.topk(min(count, flat.shape[-1])).indices
    order = order[..., torch.arange(count, device=order.device) % order.shape[-1]]
    cells = torch.unravel_index(order, sizes)
    return torch.stack([cell.double() - size // 2 for cell, size in zip(cells, sizes, strict=True)])


def _construct(weights: Tensor, positions: Tensor, deviations: Tensor, layer: DclsNd) -> Tensor:
    given = deviations if layer.deviations is not None else None
    return construct_kernel(weights, positions, given, layer.dilated_kernel_size, layer.interpolation)


def _solve(targets: Tensor, positions: Tensor, deviations: Tensor, layer: DclsNd) -> tuple[Tensor, Tensor]:
    """Best weights (layers, out, in, count) for fixed positions, and the squared errors (out, in) summed over
    layers."""
    count, shape = layer.kernel_count, positions.shape[1:3]
    # each element alone as a kernel of its own: (out, in * count, *sizes) -> a basis (out, in, count, cells)
    ones = positions.new_ones(shape[0], shape[1] * count, 1)
    where, widths = (t.reshape(t.shape[0], shape[0], shape[1] * count, 1) for t in (positions, deviations))
    basis = _construct(ones, where, widths, layer).reshape(*shape, count, -1)
    gram = basis @ basis.transpose(-1, -2)
    gram.diagonal(dim1=-2, dim2=-1).add_(_RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True))
    wanted = torch.einsum("oikx,loix->oikl", basis, targets.flatten(3))
    weights = torch.linalg.solve(gram, wanted).permute(3, 0, 1, 2)
    residual = torch.einsum("oikx,loik->loix", basis, weights) - targets.flatten(3)
    return weights, residual.square().sum((0, -1))


def _squared_errors(targets: Tensor, weights: Tensor, positions: Tensor, deviations: Tensor, layer: DclsNd) -> Tensor:
    fitted = torch.stack([_construct(weight, positions, deviations, layer) for weight in weights])
    return (fitted - targets).square().sum()


def _better(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    """Per channel, the one of two fits with the smaller loss; weights and positions have leading axes, the loss
    none."""
    better = (new[-1] < old[-1]).unsqueeze(-1)
    merged = [torch.where(better, n, o) for n, o in zip(new[:-1], old[:-1], strict=True)]
    return [*merged, torch.minimum(new[-1], old[-1])]

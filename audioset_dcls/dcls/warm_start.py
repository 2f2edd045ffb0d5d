"""Fit DCLS elements to trained dense kernels: least squares over weights, positions and deviations.

The squared error of a fit, |T|^2 - 2 w.b + w.G w, needs the elements' inner products G with each other and b with the
target. Elements are products over the axes, so G is a product of small matrices and b a chain of contractions over the
target's own cells: the dense basis (cells x elements) is never built.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audioset_dcls.dcls.conv import DclsNd
from audioset_dcls.dcls.kernel import profile

_STEPS = 200
_LEARNING_RATE = 0.05  # cells a step, for positions and deviations
_NARROW = 1e-3  # |deviation| has no gradient at 0
_RIDGE = 1e-6  # of the mean diagonal of G: keeps it invertible if two elements coincide


def fit_elements(layers: Sequence[DclsNd], kernels: Sequence[Tensor], refine: bool = True) -> list[float]:
    """Set the elements of layers that share positions so that their dense kernels come close to the given ones.

    The elements start on the cells that carry most of the kernels' energy, as narrow as they get: a kernel of at most
    `kernel_count` taps is reproduced at once (by the triangle and the bilinear; by the Gauss up to its tails, 1e-3 of a
    tap on each neighbour). Then positions and deviations follow the gradient, with the best weights solved for at each
    step (variable projection); each channel keeps the best it has seen. That halves the error at least, but widens the
    elements: without `refine` the kernels reach fewer cells and train faster.

    Args:
        layers: DCLS layers with one and the same `positions` and `deviations`.
        kernels: one (out_channels, in_channels / groups, *size) dense kernel a layer, no larger than the dilated size.

    Returns:
        |fitted - given| / |given| for each layer.
    """
    first = layers[0]
    targets = torch.stack([kernel.detach().double() for kernel in kernels])
    offsets = _centring(tuple(targets.shape[3:]), first.dilated_kernel_size)
    best = _starting_point(targets.square().sum(0), offsets, first)
    if not refine:
        return _install(layers, targets, offsets, [best[0], *(torch.full_like(d, _NARROW) for d in best[1:])])
    moving = [best[0].clone().requires_grad_()]
    if first.deviations is not None:
        moving.append(torch.full_like(best[0], 0.05).requires_grad_())  # |deviation| has no gradient at 0
    best.append(_solve(targets, offsets, best, first)[1])
    optimizer = torch.optim.Adam(moving, lr=_LEARNING_RATE)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = _solve(targets, offsets, moving, first)[1]
        loss.sum().backward()
        with torch.no_grad():
            better = loss < best[-1]
            current = [*(m.detach() for m in moving), loss.detach()]
            pairs = zip(current, best, strict=True)
            best = [
                torch.where(better if new.shape == loss.shape else better[..., None], new, old) for new, old in pairs
            ]
        optimizer.step()
        with torch.no_grad():
            for axis, size in enumerate(first.dilated_kernel_size):
                moving[0][axis].clamp_(-(size // 2), (size - 1) - size // 2)
    return _install(layers, targets, offsets, best[:-1])


def _centring(kernel_size: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    """Where a kernel starts inside a larger one, centre cell on centre cell."""
    offsets = [size // 2 - k // 2 for size, k in zip(sizes, kernel_size, strict=True)]
    if any(o < 0 or o + k > size for o, k, size in zip(offsets, kernel_size, sizes, strict=True)):
        raise ValueError(f"a kernel of size {kernel_size} does not fit into one of size {sizes}")
    return offsets


def _starting_point(energy: Tensor, offsets: list[int], layer: DclsNd) -> list[Tensor]:
    """Positions (n, out, in, count) on the cells with most energy, and deviations of 0 if there are any."""
    flat, count = energy.flatten(2), layer.kernel_count
    order = flat.topk(min(count, flat.shape[-1])).indices
    order = order[..., torch.arange(count, device=order.device) % order.shape[-1]]  # cells repeat if there are too few
    cells = torch.unravel_index(order, energy.shape[2:])
    axes = zip(cells, offsets, layer.dilated_kernel_size, strict=True)
    positions = torch.stack([cell.double() + offset - size // 2 for cell, offset, size in axes])
    return [positions] if layer.deviations is None else [positions, torch.zeros_like(positions)]


def _solve(targets: Tensor, offsets: list[int], elements: Sequence[Tensor], layer: DclsNd) -> tuple[Tensor, Tensor]:
    """Best weights (layers, out, in, count) for given positions and deviations, and the squared errors (out, in)."""
    gram = targets.new_ones(())
    wanted = targets
    for axis, size in enumerate(layer.dilated_kernel_size):
        widths = elements[1][axis] if len(elements) > 1 else None
        profiles = profile(elements[0][axis], widths, size, layer.interpolation)
        if layer.interpolation != "bilinear":
            profiles = profiles / profiles.sum(-1, keepdim=True)
        gram = gram * (profiles @ profiles.transpose(-1, -2))
        own = profiles[..., offsets[axis] : offsets[axis] + targets.shape[3 + axis]]
        wanted = torch.einsum("loia...,oika->loik..." if axis == 0 else "loika...,oika->loik...", wanted, own)
    ridge = _RIDGE * gram.detach().diagonal(dim1=-2, dim2=-1).mean(-1)
    regular = gram + ridge[..., None, None] * torch.eye(layer.kernel_count, dtype=gram.dtype, device=gram.device)
    with torch.no_grad():  # at the best weights the gradient through them is zero: they count as constants
        weights = torch.linalg.solve(regular, wanted.permute(1, 2, 3, 0)).permute(3, 0, 1, 2)
    fitted = torch.einsum("loik,oikm,loim->oi", weights, gram, weights)
    return weights, targets.square().flatten(3).sum((0, 3)) - 2 * (weights * wanted).sum((0, 3)) + fitted


@torch.no_grad()
def _install(layers: Sequence[DclsNd], targets: Tensor, offsets: list[int], elements: Sequence[Tensor]) -> list[float]:
    first, errors = layers[0], []
    weights, _ = _solve(targets, offsets, elements, first)
    first.positions.copy_(elements[0])
    if first.deviations is not None:
        first.deviations.copy_(elements[1])
    for layer, weight, target in zip(layers, weights, targets, strict=True):
        layer.weight.copy_(weight)
        difference = layer.dense_kernel().double()
        window = (slice(None), slice(None), *(slice(o, o + k) for o, k in zip(offsets, target.shape[2:], strict=True)))
        difference[window] -= target
        norm = float(target.norm())
        errors.append(float(difference.norm()) / norm if norm > 0 else 0.0)
    return errors

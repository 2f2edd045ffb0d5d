"""`construct_kernel` against the reference package `dcls` 0.1.1, in one, two and three dimensions."""

from __future__ import annotations

import pytest
import torch
from DCLS.construct.modules import ConstructKernel1d, ConstructKernel2d, ConstructKernel3d

from audioset_dcls.dcls import construct_kernel

REFERENCE = {1: ConstructKernel1d, 2: ConstructKernel2d, 3: ConstructKernel3d}
VERSION = {"bilinear": "v0", "triangle": "max", "gauss": "gauss"}
SIZES = [(9,), (8,), (23, 23), (7, 11), (6, 4), (8, 8), (5, 7, 4)]
CASES = [(size, interpolation) for size in SIZES for interpolation in VERSION]


def axis_of_row(version: str, n: int) -> list[int]:
    """The kernel axis along which each of the reference's rows moves: it counts from the last axis, but in "v0" it
    mixes."""
    if version == "v0":
        return {1: [0], 2: [0, 1], 3: [0, 2, 1]}[n]
    return list(reversed(range(n)))


def elements(size: tuple[int, ...], interpolation: str, out: int = 6, inp: int = 2, count: int = 5):
    generator = torch.Generator().manual_seed(len(size) + sum(size))
    weight = torch.randn(out, inp, count, generator=generator, dtype=torch.float64)
    positions = torch.stack(
        [(torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 0.5) * (s - 2.2) for s in size]
    )
    deviations = torch.randn((len(size), *weight.shape), generator=generator, dtype=torch.float64)
    return weight, positions, None if interpolation == "bilinear" else deviations


def reference_kernel(weight, positions, deviations, size, interpolation, version=None):
    """The reference's kernel from our elements: rows in its order, each shifted by its idea of that axis' centre."""
    version = version or VERSION[interpolation]
    order = axis_of_row(version, len(size))
    # it adds size[i] // 2 to row i although row i may move along another axis: undone here for oblong kernels
    shifted = [positions[ours] + size[ours] // 2 - size[i] // 2 for i, ours in enumerate(order)]
    p = torch.stack(shifted)
    sig = None if deviations is None else torch.stack([deviations[ours] for ours in order])
    out, inp, count = weight.shape
    module = REFERENCE[len(size)](out, inp, 1, count, list(size), version)
    return module(weight, p, sig)


@pytest.mark.parametrize(("size", "interpolation"), CASES)
def test_forward_and_gradients_equal_the_reference(size, interpolation):
    leaves = [t.requires_grad_() for t in elements(size, interpolation) if t is not None]
    weight, positions, deviations = (*leaves, None)[:3]
    expected = reference_kernel(weight, positions, deviations, size, interpolation)
    actual = construct_kernel(weight, positions, deviations, size, interpolation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    cotangent = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(9,), (23, 23), (8, 8)])
def test_bilinear_equals_v1_too_inside_the_kernel(size):
    weight, positions, _ = elements(size, "bilinear")
    expected = reference_kernel(weight, positions, None, size, "bilinear", version="v1")
    torch.testing.assert_close(construct_kernel(weight, positions, None, size, "bilinear"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", list(VERSION))
def test_float32_keeps_to_float64(interpolation):
    size = (23, 23)
    drawn = [t for t in elements(size, interpolation, out=32, inp=1, count=26) if t is not None]
    single = [t.float().requires_grad_() for t in drawn]
    exact = [t.detach().double().requires_grad_() for t in single]
    kernels = [construct_kernel(*(*leaves, None)[:3], size, interpolation) for leaves in (exact, single)]
    assert (kernels[0] - kernels[1]).abs().max() < 1e-6
    cotangent = torch.randn_like(kernels[0])
    wanted = torch.autograd.grad(kernels[0], exact, cotangent)
    got = torch.autograd.grad(kernels[1], single, cotangent.float())
    for w, g in zip(wanted, got, strict=True):
        assert (w - g).abs().max() < 1e-5 * w.abs().max()


@pytest.mark.parametrize("interpolation", list(VERSION))
@pytest.mark.parametrize("size", [(5,), (4, 5), (3, 4, 5)])
def test_gradcheck(size, interpolation):
    leaves = [t.requires_grad_() for t in elements(size, interpolation, out=2, inp=1, count=2) if t is not None]
    assert torch.autograd.gradcheck(lambda *args: construct_kernel(*(*args, None)[:3], size, interpolation), leaves)


def test_rows_of_positions_are_kernel_axes_in_order():
    kernel = construct_kernel(
        torch.ones(1, 1, 1), torch.tensor([2.0, -3.0]).view(2, 1, 1, 1), None, (9, 11), "bilinear"
    )
    assert kernel[0, 0].nonzero().tolist() == [[4 + 2, 5 - 3]]


@pytest.mark.parametrize("interpolation", ["triangle", "gauss"])
def test_each_element_keeps_its_weight_at_the_border(interpolation):
    positions = torch.full((2, 1, 1, 1), 11.0)
    kernel = construct_kernel(torch.full((1, 1, 1), 0.7), positions, torch.ones(2, 1, 1, 1), (23, 23), interpolation)
    assert kernel.sum().item() == pytest.approx(0.7, abs=1e-6)


def test_bilinear_position_on_a_cell_still_has_a_gradient():
    positions = torch.zeros(2, 1, 1, 1, requires_grad=True)
    construct_kernel(torch.ones(1, 1, 1), positions, None, (5, 5), "bilinear")[0, 0, 2, 2].backward()
    assert positions.grad is not None
    assert (positions.grad == -1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "cubic"}, "cubic"),
        ({"dilated_kernel_size": (5,)}, "positions"),
        ({"deviations": None}, "needs deviations"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = {
        "weight": torch.ones(1, 1, 3),
        "positions": torch.zeros(2, 1, 1, 3),
        "deviations": torch.zeros(2, 1, 1, 3),
        "dilated_kernel_size": (5, 5),
        "interpolation": "gauss",
    }
    with pytest.raises(ValueError, match=message):
        construct_kernel(**(arguments | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_cell_is_a_subnormal_number(dtype: torch.dtype) -> None:
    """A CPU takes a hundred times as long to multiply by them: the tails of narrow Gaussians end in zeros."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 1, 26, generator=generator, dtype=dtype)
    positions = 5 * torch.randn(2, 64, 1, 26, generator=generator, dtype=dtype)
    kernel = construct_kernel(weight, positions, torch.zeros_like(positions), (23, 23))
    assert (kernel == 0).any()
    assert not ((kernel != 0) & (kernel.abs() < torch.finfo(dtype).tiny)).any()

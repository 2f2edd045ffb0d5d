"""Folding: the same output from plain convolutions, cropped kernels, what comes after."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import timm
import torch
from torch import nn

from audioset_dcls.dcls import (
    Dcls1d,
    Dcls2_1d,
    Dcls2d,
    Dcls3d,
    DclsNd,
    DepthwiseConv2d,
    Folded,
    dcls_layers,
    fold,
    replace_depthwise,
)


@pytest.mark.parametrize("interpolation", ["bilinear", "triangle", "gauss"])
def test_folded_model_gives_the_same_output_from_a_plain_state_dict(convnext, interpolation):
    model = copy.deepcopy(convnext)
    replace_depthwise(model, interpolation=interpolation)
    torch.manual_seed(1)
    for layer in dcls_layers(model):
        nn.init.uniform_(layer.positions, -11, 11)
        nn.init.normal_(layer.weight, 0, 0.2)
    x = torch.randn(2, 1, 128, 96)
    with torch.no_grad():
        expected = model(x)
        folded = fold(model)
        actual = folded(x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, DclsNd) for module in folded.modules())
    keys = {key.rsplit(".", 1)[-1] for key in folded.state_dict() if "conv_dw" in key}
    assert keys == {"weight", "bias"}
    assert folded.stages[0].blocks[0].conv_dw.weight.shape == (40, 1, 23, 23)


@pytest.mark.parametrize(
    "layer",
    [
        Dcls1d(4, 6, 3, dilated_kernel_size=9, padding=4),
        Dcls2d(4, 4, 3, dilated_kernel_size=6, padding="same", groups=4),
    ],
)
def test_fold_of_a_single_layer(layer):
    x = torch.randn(2, 4, *(12, 11)[: layer.dimensions])
    torch.testing.assert_close(fold(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


def test_folded_layer_keeps_up_with_changed_weights_and_sizes():
    """Its spectrum is kept between calls: a new size of map, or weights changed in place, must not meet an old one."""
    layer = fold(Dcls2d(4, 4, 26, dilated_kernel_size=23, padding=11, groups=4), tolerance=None)
    sizes = [(64, 62), (32, 31), (64, 62)]
    with torch.no_grad():
        for size in sizes:
            for _ in range(2):
                x = torch.randn(2, 4, *size)
                expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=11, groups=4)
                torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
                layer.weight.mul_(1.5)
        restored = copy.deepcopy(layer)
        restored.weight.neg_()
        expected = nn.functional.conv2d(x, restored.weight, restored.bias, padding=11, groups=4)
        torch.testing.assert_close(restored(x), expected, rtol=1e-5, atol=1e-5)


def test_folded_model_still_trains():
    layer = fold(Dcls2d(4, 4, 26, dilated_kernel_size=23, padding=11, groups=4))
    layer(torch.randn(2, 4, 32, 31)).square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


def test_layer_folded_in_inference_mode_follows_its_weights_too():
    with torch.inference_mode():
        layer = fold(Dcls2d(4, 4, 26, dilated_kernel_size=23, padding=11, groups=4), tolerance=None)
        x = torch.randn(2, 4, 32, 31)
        before = layer(x) - layer.bias.view(-1, 1, 1)
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x) - layer.bias.view(-1, 1, 1), 2 * before, rtol=1e-5, atol=1e-5)


def by_data(layer: nn.Module) -> None:
    layer.weight.data.mul_(-2)


def by_vector(layer: nn.Module) -> None:
    vector = torch.nn.utils.parameters_to_vector(layer.parameters())
    torch.nn.utils.vector_to_parameters(vector * -2, layer.parameters())


def by_numpy(layer: nn.Module) -> None:
    array = layer.weight.detach().numpy()
    array *= -2


def by_one_cell(layer: nn.Module) -> None:
    layer.weight.data[3, 0, 22, 22] += 1


@pytest.mark.parametrize("change", [by_data, by_vector, by_numpy, by_one_cell])
def test_folded_layer_follows_changes_that_leave_no_trace(change):
    """None of these raises the tensor's version or makes a new one."""
    layer = fold(Dcls2d(4, 4, 26, dilated_kernel_size=23, padding=11, groups=4), tolerance=None)
    x = torch.randn(2, 4, 64, 62)
    with torch.no_grad():
        layer(x)
        before = layer.weight.clone()
        change(layer)
        assert not torch.equal(layer.weight, before)
        expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=11, groups=4)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def smallest_box(kernel: torch.Tensor, tolerance: float) -> set[tuple[int, ...]]:
    """Sizes of the smallest centred boxes that hold all but the tolerance of each channel's L1 norm, by trial."""
    found: dict[int, set[tuple[int, ...]]] = {}
    for cuts in product(*(range((n + 1) // 2) for n in kernel.shape[2:])):
        box = tuple(slice(cut, n - cut) for cut, n in zip(cuts, kernel.shape[2:], strict=True))
        outside = kernel.double().abs().clone()
        outside[(slice(None), slice(None), *box)] = 0
        if (outside.flatten(1).sum(1) <= tolerance * kernel.double().abs().flatten(1).sum(1)).all():
            size = tuple(n - 2 * cut for cut, n in zip(cuts, kernel.shape[2:], strict=True))
            found.setdefault(torch.Size(size).numel(), set()).add(size)
    return found[min(found)]


LAYERS = {
    "odd": lambda: Dcls2d(6, 6, 5, dilated_kernel_size=15, padding=7, groups=6),
    "even": lambda: Dcls2d(6, 6, 5, dilated_kernel_size=12, padding="same", groups=6),
    "two sizes, stride, little padding": lambda: Dcls2d(
        6, 6, 5, dilated_kernel_size=(17, 9), padding=(8, 2), stride=(2, 3), groups=6
    ),
    "circular": lambda: Dcls2d(6, 6, 5, dilated_kernel_size=15, padding=7, groups=6, padding_mode="circular"),
    "reflected": lambda: Dcls2d(6, 6, 5, dilated_kernel_size=15, padding=7, groups=6, padding_mode="reflect"),
    "dense, no bias": lambda: Dcls2d(6, 4, 5, dilated_kernel_size=11, padding=5, bias=False),
    "one axis": lambda: Dcls1d(6, 6, 5, dilated_kernel_size=21, padding=10, groups=6),
    "one dense axis": lambda: Dcls2_1d(6, 6, 5, dense_kernel_size=3, dilated_kernel_size=15, padding=(1, 7), groups=6),
    "three axes": lambda: Dcls3d(6, 6, 5, dilated_kernel_size=(5, 7, 9), padding=(2, 3, 4), groups=6),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("tolerance", "spread"), [(1e-6, 0.7), (1e-2, 0.7), (0.0, 0.7), (1e-6, 5.0)])
def test_kernels_are_cropped_to_the_smallest_box_that_keeps_the_output(name: str, tolerance: float, spread: float):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    nn.init.normal_(layer.positions, 0, spread)
    layer.clamp_positions()
    with torch.no_grad():
        layer.positions[0] *= 0.5  # other sides than square
        layer = layer.double()
        x = torch.randn(2, 6, *(24, 23, 22)[: layer.dimensions], dtype=torch.float64)
        expected, kernel = layer(x), layer.dense_kernel()
        told: list[Folded] = []
        conv = fold(layer, tolerance, report=told.append)
        actual = conv(x)
    size = tuple(conv.weight.shape[2:])
    assert told == [Folded("", layer.kernel_size, size, told[0].lost)]
    if name != "two sizes, stride, little padding":
        assert size in smallest_box(kernel, tolerance)
    assert conv.kernel_size == size
    assert actual.shape == expected.shape
    assert told[0].lost <= tolerance
    # a cell changes by at most what was cropped times the largest input; 1e-12 for rounding
    bound = tolerance * kernel.abs().flatten(1).sum(1).amax() * x.abs().amax() + 1e-12
    assert (actual - expected).abs().amax() <= bound
    again: list[Folded] = []
    if isinstance(conv, DepthwiseConv2d):  # nothing more to crop
        assert fold(conv, 0.0, report=again.append).kernel_size == size or tolerance == 0


def test_padding_bounds_the_crop():
    """Without padding a smaller kernel would give a larger output."""
    layer = Dcls2d(3, 3, 5, dilated_kernel_size=(15, 15), padding=(0, 2), groups=3)
    assert fold(layer).kernel_size == (15, 11)
    assert fold(Dcls2d(3, 3, 5, dilated_kernel_size=15, padding="valid", groups=3)).kernel_size == (15, 15)


def test_one_channel_that_reaches_out_keeps_the_kernels_size():
    layer = Dcls2d(3, 3, 5, dilated_kernel_size=15, padding=7, groups=3)
    with torch.no_grad():
        layer.positions[1, 2, 0, 0] = -7.0
    assert fold(layer).weight.shape[-1] == 15
    assert fold(layer).weight.shape[-2] < 15


def test_kernels_that_are_not_finite_or_zero():
    layer = Dcls2d(3, 3, 5, dilated_kernel_size=15, padding=7, groups=3)
    with torch.no_grad():
        layer.weight.zero_()
        assert fold(layer).kernel_size == (1, 1)
        layer.weight[1] = torch.nan
        assert fold(layer).kernel_size == (15, 15)


def test_a_folded_model_is_cropped_when_it_is_folded_again(convnext):
    """Both ways lead to the same plain convolutions, reported with the layers' names."""
    model = copy.deepcopy(convnext)
    replace_depthwise(model, position_std=1.0)
    x = torch.randn(1, 1, 128, 96)
    told: list[Folded] = []
    once = fold(copy.deepcopy(model), report=told.append)
    twice = fold(fold(copy.deepcopy(model), tolerance=None))
    assert [layer.name for layer in told] == [r.name for r in replace_depthwise(copy.deepcopy(convnext))]
    assert all(layer.cropped_size < (23, 23) == layer.kernel_size for layer in told)
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(once(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(once(x), twice(x))


def test_plain_convolutions_can_be_scripted_and_traced(convnext):
    """`nn.Conv2d` itself: nothing of this package is left for TorchScript, FX and others to understand."""
    model = copy.deepcopy(convnext)
    replace_depthwise(model)
    x = torch.randn(1, 1, 64, 96)
    with torch.inference_mode():
        expected = model(x)
        fold(model)  # a model that was folded before
        fold(model, plain=True)
        assert {type(m) for m in model.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
        assert not any(type(module).__module__.startswith("audioset_dcls") for module in model.modules())
        for other in (torch.jit.script(model), torch.fx.symbolic_trace(model)):
            torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 4}, {"padding_mode": "replicate"}], ids=str)
def test_causal_layer(options: dict) -> None:
    """Folded, it is a centred kernel whose second half is zero."""
    torch.manual_seed(0)
    layer = Dcls1d(4, 4, 3, dilated_kernel_size=9, padding="causal", **options)
    nn.init.uniform_(layer.positions, -4, 4)
    x = torch.randn(2, 4, 20)
    with torch.no_grad():
        expected = layer(x)
        folded = fold(layer)
        assert (folded.weight[..., folded.kernel_size[0] // 2 + 1 :] == 0).all()
        torch.testing.assert_close(folded(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repvit_m0_9", "repvit_m1", "mobileone_s0"])
def test_timm_merges_branches_after_folding(name: str) -> None:
    """Its `reparameterize_model` sums a kernel with 1 x 1 and identity branches."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    replace_depthwise(model, 9, 15, only=lambda at, conv: conv.kernel_size == (3, 3) and at.startswith("stages.1"))
    for layer in dcls_layers(model):
        nn.init.normal_(layer.positions, 0, 1)
        nn.init.normal_(layer.weight, 0, 0.2)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # else it would be the identity, and merging it no test
            nn.init.uniform_(norm.weight, 0.8, 1.2)
            nn.init.normal_(norm.bias, 0, 0.1)
            nn.init.normal_(norm.running_mean, 0, 0.1)
            nn.init.uniform_(norm.running_var, 0.8, 1.2)
    model.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        merged = timm.utils.reparameterize_model(fold(model))
        convolutions = [sum(isinstance(m, nn.Conv2d) for m in network.modules()) for network in (model, merged)]
        assert convolutions[1] < convolutions[0]
        torch.testing.assert_close(merged(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        assert torch.equal(timm.utils.reparameterize_model(copy.deepcopy(model))(x), merged(x))

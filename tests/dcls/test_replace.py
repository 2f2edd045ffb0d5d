"""Surgery on whole models: what is replaced, what is shared, what stays the same after folding and warm start."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import timm
import torch
from torch import nn

from audioset_dcls.dcls import (
    Dcls1d,
    Dcls2d,
    Dcls3d,
    DclsNd,
    DepthwiseConv2d,
    Folded,
    dcls_layers,
    fold,
    replace_depthwise,
)


@pytest.fixture(scope="module")
def convnext() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("convnext_atto", in_chans=1, num_classes=5).eval()


def test_every_seven_by_seven_is_replaced_and_shared_over_its_stage(convnext):
    model = copy.deepcopy(convnext)
    report = replace_depthwise(model)
    assert [r.name for r in report] == [
        f"stages.{stage}.blocks.{block}.conv_dw" for stage, depth in enumerate((2, 2, 6, 2)) for block in range(depth)
    ]
    assert [r.channels for r in report] == [40] * 2 + [80] * 2 + [160] * 6 + [320] * 2
    assert report[1].shared_with == report[0].name
    assert len({id(layer.positions) for layer in dcls_layers(model)}) == 4
    # 26 weights rather than 49 a channel and layer, 4 x 26 shared numbers a channel and stage: as many parameters
    before, after = (sum(p.numel() for p in m.parameters()) for m in (convnext, model))
    assert after - before == sum(26 * c * 4 - n * (49 - 26) * c for c, n in ((40, 2), (80, 2), (160, 6), (320, 2)))


def test_separate_positions_on_request(convnext):
    model = copy.deepcopy(convnext)
    assert all(r.shared_with is None for r in replace_depthwise(model, share=False))
    assert len({id(layer.positions) for layer in dcls_layers(model)}) == 12


def test_only_chooses_and_non_depthwise_stay(convnext):
    model = copy.deepcopy(convnext)
    report = replace_depthwise(model, only=lambda name, module: name.startswith("stages.2"))
    assert len(report) == 6
    assert all("stages.2" in r.name and r.name.endswith("conv_dw") for r in report)
    assert replace_depthwise(nn.Sequential(nn.Conv2d(4, 8, 7, groups=4), nn.Conv2d(4, 4, 7))) == []


def test_output_size_is_kept_by_odd_even_and_one_dimensional_kernels():
    conv2d = nn.Sequential(nn.Conv2d(4, 4, 7, padding=3, groups=4))
    replace_depthwise(conv2d, 5, 10)
    assert conv2d(torch.zeros(1, 4, 9, 8)).shape == (1, 4, 9, 8)
    conv1d = nn.Sequential(nn.Conv1d(4, 4, 5, stride=2, padding=2, groups=4))
    replace_depthwise(conv1d, 3, 9, only=lambda name, module: isinstance(module, nn.Conv1d))
    assert isinstance(conv1d[0], Dcls1d)
    assert conv1d(torch.zeros(1, 4, 16)).shape == (1, 4, 8)
    with pytest.raises(ValueError, match="output size"):
        replace_depthwise(nn.Sequential(nn.Conv2d(4, 4, 7, padding=0, groups=4)), 3, 10)


def test_a_layer_used_twice_stays_one_layer():
    conv = nn.Conv2d(2, 2, 7, padding=3, groups=2)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    assert len(replace_depthwise(model)) == 1
    assert isinstance(model[0], Dcls2d)
    assert model[0] is model[2]


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


@pytest.mark.parametrize(("interpolation", "bound"), [("bilinear", 1e-5), ("triangle", 1e-5), ("gauss", 2e-3)])
def test_warm_start_reproduces_a_kernel_of_few_taps(interpolation, bound):
    """The Gauss cannot be narrower than 0.27 cells: 1e-3 of a tap lands on each neighbour."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    with torch.no_grad():
        conv.weight *= (torch.rand(8, 1, 49).argsort(-1) < 26).view(8, 1, 7, 7)
    model = nn.Sequential(conv).eval()
    x = torch.randn(1, 8, 20, 20)
    expected = model(x)
    (report,) = replace_depthwise(model, interpolation=interpolation, warm_start=True)
    assert report.relative_error < bound
    fitted = model[0].dense_kernel()
    wanted = torch.nn.functional.pad(conv.weight, (8, 8, 8, 8))
    assert ((fitted - wanted).norm() / wanted.norm()).item() == pytest.approx(report.relative_error, abs=1e-6)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=20 * bound)


def test_warm_start_fits_smooth_kernels_that_share_positions():
    """Sums of three random Gaussians a kernel, two layers on one set of elements: what DCLS can express, it finds."""
    torch.manual_seed(0)
    grid = torch.arange(7.0) - 3
    layers = []
    centres, widths = torch.rand(2, 16, 3) * 4 - 2, 0.6 + torch.rand(16, 3)
    for _ in range(2):
        conv = nn.Conv2d(16, 16, 7, padding=3, groups=16)
        bumps = [torch.exp(-0.5 * ((grid - c[..., None]) / widths[..., None]) ** 2) for c in centres]
        with torch.no_grad():
            conv.weight.copy_(torch.einsum("cm,cmy,cmx->cyx", torch.randn(16, 3), *bumps)[:, None])
        layers.append(conv)
    model = nn.Sequential(*layers)
    errors = [r.relative_error for r in replace_depthwise(model, kernel_count=26, warm_start=True)]
    assert max(errors) < 0.1
    assert model[0].positions is model[1].positions


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
    assert told == [Folded("", layer.dilated_kernel_size, size, told[0].lost)]
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

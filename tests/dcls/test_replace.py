"""Surgery on whole models: what is replaced, what is shared, what stays the same after a warm start."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from audioset_dcls.dcls import (
    Dcls1d,
    Dcls2d,
    NothingReplacedError,
    dcls_layers,
    replace_convolutions,
    replace_depthwise,
)


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


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(4, 8, 7, groups=4), nn.Conv2d(4, 4, 7)], "2 dense of 7 x 7, stride 1. .*replace_convolutions"),
        ([nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1)], r"1 depthwise of 3 x 3.*replace_depthwise.*== \(3, 3\)"),
        ([nn.Linear(4, 4)], "none with a kernel of more than one cell"),
    ],
)
def test_what_is_there_is_told_if_nothing_is_replaced(layers: list[nn.Module], message: str) -> None:
    model = nn.Sequential(*layers)
    with pytest.raises(NothingReplacedError, match=message):
        replace_depthwise(model)
    assert list(model) == layers


def test_dense_and_strided_convolutions() -> None:
    """ResNet-50 as its authors have it: all 3 x 3, positions shared by those with the same numbers of channels."""
    with torch.device("meta"):
        plain, model = (timm.create_model("resnet50", num_classes=3) for _ in range(2))
        x = torch.zeros(1, 3, 64, 64)
    report = replace_convolutions(model)
    assert len(report) == 16
    assert len({id(layer.positions) for layer in dcls_layers(model)}) == 4
    assert {layer.stride for layer in dcls_layers(model)} == {(1, 1), (2, 2)}
    with torch.no_grad():
        assert model.forward_features(x).shape == plain.forward_features(x).shape
    # 5 weights rather than 9 for each pair of channels; 2 x 5 shared numbers for each pair of a stage
    pairs = {width: width**2 for width in (64, 128, 256, 512)}
    saved = 4 * sum(depth * pairs[width] for depth, width in ((3, 64), (4, 128), (6, 256), (3, 512)))
    before, after = (sum(p.numel() for p in m.parameters()) for m in (plain, model))
    assert after == before - saved + 10 * sum(pairs.values())


def test_warm_start_of_a_dense_strided_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    model = nn.Sequential(conv)
    (report,) = replace_convolutions(model, kernel_count=9, warm_start=True)
    x = torch.randn(2, 3, 17, 18)
    assert report.relative_error < 1e-5
    torch.testing.assert_close(model(x), conv(x), rtol=0, atol=1e-4)

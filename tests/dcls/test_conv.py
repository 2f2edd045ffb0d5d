"""The layers: arguments of `nn.Conv*d`, and the ways in which layers get used."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from DCLS.construct.modules import Dcls2d as ReferenceDcls2d
from DCLS.construct.modules import Dcls2dK1d as ReferenceDcls2dK1d
from DCLS.construct.modules import Dcls3_1d as ReferenceDcls3_1d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from audioset_dcls.dcls import (
    Dcls1d,
    Dcls2_1d,
    Dcls2d,
    Dcls2dK1d,
    Dcls3_1d,
    Dcls3_2d,
    Dcls3d,
    DclsNd,
    convert_dcls,
    dcls_layers,
    fold,
)
from audioset_dcls.dcls.conv import convolve
from audioset_dcls.dcls.kernel import INTERPOLATION_OF_VERSION

LAYERS = {1: Dcls1d, 2: Dcls2d, 3: Dcls3d}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def plain_twin(layer: DclsNd, **arguments) -> nn.Module:
    """torch's own convolution with the layer's dense kernel."""
    conv = PLAIN[layer.dimensions](
        layer.in_channels, layer.out_channels, layer.kernel_size, bias=layer.bias is not None, **arguments
    )
    with torch.no_grad():
        conv.weight.copy_(layer.dense_kernel())
        if layer.bias is not None:
            conv.bias.copy_(layer.bias)
    return conv


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": 2, "padding": 2},
        {"padding": "same"},
        {"padding": "valid", "groups": 2},
        {"padding": 3, "groups": 4, "padding_mode": "circular"},
        {"padding": "same", "groups": 4, "bias": False, "padding_mode": "replicate"},
        {"padding": 3, "groups": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [5, 6])
def test_layer_equals_a_plain_convolution_with_its_kernel(n, arguments, size):
    torch.manual_seed(0)
    layer = LAYERS[n](4, 8 if arguments.get("groups", 1) < 4 else 4, 3, dilated_kernel_size=size, **arguments)
    nn.init.uniform_(layer.positions, -2, 2)
    x = torch.randn(2, 4, *(9, 8, 7)[:n])
    twin = plain_twin(layer, **{key: value for key, value in arguments.items() if key != "bias"})
    torch.testing.assert_close(layer(x), twin(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["gauss", "triangle", "bilinear"])
@pytest.mark.parametrize(
    "arguments", [{"padding": 11}, {"padding": "same"}, {"padding": 11, "stride": 2}, {"padding": 2}]
)
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 11.0])
@pytest.mark.parametrize("size", [23, 24])
def test_only_what_the_elements_reach_is_convolved(interpolation, arguments, spread, size):
    """Output and gradients equal those of the whole kernel; the reach is no less than what the kernel holds."""
    torch.manual_seed(0)
    layer = Dcls2d(4, 4, 9, dilated_kernel_size=size, groups=4, interpolation=interpolation, **arguments)
    nn.init.uniform_(layer.positions, -spread, spread)
    layer.clamp_positions()
    x = torch.randn(2, 4, 30, 34)
    whole = convolve(x, layer.dense_kernel(), layer.bias, layer.stride, layer.padding, 4)
    torch.testing.assert_close(layer(x), whole, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn_like(whole)
    parameters = list(layer.parameters())
    expected = torch.autograd.grad(whole, parameters, cotangent)
    actual = torch.autograd.grad(layer(x), parameters, cotangent)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    held = layer.dense_kernel().abs().amax((0, 1)) > 1e-7 * layer.dense_kernel().abs().max()
    for axis, reach in enumerate(layer.reach()):
        cells = held.any(1 - axis).nonzero().flatten() - size // 2
        assert cells.abs().max() <= reach <= size // 2
        assert reach <= cells.abs().max() + 2 or spread == 11


@pytest.mark.parametrize("size", [(64, 62), (8, 7), (1, 3)])
def test_kernel_larger_than_the_map_and_positions_on_the_border(size):
    layer = Dcls2d(6, 6, 26, dilated_kernel_size=23, padding=11, groups=6)
    nn.init.uniform_(layer.positions, -40, 40)
    layer.clamp_positions()
    assert layer.positions.abs().max() == 11
    x = torch.randn(2, 6, *size)
    expected = F.conv2d(x, layer.dense_kernel(), layer.bias, padding=11, groups=6)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_even_kernel_clamps_onto_its_cells():
    layer = Dcls1d(2, 2, 4, dilated_kernel_size=6)
    nn.init.constant_(layer.positions, 9.0)
    layer.clamp_positions()
    assert (layer.positions == 2).all()  # cells -3 ... 2
    nn.init.constant_(layer.positions, -9.0)
    layer.clamp_positions()
    assert (layer.positions == -3).all()


@pytest.mark.parametrize("version", ["gauss", "max", "v1"])
def test_layer_and_gradients_equal_the_reference_layer(version):
    torch.manual_seed(1)
    name = {"gauss": "gauss", "max": "triangle", "v1": "bilinear"}[version]
    layer = Dcls2d(8, 8, 26, dilated_kernel_size=23, padding=11, groups=8, interpolation=name)
    nn.init.uniform_(layer.positions, -10, 10)
    theirs = ReferenceDcls2d(8, 8, 26, padding=11, groups=8, dilated_kernel_size=23, version=version)
    with torch.no_grad():
        theirs.weight.copy_(layer.weight)
        theirs.P.copy_(layer.positions.flip(0))
        theirs.bias.copy_(layer.bias)
        if layer.deviations is not None:
            theirs.SIG.copy_(layer.deviations.flip(0))
    x = torch.randn(2, 8, 20, 19)
    ours, expected = layer(x), theirs(x)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    (ours.square().sum()).backward()
    (expected.square().sum()).backward()
    torch.testing.assert_close(layer.positions.grad.flip(0), theirs.P.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.weight.grad, theirs.weight.grad, rtol=1e-3, atol=1e-3)


def test_initialisation_is_the_reference_s():
    torch.manual_seed(0)
    layer = Dcls2d(64, 64, 26, dilated_kernel_size=23, groups=64)
    assert layer.positions.std().item() == pytest.approx(0.5, rel=0.03)
    assert (layer.deviations == 0.23).all()
    assert layer.weight.shape == (64, 1, 26)
    assert layer.positions.shape == (2, 64, 1, 26)


def test_deepcopy_pickle_and_state_dict_keep_shared_elements_and_outputs(tmp_path):
    first, second = (Dcls2d(4, 4, 5, dilated_kernel_size=9, padding=4, groups=4) for _ in range(2))
    second.positions, second.deviations = first.positions, first.deviations
    model = nn.Sequential(first, second)
    x = torch.randn(1, 4, 12, 12)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = nn.Sequential(*(Dcls2d(4, 4, 5, dilated_kernel_size=9, padding=4, groups=4) for _ in range(2)))
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for twin in [*copies, fresh]:
        torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    assert all(twin[0].positions is twin[1].positions for twin in copies)


def test_autocast_builds_the_kernel_in_float32():
    layer = Dcls2d(4, 4, 26, dilated_kernel_size=23, padding=11, groups=4)
    x = torch.randn(1, 4, 32, 31)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.dense_kernel().dtype == torch.float32
        output = layer(x)
    assert output.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits
    assert (output.float() - layer(x)).abs().max() < 2**-7 * layer(x).abs().max()
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_repulsive_loss_is_the_mean_overlap_of_pairs():
    layer = Dcls1d(1, 1, 3, dilated_kernel_size=21)
    with torch.no_grad():
        layer.positions.copy_(torch.tensor([0.0, 0.25, 5.0]).view(1, 1, 1, 3))
    loss = layer.repulsive_loss()
    assert loss.item() == pytest.approx(0.75 / 3, abs=1e-5)
    loss.backward()
    gradient = layer.positions.grad.flatten()
    assert gradient[0] > 0 > gradient[1]  # descending drives the two apart
    assert gradient[2] == 0


def test_repulsive_loss_has_finite_gradients_where_elements_coincide():
    layer = Dcls2d(1, 1, 4, dilated_kernel_size=5)
    nn.init.zeros_(layer.positions)
    layer.repulsive_loss().backward()
    assert layer.positions.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 3}, "groups"),
        ({"interpolation": "cubic"}, "cubic"),
        ({"interpolation": "v1"}, "'v1' of dcls is 'bilinear' here"),
        ({"padding": "full"}, "full"),
        ({"padding": "causal"}, "'causal' is neither a number nor one of same, valid"),
        ({"dense_kernel_size": 3}, "Dcls2d has no dense axes"),
        ({"padding": "same", "stride": 2}, "stride"),
        ({"padding_mode": "mirror"}, "mirror"),
        ({"stride": (1, 2, 3)}, "2 numbers"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dcls2d(4, 4, 3, dilated_kernel_size=5, **arguments)


def test_without_batch_dimension():
    layer = Dcls2d(4, 4, 3, dilated_kernel_size=5, padding=2, groups=4)
    x = torch.randn(4, 9, 9)
    torch.testing.assert_close(layer(x), layer(x[None])[0], rtol=1e-5, atol=1e-6)


def _train_in_a_process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = DistributedDataParallel(_small_model())
    x = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    model(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in model.module.named_parameters()}, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def _small_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [Dcls2d(3, 3, 26, dilated_kernel_size=23, padding=11, groups=3) for _ in range(2)]
    layers[1].positions, layers[1].deviations = layers[0].positions, layers[0].deviations
    return nn.Sequential(*layers)


@pytest.mark.slow
def test_two_processes_average_to_the_gradients_of_one(tmp_path):
    mp.spawn(_train_in_a_process, args=(_free_port(), str(tmp_path)), nprocs=2)
    model = _small_model()
    x = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    model(x).square().mean().backward()
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-4, atol=1e-7)


def _free_port() -> int:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_dcls_layers_gives_each_layer_once():
    layer = Dcls2d(2, 2, 3, dilated_kernel_size=5)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert list(dcls_layers(model)) == [layer]
    assert list(dcls_layers(fold(model))) == []


def test_a_call_written_for_dcls_is_an_error():
    """There the fourth argument is the stride: read as the kernel's size it would build another layer."""
    with pytest.raises(TypeError, match="positional argument"):
        Dcls2d(4, 4, 3, 1, 11, dilated_kernel_size=23)
    with pytest.raises(ValueError, match=r"kernel_count=\(3, 1\) should be a whole number"):
        Dcls2d(4, 4, (3, 1), dilated_kernel_size=23)


def reference_layer(kind: type[nn.Module], version: str, **sizes) -> nn.Module:
    torch.manual_seed(0)
    layer = kind(4, 6, 3, groups=2, version=version, **sizes)
    with torch.no_grad():
        layer.P.copy_((torch.rand_like(layer.P) - 0.5) * (sizes["dilated_kernel_size"] - 1))
        if layer.SIG is not None:
            layer.SIG.normal_()
    return layer


@pytest.mark.parametrize("version", ["v1", "max", "gauss"])
@pytest.mark.parametrize("flat", [None, 0, 1])
def test_layers_with_dense_and_flat_axes_equal_the_reference(version: str, flat: int | None) -> None:
    if flat is None:
        sizes = {"dense_kernel_size": (3, 2), "dilated_kernel_size": 7, "padding": (1, 1, 3)}
        theirs = reference_layer(ReferenceDcls3_1d, version, **sizes)
        ours: DclsNd = Dcls3_1d(4, 6, 3, groups=2, interpolation=INTERPOLATION_OF_VERSION[version], **sizes)
    else:
        theirs = reference_layer(ReferenceDcls2dK1d, version, dilated_kernel_size=9, padding=4, flat_dim=flat)
        sizes = {"dilated_kernel_size": 9, "padding": 4, "flat_axis": 1 - flat}
        ours = Dcls2dK1d(4, 6, 3, groups=2, interpolation=INTERPOLATION_OF_VERSION[version], **sizes)
    ours.load_state_dict(convert_dcls(theirs.state_dict(), version))
    x = torch.randn(2, 4, *(5, 6, 12)[-ours.dimensions :])
    expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(layer(x).square().sum(), layer.weight)[0] for layer in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_dcls2_1d_is_dcls3_1d_with_one_axis_less() -> None:
    """The reference's Gauss of Dcls2_1d has a standard deviation of |SIG| + 1; its state dict is converted to that."""
    theirs = reference_layer(ReferenceDcls3_1d, "gauss", dense_kernel_size=(1, 3), dilated_kernel_size=9)
    state = {key: value.detach().squeeze(-3) for key, value in theirs.state_dict().items() if key != "bias"}
    ours = Dcls2_1d(4, 6, 3, groups=2, dense_kernel_size=3, dilated_kernel_size=9, bias=False)
    ours.load_state_dict({"weight": state["weight"], "positions": state["P"], "deviations": state["SIG"]})
    expected = theirs.DCK(theirs.weight, theirs.P, theirs.SIG).squeeze(2)
    torch.testing.assert_close(ours.dense_kernel(), expected, rtol=0, atol=1e-6)
    ours.load_state_dict(convert_dcls(state | {"DCK.IDX": torch.zeros(1), "DCK.lim": torch.zeros(1)}))
    slip = theirs.DCK(theirs.weight, theirs.P, theirs.SIG.abs() + 0.73).squeeze(2)
    torch.testing.assert_close(ours.dense_kernel(), slip, rtol=0, atol=1e-6)


def test_dcls3_2d_has_a_kernel_of_dcls2d_for_each_dense_tap() -> None:
    torch.manual_seed(0)
    layer = Dcls3_2d(4, 6, 5, groups=2, dense_kernel_size=3, dilated_kernel_size=(7, 9), padding=(1, 3, 4))
    nn.init.uniform_(layer.positions, -3, 3)
    x = torch.randn(2, 4, 6, 11, 12)
    torch.testing.assert_close(layer(x), plain_twin(layer, groups=2, padding=(1, 3, 4))(x), rtol=1e-5, atol=1e-5)
    for tap in range(3):
        flat = Dcls2d(4, 6, 5, groups=2, dilated_kernel_size=(7, 9))
        with torch.no_grad():
            flat.weight.copy_(layer.weight[:, :, tap])
            flat.positions.copy_(layer.positions[:, :, :, tap])
            flat.deviations.copy_(layer.deviations[:, :, :, tap])
        torch.testing.assert_close(layer.dense_kernel()[:, :, tap], flat.dense_kernel(), rtol=0, atol=1e-6)
    nn.init.constant_(layer.positions, 9.0)
    layer.clamp_positions()
    assert layer.positions.amax((1, 2, 3, 4)).tolist() == [3, 4]


@pytest.mark.parametrize("stride", [1, 2])
def test_causal_output_depends_on_no_later_input(stride: int) -> None:
    layer = Dcls1d(3, 4, 5, dilated_kernel_size=9, padding="causal", stride=stride)
    nn.init.uniform_(layer.positions, -4, 4)
    x = torch.randn(1, 3, 20, requires_grad=True)
    output = layer(x)
    assert output.shape[-1] == 20 // stride
    for t in (0, 3, output.shape[-1] - 1):
        gradient = torch.autograd.grad(output[..., t].sum(), x, retain_graph=True)[0].abs().sum((0, 1))
        assert (gradient[t * stride + 1 :] == 0).all()
        assert gradient[t * stride] > 0

"""The depthwise convolution by spectra and in strips against `F.conv2d`."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset_dcls.dcls import Dcls2d, depthwise_conv2d, strips
from audioset_dcls.dcls.depthwise import _convolve, choose, crop_to_reach, direct, in_strips, spectral
from audioset_dcls.dcls.spectral import correlate


def pair(shape: tuple[int, ...], kernel: tuple[int, int], dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    k = torch.randn(shape[1], 1, *kernel, generator=generator, dtype=dtype).requires_grad_()
    return x, k


def sum_error(terms: int) -> float:
    """Twice the standard deviation of a sum's rounding if float32 numbers are added one by one, relative."""
    return 2 * terms**0.5 * 2**-24


operators = pytest.mark.parametrize("operator", [correlate, strips.correlate], ids=["spectral", "strips"])


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    kernel=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    padding=st.tuples(st.integers(0, 11), st.integers(0, 11)),
)
@operators
def test_equals_torch_for_any_size_in_output_and_gradients(operator, size, kernel, padding):
    padding = tuple(min(p, k - 1) for p, k in zip(padding, kernel, strict=True))
    if any(n + 2 * p < k for n, p, k in zip(size, padding, kernel, strict=True)):
        return
    x, k = pair((2, 3, *size), kernel)
    expected = F.conv2d(x, k, padding=padding, groups=3)
    actual = operator(x, k, *padding)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)
    gradients = [torch.autograd.grad(y, (x, k), grad) for y in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


@operators
@pytest.mark.parametrize("size", [(64, 62), (32, 31), (16, 15), (8, 7)])
def test_float32_error_on_the_shapes_of_the_paper(operator, size):
    x, k = pair((2, 8, *size), (23, 23), torch.float32)
    exact_x, exact_k = x.detach().double().requires_grad_(), k.detach().double().requires_grad_()
    actual = operator(x, k, 11, 11)
    exact = F.conv2d(exact_x, exact_k, padding=11, groups=8)
    grad = torch.randn_like(exact)
    compared = [(actual, exact)]
    compared += zip(
        torch.autograd.grad(actual, (x, k), grad.float()),
        torch.autograd.grad(exact, (exact_x, exact_k), grad),
        strict=True,
    )
    for a, e in compared:
        # of the largest value: float32 sums of up to 4,000 terms; strips add up those of both clips one by one
        bound = sum_error(2 * size[0] * size[1]) if operator is strips.correlate else 1e-6
        assert (a.double() - e).abs().max() < bound * e.abs().max()


@pytest.mark.parametrize("size", [(5, 9), (16, 15), (23, 40)])
@pytest.mark.parametrize("kernel", [(23, 23), (8, 31)])
def test_cropping_the_kernel_is_exact(size, kernel):
    x, k = pair((1, 2, *size), kernel)
    padding = (kernel[0] // 2, kernel[1] // 2)
    cropped, smaller = crop_to_reach(k, padding, size)
    expected = F.conv2d(x, k, padding=padding, groups=2)
    torch.testing.assert_close(F.conv2d(x, cropped, padding=smaller, groups=2), expected, rtol=0, atol=1e-12)
    if min(size) < min(kernel) // 2:
        assert cropped.numel() < k.numel()


@pytest.mark.parametrize(("width", "padding"), [*((width, width // 2) for width in range(10, 16)), (14, 14)])
def test_strips_of_every_width_that_takes_its_own_way(width: int, padding: int) -> None:
    x, k = pair((2, 3, 9, 30), (5, width), torch.float32)
    actual = strips.correlate(x, k, 2, padding)
    exact_x, exact_k = x.detach().double().requires_grad_(), k.detach().double().requires_grad_()
    exact = F.conv2d(exact_x, exact_k, padding=(2, padding), groups=3)
    grad = torch.randn_like(actual)
    gradients = torch.autograd.grad(actual, (x, k), grad)
    of_exact = torch.autograd.grad(exact, (exact_x, exact_k), grad.double())
    for a, e in zip((actual, *gradients), (exact, *of_exact), strict=True):
        assert (a.double() - e).abs().max() < sum_error(2 * 9 * 30) * e.abs().max()


@operators
def test_gradients_of_first_and_second_order(operator):
    x, k = pair((2, 2, 5, 4), (3, 5))
    assert torch.autograd.gradcheck(lambda x, k: operator(x, k, 1, 2), (x, k))
    assert torch.autograd.gradgradcheck(lambda x, k: operator(x, k, 1, 2), (x, k))


@operators
def test_the_operator_is_registered_soundly(operator):
    x, k = pair((2, 3, 6, 7), (5, 4), torch.float32)
    torch.library.opcheck(operator, (x, k, 2, 1))


def test_large_batches_go_through_in_parts():
    x, k = pair((70, 16, 32, 31), (23, 23), torch.float32)  # 70 clips: several parts of spectra
    with torch.no_grad():
        expected = torch.cat([correlate(clip[None], k, 11, 11) for clip in x])
        torch.testing.assert_close(correlate(x, k, 11, 11), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "kernel", "inference", "training"),
    [
        ((64, 62), 23, spectral, spectral),
        ((64, 62), 7, direct, in_strips),
        ((32, 8), 11, direct, in_strips),
        ((64, 62), 3, direct, direct),
    ],
)
def test_choice_on_x86(size, kernel, inference, training):
    x, k = pair((1, 4, *size), (kernel, kernel), torch.float32)
    if not strips.is_quick(x):
        pytest.skip("measured on x86 alone")
    padding = (kernel // 2, kernel // 2)
    assert choose(x, k, padding) is inference
    assert choose(x, k, padding, training=True) is training


def test_choice_takes_spectra_in_training_if_the_kernel_is_larger_than_the_map():
    x, k = pair((1, 4, 8, 2), (15, 3))  # float64 is nothing for strips
    assert choose(x, k, (7, 1), training=True) is spectral
    assert choose(x, k, (7, 1)) is direct


def test_output_follows_the_input_dtype_and_autocast():
    x, k = pair((2, 4, 32, 31), (23, 23), torch.float32)
    assert depthwise_conv2d(x.bfloat16(), k, padding=(11, 11)).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = depthwise_conv2d(x, k, padding=(11, 11))
        grad = torch.autograd.grad(half.float().sum(), k)[0]
    assert half.dtype == torch.bfloat16
    assert grad.dtype == torch.float32
    full = depthwise_conv2d(x, k, padding=(11, 11))
    # bfloat16 keeps 8 bits: 2^-8 of the value on input and output
    assert (half.float() - full).abs().max() < 2**-7 * full.abs().max()


@pytest.mark.parametrize("kernel", [(23, 23), (13, 15), (7, 7)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [False, True])
def test_half_precisions_are_computed_in_float32(kernel, memory_format, training):
    """Rounded once on input and output; oneDNN's own operator for bfloat16 never ends at (13, 15)."""
    x, k = pair((1, 4, 32, 31), kernel, torch.float32)
    padding, rounded = (kernel[0] // 2, kernel[1] // 2), x.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(training):
        actual = depthwise_conv2d(x.contiguous(memory_format=memory_format), k, padding=padding)
    weight = k if training or kernel[1] > 13 else k.bfloat16()  # torch's operator takes one dtype for both
    exact = F.conv2d(rounded.double(), weight.double(), padding=padding, groups=4)
    torch.testing.assert_close(actual.double(), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks_and_gives_the_same_gradients(backend: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        Dcls2d(8, 8, 26, dilated_kernel_size=23, padding=11, groups=8),
        torch.nn.GELU(),
    )
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend=backend)
    x = torch.randn(2, 1, 32, 31)
    outputs = [m(x) for m in (model, compiled)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for output in outputs:
        output.square().mean().backward()
    for (name, p), q in zip(model.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [(23, 23), (7, 7), (15, 3)])  # by spectra, by torch's convolution, cropped
def test_the_operator_of_compiled_graphs(kernel: tuple[int, int]) -> None:
    x, k = pair((2, 3, 32, 5), kernel, torch.float32)
    padding = (kernel[0] // 2, kernel[1] // 2)
    torch.library.opcheck(_convolve, (x, k, *padding, True))
    expected, actual = F.conv2d(x, k, padding=padding, groups=3), _convolve(x, k, *padding, True)
    grad = torch.randn_like(expected)
    compared = [[y, *torch.autograd.grad(y, (x, k), grad)] for y in (actual, expected)]
    torch.testing.assert_close(*compared, rtol=1e-5, atol=1e-4)  # float32 sums of up to 529 terms


def test_compiled_graphs_of_any_size_choose_when_they_run() -> None:
    """One graph for all sizes, with our operator: torch.compile must neither take torch's nor guard the sizes."""
    layer = Dcls2d(4, 4, 26, dilated_kernel_size=23, padding=11, groups=4)
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=record)
    for size in ((32, 31), (16, 9), (40, 62)):
        x = torch.randn(2, 4, *size)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    (graph,) = graphs
    called = [str(node.target) for node in graph.graph.nodes]
    assert "audioset_dcls.depthwise_conv2d_in_a_graph.default" in called


@pytest.mark.parametrize("strict", [False, True])
def test_exported_graphs_hold_torchs_convolution(strict: bool) -> None:
    layer = Dcls2d(4, 4, 26, dilated_kernel_size=23, padding=11, groups=4)
    x, frames = torch.randn(2, 4, 32, 31), torch.export.Dim("frames", min=2, max=500)
    program = torch.export.export(layer, (x,), dynamic_shapes=({3: frames},), strict=strict)
    assert not [node for node in program.graph.nodes if "audioset_dcls" in str(node.target)]
    torch.testing.assert_close(program.module()(x[..., :9]), layer(x[..., :9]), rtol=1e-4, atol=1e-5)

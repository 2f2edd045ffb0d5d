"""What a GPU may compute a depthwise convolution with, against float64; without a GPU in Triton's interpreter.

Tolerances are relative to the largest value. float32: 2e-6, sums of up to 4,000 terms. bf16x3: 3e-5, products cut at
2^-16. TF32: 3e-3, 10 bits of each factor. bfloat16: 1e-2 of an output of 8 bits, which the interpreter cuts off and
does not round; the weight gradients stay in float32, within 2e-6 or the product's tolerance.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls import Dcls2d, candidates, cells, construct_kernel, depthwise_conv2d, set_benchmark
from audioset_dcls.dcls import benchmark as timing

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = {"torch", "torch channels-last", "spectral float32", "spectral TF32", "spectral bf16x3", "cells", "triton"}
PRODUCT_ERROR = {"spectral TF32": 3e-3, "spectral bf16x3": 3e-5}
SMALL = [((6, 5), (3, 4), (1, 2)), ((5, 7), (9, 5), (4, 2)), ((4, 3), (1, 1), (0, 0))]
# of the paper: height and width of the four stages' maps; then wide ones
PAPER = [((64, 62), (23, 23), (11, 11)), ((32, 31), (23, 23), (11, 11)), ((16, 15), (23, 23), (11, 11))]
PAPER += [((8, 7), (15, 13), (7, 6)), ((9, 100), (5, 23), (2, 11)), ((5, 70), (7, 33), (3, 16))]


@pytest.fixture(autouse=True)
def rounds() -> Iterator[None]:
    """As in training."""
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


def problem(size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    channels = 2 if size[0] * size[1] < 1000 else 1  # the interpreter is slow
    x = torch.randn(2, channels, *size, generator=generator).to(DEVICE, dtype)
    k = torch.randn(channels, 1, *kernel, generator=generator).to(DEVICE, dtype).float()
    exact = [tensor.double().requires_grad_() for tensor in (x, k)]
    y = F.conv2d(*exact, padding=padding, groups=channels)
    g = torch.randn(y.shape, generator=generator).to(DEVICE, dtype)
    return x, k, g, (y.detach(), *torch.autograd.grad(y, exact, g.double()))


def error(actual: Tensor, exact: Tensor) -> float:
    assert actual.shape == exact.shape
    return float((actual.double() - exact).abs().max() / exact.abs().max())


def check(size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype) -> set[str]:
    x, k, g, exact = problem(size, kernel, padding, dtype)
    found = candidates.candidates(x, k)
    for candidate in found:
        output = candidate.forward(x, k, padding)
        gradients = candidate.backward(g, x, k, padding)
        assert output.dtype == gradients[0].dtype == dtype
        bound = PRODUCT_ERROR.get(candidate.name, 2e-6)
        rounded = bound if dtype == torch.float32 else 1e-2
        # torch's own weight gradient comes in the input's dtype
        of_weight = 1e-2 if dtype != torch.float32 and candidate.name.startswith("torch") else bound
        if DEVICE == "cuda" and dtype == torch.float32 and candidate.name in ("torch", "torch channels-last", "triton"):
            rounded = of_weight = 3e-3  # TF32 there
        errors = [error(a, e) for a, e in zip((output, *gradients), exact, strict=True)]
        assert errors[0] < rounded, (candidate.name, errors)
        assert errors[1] < rounded, (candidate.name, errors)
        assert errors[2] < of_weight, (candidate.name, errors)
    return {candidate.name for candidate in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "kernel", "padding"), SMALL)
def test_every_candidate_is_right(
    size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype
) -> None:
    assert check(size, kernel, padding, dtype) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize(("size", "kernel", "padding"), PAPER)
def test_every_candidate_is_right_on_the_paper_s_and_wide_maps(
    size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int]
) -> None:
    names = check(size, kernel, padding, torch.float32)
    assert names == NAMES - (set() if size[0] * size[1] <= cells.MOST_CELLS else {"cells"})


def test_in_full_precision_nothing_rounds_factors() -> None:
    torch.set_float32_matmul_precision("highest")
    x, k, *_ = problem(*SMALL[0], torch.float32)
    assert {candidate.name for candidate in candidates.candidates(x, k)} == NAMES - set(PRODUCT_ERROR)


def test_tf32_s_bound_holds_for_factors_of_10_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has no TF32: here the factors are rounded as a GPU's tensor cores round them."""

    def rounded(a: Tensor) -> Tensor:
        bits = a.contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)

    monkeypatch.setattr(candidates, "tf32", lambda a, b: rounded(a) @ rounded(b))
    for case in (*SMALL, *PAPER[1:4]):
        x, k, g, exact = problem(*case, torch.float32)
        (candidate,) = [one for one in candidates.candidates(x, k) if one.name == "spectral TF32"]
        errors = [error(candidate.forward(x, k, case[2]), exact[0])]
        errors += [error(a, e) for a, e in zip(candidate.backward(g, x, k, case[2]), exact[1:], strict=True)]
        assert 1e-5 < max(errors) < PRODUCT_ERROR["spectral TF32"], errors


# ---- elements


def elements(channels: int, count: int, size: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, 1, count, generator=generator)
    positions = torch.randn(2, channels, 1, count, generator=generator) * torch.tensor(size).view(2, 1, 1, 1) / 4
    deviations = torch.randn(2, channels, 1, count, generator=generator)
    deviations[0, 0, 0, 0] = 0  # where |deviation| has no slope
    return [tensor.to(DEVICE).requires_grad_() for tensor in (weight, positions, deviations)]


def compare(actual: Tensor, exact: Tensor, of: list[Tensor], of_exact: list[Tensor], bound: float) -> None:
    grad = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(DEVICE)
    assert error(actual.detach(), exact.detach()) < bound
    gradients = torch.autograd.grad(actual, of, grad.to(actual.dtype))
    for own, expected in zip(gradients, torch.autograd.grad(exact, of_exact, grad), strict=True):
        assert error(own, expected) < bound


@pytest.mark.parametrize("size", [(7, 9), (6, 5)])
def test_kernels_are_made_in_one_launch_each_way(size: tuple[int, int]) -> None:
    from audioset_dcls.dcls.triton_kernel import construct_gauss

    own = elements(3, 4, size)
    exact = [tensor.detach().double().requires_grad_() for tensor in own]
    compare(construct_gauss(*own, *size), construct_kernel(*exact, size), own, exact, 2e-6)


@pytest.mark.parametrize(
    "case", [((6, 5), (5, 4), (2, 1)), pytest.param(((16, 15), (23, 23), (11, 11)), marks=pytest.mark.slow)]
)
def test_the_gradient_goes_to_the_elements(case: tuple[tuple[int, int], ...]) -> None:
    from audioset_dcls.dcls.triton_kernel import gauss_depthwise_conv2d

    size, kernel, padding = case
    own = elements(2, 3, kernel)
    x = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(2)).to(DEVICE).requires_grad_()
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, *own)]
    expected = F.conv2d(exact[0], construct_kernel(*exact[1:], kernel), padding=padding, groups=2)
    bound = 2e-6 if DEVICE == "cpu" else 3e-3
    compare(gauss_depthwise_conv2d(x, *own, kernel, padding), expected, [x, *own], exact, bound)


# ---- the choice


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[object, ...]]]:
    """As on a GPU with `set_benchmark`; what was chosen for which key."""
    set_benchmark(True)
    monkeypatch.setattr(candidates, "is_measured", lambda device: True)
    yield timing._winners  # type: ignore[misc]
    set_benchmark(False)


def test_a_layer_is_the_same_whatever_is_chosen(
    measured: dict[tuple[object, ...], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each choice of layer, of kernel, of forward and of backward pass, by a clock that lets one after another win."""
    torch.manual_seed(0)
    layer = Dcls2d(2, 2, kernel_count=3, dilated_kernel_size=5, padding=2, groups=2).to(DEVICE)
    x = torch.randn(2, 2, 6, 5).to(DEVICE).requires_grad_()
    exact, exact_x = Dcls2d(2, 2, kernel_count=3, dilated_kernel_size=5, padding=2, groups=2).double().to(DEVICE), None
    exact.load_state_dict(layer.state_dict())
    exact_x = x.detach().double().requires_grad_()
    kernel = construct_kernel(exact.weight, exact.positions, exact.deviations, (5, 5))
    expected = F.conv2d(exact_x, kernel, exact.bias, padding=2, groups=2)
    wanted = torch.autograd.grad(expected.square().sum(), (exact_x, *exact.parameters()))
    seen = set()
    for layer_choice, choice in ((0, 0), (0, 6), (1, 0)):
        monkeypatch.setattr(
            candidates,
            "quickest_run",
            lambda runs, key, *rest, layer_choice=layer_choice, choice=choice, **more: (
                (seen.add((key[0], min(choice, len(runs) - 1))) or (layer_choice if key[0] == "layer" else choice))
                % len(runs)
            ),
        )
        output = layer(x)
        assert error(output.detach(), expected.detach()) < 1e-5
        gradients = torch.autograd.grad(output.square().sum(), (x, *layer.parameters()))
        for actual, exact_gradient in zip(gradients, wanted, strict=True):
            assert error(actual, exact_gradient) < 3e-5
    assert {kind for kind, _ in seen} == {"layer", "kernel", "forward", "backward"}


def test_what_fails_on_a_device_is_left_out(
    measured: dict[tuple[object, ...], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*tensors: object) -> Tensor:
        raise RuntimeError("out of resource: shared memory")

    only = candidates.Candidate("torch", candidates._torch, candidates._torch_backward)
    broken = candidates.Candidate("broken", fails, fails)  # type: ignore[arg-type]
    monkeypatch.setattr(candidates, "candidates", lambda input, weight: [broken, only])
    x, k = torch.randn(1, 2, 6, 5, device=DEVICE), torch.randn(2, 1, 3, 3, device=DEVICE)
    with pytest.warns(UserWarning, match="out of resource"):
        output = depthwise_conv2d(x, k, padding=(1, 1))
    torch.testing.assert_close(output, F.conv2d(x, k, padding=1, groups=2))
    assert [choice for key, choice in measured.items() if key[0] == "forward"] == [1]


def test_each_pass_is_timed_once_for_a_shape(measured: dict[tuple[object, ...], int]) -> None:
    x, k = torch.randn(1, 2, 5, 4, device=DEVICE), torch.randn(2, 1, 2, 2, device=DEVICE, requires_grad=True)
    for _ in range(2):
        depthwise_conv2d(x, k, padding=(1, 1)).sum().backward()
    assert sorted(key[0] for key in measured) == ["backward", "forward"]
    depthwise_conv2d(x[:, :, :4], k, padding=(1, 1))
    assert sorted(key[0] for key in measured) == ["backward", "forward", "forward"]


@pytest.mark.slow
def test_a_compiled_graph_chooses_when_it_runs(measured: dict[tuple[object, ...], int]) -> None:
    x, k = torch.randn(1, 2, 6, 5, device=DEVICE), torch.randn(2, 1, 3, 3, device=DEVICE, requires_grad=True)
    compiled = torch.compile(lambda x: depthwise_conv2d(x, k, padding=(1, 1)), backend="aot_eager", fullgraph=True)
    output = compiled(x)
    torch.testing.assert_close(output, F.conv2d(x, k, padding=1, groups=2), rtol=0, atol=1e-5)
    output.sum().backward()
    assert sorted(key[0] for key in measured) == ["backward", "forward"]


def test_without_timing_a_gpu_takes_torch_s_own() -> None:
    assert not candidates.is_measured(torch.device("cuda"))
    set_benchmark(True)
    try:
        assert candidates.is_measured(torch.device("cuda"))
        assert not candidates.is_measured(torch.device("cpu"))
    finally:
        set_benchmark(False)


# ---- triton


def test_triton_is_for_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not candidates.has_triton(torch.device("cpu"))
    assert "triton" not in {one.name for one in candidates.candidates(torch.zeros(1, 2, 4, 4), torch.zeros(2, 1, 3, 3))}


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_a_gpu_s_tensor_cores(capability: int) -> None:
    """Triton compiles to machine code without the machine: what the interpreter lets pass shows here."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.dcls.compile_kernels", str(capability)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, *_ in lines} == {
        "_correlate", "_weight_gradient", "_elements_gradient", "_construct", "_construct_backward",
    }  # fmt: skip
    products = [instruction for name, _, _, instruction in lines if not name.startswith("_construct")]
    assert set(products) <= {"mma", "wgmma"}, "a product does without tensor cores"
    # shared memory of a block: 227 KiB on an H100, 163 KiB on an A100
    assert all(int(shared) <= 227 << 10 for _, dtype, shared, _ in lines if dtype == "bf16" or capability >= 90)

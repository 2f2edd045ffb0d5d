"""Choosing operators by timing: the same result, each shape once, never where results must not vary."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls import benchmark, depthwise, depthwise_conv2d, set_benchmark


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    set_benchmark(True)
    yield
    set_benchmark(False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each operator is called; the slower one by a clock that each call of it moves."""
    counted = {"direct": 0, "spectral": 0}
    clock = [0.0]

    def direct(input: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        counted["direct"] += 1
        clock[0] += 2
        return F.conv2d(input, weight, bias, padding=padding, groups=weight.shape[0])

    def spectral(input: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        counted["spectral"] += 1
        clock[0] += 1
        return F.conv2d(input, weight, padding=padding, groups=weight.shape[0])

    monkeypatch.setattr(depthwise, "_direct", direct)
    monkeypatch.setattr(depthwise, "_spectral", spectral)
    monkeypatch.setattr(benchmark, "_now", lambda device: clock[0])
    return counted


def maps(*size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, *size, generator=generator), torch.randn(4, 1, 5, 5, generator=generator)


def test_each_shape_is_timed_once_and_the_quicker_operator_kept(calls: dict[str, int]) -> None:
    """The cost model would take the direct one for such small kernels."""
    x, k = maps(12, 10)
    assert not depthwise.is_spectral_faster(x, k, (2, 2))
    depthwise_conv2d(x, k, padding=(2, 2))
    assert calls == {"direct": 4, "spectral": 5}
    depthwise_conv2d(x, k, padding=(2, 2))
    assert calls == {"direct": 4, "spectral": 6}
    depthwise_conv2d(*maps(12, 11), padding=(2, 2))
    assert calls == {"direct": 8, "spectral": 11}


def test_training_is_timed_with_its_gradients_and_leaves_none(calls: dict[str, int]) -> None:
    x, k = maps(12, 10)
    k.requires_grad_()
    depthwise_conv2d(x, k, padding=(2, 2)).sum().backward()
    expected = torch.autograd.grad(F.conv2d(x, k, padding=2, groups=4).sum(), k)[0]
    torch.testing.assert_close(k.grad, expected)
    with torch.no_grad():
        depthwise_conv2d(x, k, padding=(2, 2))  # another case than training
    assert calls == {"direct": 8, "spectral": 10}


def test_beyond_the_cap_the_cost_model_decides(calls: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_MOST_SHAPES", 1)
    depthwise_conv2d(*maps(12, 10), padding=(2, 2))
    before = dict(calls)
    depthwise_conv2d(*maps(12, 11), padding=(2, 2))
    assert calls == {"direct": before["direct"] + 1, "spectral": before["spectral"]}


def test_nothing_is_timed_under_deterministic_algorithms(calls: dict[str, int]) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        depthwise_conv2d(*maps(12, 10), padding=(2, 2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert calls == {"direct": 1, "spectral": 0}


def test_nothing_is_timed_in_traced_or_compiled_graphs(calls: dict[str, int]) -> None:
    x, k = maps(12, 10)
    torch.jit.trace(lambda x: depthwise_conv2d(x, k, padding=(2, 2)), (x,), check_trace=False)
    assert calls == {"direct": 1, "spectral": 0}
    torch.compile(lambda x: depthwise_conv2d(x, k, padding=(2, 2)), backend="aot_eager")(x)
    assert calls == {"direct": 2, "spectral": 0}


def test_real_operators_give_the_same_result_either_way() -> None:
    x, k = maps(20, 16)
    torch.testing.assert_close(
        depthwise_conv2d(x, k, padding=(2, 2)), F.conv2d(x, k, padding=2, groups=4), rtol=0, atol=1e-5
    )

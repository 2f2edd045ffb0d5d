"""Choosing operators by timing: the same result, each shape once, never where results must not vary."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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

    def operator(name: str, seconds: float) -> Callable[..., Tensor]:
        def convolve(input: Tensor, weight: Tensor, padding: tuple[int, int], bias: Tensor | None = None) -> Tensor:
            counted[name] += 1
            clock[0] += seconds
            return F.conv2d(input, weight, bias, padding=padding, groups=weight.shape[0])

        return convolve

    monkeypatch.setattr(depthwise, "direct", operator("direct", 2))
    monkeypatch.setattr(depthwise, "spectral", operator("spectral", 1))
    monkeypatch.setattr(depthwise.strips, "is_quick", lambda input: False)
    monkeypatch.setattr(benchmark, "_now", lambda device: clock[0])
    return counted


def maps(*size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, *size, generator=generator), torch.randn(4, 1, 5, 5, generator=generator)


def test_each_shape_is_timed_once_and_the_quicker_operator_kept(calls: dict[str, int]) -> None:
    """The cost model would take the direct one for such small kernels."""
    x, k = maps(12, 10)
    assert depthwise.choose(x, k, (2, 2)) is depthwise.direct
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

"""What may compute a depthwise convolution, and a DCLS layer, on a GPU; `set_benchmark` chooses by timing.

Each candidate has a forward and a backward pass of its own, and the quickest of each is taken for a shape, a dtype and
a device: what is quick forward need not be so backward. One that fails on a device is left out with a warning. All are
right against float64 (`tests/dcls/test_candidates.py`); none was measured on a GPU, so that nothing but torch's own is
taken unless timing is on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls import cells, spectral, strips
from audioset_dcls.dcls.benchmark import is_benchmarking, quickest_run
from audioset_dcls.dcls.kernel import Interpolation, construct_kernel

Padding = tuple[int, int]


class Candidate(NamedTuple):
    """forward(input, weight, padding) -> output; backward(grad, input, weight, padding) -> gradients of both."""

    name: str
    forward: Callable[[Tensor, Tensor, Padding], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor, Padding], tuple[Tensor, Tensor]]


def candidates(input: Tensor, weight: Tensor) -> list[Candidate]:
    """Those that can take these tensors, torch's own first.

    Products of float32 are rounded to TF32 or bf16x3 if `torch.set_float32_matmul_precision` allows it.
    """
    found = [
        Candidate("torch", _torch, _torch_backward),
        Candidate("torch channels-last", _channels_last, _channels_last_backward),
        _spectral("float32", float32),
    ]
    if input.dtype != torch.float64 and (input.dtype != torch.float32 or _may_round()):
        found += [_spectral("TF32", tf32), _spectral("bf16x3", bf16x3)]
    if input.shape[2] * input.shape[3] <= cells.MOST_CELLS:
        found.append(Candidate("cells", cells.correlate, cells.correlate_backward))
    if has_triton(input.device) and input.dtype != torch.float64:
        found.append(Candidate("triton", _triton, _triton_backward))
    return found


def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels can run there: on a GPU, or anywhere in its interpreter. Imports triton only then."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return False
    try:
        import triton  # noqa: F401 - slow, and not on every platform
    except ImportError:
        return False
    return True


def _may_round() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


def is_measured(device: torch.device) -> bool:
    """Whether the choice on this device is by timing among `candidates`."""
    return device.type == "cuda" and is_benchmarking()


# ---- a depthwise convolution


@torch.library.custom_op("audioset_dcls::measured_depthwise_conv2d", mutates_args=())
def measured(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    """`F.conv2d` with stride 1 and a group a channel, by the quickest candidate; in compiled graphs too."""
    runs = [
        partial(candidate.forward, input, weight, (pad_height, pad_width)) for candidate in candidates(input, weight)
    ]
    return _best(runs, ("forward", *_state(input, weight), pad_height, pad_width), input.device).contiguous()


@torch.library.custom_op("audioset_dcls::measured_depthwise_conv2d_backward", mutates_args=())
def _measured_backward(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    padding = (pad_height, pad_width)
    runs = [partial(candidate.backward, grad, input, weight, padding) for candidate in candidates(input, weight)]
    key = ("backward", *_state(grad, input, weight), *padding)
    grad_input, grad_weight = _best(runs, key, input.device)
    return grad_input.to(input.dtype).contiguous(), grad_weight.to(weight.dtype).contiguous()


def _best(runs: list[partial[Any]], key: Hashable, device: torch.device) -> Any:
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        return runs[quickest_run(runs, key, device, default=0, may_fail=True)]()


def _state(*tensors: Tensor) -> tuple[Hashable, ...]:
    return tuple((tensor.shape, tensor.dtype, tensor.stride(), tensor.device) for tensor in tensors)


@measured.register_fake
def _output_like(input: Tensor, weight: Tensor, pad_height: int, pad_width: int) -> Tensor:
    batch, channels, height, width = input.shape
    out_size = (height + 2 * pad_height - weight.shape[2] + 1, width + 2 * pad_width - weight.shape[3] + 1)
    return input.new_empty(batch, channels, *out_size)


@_measured_backward.register_fake
def _gradients_like(
    grad: Tensor, input: Tensor, weight: Tensor, pad_height: int, pad_width: int
) -> tuple[Tensor, Tensor]:
    return input.new_empty(input.shape), weight.new_empty(weight.shape)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    input, weight, *ctx.padding = inputs
    ctx.save_for_backward(input, weight)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    return *_measured_backward(grad, *ctx.saved_tensors, *ctx.padding), None, None


measured.register_autograd(_backward, setup_context=_setup)


# ---- a layer of elements


def gauss_convolution(
    input: Tensor,
    elements: tuple[Tensor, Tensor, Tensor],
    size: tuple[int, int],
    padding: Padding,
    dense: Callable[[Tensor, Tensor, Padding], Tensor],
) -> Tensor:
    """The convolution with the kernel that Gauss elements make, by way of that kernel or with their own gradients.

    Args:
        elements: weight, positions and deviations of a depthwise layer.
        dense: convolves an input with a dense kernel.
    """

    def by_kernel(x: Tensor, weight: Tensor, positions: Tensor, deviations: Tensor) -> Tensor:
        return dense(x, dense_kernel(weight, positions, deviations, size, "gauss"), padding)

    def by_elements(x: Tensor, weight: Tensor, positions: Tensor, deviations: Tensor) -> Tensor:
        from audioset_dcls.dcls.triton_kernel import gauss_depthwise_conv2d

        return gauss_depthwise_conv2d(x, weight, positions, deviations, size, padding)

    given = (input, *elements)
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    if not training or not has_triton(input.device) or any(element.dtype != torch.float32 for element in elements):
        return by_kernel(*given)
    return _best_with_gradients((by_kernel, by_elements), given, ("layer", size, padding))(*given)


def dense_kernel(
    weight: Tensor, positions: Tensor, deviations: Tensor | None, size: tuple[int, ...], interpolation: Interpolation
) -> Tensor:
    """`construct_kernel`, on a GPU in one launch each way if that is quicker."""
    plain = partial(construct_kernel, dilated_kernel_size=size, interpolation=interpolation)
    two = len(size) == 2 and interpolation == "gauss" and weight.dtype == torch.float32
    if not two or not is_measured(weight.device) or torch.compiler.is_compiling() or not has_triton(weight.device):
        return plain(weight, positions, deviations)
    assert deviations is not None
    from audioset_dcls.dcls.triton_kernel import construct_gauss

    fused: Callable[..., Tensor] = lambda *elements: construct_gauss(*elements, *size)  # noqa: E731
    return _best_with_gradients((plain, fused), (weight, positions, deviations), ("kernel", size))(
        weight, positions, deviations
    )


def _best_with_gradients(
    functions: tuple[Callable[..., Tensor], ...], given: tuple[Tensor, ...], key: tuple[Hashable, ...]
) -> Callable[..., Tensor]:
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    own = [tensor.detach().requires_grad_(training and tensor.requires_grad) for tensor in given]
    wanted = [tensor for tensor in own if tensor.requires_grad]

    def run(function: Callable[..., Tensor]) -> None:
        with torch.autocast(own[0].device.type, enabled=False):
            output = function(*own)
            if training:
                torch.autograd.grad(output, wanted, torch.ones_like(output))

    full_key = (*key, *_state(*given), training, len(wanted))
    runs = [partial(run, function) for function in functions]
    return functions[quickest_run(runs, full_key, given[0].device, default=0, may_fail=True)]


# ---- the candidates


def _torch(input: Tensor, weight: Tensor, padding: Padding) -> Tensor:
    return F.conv2d(input, weight.to(input.dtype), padding=padding, groups=weight.shape[0])


def _torch_backward(grad: Tensor, input: Tensor, weight: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
    return strips.gradients(grad.to(input.dtype), input, weight.to(input.dtype), padding)


def _channels_last(input: Tensor, weight: Tensor, padding: Padding) -> Tensor:
    input, weight = (x.contiguous(memory_format=torch.channels_last) for x in (input, weight))
    return _torch(input, weight, padding)


def _channels_last_backward(grad: Tensor, input: Tensor, weight: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
    grad, input, weight = (x.contiguous(memory_format=torch.channels_last) for x in (grad, input, weight))
    return _torch_backward(grad, input, weight, padding)


def _spectral(name: str, product: spectral.Product) -> Candidate:
    return Candidate(
        f"spectral {name}",
        lambda input, weight, padding: spectral.correlate_by(product, input, weight, *padding),
        lambda grad, input, weight, padding: spectral.correlate_backward_by(product, grad, input, weight, *padding),
    )


def _triton(input: Tensor, weight: Tensor, padding: Padding) -> Tensor:
    from audioset_dcls.dcls import triton_depthwise

    return triton_depthwise.correlate(input, weight, padding)


def _triton_backward(grad: Tensor, input: Tensor, weight: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
    from audioset_dcls.dcls import triton_depthwise

    size, kernel = (input.shape[2], input.shape[3]), (weight.shape[2], weight.shape[3])
    grad = grad.to(input.dtype)
    return (
        triton_depthwise.input_gradient(grad, weight, size, padding),
        triton_depthwise.weight_gradient(grad, input, kernel, padding),
    )


def bf16x3(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of float32 on bfloat16's tensor cores: with a = a1 + a2 + rest of 2^-16, a1 b1 + a1 b2 + a2 b1.

    One product of three times the length sums them up in float32.
    """
    leading = b.shape[:-2]
    a, b = a.expand(*leading, *a.shape[-2:]).reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return cells.product(torch.cat([a1, a1, a2], -1), torch.cat([b1, b2, b1], -2)).unflatten(0, leading)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    high = x.to(torch.bfloat16)
    return high, (x - high).to(torch.bfloat16)


def float32(a: Tensor, b: Tensor) -> Tensor:
    with _precision("ieee"):
        return a @ b


def tf32(a: Tensor, b: Tensor) -> Tensor:
    with _precision("tf32"):
        return a @ b


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """Of CUDA's products of float32, in this block."""
    settings: Any = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = name
    try:
        yield
    finally:
        settings.fp32_precision = before

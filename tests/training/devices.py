"""Devices without hardware: fake CUDA tensors, and a device that has a backward pass, both without numbers.

torch's fake tensors have a device, a dtype and a shape. An operation between devices is an error, and so is asking for
a number (`.item()`, a tensor in an `if`), which waits for the device. `NoWaiting` adds the copies that wait.

Autograd runs the backward pass of CUDA tensors in a thread for each GPU, so that fake ones have none. The device
"fakegpu" of `register_fake_gpu` has no kernels either, but autograd can call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from preprocessing import augment

FAKE_GPU = "fakegpu"


class NoWaiting(TorchDispatchMode):
    """Raises RuntimeError for an operation that makes the host wait for the device, besides those that fakes refuse.

    To the CPU every copy waits; to the device one without `non_blocking` does, and indexing by a tensor of the CPU.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        devices = {tensor.device.type for tensor in tree_leaves((args, kwargs)) if is_tensor(tensor)}
        results = {tensor.device.type for tensor in tree_leaves(result) if is_tensor(tensor)}
        name = func._schema.name
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[0] if name == "aten::_to_copy" else args[1]
            non_blocking = (kwargs or {}).get("non_blocking") or (name == "aten::copy_" and args[2:] == (True,))
            waits = (
                is_tensor(source) and {source.device.type} != results and not (non_blocking and "cpu" not in results)
            )
        else:
            waits = name.startswith("aten::index") and len(devices) > 1
        if waits:
            raise RuntimeError(f"{name} waits for the device: {sorted(devices)} -> {sorted(results)}")
        return result


def is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


@contextmanager
def fake_tensors(monkeypatch: Any) -> Iterator[FakeTensorMode]:
    """All tensors that are made are fake. The numbers that Python needs are drawn on the CPU, for real."""

    def real(draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*arguments: Any) -> Any:
            with unset_fake_temporarily():
                return draw(*arguments)

        return drawn

    for name in ("_shifts", "_mixing_ratio"):
        monkeypatch.setattr(augment, name, real(getattr(augment, name)))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def move(module: nn.Module, mode: FakeTensorMode, device: str) -> nn.Module:
    """The module with fake tensors of `device` for its own; shared ones stay shared."""
    made: dict[int, Tensor] = {}

    def moved(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with unset_fake_temporarily():
                values = tensor.detach()
            fake = mode.from_tensor(values).to(device)
            made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
        return made[id(tensor)]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = moved(tensor)  # type: ignore[assignment, index]
    return module


class _Backend:
    """What `torch.accelerator`, `torch.manual_seed` and `torch.autocast` ask of a device's module."""

    is_available = is_initialized = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


# As torch does it for CUDA: the products in bfloat16, what sums up in float32.
_LOW = (
    "conv1d",
    "conv2d",
    "linear",
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "einsum",
    "scaled_dot_product_attention",
)
_HIGH = ("layer_norm", "group_norm", "softmax.int", "sum.dim_IntList", "pow.Tensor_Scalar", "exp", "log", "log10")
_HIGH += ("binary_cross_entropy_with_logits",)


def register_fake_gpu() -> tuple[torch.library.Library, ...]:
    """Makes the device; once in a process, and for good: `torch.accelerator` names it from then on.

    Returns what keeps its autocast.
    """
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(FAKE_GPU, _Backend())
    others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    others.fallback(torch.library.fallthrough_kernel)
    library = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, dtype in ((_LOW, torch.bfloat16), (_HIGH, torch.float32)):
        for name in names:
            library.impl(name, _cast(getattr(torch.ops.aten, name.partition(".")[0]), dtype))
    return others, library


def _cast(operator: Any, dtype: torch.dtype) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        def cast(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(cast, value))
            return value.to(dtype) if is_tensor(value) and value.is_floating_point() else value

        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return operator(*map(cast, args), **kwargs)

    return run

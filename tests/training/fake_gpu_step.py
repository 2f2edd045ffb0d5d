"""Whole training steps on the device "fakegpu" of `devices.py`.

    python -m tests.training.fake_gpu_step PRECISION TRUNK ...

A process of its own, because the device cannot be taken back: `torch.accelerator` names it from then on. A line for
each trunk that went through, after one for the fault in a backward pass that is to be seen.
"""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.training.module import TaggingModule
from preprocessing.scenes import Scenes
from tests.training.devices import FAKE_GPU, NoWaiting, fake_tensors, register_fake_gpu
from tests.training.test_fake_cuda import scenes, tagging_module


class LeavesItOnTheCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return grad * torch.zeros(grad.shape)


def main(precision: str, trunks: list[str]) -> None:
    registered = register_fake_gpu()
    with pytest.MonkeyPatch.context() as patch, fake_tensors(patch) as mode:
        with pytest.raises(RuntimeError, match="device"):
            LeavesItOnTheCpu.apply(torch.zeros(2, device=FAKE_GPU, requires_grad=True)).sum().backward()
        print("fault seen")
        for number, trunk in enumerate(trunks):
            optimizer = {"name": "lamb" if number % 2 else "adamw", "lr": 1e-3}
            module = tagging_module(trunk, True, mode, device=FAKE_GPU, optimizer=optimizer)
            step(module, scenes(FAKE_GPU), precision == "bfloat16")
            print(precision, trunk, flush=True)
    del registered


def step(module: TaggingModule, mix: Scenes, autocast: bool) -> None:
    """What Lightning does for a batch: scenes, forward, backward, clipping, optimiser, clamp."""
    optimizer = module.configure_optimizers()["optimizer"]
    with NoWaiting():
        batch = mix(range(4))
        with torch.autocast(FAKE_GPU, torch.bfloat16, enabled=autocast):
            loss = module.training_step(batch, 0)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        for layer in dcls_layers(module.model):
            layer.clamp_positions()
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, f"{name} has no gradient"
        assert (gradient.device.type, gradient.dtype) == (FAKE_GPU, torch.float32), name


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

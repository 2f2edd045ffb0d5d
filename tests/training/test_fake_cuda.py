"""The loss of a training step, and validation, on CUDA tensors without a GPU.

torch's fake tensors have a device and no numbers: a tensor left on the CPU, or a value asked of the device (`.item()`,
which waits for it), is an error. The backward pass, autocast and the optimiser ask for a real device: they are not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.models import create_model
from audioset_dcls.training.losses import Distillation
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.optimizer import Schedule
from preprocessing import augment
from preprocessing.augment import Augment

CLASSES = 5
TRUNKS: dict[str, dict[str, Any]] = {
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 128]},
    "convformer_s18": {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 128]},
    "fastvit_t8": {"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]},
    "efficientat_mn04": {},
}
EVERYTHING = Augment(time_mask=20, frequency_mask=10, shift_bands=2, gain=6.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """All tensors that are made are fake. The numbers that Python needs are drawn on the CPU, for real."""

    def real(draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*arguments: Any) -> Any:
            with unset_fake_temporarily():
                return draw(*arguments)

        return drawn

    for name in ("_shifts", "_mixing_ratio"):
        monkeypatch.setattr(augment, name, real(getattr(augment, name)))
    with FakeTensorMode() as mode:
        yield mode


def on_cuda(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The module with fake CUDA tensors for its own; shared ones stay shared."""
    made: dict[int, Tensor] = {}

    def moved(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with unset_fake_temporarily():
                values = tensor.detach()
            fake = mode.from_tensor(values).to("cuda")
            made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
        return made[id(tensor)]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = moved(tensor)  # type: ignore[assignment, index]
    return module


def tagging_module(trunk: str, dcls: bool, mode: FakeTensorMode, **options: Any) -> TaggingModule:
    with unset_fake_temporarily():
        small = {"kernel_count": 5, "dilated_kernel_size": 7} if dcls else {}
        model = create_model(trunk, dcls=dcls, num_classes=CLASSES, drop_path_rate=0.1, **small, **TRUNKS[trunk])
        module = TaggingModule(
            model,
            [str(index) for index in range(CLASSES)],
            {"lr": 1e-3, "position_lr_factor": 5.0},
            Schedule(10),
            EVERYTHING,
            repulsion=0.1 if dcls else 0.0,
            **options,
        )
    on_cuda(module, mode)
    module._sums = torch.zeros(3, dtype=torch.float64, device="cuda")  # what on_fit_start does
    module._trainer = SimpleNamespace(world_size=1, global_rank=0, current_epoch=0)  # type: ignore[assignment]
    return module.train()


def batch(**more: Tensor) -> dict[str, Tensor]:
    return {
        "waveform": torch.zeros(4, 32_000, dtype=torch.int16, device="cuda"),
        "target": torch.zeros(4, CLASSES, dtype=torch.bool, device="cuda"),
        "clip": torch.arange(4, device="cuda"),
        **more,
    }


@pytest.mark.parametrize("dcls", [False, True])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_training_step_s_loss_stays_on_the_device(trunk: str, dcls: bool, fake: FakeTensorMode) -> None:
    module = tagging_module(trunk, dcls, fake, distill=Distillation(weight=0.5, soft_labels=True))
    loss = module.training_step(batch(teacher=torch.zeros(4, CLASSES, device="cuda")), 0)
    assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)
    assert module._sums.device.type == "cuda"
    for layer in dcls_layers(module.model):
        layer.clamp_positions()


def test_validation_gives_its_scores_to_the_cpu(fake: FakeTensorMode) -> None:
    module = tagging_module("convnext_atto", True, fake).eval()
    with torch.no_grad():
        module.validation_step(batch(), 0)
    ((clip, target, scores),) = module._validated
    assert {clip.device.type, target.device.type, scores.device.type} == {"cpu"}
    assert scores.shape == (4, CLASSES)


def test_what_is_wrong_on_a_device_is_seen(fake: FakeTensorMode) -> None:
    """The two faults that these tests are for."""
    on_device = torch.zeros(3, device="cuda")
    with pytest.raises(RuntimeError, match="device"):
        on_device + torch.zeros(3)
    with pytest.raises(DataDependentOutputException):
        on_device.sum().item()

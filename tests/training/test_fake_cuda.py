"""Training, validation and scoring on a GPU, without a GPU.

The forward passes run on fake CUDA tensors under CUDA's own autocast; whole steps with their backward pass and
optimiser in a child process, on the made device of `devices.py`. What is left on another device, waits for the device
or has the wrong dtype is an error. Numbers are none of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.inference import predict
from audioset_dcls.models import create_model
from audioset_dcls.models.checkpoint import save_checkpoint
from audioset_dcls.training.losses import Distillation
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.optimizer import Schedule
from preprocessing.augment import Augment
from preprocessing.scenes import Recordings, Scenes
from tests.training.devices import NoWaiting, fake_tensors, move

ROOT = Path(__file__).parents[2]
CLASSES = 5
TRUNKS: dict[str, dict[str, Any]] = {
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 128]},
    "convformer_s18": {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 128]},
    "fastvit_t8": {"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]},
    "efficientat_mn04": {},
}
EVERYTHING = Augment(time_mask=20, frequency_mask=10, shift_bands=2, gain=6.0)
LEARNS = Distillation(weight=0.5, soft_labels=True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    # without a GPU torch.autocast would switch itself off, with a warning
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *arguments: True)
    with fake_tensors(monkeypatch) as mode:
        yield mode


class EveryKindOfScene(Scenes):
    """All with background, noise, filter, room and clipping."""

    NOISE = 1.0, (-60.0, -12.0)
    BACKGROUND = 1.0, (-30.0, -8.0)
    FILTER = ROOM = CLIP = 1.0


def scenes(device: str) -> Scenes:
    """Of three recordings, mixed on the device."""
    length = np.array([16_000, 32_000, 6 * 32_000])
    samples = np.random.default_rng(0).integers(-9_000, 9_000, int(length.sum()), np.int16)
    teacher = np.zeros((3, CLASSES), np.float16)
    names = ["a", "b", "c"]
    target = np.eye(3, CLASSES, dtype=bool)
    recordings = Recordings(samples, np.cumsum(length) - length, length, target, teacher, np.ones(3), names)
    return EveryKindOfScene(recordings, 1.0, device=device)


def tagging_module(
    trunk: str,
    dcls: bool,
    mode: FakeTensorMode,
    distill: Distillation = LEARNS,
    device: str = "cuda",
    optimizer: dict[str, Any] | None = None,
    **options: Any,
) -> TaggingModule:
    with unset_fake_temporarily():
        small = {"kernel_count": 5, "dilated_kernel_size": 7} if dcls else {}
        model = create_model(trunk, dcls=dcls, num_classes=CLASSES, drop_path_rate=0.1, **small, **TRUNKS[trunk])
        module = TaggingModule(
            model,
            [str(index) for index in range(CLASSES)],
            optimizer or {"lr": 1e-3},
            Schedule(10),
            EVERYTHING,
            distill,
            repulsion=0.1 if dcls else 0.0,
            **options,
        )
    move(module, mode, device)
    module._sums = torch.zeros(3, dtype=torch.float64, device=device)  # what on_fit_start does
    module._trainer = SimpleNamespace(world_size=1, global_rank=0, current_epoch=0)  # type: ignore[assignment]
    return module.train()


def batch(**more: Tensor) -> dict[str, Tensor]:
    return {
        "waveform": torch.zeros(4, 32_000, dtype=torch.int16, device="cuda"),
        "target": torch.zeros(4, CLASSES, dtype=torch.bool, device="cuda"),
        "clip": torch.arange(4, device="cuda"),
        **more,
    }


@pytest.mark.parametrize(
    ("trunk", "dcls"),
    [
        ("convnext_atto", True),
        *(pytest.param(trunk, True, marks=pytest.mark.slow) for trunk in TRUNKS if trunk != "convnext_atto"),
        ("convnext_atto", False),
    ],
)
def test_a_training_step_s_loss_stays_on_the_device(trunk: str, dcls: bool, fake: FakeTensorMode) -> None:
    """In bfloat16, from waveforms to the loss in float32."""
    module = tagging_module(trunk, dcls, fake)
    dtypes: list[torch.dtype] = []
    module.model.get_classifier().register_forward_hook(lambda layer, given, logits: dtypes.append(logits.dtype))
    with NoWaiting(), torch.autocast("cuda", torch.bfloat16):
        loss = module.training_step(batch(teacher=torch.zeros(4, CLASSES, dtype=torch.float16, device="cuda")), 0)
    assert dtypes == [torch.bfloat16]
    assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)
    assert module._sums.device.type == "cuda"
    for layer in dcls_layers(module.model):
        layer.clamp_positions()


def test_a_teacher_s_embedding_is_matched_on_the_device(fake: FakeTensorMode) -> None:
    module = tagging_module("convnext_atto", True, fake, Distillation(weight=0.5, feature_weight=0.1), embedding_size=7)
    more = {"teacher": torch.zeros(4, CLASSES, device="cuda"), "embedding": torch.zeros(4, 7, device="cuda")}
    with NoWaiting(), torch.autocast("cuda", torch.bfloat16):
        assert module.training_step(batch(**more), 0).device.type == "cuda"


def test_scenes_are_mixed_on_the_device(fake: FakeTensorMode) -> None:
    mix = scenes("cuda")
    with NoWaiting():
        mixed = mix(range(8))
    assert {(name, str(value.dtype), value.device.type) for name, value in mixed.items()} == {
        ("waveform", "torch.int16", "cuda"),
        ("target", "torch.bool", "cuda"),
        ("teacher", "torch.float16", "cuda"),
    }


def test_validation_gives_its_scores_to_the_cpu(fake: FakeTensorMode) -> None:
    module = tagging_module("convnext_atto", True, fake).eval()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        module.validation_step(batch(), 0)
    ((clip, target, scores),) = module._validated
    assert {clip.device.type, target.device.type, scores.device.type} == {"cpu"}
    assert (scores.shape, scores.dtype) == ((4, CLASSES), torch.float32)


@pytest.mark.parametrize("dcls", [False, True])
def test_dcls_eval_scores_on_the_device(
    dcls: bool, fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From a checkpoint on disk to NumPy, by the scorer that the command uses."""

    def numpy(tensor: Tensor) -> np.ndarray:  # a fake tensor has no numbers to give
        assert tensor.device.type == "cpu", f"numpy() of a tensor on {tensor.device}"
        return np.zeros(tensor.shape, np.float32)

    def real(build: Callable[..., Any]) -> Callable[..., Any]:
        """A checkpoint is read, and folded, before the model moves to the device."""

        def built(*arguments: Any) -> Any:
            with unset_fake_temporarily():
                return build(*arguments)

        return built

    with unset_fake_temporarily():
        small = {"kernel_count": 5, "dilated_kernel_size": 7} if dcls else {}
        model = create_model("convnext_atto", dcls=dcls, num_classes=CLASSES, **small, **TRUNKS["convnext_atto"])
        save_checkpoint(tmp_path / "tagger.ckpt", model, list("abcde"), {})
    for name in ("load_checkpoint", "WaveformTagger"):
        monkeypatch.setattr(predict, name, real(getattr(predict, name)))
    # else `.to` would put a fake tensor into a real parameter
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    monkeypatch.setattr(Tensor, "numpy", numpy)
    scorer = predict.load_scorer(tmp_path / "tagger.ckpt", "cuda")
    assert scorer.score(torch.zeros(2, 32_000, dtype=torch.int16)).shape == (2, CLASSES)


def whole_steps(*arguments: str) -> list[str]:
    """What `fake_gpu_step` prints."""
    command = [sys.executable, "-m", "tests.training.fake_gpu_step", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:3000]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_whole_step_with_its_backward_pass_stays_on_the_device() -> None:
    assert whole_steps("bfloat16", "convnext_atto") == ["fault seen", "bfloat16 convnext_atto"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_whole_step_of_each_trunk_stays_on_the_device(precision: str) -> None:
    assert whole_steps(precision, *TRUNKS)[1:] == [f"{precision} {trunk}" for trunk in TRUNKS]


def test_what_is_wrong_on_a_device_is_seen(fake: FakeTensorMode) -> None:
    """The faults that these tests are for."""
    on_device = torch.zeros(3, device="cuda")
    with pytest.raises(RuntimeError, match="device"):
        on_device + torch.zeros(3)
    with pytest.raises(DataDependentOutputException):
        on_device.sum().item()
    with pytest.raises(DataDependentOutputException):
        bool(on_device.sum() > 0)
    for waits in (lambda: on_device.cpu(), lambda: torch.zeros(3).to("cuda"), lambda: on_device[[0, 1]]):
        with pytest.raises(RuntimeError, match="waits for the device"), NoWaiting():
            waits()

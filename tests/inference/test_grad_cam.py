"""Grad-CAM against its definition, and that the command draws it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from audioset_dcls.commands.inspect import main
from audioset_dcls.inference.grad_cam import THRESHOLD, class_index, grad_cam
from audioset_dcls.models import AudioTagger, create_model, save_checkpoint

CLIP = Path(__file__).parents[1] / "data" / "recordings" / "dog_bark.ogg"


@pytest.fixture(scope="module")
def model() -> AudioTagger:
    torch.manual_seed(0)
    tagger = create_model("convnext_atto", depths=[1, 1, 1, 1], dims=[8, 16, 24, 32], num_classes=3).eval()
    tagger.labels = ("Bark", "Rain", "Bell")
    return tagger


@pytest.mark.parametrize("threshold", [None, THRESHOLD])
def test_maps_are_those_of_the_definition(model: AudioTagger, threshold: float | None) -> None:
    """Computed with hooks and a backward pass through the whole model, as the authors' code does."""
    log_mel = torch.randn(1, 1, 128, 320)
    maps: list[torch.Tensor] = []

    def keep(module: nn.Module, arguments: object, output: torch.Tensor) -> None:
        output.retain_grad()
        maps.append(output)

    handle = model.trunk.stages.register_forward_hook(keep)
    model(log_mel)[0, 1].backward()
    handle.remove()
    model.zero_grad()
    weighted = (maps[0][0] * maps[0].grad[0].mean((1, 2), keepdim=True)).detach()
    if threshold is None:
        heat = weighted.mean(0).relu()
        heat = heat / heat.max()
    else:
        heat = weighted.relu().mean(0)
        heat = ((heat - heat.min()) / (heat.max() - heat.min())).clamp(min=threshold)
    larger = torch.nn.functional.interpolate(heat[None, None], size=(128, 320), mode="bilinear")[0, 0]
    found = grad_cam(model, log_mel, 1, threshold)
    assert found.shape == (128, 320)
    assert found.std() > 0.01
    np.testing.assert_allclose(found, larger, atol=1e-5)  # float32, sums in another order


def test_a_class_by_name(model: AudioTagger) -> None:
    log_mel = torch.randn(1, 1, 128, 320)
    assert class_index(model, log_mel, "rain") == 1
    with torch.inference_mode():
        assert class_index(model, log_mel, None) == int(model(log_mel).argmax())
    with pytest.raises(ValueError, match="'Wind' is no class"):
        class_index(model, log_mel, "Wind")


def test_the_command_draws_it(model: AudioTagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "small.ckpt", model)
    arguments = [str(tmp_path / "small.ckpt"), "--grad-cam", str(CLIP), "--class", "bell", "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["dcls-inspect", *arguments])
    main()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["grad_cam.png"]
    assert np.asarray(Image.open(tmp_path / "out" / "grad_cam.png").convert("L")).std() > 1
    monkeypatch.setattr(sys, "argv", ["dcls-inspect", *arguments[:3], "--class", "Wind"])
    with pytest.raises(SystemExit, match="dcls-inspect: 'Wind' is no class of this model"):
        main()

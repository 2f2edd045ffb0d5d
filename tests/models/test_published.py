"""The six published models: files in their format give the authors' own numbers, as loaded, folded and merged."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from DCLS.construct.modules import Dcls2d as ReferenceDcls2d

from audioset_dcls.dcls import dcls_layers, fold
from audioset_dcls.models import load_checkpoint, reparameterize
from audioset_dcls.models.published import convert_published, is_published, published_config
from tests.models import stand_ins

TOLERANCE = 1e-4  # absolute, on logits of up to 4.8


@pytest.mark.parametrize(
    "name",
    [
        name if name == "convnext_dcls_audio_tiny" else pytest.param(name, marks=pytest.mark.slow)
        for name in stand_ins.MODELS
    ],
)
def test_logits_equal_the_authors(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.pth"
    # what DCLS-Audio's training script writes beside the weights
    torch.save({"model": stand_ins.state_dict(name), "epoch": 59, "args": argparse.Namespace(lr=4e-3)}, file)
    model = load_checkpoint(file)
    log_mel, expected = stand_ins.spectrogram_like(2), stand_ins.reference_logits(name)

    assert model.labels is not None
    assert model.labels[0] == "Speech"
    assert bool(list(dcls_layers(model))) == ("dcls" in name)
    with torch.inference_mode():
        np.testing.assert_allclose(model(log_mel), expected, rtol=0, atol=TOLERANCE)
        log_mel, expected = log_mel[:1], expected[:1]
        if "dcls" in name:
            fold(model)
            assert not list(dcls_layers(model))
            np.testing.assert_allclose(model(log_mel), expected, rtol=0, atol=TOLERANCE)
        if "fastvit" in name:
            before = sum(parameter.numel() for parameter in model.parameters())
            reparameterize(model)
            assert sum(parameter.numel() for parameter in model.parameters()) < before
            np.testing.assert_allclose(model(log_mel), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", stand_ins.MODELS)
def test_config_is_read_from_keys_and_shapes(name: str) -> None:
    state_dict = {key: torch.empty(shape) for key, shape, _ in stand_ins.entries()[name]}
    config = published_config(state_dict)
    trunk = {"convnext": "convnext_tiny", "convformer": "convformer_s18", "fastvit": "fastvit_sa24"}
    assert config["name"] == trunk[name.split("_")[0]]
    assert config["dcls"] == ("dcls" in name)
    assert config["num_classes"] == 527
    assert config.get("kernel_count") == (26 if "dcls" in name else None)


def test_positions_of_time_and_frequency_change_places() -> None:
    state_dict = stand_ins.state_dict("convnext_dcls_audio_tiny")
    converted = convert_published(state_dict)
    key, new_key = "stages.1.2.dwconv", "trunk.stages.1.blocks.2.conv_dw"
    assert torch.equal(converted[f"{new_key}.positions"][0], state_dict[f"{key}.P"][1])
    assert torch.equal(converted[f"{new_key}.positions"][1], state_dict[f"{key}.P"][0])
    assert torch.equal(converted[f"{new_key}.deviations"][0], state_dict[f"{key}.SIG"][1])
    assert torch.equal(converted[f"{new_key}.weight"], state_dict[f"{key}.weight"])


def test_positions_without_widths_are_those_of_convnext_dcls_audio_tiny17(tmp_path: Path) -> None:
    """17 x 17, 34 elements, version "v0" of dcls, whose row 0 is the kernel's first axis: a stand-in of its format."""
    generator = torch.Generator().manual_seed(0)
    given, state_dict = stand_ins.state_dict("convnext_dcls_audio_tiny"), {}
    for key, value in given.items():
        elements = f"{key.rpartition('.')[0]}.P" in given
        if key.endswith(".SIG"):
            continue
        if elements and not key.endswith(".bias"):
            value = torch.rand(*value.shape[:-1], 34, generator=generator) - 0.5
        state_dict[key] = value
    torch.save({"model": state_dict}, tmp_path / "convnext_dcls_audio_tiny17.pth")
    model = load_checkpoint(tmp_path / "convnext_dcls_audio_tiny17.pth")
    assert (model.config["kernel_count"], model.config["dilated_kernel_size"]) == (34, 17)
    assert model.config["interpolation"] == "bilinear"
    layer = model.trunk.stages[0].blocks[0].conv_dw
    theirs = ReferenceDcls2d(96, 96, 34, padding=8, dilated_kernel_size=17, groups=96, version="v0")
    names = ("weight", "P", "bias")
    theirs.load_state_dict({name: state_dict[f"stages.0.0.dwconv.{name}"] for name in names})
    x = torch.randn(1, 96, 20, 12, generator=generator)
    torch.testing.assert_close(layer(x), theirs(x), rtol=0, atol=1e-5)


def test_positions_that_differ_within_a_stage_are_not_shared() -> None:
    state_dict = stand_ins.state_dict("convnext_dcls_audio_tiny")
    assert published_config(state_dict)["share_positions"] is True
    state_dict["stages.0.1.dwconv.P"] = state_dict["stages.0.1.dwconv.P"] + 1
    assert published_config(state_dict)["share_positions"] is False


def test_other_state_dicts_are_not_taken_for_published_ones() -> None:
    assert not is_published({"stem.0.weight": torch.zeros(1)})
    with pytest.raises(KeyError):
        convert_published({})

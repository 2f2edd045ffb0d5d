"""EfficientAT's MobileNets: its authors' files load, mn04 gives their numbers, DCLS starts from its kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.export.onnx import export
from audioset_dcls.models import CheckpointError, create_model, load_checkpoint, save_checkpoint
from audioset_dcls.models.efficientat import convert_efficientat
from audioset_dcls.tagging.session import OnnxModel
from preprocessing.audio import read_audio
from preprocessing.constants import EFFICIENTAT_LOG_MEL
from preprocessing.log_mel import LogMel

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
SHARED = Path(__file__).parents[3] / "shared"  # the authors' weights and numbers, where this project is developed
WEIGHTS = SHARED / "corpus" / "teacher" / "mn04_as_mAP_432.pt"


def loud(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def published(num_classes: int = 527) -> dict[str, Tensor]:
    """A state dict in the authors' format, of an mn04 with random weights, whose norms suit them: scores differ."""
    torch.manual_seed(0)
    model = create_model("efficientat_mn04", dcls=False, num_classes=num_classes)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.inference_mode():
        model.train()(LogMel(EFFICIENTAT_LOG_MEL)(loud(4, 160_000)))
    renamed = {}
    for key, value in model.trunk.state_dict().items():
        if ".fc1." in key or ".fc2." in key:
            block, _, rest = key.rpartition(".fc")
            key, value = f"{block}.conc_se_layers.0.fc{rest}", value.flatten(1) if value.ndim == 4 else value
        elif key.startswith("classifier."):
            _, index, leaf = key.split(".")
            key = f"classifier.{int(index) + 2}.{leaf}"
        renamed[key] = value
    return renamed


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "mn04.pt"
    torch.save(published(), path)
    return path


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the authors' weights are not part of the project")
def test_mn04_gives_its_authors_numbers() -> None:
    """Logits and embeddings within 1e-4 of those computed by the authors' code, on whole clips of all lengths.

    Recordings shorter than 5 s are continued with silence here; `forward_features` of the trunk itself hears them as
    they are, as the authors' code does.
    """
    expected = np.load(SHARED / "reference" / "efficientat_mn04.npz")
    model = load_checkpoint(WEIGHTS)
    names = ["cat_meow.voc", "rooster.ogg", "thunder.wav", "helicopter.ogg"]
    for name in names:
        log_mel = LogMel(model.log_mel_settings)(torch.from_numpy(read_audio(RECORDINGS / name))[None])
        with torch.inference_mode():
            features = model.trunk.forward_features(log_mel)
            logits, embedding = model.trunk.forward_head(features), model.trunk.forward_head(features, pre_logits=True)
        np.testing.assert_allclose(logits[0], expected[f"{name}.logits"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(embedding[0], expected[f"{name}.embedding"], atol=1e-4, rtol=0)


def test_a_published_file_loads(file: Path) -> None:
    state_dict = torch.load(file, weights_only=True)
    model = load_checkpoint(file)
    assert model.config["name"] == "efficientat_mn04"
    assert model.log_mel_settings == EFFICIENTAT_LOG_MEL
    assert model.labels is not None
    assert model.labels[0] == "Speech"
    assert sum(parameter.numel() for parameter in model.parameters()) == 983_599  # mn04_as of the authors has as many
    assert torch.equal(model.classifier.bias, state_dict["classifier.5.bias"])
    assert model.state_dict().keys() == convert_efficientat(state_dict).keys()
    assert model(loud(2, 1, 128, 1000)).shape == (2, 527)
    assert model.embed(loud(2, 1, 128, 1000)).shape == (2, model.num_features)


def test_a_file_of_an_unknown_width(tmp_path: Path, file: Path) -> None:
    state_dict = torch.load(file, weights_only=True) | {"classifier.2.weight": torch.zeros(512, 385)}
    torch.save(state_dict, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no width of EfficientAT's MobileNets has 385 channels"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize("share", [False, True])
def test_dcls_starts_from_the_kernels(file: Path, share: bool) -> None:
    """Logits within 5 % of their spread, 2.3 % measured: of its weight, the Gauss has 1e-3 in the next cells."""
    plain = load_checkpoint(file)
    torch.manual_seed(0)
    model = create_model("efficientat_mn04", pretrained=str(file), dilated_kernel_size=11, share_positions=share).eval()
    layers = list(dcls_layers(model))
    assert [layer.kernel_count for layer in layers].count(9) == 9  # 3 x 3
    assert [layer.kernel_count for layer in layers].count(25) == 6  # 5 x 5
    assert len({id(layer.positions) for layer in layers}) == (12 if share else 15)  # one a width and kernel size
    with torch.inference_mode():
        log_mel = loud(2, 1, 128, 600)
        expected, logits = plain(log_mel), model(log_mel)
    assert (logits - expected).abs().max() < 0.05 * expected.std()
    assert create_model("efficientat_mn04").trunk.features[1].block[0][0].weight.std() > 0  # and from nothing


def test_other_classes_get_a_new_classifier(file: Path) -> None:
    model = create_model("efficientat_mn04", dcls=False, pretrained=str(file), num_classes=3)
    old = load_checkpoint(file)
    assert model.classifier.out_features == 3
    assert torch.equal(model.trunk.features[5].block[0][0].weight, old.trunk.features[5].block[0][0].weight)
    old.reset_classifier(4)
    assert old(loud(1, 1, 128, 600)).shape == (1, 4)


def test_saved_and_loaded(file: Path, tmp_path: Path) -> None:
    model = create_model("efficientat_mn04", pretrained=str(file), dilated_kernel_size=7).eval()
    save_checkpoint(tmp_path / "own.safetensors", model)
    again = load_checkpoint(tmp_path / "own.safetensors")
    assert again.config == model.config
    assert torch.equal(again(loud(1, 1, 128, 600)), model(loud(1, 1, 128, 600)))


@pytest.mark.parametrize("samples", [1, 513, 514, 3_000, 159_680, 159_681, 400_000])
def test_exported_scores_equal_torchs(file: Path, tmp_path: Path, samples: int) -> None:
    """Within 1e-4, whatever the length: 159,680 samples are 499 frames, one less than clips are filled to."""
    model = create_model("efficientat_mn04", pretrained=str(file), dilated_kernel_size=11).eval()
    exported = OnnxModel(export(model, tmp_path / "mn04.onnx").path)
    assert exported.log_mel_settings == EFFICIENTAT_LOG_MEL
    waveform = loud(2, samples)
    with torch.inference_mode():
        log_mel = LogMel(model.log_mel_settings)(waveform)
        assert log_mel.shape == (2, 1, 128, 1 + max(samples - 1, 0) // 320)
        expected = model(log_mel).sigmoid()
    scores, ours = exported.run(waveform.numpy(), ["scores", "log_mel"])
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.03  # parity of constants would prove nothing
    assert ours.shape[-1] == max(500, log_mel.shape[-1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depths": [1, 1, 1, 1]}, "takes no depths"),
        ({"log_mel": {"hop": 160}}, "log_mel.hop is unknown"),
        ({"log_mel": {"window": 2048}}, "from 16 to 1,024"),
        ({"log_mel": {"std": 0}}, "log_mel.std"),
        ({"log_mel": {"f_min": 9000, "f_max": 8000}}, "not below"),
        ({"log_mel": [1]}, "no dictionary"),
    ],
)
def test_options_out_of_bounds(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create_model("efficientat_mn04", **options)

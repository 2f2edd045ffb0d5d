"""EfficientAT's MobileNets: its authors' files load and give their numbers, DCLS starts from mn04's kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.export.onnx import export
from audioset_dcls.models import AudioTagger, CheckpointError, create_model, load_checkpoint, save_checkpoint
from audioset_dcls.models.dynamic_mobilenet import convert_dynamic
from audioset_dcls.models.efficientat import convert_efficientat
from audioset_dcls.tagging.session import OnnxModel
from preprocessing.audio import read_audio
from preprocessing.constants import EFFICIENTAT_LOG_MEL
from preprocessing.log_mel import LogMel
from tests.models import stand_ins

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
SHARED = Path(__file__).parents[3] / "shared"  # the authors' weights and numbers, where this project is developed
WEIGHTS = SHARED / "corpus" / "teacher" / "mn04_as_mAP_432.pt"


def loud(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def fading(count: int, samples: int) -> Tensor:
    """Waveforms of noise, each fainter than the one before."""
    return loud(count, samples) * 0.3 ** torch.arange(count)[:, None]


def random_model(name: str) -> AudioTagger:
    """A network with random weights, whose norms suit them for clips of any length: scores differ."""
    torch.manual_seed(0)
    model = create_model(name, dcls=False)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.inference_mode():
        whole, short = fading(3, 160_000), F.pad(fading(3, 513), (0, 160_000 - 513))
        model.train()(LogMel(EFFICIENTAT_LOG_MEL)(torch.cat([whole, short])))
    return model.eval()


def published(name: str = "efficientat_mn04") -> dict[str, Tensor]:
    """The state dict of a random network in the authors' format."""
    renamed = {}
    for key, value in random_model(name).trunk.state_dict().items():
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


@pytest.mark.parametrize("name", stand_ins.EFFICIENTAT)
def test_logits_equal_the_authors(name: str, tmp_path: Path) -> None:
    """Within 1e-4 of what the authors' code gives with stand-in numbers: 3e-6 measured on mn04's logits of up to 6.7,
    3e-7 on dymn04's, which differ by 0.06 between the two inputs."""
    torch.save(stand_ins.efficientat_state_dict(name), tmp_path / f"{name}.pt")
    model = load_checkpoint(tmp_path / f"{name}.pt")
    assert model.config["name"] == f"efficientat_{name.removesuffix('_as')}"
    with torch.inference_mode():
        logits = model(stand_ins.spectrogram_like(2))
    np.testing.assert_allclose(logits, stand_ins.reference_logits(name), atol=1e-4, rtol=0)


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


def test_exported_scores_equal_torchs(file: Path, tmp_path: Path) -> None:
    """Within 1e-4, whatever the length: 159,680 samples are 499 frames, one less than clips are filled to."""
    model = create_model("efficientat_mn04", pretrained=str(file), dilated_kernel_size=11).eval()
    exported = OnnxModel(export(model, tmp_path / "mn04.onnx").path)
    assert exported.log_mel_settings == EFFICIENTAT_LOG_MEL
    for samples in (1, 513, 514, 3_000, 159_680, 159_681, 400_000):
        waveform = loud(2, samples)
        with torch.inference_mode():
            log_mel = LogMel(model.log_mel_settings)(waveform)
            assert log_mel.shape == (2, 1, 128, 1 + max(samples - 1, 0) // 320)
            expected = model(log_mel).sigmoid()
        scores, ours = exported.run(waveform.numpy(), ["scores", "log_mel"])
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0, err_msg=f"{samples} samples")
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


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "dymn04.pt"
    torch.save(stand_ins.efficientat_state_dict("dymn04_as"), path)
    return path


def test_a_dynamic_network_loads(dynamic: Path) -> None:
    state_dict = torch.load(dynamic, weights_only=True)
    model = load_checkpoint(dynamic)
    assert model.log_mel_settings == EFFICIENTAT_LOG_MEL
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_961_239  # the authors' dymn04 has as many
    assert model.state_dict().keys() == convert_dynamic(state_dict).keys()
    assert model.embed(loud(2, 1, 128, 1000)).shape == (2, model.num_features)
    started = create_model("efficientat_dymn04", dcls=False, pretrained=str(dynamic))
    assert started.metadata["starts_from"] == "efficientat_dymn04"
    other = create_model("efficientat_dymn04", dcls=False, pretrained=str(dynamic), num_classes=3)
    assert other.classifier.out_features == 3
    assert torch.equal(other.trunk.features[5].depthwise.weight, model.trunk.features[5].depthwise.weight)


def test_a_dynamic_network_mixes_kernels_clip_by_clip() -> None:
    """A clip's scores are the same alone and in a batch, in which each clip has kernels of its own."""
    model = random_model("efficientat_dymn04")
    log_mel = LogMel(EFFICIENTAT_LOG_MEL)(fading(2, 160_000))
    with torch.inference_mode():
        together, apart = model(log_mel), torch.cat([model(clip[None]) for clip in log_mel])
    assert (together[0] - together[1]).abs().max() > 0.1
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_dynamic_network_exports(tmp_path: Path) -> None:
    """Within 1e-4 of torch's scores (2e-5 measured), alone and in a batch of other clips, of all lengths."""
    model = random_model("efficientat_dymn04")
    exported = OnnxModel(export(model, tmp_path / "dymn04.onnx").path)
    for samples in (513, 159_681, 250_000):
        waveform = fading(3, samples)
        with torch.inference_mode():
            expected = model(LogMel(model.log_mel_settings)(waveform)).sigmoid()
        np.testing.assert_allclose(exported.run(waveform.numpy())[0], expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(exported.run(waveform[:1].numpy())[0], expected[:1], atol=1e-4, rtol=0)
    assert (expected[0] - expected[2]).abs().max() > 0.03


def test_a_dynamic_network_has_no_kernels_for_dcls() -> None:
    with pytest.raises(ValueError, match="efficientat_dymn04 has no depthwise convolutions for DCLS to replace"):
        create_model("efficientat_dymn04")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("layers.3.exp_conv.weight", torch.zeros(1, 1, 4, 7), r"layers\.3\.exp_conv\.weight of shape \(1, 1, 4, 7\)"),
        ("layers.3.depth_conv.weight", torch.zeros(1, 1, 4, 32 * 24), "layers.3.depth_conv.weight of shape"),
        ("layers.3.depth_act.lambdas", torch.ones(4), r"layers\.3\.depth_act\.lambdas is not \[1\.0, 1\.0, 0\.5"),
        ("layers.3.proj_conv.weight", None, r"1 missing \(trunk\.features\.4\.project\.weight\)"),
        ("layers.3.exp_conv.weight", torch.zeros(1).expand(1, 1, 4, 2**50), "is larger than what the file holds of it"),
        ("layers.3.depth_act.lambdas", torch.zeros(1).expand(2**50), "is larger than what the file holds of it"),
        ("layers.3.proj_norm.weight", None, r"it has no entry 'layers\.3\.proj_norm\.weight'"),
    ],
)
def test_a_damaged_dynamic_network(dynamic: Path, tmp_path: Path, key: str, value: Tensor | None, said: str) -> None:
    state_dict = torch.load(dynamic, weights_only=True)
    del state_dict[key]
    torch.save(state_dict | ({} if value is None else {key: value}), tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError, match=r"damaged\.pt: "):
        create_model("efficientat_dymn04", dcls=False, pretrained=str(tmp_path / "damaged.pt"))

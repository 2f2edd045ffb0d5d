"""The exported file computes what the model computes, and says what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from audioset_dcls.export.onnx import export, fingerprint
from audioset_dcls.models.checkpoint import load_checkpoint
from audioset_dcls.models.trunks import AudioTagger, create_model
from audioset_dcls.tagging.session import ModelError, OnnxModel
from audioset_dcls.tagging.tagger import open_model
from preprocessing.audio import read_audio
from preprocessing.log_mel import LogMel
from tests.conftest import RECORDINGS, exact_log_mel, first_labels


def scores_of(model: AudioTagger, waveforms: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(LogMel()(waveforms)).sigmoid().numpy()


def test_parity_with_torch_on_real_clips(tmp_path: Path) -> None:
    """From one log-mel, scores within 1e-4 of the DCLS model's (neither folded nor traced).

    From the waveform, about as far from the scores of a float64 log-mel as torch's own log-mel is: in bands 80 dB below
    the loudest all float32 spectrograms round, torch's too, which a sharp network shows (explosion.wav: 9e-4). Which of
    the two rounds more depends on the CPU: their largest errors may differ by a factor of 2.
    The classifier is random, with logits of deviation 2 around 0 over the recordings: scores from 0.02 to 0.98.
    """
    torch.manual_seed(0)
    model = create_model("convnext_atto").eval()
    waveforms = [torch.from_numpy(read_audio(RECORDINGS / file)[None]) for file in first_labels()]
    with torch.no_grad():
        features = torch.cat([model.embed(LogMel()(waveform)) for waveform in waveforms])
        classifier = model.trunk.head.fc
        classifier.weight.normal_()
        classifier.weight *= 2 / ((features - features.mean(0)) @ classifier.weight.T).std()
        classifier.bias.copy_(-features.mean(0) @ classifier.weight.T)
    exported = OnnxModel(export(model, tmp_path / "tagger.onnx").path)
    ours, torchs, expected = [], [], []
    for waveform in waveforms:
        scores, embedding, log_mel = exported.run(waveform.numpy(), ["scores", "embedding", "log_mel"])
        with torch.no_grad():
            same = model(torch.from_numpy(log_mel)).sigmoid().numpy()
            features = model.embed(torch.from_numpy(log_mel)).numpy()
            expected.append(model(exact_log_mel(waveform).float()).sigmoid().numpy())
        np.testing.assert_allclose(scores, same, atol=1e-4, rtol=0)
        np.testing.assert_allclose(embedding, features, atol=1e-4 * np.abs(features).max(), rtol=0)
        ours.append(np.abs(scores - expected[-1]).max())
        torchs.append(np.abs(scores_of(model, waveform) - expected[-1]).max())
    assert np.min(expected) < 0.05
    assert np.max(expected) > 0.95  # parity of constants would prove nothing
    assert max(ours) <= max(1e-4, 2 * max(torchs))


@pytest.mark.parametrize(
    ("batch", "samples"), [(1, 1), (2, 3_000), (3, 40_639), (1, 40_641), (2, 320_000), (1, 700_001)]
)
def test_batch_and_length_are_dynamic(checkpoint: Path, tagger_file: Path, batch: int, samples: int) -> None:
    """Also below an FFT (513) and below the trunk's stride (128 frames); traced at 3 s, so longer maps are tested."""
    waveforms = 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(samples))
    (scores,) = OnnxModel(tagger_file).run(waveforms.numpy())
    np.testing.assert_allclose(scores, scores_of(load_checkpoint(checkpoint), waveforms), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_reparameterised_fastvit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("fastvit_t8", num_classes=3).eval()
    model.labels = ("a", "b", "c")
    for module in model.modules():  # statistics that a merged batch norm could get wrong
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = export(model, tmp_path / "fastvit.onnx").path
    waveforms = 0.1 * torch.randn(2, 64_000)
    scores, log_mel = OnnxModel(path).run(waveforms.numpy(), ["scores", "log_mel"])
    np.testing.assert_allclose(scores, scores_of(model, waveforms), atol=1e-4, rtol=0)
    assert log_mel.shape == (2, 1, 128, 201)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "export changed the model"


def test_metadata(tagger_file: Path, checkpoint: Path) -> None:
    exported = OnnxModel(tagger_file)
    assert exported.sample_rate == 32_000
    assert exported.labels == load_checkpoint(checkpoint).labels
    assert exported.metadata["license"] == "MIT"
    assert exported.metadata["scores"] == {"mAP": 0.5}
    assert exported.metadata["threshold"] == 0.2
    assert exported.metadata["model"]["name"] == "convnext_atto"
    onnx.checker.check_model(onnx.load(tagger_file))


def test_float16_halves_the_file(checkpoint: Path, tagger_file: Path, tmp_path: Path) -> None:
    clips = [RECORDINGS / "dog_bark.ogg", RECORDINGS / "cow.ogg"]
    written = export(load_checkpoint(checkpoint), tmp_path / "half.onnx", "float16", clips)
    assert written.path.stat().st_size < 0.56 * tagger_file.stat().st_size
    assert written.loss is not None
    assert 0 < written.loss.largest < 0.02
    full, half = (OnnxModel(path).run(read_audio(clips[0])[None])[0] for path in (tagger_file, written.path))
    assert 0 < np.abs(full - half).max() <= written.loss.largest


def test_int8_quarters_the_file(checkpoint: Path, tagger_file: Path, tmp_path: Path) -> None:
    """Besides the log-mel's own matrices, which stay as they are. Each weight is within half a step of its channel's
    largest: 1/254 of it; over the whole network the scores move by 0.03 at most here (0.013 measured)."""
    clips = [RECORDINGS / file for file in first_labels()][:4]
    written = export(load_checkpoint(checkpoint), tmp_path / "int8.onnx", "int8", clips)
    kept = sum(
        numpy_helper.to_array(tensor).nbytes
        for tensor in onnx.load(tagger_file).graph.initializer
        if tensor.name.startswith("log_mel.")
    )
    assert written.path.stat().st_size - kept < 0.3 * (tagger_file.stat().st_size - kept)
    assert written.loss is not None
    assert written.loss.windows == 4
    assert 0 < written.loss.largest < 0.03
    exported = OnnxModel(written.path)
    assert exported.metadata["precision"] == "int8"
    assert exported.metadata["precision_loss"]["mean"] == pytest.approx(written.loss.mean)
    assert not list(tmp_path.glob(".*")), "scratch files are left"


def test_what_cannot_be_exported(checkpoint: Path, tmp_path: Path) -> None:
    model = load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match=r"int4.*float32, float16, int8"):
        export(model, tmp_path / "a.onnx", "int4")
    with pytest.raises(ValueError, match="names none of its 3 classes"):
        export(create_model("convnext_atto", num_classes=3), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_checkpoints_are_exported_into_the_cache_once(
    checkpoint: Path, tagger_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = open_model(checkpoint)
    written = first.path.stat().st_mtime_ns
    assert first.path.is_relative_to(tmp_path)
    assert open_model(checkpoint).path.stat().st_mtime_ns == written
    waveform = read_audio(RECORDINGS / "duck.ogg")[None]
    assert np.array_equal(first.run(waveform)[0], OnnxModel(tagger_file).run(waveform)[0])


def test_fingerprint_tells_weights_and_labels_apart(checkpoint: Path) -> None:
    model, other, renamed = (load_checkpoint(checkpoint) for _ in range(3))
    assert fingerprint(model) == fingerprint(other)
    with torch.no_grad():
        other.trunk.head.fc.bias[0] += 1
    renamed.labels = tuple(reversed(renamed.labels or ()))
    assert len({fingerprint(model), fingerprint(other), fingerprint(renamed)}) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.onnx", None, "no such file"),
        ("empty.onnx", b"", "no ONNX model"),
        ("text.onnx", b"<html>not found</html>", "no ONNX model"),
        ("pointer.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("cut.onnx", "half", "no ONNX model"),
        ("missing.ckpt", None, "no such file"),
        ("text.ckpt", b"hello", "no checkpoint"),
    ],
)
def test_model_files_that_are_none(
    name: str, content: bytes | str | None, message: str, tmp_path: Path, tagger_file: Path
) -> None:
    path = tmp_path / name
    if content == "half":
        path.write_bytes(tagger_file.read_bytes()[: tagger_file.stat().st_size // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as error:
        open_model(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_onnx_file_of_something_else(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value: Callable[[str], onnx.ValueInfoProto] = lambda name: onnx.helper.make_tensor_value_info(name, 1, [1])  # noqa: E731
    graph = onnx.helper.make_graph([node], "other", [value("x")], [value("y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="not a tagger: it lacks an input"):
        open_model(tmp_path / "other.onnx")

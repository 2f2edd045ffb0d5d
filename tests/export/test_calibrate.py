"""Finishing a tagger: scores mean more on recordings it was not fitted on, and what it never learned is silent."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audioset_dcls.commands.export import export, read_facts
from audioset_dcls.evaluation.calibration import calibration_error, fit_calibration, log_loss
from audioset_dcls.export.calibrate import calibrate_model, score
from audioset_dcls.models.checkpoint import load_checkpoint, save_checkpoint
from audioset_dcls.models.trunks import AudioTagger, create_model
from audioset_dcls.tagging.selection import read_thresholds
from audioset_dcls.tagging.session import OnnxModel
from preprocessing.clips.layout import ClipFileError, to_int16
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from tests.conftest import Here

LABELS = tuple("abcdef")  # "f" has no training data
SAMPLES = 16_000


def write(path: Path, count: int, seed: int) -> Path:
    """Tones, a class each, of 0.2 to 0.5 s in noise that often hides them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6_400, SAMPLES + 1, count)
    waveforms, target = np.zeros((count, SAMPLES), np.int16), np.zeros((count, len(LABELS)), bool)
    for clip, length in enumerate(lengths):
        time = np.arange(length) / 32_000
        sound = 0.1 * rng.standard_normal(length)
        for index in rng.permutation(5)[: rng.integers(0, 3)]:
            sound += 10 ** rng.uniform(-3, -1) * np.sin(2 * np.pi * 300 * 2**index * time)
            target[clip, index] = True
        waveforms[clip, :length] = to_int16(sound)
    with ClipWriter(path, LABELS, samples=SAMPLES) as writer:
        writer.append([f"{path.stem}{clip}" for clip in range(count)], waveforms, target)
        writer.finish({"samples": lengths.astype(np.int32)})
    return path


def targets_of(file: ClipFile) -> np.ndarray:
    return file.read("target", np.arange(len(file)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {name: write(folder / f"{name}.h5", 150, seed) for seed, name in enumerate(("train", "validation", "test"))}


@pytest.fixture(scope="module")
def model(data: dict[str, Path]) -> AudioTagger:
    """Random features with a classifier solved on the training clips: it overfits, so it is too sure of itself."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 128], "kernel_count": 5, "dilated_kernel_size": 7}
    model = create_model("convnext_atto", num_classes=6, **small)
    model.labels = LABELS
    train = ClipFile(data["train"])
    model.trunk.head.fc = torch.nn.Identity()
    features = torch.from_numpy(score(model, [train])).double()
    mean, deviation = features.mean(0), features.std(0)
    standardised = torch.cat([(features - mean) / deviation, torch.ones(len(features), 1)], 1)
    wanted = torch.from_numpy(np.where(targets_of(train), 6.0, -6.0))
    gram = standardised.T @ standardised + 1e-3 * len(features) * torch.eye(standardised.shape[1])
    solved = torch.linalg.solve(gram, standardised.T @ wanted)
    classifier = torch.nn.Linear(128, 6)
    with torch.no_grad():
        classifier.weight.copy_((solved[:-1] / deviation[:, None]).T)
        classifier.bias.copy_(solved[-1] - (mean / deviation) @ solved[:-1])
        classifier.bias[5] = 1.0  # as if it heard "f" everywhere
    model.trunk.head.fc = classifier
    model.metadata = {"train_class_clips": [9, 9, 9, 9, 5, 0], "train_class_sources": [3] * 5 + [0], "note": "kept"}
    return model.eval()


def test_scores_mean_more_on_recordings_it_was_not_fitted_on(model: AudioTagger, data: dict[str, Path]) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    finished = calibrate_model(model, [data["validation"]])
    test = ClipFile(data["test"])
    raw, calibrated = score(model, [test]).astype(float), score(finished, [test]).astype(float)
    trained = slice(0, 5)
    target = targets_of(test)[:, trained]
    assert log_loss(target, calibrated[:, trained]) < 0.8 * log_loss(target, raw[:, trained])
    errors = [calibration_error(target, 1 / (1 + np.exp(-logits[:, trained]))) for logits in (raw, calibrated)]
    assert errors[1] < 0.5 * errors[0]
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)  # a copy was finished


def test_classes_without_training_data_are_silent(model: AudioTagger, data: dict[str, Path]) -> None:
    finished = calibrate_model(model, [data["validation"]])
    assert finished.metadata["masked"] == ["f"]
    assert finished.metadata["note"] == "kept"
    loud = torch.randn(4, 1, 128, 200, generator=torch.Generator().manual_seed(0)) * 5
    with torch.no_grad():
        scores, were = finished(loud).sigmoid(), model(loud).sigmoid()
    assert scores[:, 5].max() < 1e-8 < 0.1 < were[:, 5].max()


def test_fitted_to_the_scores_of_another(model: AudioTagger, data: dict[str, Path]) -> None:
    """The temperature and biases are those of the judge; a class that it has not learned gets the shared bias."""
    judge = copy.deepcopy(model)
    with torch.no_grad():
        judge.classifier.weight.div_(2)
        judge.classifier.bias.div_(2)
    own, judged = calibrate_model(model, [data["validation"]]), calibrate_model(model, [data["validation"]], (), judge)
    temperature = own.metadata["calibration"]["temperature"]
    assert judged.metadata["calibration"]["temperature"] == pytest.approx(temperature / 2, rel=1e-4)
    torch.testing.assert_close(judged.classifier.weight, own.classifier.weight * 2, rtol=1e-4, atol=1e-6)
    judge.metadata = {"train_class_clips": [9, 9, 9, 9, 4, 0], "train_class_sources": [3, 3, 3, 3, 3, 0]}
    with torch.no_grad():
        judge.classifier.bias[4] = 30.0  # nobody asks
    unlearned = calibrate_model(model, [data["validation"]], (), judge)
    assert unlearned.metadata["masked"] == ["f"]
    biases = unlearned.classifier.bias - model.classifier.bias / unlearned.metadata["calibration"]["temperature"]
    assert biases[:4].min() < biases[4] < biases[:4].max()


def test_a_tagger_to_start_from_lends_the_classes_that_it_knows(model: AudioTagger, data: dict[str, Path]) -> None:
    """Whatever the counts of the clips say that it was trained on further; but clips that are given count."""
    started = copy.deepcopy(model)
    started.metadata = model.metadata | {"starts_from": "efficientat_mn04"}
    assert calibrate_model(started, [data["validation"]]).metadata["masked"] == []
    started.metadata["masked"] = ["c"]
    assert calibrate_model(started, [data["validation"]]).metadata["masked"] == ["c"]
    assert "f" in calibrate_model(started, [data["validation"]], [data["train"]]).metadata["masked"]


@pytest.mark.parametrize(
    ("clips", "sources", "masked"),
    [
        ([5] * 6, [3] * 6, []),
        ([5, 4, 5, 5, 5, 5], [3, 3, 3, 3, 3, 3], ["b"]),
        ([5, 900, 5, 5, 5, 5], [3, 2, 3, 3, 3, 3], ["b"]),
        ([0, 5, 5, 5, 5, 4], [0, 5, 5, 5, 5, 4], ["a", "f"]),
    ],
)
def test_five_clips_of_three_sources_let_a_class_fire(
    clips: list[int], sources: list[int], masked: list[str], model: AudioTagger, data: dict[str, Path]
) -> None:
    told = copy.deepcopy(model)
    told.metadata = {"train_class_clips": clips, "train_class_sources": sources}
    finished = calibrate_model(told, [data["validation"]])
    assert finished.metadata["masked"] == masked
    silent = np.isin(LABELS, masked)
    scores = 1 / (1 + np.exp(-score(finished, [ClipFile(data["test"])]).max(axis=0)))
    assert (scores[silent] < 1e-8).all()
    assert (scores[~silent] > 0.01).all()


def test_all_masked_is_an_error(model: AudioTagger, data: dict[str, Path]) -> None:
    untrained = copy.deepcopy(model)
    untrained.metadata = {"train_class_clips": [4] * 6, "train_class_sources": [2] * 6}
    with pytest.raises(ValueError, match="no class has 5 training clips of 3 sources"):
        calibrate_model(untrained, [data["validation"]])


@pytest.mark.slow
def test_several_files_calibrate_together(model: AudioTagger, data: dict[str, Path]) -> None:
    """As if the clips of both lay in one file: the same logits and targets, so the same temperature."""
    joined = calibrate_model(model, [data["validation"], data["test"]]).metadata["calibration"]
    files = [ClipFile(data["validation"]), ClipFile(data["test"])]
    targets, logits = np.concatenate([targets_of(file) for file in files])[:, :5], score(model, files)[:, :5]
    assert (joined["clips"], joined["data"]) == (300, ["validation.h5", "test.h5"])
    assert joined["temperature"] == pytest.approx(fit_calibration(targets, logits).temperature, rel=1e-9)
    assert joined["temperature"] != calibrate_model(model, [data["validation"]]).metadata["calibration"]["temperature"]


def test_files_tell_what_was_trained(model: AudioTagger, data: dict[str, Path]) -> None:
    """Of the files' clips, if files are given or the checkpoint has no counts."""
    untold = calibrate_model(model, [data["validation"]], [data["train"]])
    assert untold.metadata["masked"] == ["f"]
    model_without = calibrate_model(model, [data["validation"]])
    model_without.metadata = {}
    with pytest.raises(ValueError, match="--train-data"):
        calibrate_model(model_without, [data["validation"]])


def test_command(model: AudioTagger, data: dict[str, Path], tmp_path: Path, command_here: Here) -> None:
    """The file has the finished scores and says what was done."""
    save_checkpoint(tmp_path / "best.ckpt", model, LABELS)
    (tmp_path / "about.yaml").write_text("licence: MIT\nscores: {mAP: [0.3, 0.25, 0.35]}\n")
    files = [tmp_path / "best.ckpt", tmp_path / "tagger.onnx", "--calibrate", data["validation"]]
    also = ["--metadata", tmp_path / "about.yaml", "--thresholds", tmp_path / "own.csv"]
    status, out, err = command_here("dcls-export", *files, *also)
    assert status == 0, err
    assert "1 classes with fewer than 5 training clips of 3 sources masked" in out
    exported = OnnxModel(tmp_path / "tagger.onnx")
    assert exported.metadata["masked"] == ["f"]
    assert (exported.metadata["licence"], exported.metadata["scores"]) == ("MIT", {"mAP": [0.3, 0.25, 0.35]})
    assert exported.metadata["calibration"]["clips"] == 150
    thresholds = read_thresholds(tmp_path / "own.csv", exported.labels)
    assert set(thresholds) <= set(exported.labels)
    assert f"thresholds of {len(thresholds)} classes" in out
    test = ClipFile(data["test"])
    waveform = test.waveform(0)[None] / np.float32(32_767)
    (scores,) = exported.run(waveform)
    finished = calibrate_model(load_checkpoint(tmp_path / "best.ckpt"), [data["validation"]])
    expected = score(finished, [test])[0]
    np.testing.assert_allclose(scores[0], 1 / (1 + np.exp(-expected)), atol=1e-4)
    assert json.dumps(finished.metadata)


def test_other_classes_are_refused(model: AudioTagger, data: dict[str, Path], tmp_path: Path) -> None:
    with ClipWriter(tmp_path / "other.h5", ["x"], samples=SAMPLES) as writer:
        writer.append(["one"], np.zeros((1, SAMPLES), np.int16), np.ones((1, 1), bool))
        writer.finish()
    with pytest.raises(ClipFileError, match=r"other\.h5: its 1 classes are not the model's"):
        calibrate_model(model, [tmp_path / "other.h5"])
    with pytest.raises(ClipFileError, match=r"other\.h5: its 1 classes are not the model's"):
        calibrate_model(model, [data["validation"]], [tmp_path / "other.h5"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n- b\n", "holds no names with values"),
        ("a: [1\n", "cannot be read as facts"),
        ("labels: [x]\nmodel: y\n", "labels, model: the export itself writes that"),
        ("day: 2026-01-01\n", "not JSON serializable"),
        (None, "No such file"),
    ],
)
def test_facts_that_cannot_be_stored(text: str | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "about.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=rf"about\.yaml: .*{reason}"):
        read_facts(path)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_exported_as_a_checkpoint(
    precision: str, model: AudioTagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights alone: the same scores, within 1e-3 from half the bytes. int8 is refused."""
    save_checkpoint(tmp_path / "best.ckpt", model, LABELS)
    target = tmp_path / "small.safetensors"
    export(str(tmp_path / "best.ckpt"), target, precision, ())
    again = load_checkpoint(target)
    assert again.labels == LABELS
    assert again.metadata["note"] == "kept"
    log_mel = torch.randn(2, 1, 128, 200, generator=torch.Generator().manual_seed(0))
    tolerance = {"float32": 0.0, "float16": 1e-2}[precision]
    torch.testing.assert_close(again(log_mel), model(log_mel), rtol=tolerance, atol=tolerance)
    if precision == "float16":
        assert target.stat().st_size < 0.75 * (tmp_path / "best.ckpt").stat().st_size
    with pytest.raises(SystemExit) as stopped:
        export(str(tmp_path / "best.ckpt"), target, "int8", ())
    assert stopped.value.code == 2

"""dcls-eval from checkpoint and clips to the report: each clip once on one process and on two, torch and ONNX alike."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, roc_auc_score

from audioset_dcls.export.onnx import export
from audioset_dcls.inference.predict import predict
from audioset_dcls.models import create_model, load_checkpoint, save_checkpoint
from preprocessing.audio import read_audio
from preprocessing.clips.layout import hash_ids, to_int16
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from preprocessing.files import sha256_of
from preprocessing.log_mel import LogMel
from tests.conftest import Here

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
SOUNDS = ("dog_bark.ogg", "cow.ogg", "guitar.ogg")
LABELS = ("Never", *SOUNDS)
SAMPLES = 80_000  # 2.5 s
CLIPS = 13  # odd, so that two processes have unequal shares
ARGUMENTS = ("--device", "cpu", "--workers", "0", "--batch-size", "4")


def write_clips(path: Path, seed: int) -> Path:
    """Clips of one or two real sounds at random places in noise; the first label never occurs."""
    generator = np.random.default_rng(seed)
    waveforms = [read_audio(RECORDINGS / name) for name in SOUNDS]
    clips, targets = [], np.zeros((CLIPS, len(LABELS)), bool)
    for clip in range(CLIPS):
        mixed = 1e-3 * generator.standard_normal(SAMPLES)
        for index in {clip % 3, int(generator.integers(3))}:
            part = np.resize(waveforms[index], SAMPLES)
            mixed += 0.3 * np.roll(part, generator.integers(SAMPLES)) / np.abs(part).max()
            targets[clip, index + 1] = True
        clips.append(to_int16(mixed.clip(-1, 1)))
    with ClipWriter(path, LABELS, samples=SAMPLES) as writer:
        writer.append([f"{path.stem}-{clip:02d}" for clip in range(CLIPS)], clips, targets)
        writer.finish()
    return path


def write_checkpoint(path: Path, seed: int, **metadata: object) -> Path:
    torch.manual_seed(seed)
    model = create_model(
        "convnext_atto", num_classes=len(LABELS), kernel_count=5, dilated_kernel_size=7, depths=[1, 1, 1, 1]
    )
    torch.nn.init.normal_(model.trunk.head.fc.weight, std=0.5)  # else all scores are nearly the same
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, model, LABELS, dict(metadata))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data") / "eval.h5", seed=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.ckpt", 0, train_label_counts=[5, 40, 30, 20])


@pytest.fixture
def dcls_eval(command_here: Here) -> Here:
    return lambda *arguments: command_here("dcls-eval", *arguments, *ARGUMENTS)


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_predict_scores_each_clip_as_the_model_does(checkpoint: Path, data: Path, seconds: float | None) -> None:
    """One clip at a time through the unfolded model: within 1e-5 of batches through the folded one."""
    names, targets, scores = predict(checkpoint, data, seconds, batch_size=4, device="cpu", num_workers=2)
    file, model, log_mel = ClipFile(data), load_checkpoint(checkpoint), LogMel()
    assert names == file.audio_names()
    assert np.array_equal(targets, file.read("target", np.arange(CLIPS)))
    for clip in range(CLIPS):
        waveform = torch.from_numpy(file.waveforms([clip])) / 32767
        with torch.inference_mode():
            expected = model(log_mel(waveform[:, : round((seconds or 99) * 32_000)])).sigmoid()[0]
        assert scores[clip] == pytest.approx(expected.numpy(), abs=1e-5)


def test_zeros_that_pad_a_clip_are_not_heard(checkpoint: Path, tmp_path: Path) -> None:
    """Where the file knows the lengths, a padded clip scores as the sound alone, whole and cut: within 1e-5."""
    sounds = [to_int16(read_audio(RECORDINGS / name)[:SAMPLES]) for name in SOUNDS]
    padded = [np.pad(sound, (0, SAMPLES - len(sound))) for sound in sounds]
    lengths = np.array([len(sound) for sound in sounds], np.int32)
    with ClipWriter(tmp_path / "padded.h5", LABELS, samples=SAMPLES) as writer:
        writer.append(list(SOUNDS), padded, np.eye(3, 4, 1, dtype=bool))
        writer.finish({"samples": lengths})
    assert (lengths < SAMPLES).any()
    model, log_mel = load_checkpoint(checkpoint), LogMel()
    for seconds in (None, 1.0):
        _, _, scores = predict(checkpoint, tmp_path / "padded.h5", seconds, device="cpu", num_workers=0)
        for sound, row in zip(sounds, scores, strict=True):
            waveform = torch.from_numpy(sound[None, : round((seconds or 99) * 32_000)]) / 32767
            with torch.inference_mode():
                expected = model(log_mel(waveform)).sigmoid()[0]
            assert row == pytest.approx(expected.numpy(), abs=1e-5)


def test_report_is_equal_to_sklearn(checkpoint: Path, data: Path, tmp_path: Path, dcls_eval: Here) -> None:
    status, output, errors = dcls_eval(checkpoint, "--data", data, "-o", tmp_path)
    assert (status, errors) == (0, "")
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert list(stored["metrics"]) == ["full", "2 s", "1 s"]  # the clips are shorter than 5 s
    for length, seconds in (("full", None), ("2 s", 2.0), ("1 s", 1.0)):
        names, targets, scores = predict(checkpoint, data, seconds, device="cpu", num_workers=0)
        truth, values, numbers = targets[:, 1:], scores[:, 1:], stored["metrics"][length]
        assert numbers["mAP"] == pytest.approx(average_precision_score(truth, values), abs=1e-9)
        assert numbers["AUC"] == pytest.approx(roc_auc_score(truth, values), abs=1e-9)
        ranking = label_ranking_average_precision_score(truth, values, sample_weight=truth.sum(axis=1))
        assert numbers["lwlrap"] == pytest.approx(ranking, abs=1e-9)
        assert (numbers["clips"], numbers["clip_hash"]) == (CLIPS, hash_ids(names))
    assert len({stored["metrics"][length]["mAP"] for length in stored["metrics"]}) > 1
    assert stored["classes_without_positives"] == ["Never"]
    assert "left out of every number: Never" in output
    assert stored["model_sha256"] == sha256_of(checkpoint)
    assert stored["parameters"] == sum(weight.numel() for weight in load_checkpoint(checkpoint).parameters())
    assert [row["train_clips"] for row in stored["per_class"].values()] == [40, 30, 20]  # from the checkpoint


def test_train_data_counts_training_clips(checkpoint: Path, data: Path, tmp_path: Path, dcls_eval: Here) -> None:
    train = write_clips(tmp_path / "train.h5", seed=1)
    assert dcls_eval(checkpoint, "--data", data, "-o", tmp_path, "--train-data", train, train)[0] == 0
    stored = json.loads((tmp_path / "metrics.json").read_text())
    counts = 2 * ClipFile(train).label_counts()
    assert [row["train_clips"] for row in stored["per_class"].values()] == counts[1:].tolist()


def test_onnx_tagger_scores_like_its_checkpoint(checkpoint: Path, data: Path, tmp_path: Path, dcls_eval: Here) -> None:
    tagger = export(load_checkpoint(checkpoint), tmp_path / "tiny.onnx").path
    for seconds in (None, 1.0):
        names, _, expected = predict(checkpoint, data, seconds, device="cpu", num_workers=0)
        exported_names, _, scores = predict(tagger, data, seconds, device="cpu", num_workers=0)
        assert exported_names == names
        assert scores == pytest.approx(expected, abs=1e-4)  # the parity that dcls-export promises
    status, output, _ = dcls_eval(tagger, "--data", data)
    assert status == 0
    page = (tmp_path / "tiny-on-eval" / "report.html").read_text(encoding="utf-8")
    assert page.count("data-sound=") > CLIPS  # the mistakes can be heard
    assert "tiny-on-eval" in output


@pytest.mark.slow
def test_two_processes_score_each_clip_once(checkpoint: Path, data: Path, tmp_path: Path, dcls_eval: Here) -> None:
    """torchrun with two gloo processes: the same scores as one process, clip by clip, and one report."""
    assert dcls_eval(checkpoint, "--data", data, "-o", tmp_path / "one")[0] == 0
    script = tmp_path / "dcls-eval"
    script.write_text("from audioset_dcls.commands.evaluate import main\n\nmain()\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    arguments = [str(checkpoint), "--data", str(data), "-o", str(tmp_path / "two"), *ARGUMENTS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*launcher, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == 1
    with np.load(tmp_path / "one" / "predictions.npz") as one, np.load(tmp_path / "two" / "predictions.npz") as two:
        assert two["clips"].tolist() == one["clips"].tolist()
        assert len(two["clips"]) == CLIPS
        assert two["scores"] == pytest.approx(one["scores"], abs=1e-6)
    stored = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert stored["clips"] == CLIPS


def test_runs_are_evaluated_compared_and_not_evaluated_twice(data: Path, tmp_path: Path, dcls_eval: Here) -> None:
    for place, (name, seed) in enumerate([("dcls", 0), ("dcls", 1), ("plain", 0), ("plain", 1)]):
        write_checkpoint(tmp_path / name / f"seed_{seed}" / "best.ckpt", place)
    status, output, errors = dcls_eval("--runs", tmp_path, "--data", data)
    assert (status, errors) == (0, "")
    assert "mAP (95 %:" in output
    row, other = csv.DictReader((tmp_path / "comparison" / "differences.csv").read_text().splitlines())
    assert (row["metric"], other["metric"]) == ("mAP", "specific_top_3")
    runs = list(csv.DictReader((tmp_path / "comparison" / "runs.csv").read_text().splitlines()))
    scores = {(one["experiment"], one["seed"]): float(one["mAP"]) for one in runs}
    expected = np.mean([scores[row["first"], seed] - scores[row["second"], seed] for seed in "01"])
    assert float(row["mean_difference"]) == pytest.approx(expected, abs=1e-12)
    assert float(row["sources_low"]) < expected < float(row["sources_high"])

    reports = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/best-on-eval/metrics.json")}
    assert len(reports) == 4
    write_checkpoint(tmp_path / "plain" / "seed_1" / "best.ckpt", 9)  # trained on
    (tmp_path / "plain" / "seed_0" / "best.ckpt").write_bytes(b"PK truncated")
    status, _, errors = dcls_eval("--runs", tmp_path, "--data", data)
    assert status == 1
    assert errors.count(f"{tmp_path / 'plain' / 'seed_0'}: left out: ") == 1
    assert len(errors.splitlines()) == 1
    again = [str(path.relative_to(tmp_path)) for path, time in reports.items() if path.stat().st_mtime_ns != time]
    assert again == ["plain/seed_1/best-on-eval/metrics.json"]
    assert len(list(csv.DictReader((tmp_path / "comparison" / "runs.csv").read_text().splitlines()))) == 3


@pytest.mark.parametrize(
    ("model", "clips", "message"),
    [
        ("missing.ckpt", "eval.h5", "missing.ckpt: no such file"),
        ("missing.onnx", "eval.h5", "missing.onnx: no such file"),
        ("text.onnx", "eval.h5", "text.onnx: not a readable ONNX file"),
        ("tiny.ckpt", "missing.h5", "missing.h5: no such file"),
        ("tiny.ckpt", "text.onnx", "not a readable HDF5 file"),
        ("tiny.ckpt", "other.h5", "1 of its 1 classes are unknown to the model ('Meow')"),
        ("nan.ckpt", "eval.h5", "scores are not finite, the first for clip 'eval-00', class 'Never'"),
    ],
)
def test_bad_input_is_one_clear_line(
    model: str,
    clips: str,
    message: str,
    data: Path,
    checkpoint: Path,
    tmp_path: Path,
    dcls_eval: Here,
) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "eval.h5").symlink_to(data)
    (tmp_path / "tiny.ckpt").symlink_to(checkpoint)
    with ClipWriter(tmp_path / "other.h5", ["Meow"], samples=SAMPLES) as writer:
        writer.append(["a"], np.zeros((1, SAMPLES), np.int16), [[True]])
        writer.finish()
    broken = load_checkpoint(checkpoint)
    torch.nn.init.constant_(broken.trunk.head.fc.bias, torch.nan)
    save_checkpoint(tmp_path / "nan.ckpt", broken)
    status, output, errors = dcls_eval(tmp_path / model, "--data", tmp_path / clips)
    assert (status, output) == (1, "")
    assert message in errors
    assert errors.startswith("dcls-eval: ")
    assert errors.count("\n") == 1
    assert not list(tmp_path.glob("*-on-*"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.ckpt"],
        ["a.ckpt", "--runs", "runs"],
        ["--runs", "runs", "--train-data", "train.h5"],
        ["a.ckpt", "--data", "eval.h5", "--baseline", "other"],
    ],
)
def test_usage_errors(arguments: list[str], dcls_eval: Here) -> None:
    status, _, errors = dcls_eval(*arguments)
    assert status == 2
    assert "usage: dcls-eval" in errors

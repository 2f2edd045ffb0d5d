"""Runs as a user starts them: they learn, they survive kill -9, they are the same on one process and on two."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.inference.inspect import large_depthwise
from audioset_dcls.models import create_model, load_checkpoint, save_checkpoint
from audioset_dcls.models.fine_tune import fine_tune
from audioset_dcls.training.callbacks.checkpoints import CheckpointFile, EpochLog
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.record import record
from audioset_dcls.training.resume import check_settings
from audioset_dcls.training.run import accumulation, limited, train
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from tests.models.test_efficientat import published
from tests.processes import signalled_at, wait_until
from tests.training.small_runs import composed, curve, write_clips

Command = Callable[..., "subprocess.Popen[str]"]


def finish(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def unbroken(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run from start to end."""
    folder = tmp_path_factory.mktemp("unbroken")
    train(composed(small), folder)
    return folder


def test_overfits_real_sounds(clips: Path, small: list[str], tmp_path: Path) -> None:
    """mAP above 0.95 on the 24 multi-label clips it trains on, with the paper's DCLS layers; about 30 s on a core."""
    learning = [
        "model.kernel_count=26",
        "model.dilated_kernel_size=23",
        "+model.ls_init_value=0.5",
        "model.drop_path_rate=0",
        "augment=none",
        "data.batch_size=8",
        "epochs=16",
        "optimizer.lr=2e-3",
        "optimizer.weight_decay=0",
        "save_every_n_steps=0",
        "trainer.check_val_every_n_epoch=4",
    ]
    best = train(composed([*small, *learning]), tmp_path)
    rows = [row for row in curve(tmp_path) if "val/map" in row]
    assert rows[-1]["val/map"] > 0.95
    assert best == max(row["val/map"] for row in rows)


def test_run_folder(unbroken: Path, clips: Path) -> None:
    rows = curve(unbroken)
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 10))
    assert [row["step"] for row in rows if "val/map" in row] == [3, 6, 9]
    moved = [row for row in rows if any(key.endswith("speed") for key in row)]
    assert [row["step"] for row in moved] == list(range(1, 10))
    for row in moved:
        speeds = [value for key, value in row.items() if key.endswith("speed")]
        assert len(speeds) == 4  # one for each stage: its layers share their positions
        assert all(speed > 0 for speed in speeds)
    assert list((unbroken / "tensorboard").glob("events.*"))
    (start,) = json.loads((unbroken / "run.json").read_text())
    assert start["data"]["train"]["clips"] == 24
    assert len(start["data"]["train"]["clip_ids_sha256"]) == 64
    assert start["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.slow
def test_log(small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no progress bar is shown, a job's log says how it stands; a run that went on says where."""
    folder = tmp_path / "run"
    config = composed([*small, "trainer.check_val_every_n_epoch=2", "epochs=4"])
    with caplog.at_level(logging.INFO, "audioset_dcls"):
        best = train(config, folder)
        train(config, folder)
    second, fourth = (f"{100 * row['val/map']:.2f} %" for row in curve(folder) if "val/map" in row)
    count = sum(parameter.numel() for parameter in load_checkpoint(folder / "best.ckpt").parameters())
    records = [record for record in caplog.records if record.name.startswith("audioset_dcls")]
    lines = [re.sub(r", \d+\.\d minutes$", "", record.getMessage()) for record in records]
    start, end = (
        f"{folder}: {count:,} parameters, epochs: 4, steps of each: 3",
        f"{folder / 'best.ckpt'}: best mAP {100 * best:.2f} %",
    )
    epochs = [f"epoch 2 of 4: mAP {second}", f"epoch 4 of 4: mAP {fourth}"]
    assert lines == [start, *epochs, end, start, f"{folder}: goes on after step 12", end]


def test_without_a_terminal_a_line_tells_how_it_goes(
    small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here after each batch: where it is, loss, rate, time left. On a terminal a bar shows that instead."""
    monkeypatch.setattr("audioset_dcls.training.run.EpochLog", partial(EpochLog, 0.0))
    config = composed([*small, "epochs=2", "logger=none"])
    with caplog.at_level(logging.INFO, "audioset_dcls"):
        train(config, tmp_path / "run")
    line = re.compile(r"epoch (\d) of 2, batch (\d+) of (\d+): loss \S+, learning rate \S+, about \d+ minutes left")
    lines = [record.getMessage() for record in caplog.records if ", batch " in record.getMessage()]
    batches = [line.fullmatch(text) for text in lines]
    assert all(batches)
    per_epoch = int(batches[0][3])
    assert [(int(m[1]), int(m[2])) for m in batches] == [(e, b + 1) for e in (1, 2) for b in range(per_epoch)]
    assert not (tmp_path / "run" / "tensorboard").exists()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    caplog.clear()
    with caplog.at_level(logging.INFO, "audioset_dcls"):
        EpochLog(0.0).on_train_batch_end(SimpleNamespace(is_global_zero=True), None, {}, None, 0)  # type: ignore[arg-type]
    assert not caplog.records


def test_checkpoint_is_a_tagger(unbroken: Path) -> None:
    best = max((row for row in curve(unbroken) if "val/map" in row), key=lambda row: row["val/map"])
    model = load_checkpoint(unbroken / "best.ckpt")
    assert model.labels[0] == "dog_bark"
    assert model.metadata["val_map"] == best["val/map"]
    assert model.metadata["step"] == best["step"]
    # without a teacher's scores and sources, clips with the label, each of a source of its own
    counts = model.metadata["train_label_counts"]
    assert min(counts) > 0
    assert model.metadata["train_class_clips"] == model.metadata["train_class_sources"] == counts
    assert not list(unbroken.glob(".*unfinished"))


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("hook", "calls"), [pytest.param("training_step", 9, marks=pytest.mark.slow), ("validation_step", 7)]
)
def test_stopped_run_goes_on(
    unbroken: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str, calls: int
) -> None:
    """Stopped in the middle of an epoch or of a validation, it gives to the digit the curve of an unbroken run.

    Averaged weights included, which the checkpoint has beside the current ones.
    """
    config, folder = composed(small), tmp_path / "stopped"
    done = []

    def stops(module: TaggingModule, batch: Any, number: int) -> Any:
        done.append(number)
        if len(done) == calls:
            raise KilledError
        return original(module, batch, number)

    original = getattr(TaggingModule, hook)
    with monkeypatch.context() as patch:
        patch.setattr(TaggingModule, hook, stops)
        with pytest.raises(KilledError):
            train(config, folder)
    assert 0 < len(curve(folder)) < len(curve(unbroken))
    train(config, folder)
    assert curve(folder) == curve(unbroken)
    stopped, whole = (load_checkpoint(path / "last.ckpt").state_dict() for path in (folder, unbroken))
    torch.testing.assert_close(stopped, whole, rtol=0, atol=0)


@pytest.mark.slow
def test_stopped_run_goes_on_with_what_the_matcher_has_seen(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map to a teacher's embedding and the statistics of that are as in an unbroken run."""
    with ClipWriter(tmp_path / "scenes.h5", list("abc"), samples=16_000, teacher=True, embedding=4) as writer:
        rng = np.random.default_rng(0)
        columns = {"teacher": rng.random((24, 3)), "embedding": rng.normal(3, 2, (24, 4))}
        waveforms = rng.integers(-9_000, 9_000, (24, 16_000)).astype(np.int16)
        writer.append([f"{clip}" for clip in range(24)], waveforms, rng.random((24, 3)) < 0.5, **columns)
        writer.finish()
    files = [f"data.train=[{tmp_path / 'scenes.h5'}]", f"data.val={tmp_path / 'scenes.h5'}", "data.clip_seconds=null"]
    settings = ["data.teacher=stored", "distill.feature_weight=0.5", "distill.soft_labels=true", "prior_bias=true"]
    config = composed([*small, *files, *settings, "epochs=2"])
    train(config, tmp_path / "whole")
    done = []

    def stops(module: TaggingModule, batch: Any, number: int) -> Any:
        done.append(number)
        if len(done) == 9:
            raise KilledError
        return original(module, batch, number)

    original = TaggingModule.training_step
    with monkeypatch.context() as patch:
        patch.setattr(TaggingModule, "training_step", stops)
        with pytest.raises(KilledError):
            train(config, tmp_path / "stopped")
    train(config, tmp_path / "stopped")
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
    states = [torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("stopped", "whole")]
    for kind in ("state_dict", "current_model_state"):
        torch.testing.assert_close(states[0][kind], states[1][kind], rtol=0, atol=0)
    assert states[0]["current_model_state"]["matcher.count"] == 48


def test_finished_run_does_nothing(unbroken: Path, small: list[str]) -> None:
    before = curve(unbroken)
    train(composed(small), unbroken)
    assert curve(unbroken) == before


def test_other_settings_are_refused(unbroken: Path, small: list[str]) -> None:
    with pytest.raises(ValueError, match=r"optimizer.lr: 0.004 -> 0.001.*choose another name"):
        train(composed([*small, "optimizer.lr=1e-3"]), unbroken)
    with pytest.raises(ValueError, match=r"trainer.limit_train_batches: None -> 4.*choose another name"):
        train(composed([*small, "trainer.limit_train_batches=4"]), unbroken)


def test_damaged_settings_are_one_line(small: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("epochs: [1, {")
    with pytest.raises(ValueError, match=r"config\.yaml is no plain YAML .*; remove the folder to begin anew") as error:
        train(composed(small), tmp_path)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["config.yaml"]


def test_two_processes_do_not_train_in_one_folder(small: list[str], tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another process is training this run"):
        train(composed(small), tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_nan_stops_with_advice(small: list[str], tmp_path: Path) -> None:
    """The loss is no longer finite after the first step; the checkpoint of that step is not overwritten."""
    with pytest.raises(FloatingPointError, match=r"(?s)step 2.*lower learning rate.*gradient_clip_val"):
        train(composed([*small, "optimizer.lr=1e30", "warmup_epochs=0"]), tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1


def test_accumulation() -> None:
    assert accumulation(4096, 128, 8) == 4
    assert accumulation(4096, 128, 32) == 1
    with pytest.raises(ValueError, match=r"batch_size=4096 is not a multiple of data.batch_size=100 x 8"):
        accumulation(4096, 100, 8)


def test_shorter_epochs(small: list[str], tmp_path: Path) -> None:
    """trainer.limit_train_batches counts batches, two a step here; the schedule ends with the last step."""
    train(composed([*small, "trainer.limit_train_batches=5", "scheduler.min_lr=0"]), tmp_path)
    rows = [row for row in curve(tmp_path) if "train/loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["lr"] < rows[2]["lr"] / 2
    assert (limited(10, 0.5, 4), limited(10, 1.0, 4), limited(10, 100, 4)) == (5, 10, 10)
    with pytest.raises(ValueError, match=r"limit_train_batches=3 leaves no step of 4 batches"):
        limited(10, 3, 4)


FAILED_STARTS = {
    "batch_size below data.batch_size": (["batch_size=3"], r"batch_size=3 is not a multiple of data.batch_size=4"),
    "no batch_size": (["data.batch_size=0"], r"data.batch_size=0: must be a whole number, 1 or more"),
    "no epochs": (["epochs=many"], r"epochs=many: must be a whole number, 1 or more"),
    "no rows": (["log_every_n_steps=0"], r"log_every_n_steps=0: must be a whole number, 1 or more"),
    "too few clips": (["batch_size=64"], r"fewer than one batch of 64; lower batch_size"),
    "no data": (["data.val=missing.h5"], r"missing.h5: no such file"),
    "no checkpoint": (["model=checkpoint", "checkpoint=null"], r"checkpoint is not set: add checkpoint=FILE"),
    "no such device": (["trainer.accelerator=mps"], r"MPSAccelerator.*not available"),
}


@pytest.mark.parametrize("case", FAILED_STARTS)
def test_a_failed_start_is_one_line_and_leaves_no_folder(
    case: str, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, message = FAILED_STARTS[case]
    monkeypatch.chdir(tmp_path)
    if "model=checkpoint" in settings:
        small = [setting for setting in small if "model" not in setting]
    with pytest.raises((ValueError, OSError), match=message) as error:
        train(composed([*small, *settings]), tmp_path / "runs" / "small" / "seed_0")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_start_that_fails_in_its_first_step_leaves_what_was_there(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the same name can be used again with other settings, e.g. smaller batches if memory was too small."""
    (tmp_path / "notes.txt").write_text("mine")

    def stops(*arguments: Any) -> Any:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(TaggingModule, "training_step", stops)
        with pytest.raises(KilledError):
            train(composed(small), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    train(composed([*small, "data.batch_size=2", "epochs=1"]), tmp_path)
    assert (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_damaged_last_checkpoint_is_one_line(damage: str, unbroken: Path, small: list[str], tmp_path: Path) -> None:
    """The message names the file, and what it says to do works."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    last, content = folder / "last.ckpt", (folder / "last.ckpt").read_bytes()
    torch.save({"state_dict": {}}, tmp_path / "other")
    damaged = {
        "cut": content[:300_000],
        "empty": b"",
        "text": b"no checkpoint",
        "other": (tmp_path / "other").read_bytes(),
    }
    last.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"last\.ckpt: damaged or truncated; copy best\.ckpt over it") as error:
        train(composed(small), folder)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in before if path != last} == {
        path: content for path, content in before.items() if path != last
    }
    shutil.copy(folder / "best.ckpt", last)
    train(composed(small), folder)
    assert curve(folder)[-1]["step"] == curve(unbroken)[-1]["step"]


def test_checkpoints_need_no_room_in_the_temporary_folder(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tempfile has no folder that can be written to: as if it were full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    train(composed([*small, "epochs=1"]), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "best.ckpt").metadata["step"] == 3
    assert not list((tmp_path / "run").glob(".*.unfinished"))


def test_a_full_disk_names_the_checkpoint_and_keeps_the_one_before(
    tmp_path: Path,
) -> None:
    """A limit on the size of files stands for the disk; Python ignores the signal that would end a process then."""

    def save(size: int) -> None:
        CheckpointFile().save_checkpoint({"size": size, "weights": torch.zeros(size)}, str(tmp_path / "last.ckpt"))

    save(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            save(10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["size"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_fine_tuning_starts_from_the_tagger_in_the_box() -> None:
    """Without an argument and offline; its DCLS layers go on learning, the classifier is new."""
    assert composed(["experiment=finetune"]).checkpoint == "embedded"
    embedded = load_checkpoint("embedded")
    model = fine_tune("embedded", 3)
    assert model.training
    assert len(list(dcls_layers(model))) == 15
    assert model.classifier.out_features == 3
    assert model.metadata == {}
    kept = {key: value for key, value in model.state_dict().items() if "classifier" not in key}
    assert all(torch.equal(value, embedded.state_dict()[key]) for key, value in kept.items())
    assert fine_tune("embedded", 527).metadata == {"starts_from": "embedded", "masked": []}


def test_fine_tuning_without_a_checkpoint_is_one_line(clips: Path, command: Command, tmp_path: Path) -> None:
    data = [f"data.train=[{clips}]", f"data.val={clips}", "data.clip_seconds=1"]
    process = command("experiment=finetune", "checkpoint=null", *data)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("dcls-train: checkpoint is not set: add checkpoint=FILE")
    assert [path.name for path in tmp_path.iterdir()] == ["dcls-train"]  # the test's script


@pytest.mark.slow
def test_dcls_from_trained_kernels(unbroken: Path, small: list[str], tmp_path: Path) -> None:
    """model.dcls=true: elements fitted to a trained 7 x 7 model take its kernels' places, nothing else changes."""
    plain = create_model("test_convnext", dcls=False, num_classes=6, kernel_count=49, interpolation="bilinear").eval()
    path = tmp_path / "plain.ckpt"
    save_checkpoint(path, plain, labels=[str(number) for number in range(6)])
    fitted = fine_tune(str(path), 6, dcls=True).eval()
    assert sum(1 for _ in dcls_layers(fitted)) == len(list(large_depthwise(plain)))
    assert create_model(**fitted.config).load_state_dict(fitted.state_dict())
    log_mel = torch.randn(2, 1, 128, 101, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():  # an element for each of the 49 weights: no error but least squares' own
        torch.testing.assert_close(fitted(log_mel), plain(log_mel), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"best.ckpt: no depthwise kernels"):
        fine_tune(str(unbroken / "best.ckpt"), 6, dcls=True)


@pytest.mark.slow
def test_a_dcls_version_of_efficientat_learns(tmp_path: Path) -> None:
    """From a file in its authors' format, by experiment=finetune: after 14 steps the loss on the training clips is
    below 0.85 of what the classes' frequencies alone would give; 0.75 measured."""
    clips = write_clips(tmp_path / "clips.h5", 8, seed=0)
    torch.save(published("efficientat_mn01"), tmp_path / "mn01.pt")
    data = [
        f"data.train=[{clips}]",
        f"data.val={clips}",
        "data.clip_seconds=1",
        "data.num_workers=0",
        "data.balanced=false",
    ]
    steps = ["data.batch_size=8", "batch_size=8", "epochs=14", "warmup_epochs=0", "optimizer.lr=1e-2", "augment=none"]
    rest = ["trainer=cpu", "trainer.check_val_every_n_epoch=14", "log_every_n_steps=1"]
    start = ["experiment=finetune", f"checkpoint={tmp_path / 'mn01.pt'}", "model.dcls=true"]
    train(composed([*start, *data, *steps, *rest]), tmp_path / "run")
    losses = [row["train/loss"] for row in curve(tmp_path / "run") if "train/loss" in row]
    frequencies = (ClipFile(clips).label_counts() / 8).clip(1e-9, 1 - 1e-9)
    entropy = -np.mean(frequencies * np.log(frequencies) + (1 - frequencies) * np.log1p(-frequencies))
    assert losses[-1] < 0.85 * entropy < losses[0]
    fitted = fine_tune(str(tmp_path / "mn01.pt"), 6, dcls=True)
    learned = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert learned.config == fitted.config
    moved = [
        (ours.positions - theirs.positions).abs().max()
        for ours, theirs in zip(dcls_layers(learned), dcls_layers(fitted), strict=True)
    ]
    assert len(moved) == 15
    assert min(moved) > 0


@pytest.mark.slow
def test_kill_and_resume(unbroken: Path, small: list[str], command: Command, tmp_path: Path) -> None:
    """SIGKILL while a checkpoint is renamed, twice; the same command goes on to the same curve."""
    folder = tmp_path / "runs" / "small" / "seed_0"
    for number in (5, 8):  # the first two renames are those of config.yaml and run.json
        process = command(*small, before=signalled_at("replace", number, signal.SIGKILL))
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, output
    assert len(curve(folder)) < len(curve(unbroken))
    finish(command(*small))
    assert curve(folder) == curve(unbroken)
    assert len(json.loads((folder / "run.json").read_text())) == 3


@pytest.mark.slow
def test_two_processes_same_curve(unbroken: Path, small: list[str], command: Command, tmp_path: Path) -> None:
    """Two gloo processes with a batch each give the losses of one process that adds up two batches."""
    finish(command(*small, "trainer.devices=2", "trainer.strategy=ddp"))
    both = curve(tmp_path / "runs" / "small" / "seed_0")
    assert len(both) == len(curve(unbroken))
    for two, one in zip(both, curve(unbroken), strict=True):
        # the sums of gradients are rounded in another order
        assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_sigterm_ends_all_processes(small: list[str], command: Command, tmp_path: Path) -> None:
    """`pkill` and batch systems send it to all of them at once; the pipe ends when the last one has ended."""
    arguments = [*small, "trainer.devices=2", "trainer.strategy=ddp", "epochs=1000"]
    process = command(*arguments, start_new_session=True)
    wait_until(lambda: (tmp_path / "runs" / "small" / "seed_0" / "last.ckpt").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
def test_seeds_one_after_another(small: list[str], command: Command, tmp_path: Path) -> None:
    """`-m seed=0,1` on two processes each: the second run starts after the first, in its own folder."""
    finish(command("-m", "seed=0,1", *small, "trainer.devices=2", "trainer.strategy=ddp", "epochs=1"))
    first, second = (curve(tmp_path / "runs" / "small" / f"seed_{seed}") for seed in (0, 1))
    assert len(first) == len(second) == 7  # loss and positions of 3 steps, validation
    assert first != second


@pytest.mark.slow
def test_bad_input_is_one_line(small: list[str], command: Command, tmp_path: Path) -> None:
    """The other runs of a sweep go on; the exit status tells."""
    kept = [setting for setting in small if not setting.startswith(("name=", "data.batch_size="))]
    process = command("-m", "data.batch_size=3,4", *kept, "name=size${data.batch_size}", "epochs=1")
    output = process.communicate()[0]
    assert process.returncode == 1
    (line,) = (line for line in output.splitlines() if line.startswith("dcls-train: "))
    assert "batch_size=8 is not a multiple of data.batch_size=3" in line
    assert "Traceback" not in output
    assert len(curve(tmp_path / "runs" / "size4" / "seed_0")) == 7


@pytest.mark.slow
def test_submitit(small: list[str], command: Command, tmp_path: Path) -> None:
    """The SLURM launcher's settings work, tried with submitit's local executor."""
    finish(command("-m", "seed=0,1", *small, "hydra/launcher=submitit_local", "epochs=1"))
    for seed in (0, 1):
        assert len(curve(tmp_path / "runs" / "small" / f"seed_{seed}")) == 7


@pytest.mark.slow
def test_three_seeds_and_report(small: list[str], clips: Path, command: Command, tmp_path: Path) -> None:
    """Two names for the same settings: three seeds each, then a report whose paired differences are zero."""
    settings = [setting for setting in small if not setting.startswith("name=")]
    finish(command("-m", "seed=0,1,2", "name=one,other", *settings, "epochs=1"))
    evaluate = [
        sys.executable,
        "-c",
        "from audioset_dcls.commands.evaluate import main; main()",
        "--runs",
        "runs",
        "--data",
        str(clips),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(evaluate, cwd=tmp_path, env=environment, check=True, capture_output=True)
    with (tmp_path / "runs" / "comparison" / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert [(run["experiment"], run["seed"]) for run in runs] == [
        (name, seed) for name in ("one", "other") for seed in "012"
    ]
    scores = [float(run["mAP"]) for run in runs]
    assert scores[:3] == scores[3:]
    assert len(set(scores)) > 1
    for run, score in zip(runs, scores, strict=True):
        logged = curve(tmp_path / "runs" / run["experiment"] / f"seed_{run['seed']}")
        assert score == pytest.approx(next(row["val/map"] for row in logged if "val/map" in row), abs=1e-6)
    with (tmp_path / "runs" / "comparison" / "differences.csv").open(newline="") as file:
        differences = {row["metric"]: float(row["mean_difference"]) for row in csv.DictReader(file)}
    assert differences["mAP"] == 0
    assert not any(differences.values())


def test_epochs_may_change_until_the_rate_decays(tmp_path: Path) -> None:
    """A run of 10 epochs that decays in the last 2, stopped in epoch 6: it may have more epochs, or decay at once."""
    settings: dict[str, Any] = {"epochs": 10, "decay_epochs": 2, "seed": 0}
    check_settings(tmp_path, settings, None)
    record(tmp_path, settings, {})
    for longer in ({"epochs": 20}, {"epochs": 8, "decay_epochs": 2}):
        check_settings(tmp_path, settings | longer, 5.5)
        record(tmp_path, settings | longer, {})
    for refused in ({"epochs": 7}, {"epochs": 20, "seed": 1}):  # it would have decayed already; another setting
        with pytest.raises(ValueError, match="holds a run with other settings"):
            check_settings(tmp_path, settings | refused, 5.5)
    with pytest.raises(ValueError, match="epochs: 8 -> 20"):  # the decay has begun
        check_settings(tmp_path, settings | {"epochs": 20}, 6.5)

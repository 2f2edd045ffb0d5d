from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import lightning
import numpy as np
import pytest
import torch

from preprocessing.clips.layout import ClipFileError
from preprocessing.clips.writer import ClipWriter
from preprocessing.loading.datamodule import AudioSetDataModule, EvalBatches, TrainBatches
from preprocessing.loading.dataset import ClipDataset, Request, TeacherScores, workers_that_fit

SAMPLES = 3200
SECONDS = SAMPLES / 32_000
CLASSES = 6
SIZES = (37, 20)


def write(path: Path, first: int, count: int, classes: int = CLASSES) -> Path:
    """Clips whose every sample tells them apart: clip i holds (31 i + sample) % 30000."""
    generator = np.random.default_rng(first)
    numbers = np.arange(first, first + count)
    waveforms = ((31 * numbers[:, None] + np.arange(SAMPLES)) % 30_000).astype(np.int16)
    targets = generator.random((count, classes)) < np.linspace(0.05, 0.9, classes)  # rare labels and frequent ones
    targets[:, -1] |= ~targets.any(1)
    teacher = generator.random((count, classes)).astype(np.float16)
    with ClipWriter(path, [f"label {k}" for k in range(classes)], samples=SAMPLES, teacher=True) as writer:
        writer.append([f"clip {number}" for number in numbers], waveforms, targets, teacher=teacher)
        writer.finish()
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write(folder / "balanced.h5", 0, SIZES[0]), write(folder / "unbalanced.h5", SIZES[0], SIZES[1])]


def joined(files: Sequence[Path], column: str) -> Any:
    """A column of all files, by h5py alone."""
    return np.concatenate([h5py.File(file)[column][:] for file in files])


def batches(datamodule: AudioSetDataModule, epoch: int = 0) -> list[dict[str, torch.Tensor]]:
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def equal(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> bool:
    return len(first) == len(second) and all(
        one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        for one, other in zip(first, second, strict=True)
    )


def test_a_batch_is_what_h5py_reads(files: list[Path]) -> None:
    datamodule = AudioSetDataModule(files, batch_size=8, num_workers=0, clip_seconds=SECONDS, teacher="stored")
    read = batches(datamodule)
    assert len(read) == sum(SIZES) // 8
    for batch in read:
        assert {key: value.dtype for key, value in batch.items()} == {
            "waveform": torch.int16,
            "target": torch.bool,
            "clip": torch.int64,
            "teacher": torch.float16,
        }
        for key in ("waveform", "target", "teacher"):
            np.testing.assert_array_equal(batch[key], joined(files, key)[batch["clip"]])
    clips = torch.cat([batch["clip"] for batch in read])
    assert len(clips.unique()) == len(clips) == 56
    assert clips.tolist() != sorted(clips.tolist())
    assert datamodule.dataset("train").audio_names()[40] == "clip 40"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_batches_however_they_start(files: list[Path], method: str) -> None:
    given: dict[str, Any] = {"batch_size": 8, "clip_seconds": SECONDS / 2, "random_crop": True, "teacher": "stored"}
    alone = AudioSetDataModule(files, num_workers=0, **given)
    expected = [batches(alone, epoch) for epoch in (0, 1)]  # the files are open here when the workers start
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        workers = 2 if method == "fork" else 1  # a spawned one imports torch
        loader = AudioSetDataModule(files, num_workers=workers, **given).train_dataloader()
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            read = list(loader)
            assert equal(read, expected[epoch])
            assert all(batch["waveform"].is_shared() for batch in read)
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_the_order_depends_on_seed_and_epoch(files: list[Path]) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        datamodule = AudioSetDataModule(files, batch_size=8, num_workers=0, seed=seed, clip_seconds=SECONDS)
        state = torch.random.get_rng_state()
        clips = torch.cat([batch["clip"] for batch in batches(datamodule, epoch)]).tolist()
        assert torch.equal(torch.random.get_rng_state(), state)  # the model's random numbers are left alone
        return clips

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_random_crops_differ_by_clip_and_epoch_and_evaluation_has_the_first_part(files: list[Path]) -> None:
    datamodule = AudioSetDataModule(
        files, files[1], batch_size=19, num_workers=0, clip_seconds=SECONDS / 4, random_crop=True
    )
    starts = []
    for epoch in (0, 1):
        for batch in batches(datamodule, epoch):
            start = (batch["waveform"][:, 0].long() - 31 * batch["clip"]) % 30_000
            rows = joined(files, "waveform")
            for row, clip, first in zip(batch["waveform"], batch["clip"], start.tolist(), strict=True):
                np.testing.assert_array_equal(row, rows[clip, first : first + SAMPLES // 4])
            starts += start.tolist()
    assert len(starts) == 114
    assert len(set(starts)) > 80
    assert 0 <= min(starts) < SAMPLES // 8
    assert 5 / 8 * SAMPLES < max(starts) <= 3 / 4 * SAMPLES
    (evaluated,) = [batch["waveform"] for batch in datamodule.val_dataloader() if len(batch["clip"]) == 10][:1] or [
        None
    ]
    np.testing.assert_array_equal(evaluated, joined(files[1:], "waveform")[:10, : SAMPLES // 4])


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 57, 100])
def test_evaluation_has_every_clip_once_on_any_number_of_processes(
    files: list[Path], processes: int, batch_size: int
) -> None:
    dataset = ClipDataset(files, SECONDS)
    samplers = [EvalBatches(dataset, batch_size, num_replicas=processes, rank=rank) for rank in range(processes)]
    of_rank = [list(sampler) for sampler in samplers]
    assert np.concatenate([request.clips for requests in of_rank for request in requests]).tolist() == list(range(57))
    assert len({len(requests) for requests in of_rank} | {len(sampler) for sampler in samplers}) == 1
    most = 2 if (batch_size, processes) in ((1, 2), (1, 8)) else batch_size  # 57 clips one by one do not come out even
    assert all(1 <= len(request.clips) <= most for requests in of_rank for request in requests)


@pytest.mark.parametrize("processes", [1, 3])
def test_training_gives_each_process_as_many_full_batches_of_other_clips(files: list[Path], processes: int) -> None:
    dataset = ClipDataset(files, SECONDS)
    clips = []
    for rank in range(processes):
        sampler = TrainBatches(dataset, 4, num_replicas=processes, rank=rank)
        requests = list(sampler)
        assert len(requests) == len(sampler) == 57 // (4 * processes)
        assert all(len(request.clips) == 4 for request in requests)
        clips += [clip for request in requests for clip in request.clips.tolist()]
    assert len(set(clips)) == len(clips)
    assert [len(request.clips) for request in TrainBatches(dataset, 1000)] == [57]
    with pytest.raises(ClipFileError, match="too few"):
        TrainBatches(dataset, 1, num_replicas=58)


def test_balanced_draws_every_label_about_as_often(files: list[Path]) -> None:
    datamodule = AudioSetDataModule(files, batch_size=57, num_workers=0, clip_seconds=SECONDS, balanced=True)
    targets = joined(files, "target")
    frequency = targets.mean(0)
    loader = datamodule.train_dataloader()
    drawn = np.zeros(CLASSES)
    for epoch in range(200):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        drawn += targets[next(iter(loader.sampler)).clips].mean(0) / 200
    assert frequency.max() / frequency.min() > 5
    assert drawn.max() / drawn.min() < 0.5 * frequency.max() / frequency.min()
    # the expectation, computed from the definition
    weights = (targets / targets.sum(0)).sum(1)
    np.testing.assert_allclose(drawn, weights @ targets / weights.sum(), atol=0.03)  # 3 standard errors of 11,400 draws


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_a_teacher_is_aligned_by_clip_id(files: list[Path], tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(1)
    order = generator.permutation(60)  # three clips more than there are
    scores = generator.random((60, CLASSES)).astype(np.float16)
    names = np.array([f"clip {number}" for number in order], "S")
    path = tmp_path / f"teacher.{kind}"
    if kind == "npz":
        np.savez(path, audio_name=names, teacher=scores)
    else:
        with h5py.File(path, "w") as file:
            file["audio_name"], file["teacher"] = names, scores
    datamodule = AudioSetDataModule(files, batch_size=8, num_workers=2, clip_seconds=SECONDS, teacher=path)
    for batch in batches(datamodule):
        expected = [scores[order.tolist().index(clip)] for clip in batch["clip"].tolist()]
        np.testing.assert_array_equal(batch["teacher"], expected)
    with pytest.raises(ClipFileError, match=r"lacks 2 of the clips, clip 99 is one"):
        TeacherScores(path, ["clip 3", "clip 99", "clip 100"], CLASSES)
    with pytest.raises(ClipFileError, match=r"6 classes for 527 labels"):
        TeacherScores(path, ["clip 3"], 527)


def test_a_teacher_names_audioset_clips_by_id_or_by_panns_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", audio_name=np.array(["--PJHxphWEs", "Y-0DeVqPZ1Q0.wav"]), teacher=np.eye(2))
    scores = TeacherScores(tmp_path / "t.npz", ["Y-0DeVqPZ1Q0.wav", "Y--PJHxphWEs.wav"], 2)
    np.testing.assert_array_equal(scores.read(np.array([0, 1])), [[0, 1], [1, 0]])


def test_a_pickled_teacher_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", audio_name=np.array([{"a": 1}], object), teacher=np.eye(1))
    with pytest.raises(ClipFileError, match="no HDF5 or npz with audio_name and teacher"):
        TeacherScores(tmp_path / "t.npz", ["a"], 1)


def open_train(datamodule: AudioSetDataModule) -> None:
    datamodule.setup("fit")
    datamodule.train_dataloader()


def test_files_that_do_not_fit_are_named(files: list[Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other.h5", 0, 3, classes=5)
    for given, said in (
        ({"train": [files[0], other]}, r"other\.h5: has other labels than .*balanced\.h5"),
        ({"train": files, "val": other}, r"other\.h5: has other labels than the train file"),
        ({"train": files, "clip_seconds": 10.0}, r"balanced\.h5: its clips have 0\.1 s"),
        ({"train": [tmp_path / "nowhere.h5"]}, r"nowhere\.h5: no such file"),
        ({}, "no file was given for train"),
    ):
        datamodule = AudioSetDataModule(**({"clip_seconds": SECONDS} | given))
        with pytest.raises(ClipFileError, match=said):
            open_train(datamodule)


class Recorder(lightning.LightningModule):
    """Writes down the clips of every batch, after the step that they made; dies in the step it is told to."""

    def __init__(self, log: Path, dies_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.log_path = log
        self.dies_at = dies_at

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        with self.log_path.open("a") as file:
            file.write(f"{self.current_epoch} {self.global_step} {batch['clip'].tolist()}\n")
        if self.global_step == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.weight * batch["waveform"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def train(files: list[Path], folder: Path, log: Path, dies_at: int | None, workers: int, every: int) -> None:
    datamodule = AudioSetDataModule(files, batch_size=8, num_workers=workers, clip_seconds=SECONDS)
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(folder, "last", every_n_train_steps=every)

    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=[checkpoint], enable_progress_bar=False
    )
    last = folder / "last.ckpt"
    trainer.fit(Recorder(log, dies_at), datamodule, ckpt_path=last if last.exists() else None, weights_only=True)


@pytest.mark.parametrize(
    ("dies_at", "every"), [(4, 3), (10, 3), (9, 7)]
)  # 7 steps an epoch: mid-epoch, 2nd epoch, its end
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_killed_training_sees_the_batches_it_would_have_seen(
    files: list[Path], tmp_path: Path, dies_at: int, every: int
) -> None:
    context = multiprocessing.get_context("fork")

    def run(name: str, dies_at: int | None) -> int | None:
        process = context.Process(
            target=train, args=(files, tmp_path / name, tmp_path / f"{name}.log", dies_at, 1, every)
        )
        process.start()
        process.join()
        return process.exitcode

    assert run("whole", None) == 0
    assert run("killed", dies_at) == -signal.SIGKILL
    assert run("killed", None) == 0
    whole = (tmp_path / "whole.log").read_text().splitlines()
    killed = (tmp_path / "killed.log").read_text().splitlines()
    assert len(whole) == 21
    repeated = dies_at % every + 1  # the steps since the checkpoint are made again
    assert len(killed) == 21 + repeated
    assert killed[: dies_at + 1] == whole[: dies_at + 1]
    assert killed[dies_at + 1 :] == whole[dies_at + 1 - repeated :]


def test_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch warns of them over five lines each time."""
    monkeypatch.setattr("preprocessing.loading.dataset.usable_cores", lambda: 4)
    assert [workers_that_fit(8, 1), workers_that_fit(8, 1, processes=2), workers_that_fit(8, 1, processes=8)] == [
        4,
        2,
        1,
    ]
    assert workers_that_fit(0, 1) == 0


def test_no_more_workers_than_shared_memory_has_room_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocessing.loading.dataset.usable_cores", lambda: 16)
    free = shutil.disk_usage("/dev/shm").free
    assert workers_that_fit(8, int(free / 7.5)) == 2  # 7 batches: 2 ahead for each of 2 workers, 2 more, one to spare
    assert workers_that_fit(8, int(free / 7.5), processes=2) == 0
    assert workers_that_fit(8, free) == 0
    assert workers_that_fit(0, free) == 0
    assert not [record for record in caplog.records if "0 of 0" in record.getMessage()]
    assert "2 of 8 worker processes read ahead; for all of them start the container with --shm-size=" in caplog.text
    caplog.clear()
    assert workers_that_fit(8, free // 1000) == 8
    assert not caplog.text


CROWDED = """
import sys
from preprocessing.loading import datamodule
from preprocessing.loading.datamodule import AudioSetDataModule
data = AudioSetDataModule(sys.argv[1], batch_size=32, num_workers=2, clip_seconds=None)
fitting = len(list(data.train_dataloader()))
datamodule.workers_that_fit = lambda workers, *_: workers  # as if others filled the memory after it was looked at
try:
    list(data.train_dataloader())
except OSError as error:
    print(fitting, error)
"""


@pytest.mark.slow
def test_a_small_shared_memory_has_fewer_workers_or_one_line(tmp_path: Path) -> None:
    """In a mount namespace with 1 MB of /dev/shm, as a container has 64 MB; a batch has 0.8 MB."""
    unshare = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    mounted = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run([*unshare, "sh", "-c", mounted], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    with ClipWriter(tmp_path / "clips.h5", ["a"], samples=4 * SAMPLES) as writer:
        writer.append(list(map(str, range(96))), np.zeros((96, 4 * SAMPLES), np.int16), np.ones((96, 1), bool))
        writer.finish()
    python = [sys.executable, "-c", CROWDED, str(tmp_path / "clips.h5")]
    command = [*unshare, "sh", "-c", f'{mounted} && exec "$@"', "sh", *python]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 /dev/shm is full: start the container with a larger --shm-size, or do without")
    assert len(done.stdout.splitlines()) == 1
    assert "/dev/shm has 1 MB free: 0 of 2 worker processes read ahead" in done.stderr


def test_the_dataset_alone(files: list[Path]) -> None:
    dataset = ClipDataset(files, SECONDS)
    batch = dataset[Request(np.array([50, 2, 2]))]
    np.testing.assert_array_equal(batch["waveform"], joined(files, "waveform")[[50, 2, 2]])
    assert batch["clip"].tolist() == [50, 2, 2]


def test_stored_embeddings_come_with_their_clips(tmp_path: Path) -> None:
    numbers = np.arange(10)
    with ClipWriter(tmp_path / "scenes.h5", ["a"], samples=SAMPLES, teacher=True, embedding=3) as writer:
        embedding = numbers[:, None] + [0.0, 0.25, 0.5]
        writer.append(
            [str(number) for number in numbers],
            np.zeros((10, SAMPLES), np.int16),
            np.ones((10, 1), bool),
            teacher=np.zeros((10, 1)),
            embedding=embedding,
        )
        writer.finish()
    dataset = ClipDataset([tmp_path / "scenes.h5"], None, "stored")
    assert (dataset.samples, dataset.embedding_size) == (SAMPLES, 3)
    batch = dataset[Request(np.array([7, 2]))]
    assert batch["embedding"].tolist() == [[7.0, 7.25, 7.5], [2.0, 2.25, 2.5]]
    assert "embedding" not in ClipDataset([tmp_path / "scenes.h5"], None)[Request(np.array([0]))]


def test_class_priors_are_those_of_the_harder_of_label_and_score(files: list[Path]) -> None:
    target, teacher = joined(files, "target"), joined(files, "teacher").astype(np.float32)
    np.testing.assert_allclose(ClipDataset(files, SECONDS).class_priors(), target.mean(0), rtol=1e-5)
    stored = ClipDataset(files, SECONDS, "stored").class_priors()
    np.testing.assert_allclose(stored, np.maximum(target, teacher).mean(0), rtol=1e-5)


def test_validation_clips_know_their_length(files: list[Path], tmp_path: Path) -> None:
    """As dcls-tag and dcls-eval do; there is none in training itself."""
    with ClipWriter(tmp_path / "val.h5", [f"label {k}" for k in range(CLASSES)], samples=2 * SAMPLES) as writer:
        writer.append(list("abc"), np.ones((3, 2 * SAMPLES), np.int16), np.ones((3, CLASSES), bool))
        writer.finish({"samples": np.array([100, 4000, 6400], np.int32)})
    datamodule = AudioSetDataModule(files, val=tmp_path / "val.h5", batch_size=4, num_workers=0, clip_seconds=None)
    (batch,) = datamodule.val_dataloader()
    assert batch["waveform"].shape == (3, 2 * SAMPLES)
    assert batch["length"].tolist() == [100, 4000, 6400]
    assert "length" not in batches(datamodule)[0]


def test_short_clips_are_repeated_in_training_and_no_zeros_are_left(tmp_path: Path) -> None:
    """Up to the longest of the batch; a random crop lies within the clip."""
    lengths = np.array([1000, 2500, 300, 1], np.int32)
    clips = np.zeros((4, SAMPLES), np.int16)
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        clip[:length] = 1 + row + 4 * np.arange(length)
    with ClipWriter(tmp_path / "train.h5", ["a"], samples=SAMPLES) as writer:
        writer.append(list("abcd"), clips, np.ones((4, 1), bool))
        writer.finish({"samples": lengths})
    dataset = ClipDataset([tmp_path / "train.h5"], SECONDS)
    waveform = dataset[Request(np.array([0, 2, 3]))]["waveform"].numpy()
    assert waveform.shape == (3, 1000)
    for row, clip in zip(waveform, (0, 2, 3), strict=True):
        np.testing.assert_array_equal(row, clips[clip, np.arange(1000) % lengths[clip]])
    assert dataset[Request(np.array([1, 0]))]["waveform"].shape == (2, 2500)
    cropped = ClipDataset([tmp_path / "train.h5"], 1600 / 32_000)
    firsts = set()
    for seed in range(20):
        waveform = cropped[Request(np.array([0, 1]), (seed,))]["waveform"].numpy()
        assert waveform.shape == (2, 1600)
        np.testing.assert_array_equal(waveform[0], clips[0, np.arange(1600) % 1000])
        first = (int(waveform[1, 0]) - 2) // 4
        np.testing.assert_array_equal(waveform[1], clips[1, first : first + 1600])
        firsts.add(first)
    assert len(firsts) > 10
    assert max(firsts) <= 900

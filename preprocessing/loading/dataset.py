"""The clips of HDF5 files, a batch at a time. Apart from the data module: workers need not import Lightning."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, get_worker_info

from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.checks import dataset, texts
from preprocessing.clips.layout import ClipFileError, clip_id
from preprocessing.clips.reader import ClipFile
from preprocessing.cores import usable_cores
from preprocessing.npz import read_npz

_SHARED_MEMORY = Path("/dev/shm")  # where torch puts the batches of worker processes on Linux
_READ_AHEAD = 2  # batches of each worker, torch's default
_log = logging.getLogger(__name__)

STORED = "stored"
"""The teacher's name if the files have its scores themselves."""


class Request(NamedTuple):
    """What a batch is to hold: the clips, and the seed of their random crops (None: from the first sample)."""

    clips: npt.NDArray[np.int64]
    crop_seed: tuple[int, ...] | None = None


class ClipDataset(Dataset[dict[str, torch.Tensor]]):
    """The clips of one or more files, a batch at a time: `dataset[Request([5, 0, 7])]`.

    Args:
        clip_seconds: None for whole clips, which must then be equally long in all files.
        lengths: whether batches have a `length`, int64 (B,): where the zeros begin that pad a clip, if the files tell
            that of any. Otherwise batches are for training: such a clip is repeated up to the longest one of its batch,
            and the batch ends there: zeros would teach silence.

    Raises ClipFileError for files that cannot be read or differ in their labels, clips shorter than `clip_seconds`, and
    clips that the teacher has not scored.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        clip_seconds: float | None = 10.0,
        teacher: str | Path | None = None,
        lengths: bool = False,
    ) -> None:
        self.files = [ClipFile(path) for path in paths]
        self.labels = self.files[0].labels
        if clip_seconds is None:
            clip_seconds = self.files[0].samples / SAMPLE_RATE
        self.samples = round(clip_seconds * SAMPLE_RATE)
        self.embedding_size = 0
        """Width of the teacher's stored embeddings, 0 if there are none."""
        for file in self.files:
            if file.labels != self.labels:
                raise ClipFileError(f"{file.path}: has other labels than {self.files[0].path}")
            if file.samples < self.samples:
                seconds = file.samples / SAMPLE_RATE
                raise ClipFileError(f"{file.path}: its clips have {seconds:g} s, clip_seconds is {clip_seconds:g}")
            if teacher == STORED and not file.has_teacher:
                raise ClipFileError(f"{file.path}: has no teacher's scores")
        self._ends = np.cumsum([len(file) for file in self.files])
        self._stored_teacher = teacher == STORED
        if self._stored_teacher and len(widths := {file.embedding_size for file in self.files}) == 1:
            self.embedding_size = widths.pop()
        self._lengths = None
        """(N,) samples before padding."""
        if any(file.lengths is not None for file in self.files):
            whole = [np.full(len(file), file.samples) for file in self.files]
            own = [file.lengths for file in self.files]
            pairs = zip(own, whole, strict=True)
            self._lengths = np.concatenate([full if known is None else known.clip(1) for known, full in pairs])
        self._tells_lengths = lengths
        self._teacher = None
        if teacher is not None and teacher != STORED:
            self._teacher = TeacherScores(teacher, self.audio_names(), len(self.labels))

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def clip_bytes(self) -> int:
        """The most bytes that a clip takes in a batch."""
        return 2 * self.samples + 3 * len(self.labels) + 2 * self.embedding_size + 16

    def audio_names(self) -> list[str]:
        """The names of the clips, in the order of `clip` in a batch."""
        return [name for file in self.files for name in file.audio_names()]

    def balancing_weights(self) -> npt.NDArray[np.float64]:
        """(N,) sampling probabilities: the sum over a clip's labels of 1 / number of clips with it, scaled to sum 1."""
        counts = sum(file.label_counts() for file in self.files)
        per_label = 1 / np.maximum(counts, 1)
        weights = [
            file.read("target", np.arange(first, min(first + 65_536, len(file)))) @ per_label
            for file in self.files
            for first in range(0, len(file), 65_536)
        ]
        joined = np.concatenate(weights)
        return joined / joined.sum()

    def class_priors(self) -> npt.NDArray[np.float32]:
        """(C,) mean over the clips of the label, or of the teacher's score if that is stored and higher."""
        total = np.zeros(len(self.labels))
        for end, file in zip(self._ends, self.files, strict=True):
            for first in range(0, len(file), 4096):
                rows = np.arange(first, min(first + 4096, len(file)))
                target = file.read("target", rows).astype(np.float32)
                if self._stored_teacher:
                    target = np.maximum(target, file.read("teacher", rows))
                elif self._teacher is not None:
                    target = np.maximum(target, self._teacher.read(end - len(file) + rows))
                total += target.sum(0, dtype=np.float64)
        return (total / len(self)).astype(np.float32)

    def __getitem__(self, request: Request) -> dict[str, torch.Tensor]:
        clips = np.asarray(request.clips, np.int64)
        lengths = None if self._lengths is None else self._lengths[clips]
        samples = self.samples
        if lengths is not None and not self._tells_lengths:
            samples = min(samples, int(lengths.max()))
        waveform = empty_batch(len(clips), samples, torch.int16)
        target = empty_batch(len(clips), len(self.labels), torch.bool)
        batch = {"waveform": waveform, "target": target, "clip": torch.from_numpy(clips)}
        if self._stored_teacher or self._teacher is not None:
            batch["teacher"] = empty_batch(len(clips), len(self.labels), torch.float16)
        if self.embedding_size:
            batch["embedding"] = empty_batch(len(clips), self.embedding_size, torch.float16)
        if lengths is not None and self._tells_lengths:
            batch["length"] = torch.from_numpy(lengths.clip(max=samples))
        starts = np.zeros(len(clips), np.int64)
        file_of_clip = np.searchsorted(self._ends, clips, side="right")
        if request.crop_seed is not None:
            spare = np.array([file.samples for file in self.files])[file_of_clip] if lengths is None else lengths
            spare = (spare - samples).clip(0)
            starts = np.random.default_rng(request.crop_seed).integers(0, spare, endpoint=True)
        for number in np.unique(file_of_clip).tolist():
            file = self.files[number]
            slots = np.flatnonzero(file_of_clip == number)
            slots = slots[np.argsort(clips[slots], kind="stable")]
            rows = clips[slots] - (self._ends[number] - len(file))
            file.read_waveforms(rows, waveform.numpy(), slots.tolist(), starts[slots].tolist())
            target.numpy()[slots] = file.read("target", rows)
            if self._stored_teacher:
                batch["teacher"].numpy()[slots] = file.read("teacher", rows)
            if self.embedding_size:
                batch["embedding"].numpy()[slots] = file.read("embedding", rows)
        if self._teacher is not None:
            batch["teacher"].numpy()[:] = self._teacher.read(clips)
        if lengths is not None and not self._tells_lengths:
            for row, length in zip(waveform.numpy(), lengths.tolist(), strict=True):
                row[length:] = np.resize(row[:length], max(samples - length, 0))
        return batch


def empty_batch(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised (rows, columns); in a worker in shared memory, where it would else be copied to be sent."""
    if get_worker_info() is None:
        return torch.empty(rows, columns, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(rows * columns * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, (rows, columns), (columns, 1))


def workers_that_fit(workers: int, batch_bytes: int, processes: int = 1) -> int:
    """`workers`, or fewer if there are fewer cores, or if shared memory has no room for what they read ahead.

    Args:
        batch_bytes: of one batch.
        processes: of this machine that have so many workers each.

    A lack of shared memory, of which a container has 64 MB by default, is logged.
    """
    workers = min(workers, max(usable_cores() // processes, 1))
    if not workers or not _SHARED_MEMORY.is_dir():
        return workers
    free = shutil.disk_usage(_SHARED_MEMORY).free
    # beside those read ahead, one batch is in use and one on its way
    fitting = max(free // processes // batch_bytes - 2, 0) // _READ_AHEAD
    if fitting < workers:
        needed = (_READ_AHEAD * workers + 2) * batch_bytes * processes
        _warn_once(
            f"{_SHARED_MEMORY} has {free // 2**20} MB free: {fitting} of {workers} worker processes read ahead; "
            f"for all of them start the container with --shm-size={-(-needed // 2**20)}m"
        )
    return min(workers, fitting)


@cache
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


@contextmanager
def shared_memory_errors() -> Iterator[None]:
    """Raises OSError, one line that says what to do, if batches are read for which shared memory has no room."""
    try:
        yield
    except RuntimeError as error:
        if "shared memory" not in str(error) and "shm" not in str(error):
            raise
        raise OSError(
            f"{_SHARED_MEMORY} is full: start the container with a larger --shm-size, or do without worker processes "
            "(dcls-train: data.num_workers=0, dcls-eval: --workers 0)"
        ) from error


class TeacherScores:
    """A teacher's scores for the clips of a dataset, from an npz or HDF5 with `audio_name` (M,) and `teacher` (M, C).

    Aligned by clip id, whatever their order; an npz is held in memory, an HDF5 is read as it is needed. Raises
    ClipFileError if it cannot be read, has other columns, or lacks a clip.
    """

    def __init__(self, path: str | Path, audio_names: Sequence[str], num_classes: int) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        self._scores: npt.NDArray[np.float16] | None = None
        try:
            if h5py.is_hdf5(self.path):
                names = texts(self._open(), "audio_name")
                columns = dataset(self._open(), "teacher", "f", 2, len(names)).shape[1]
            else:
                names = read_npz(self.path, "audio_name", "SU", 1)
                self._scores = read_npz(self.path, "teacher", "f", 2).astype(np.float16)
                columns = self._scores.shape[1]
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise ClipFileError(f"{path}: no HDF5 or npz with audio_name and teacher ({error})") from None
        if columns != num_classes:
            raise ClipFileError(f"{path}: scores of {columns} classes for {num_classes} labels")
        found = (name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
        row_of_id = {clip_id(text): row for row, text in enumerate(found)}
        rows = [row_of_id.get(clip_id(name), -1) for name in audio_names]
        if lacking := rows.count(-1):
            raise ClipFileError(f"{path}: lacks {lacking} of the clips, {audio_names[rows.index(-1)]} is one")
        self._rows = np.array(rows, np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_pid": -1}

    def _open(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = h5py.File(self.path, "r", locking="best-effort"), os.getpid()
        return self._file

    def read(self, clips: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """(B, C) scores of clips (B,)."""
        rows = self._rows[clips]
        if self._scores is not None:
            return self._scores[rows]
        scores = self._open()["teacher"]
        return np.stack([scores[row] for row in rows.tolist()]).astype(np.float16)

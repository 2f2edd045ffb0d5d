"""Sounds of many jobs -> HDF5 files, so that a run that was killed goes on and ends in the same bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from preprocessing.audio import AudioError
from preprocessing.clips.layout import CLIP_SAMPLES, to_int16
from preprocessing.clips.writer import ClipWriter
from preprocessing.corpora.open_sounds import containers
from preprocessing.corpora.open_sounds.git import GoneError
from preprocessing.corpora.open_sounds.lists import OpenSoundsError
from preprocessing.labels import labels as audioset_labels

BATCH = 32  # clips decoded and written at once: 20 MB

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sound:
    """A clip to be, and what makes its waveform, float32 (samples,) at 32 kHz, out of the folder of its job."""

    name: str
    group: str
    labels: Sequence[str]
    teacher: np.ndarray
    make: Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class Job:
    """What is fetched at once: a package, a repository.

    Attributes:
        open: the folder with the job's files, as long as its block lasts; raises OpenSoundsError if it cannot be had.
        sounds: of each output file, by name, in order.
        size: in bytes, for the progress bar.
    """

    name: str
    open: Callable[[], AbstractContextManager[Path]]
    sounds: dict[str, list[Sound]]
    size: int = 0


@dataclass
class Report:
    """What a run made: clips of each finished file, a line for each sound left out, and the jobs that are missing."""

    clips: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __iadd__(self, other: Report) -> Report:
        self.clips |= other.clips
        self.left_out += other.left_out
        self.missing += other.missing
        return self


def write_files(
    files: dict[str, Path], sources: dict[str, str], jobs: Sequence[Job], advance: Callable[[str, int], None]
) -> Report:
    """Write the sounds of the jobs into `files`, by name; a file is finished if none of its jobs is missing.

    Args:
        sources: the string that tells a file's contents from others.
        advance: is told a job's name and the bytes that are done.
    """
    report = Report()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        outputs = {
            name: _Output(stack.enter_context(_writer(path, sources[name])), pool) for name, path in files.items()
        }
        unfinished: set[str] = set()
        for job in jobs:
            advance(job.name, 0)
            todo = {name: outputs[name] for name in job.sounds if job.name not in outputs[name].done}
            try:
                _do(job, todo)
            except OpenSoundsError as error:
                _log.warning("%s", error)
                report.missing.append(job.name)
                unfinished |= set(todo)
            advance(job.name, job.size)
        for name, output in outputs.items():
            report.left_out += output.left_out
            if name not in unfinished:
                report.clips[name] = output.finish()
    return report


def _writer(path: Path, source: str) -> ClipWriter:
    return ClipWriter(path, teacher=True, group=True, source=source)


def _do(job: Job, todo: dict[str, _Output]) -> None:
    if not todo:
        return
    try:
        with job.open() as root:
            for name, output in todo.items():
                output.write(job.name, job.sounds[name], root)
    except GoneError as error:
        for name, output in todo.items():
            output.leave_out(job.name, f"{error}: {len(job.sounds[name])} clips of {name}.h5")


class _Output:
    """A file being written, and what its journal knows from runs before."""

    def __init__(self, writer: ClipWriter, pool: Executor) -> None:
        self._writer, self._pool = writer, pool
        self._index = {label.display_name: label.index for label in audioset_labels()}
        self._samples = [length for note in writer.notes for length in note["samples"]]
        self._left_out: dict[str, str] = {}
        for note in writer.notes:
            self._left_out |= note["left_out"]
        self.done = {note["done"] for note in writer.notes}

    def write(self, job: str, sounds: Sequence[Sound], root: Path) -> None:
        """Append the sounds that are not there yet, and the note that the job is done."""
        todo = [sound for sound in sounds if sound.name not in self._writer and sound.name not in self._left_out]
        for batch in _batches(todo):
            made = list(zip(batch, self._pool.map(partial(make, root=root), batch), strict=True))
            kept = [(sound, clip) for sound, clip in made if not isinstance(clip, str)]
            self._append(kept, {sound.name: line for sound, line in made if isinstance(line, str)})
        self._append([], {}, done=job)

    def leave_out(self, job: str, line: str) -> None:
        """Note that the job is done without its sounds."""
        self._append([], {job: line}, done=job)

    def _append(self, clips: Sequence[tuple[Sound, np.ndarray]], lost: dict[str, str], done: str | None = None) -> None:
        target = np.zeros((len(clips), len(self._index)), bool)
        for row, (sound, _) in enumerate(clips):
            target[row, [self._index[label] for label in sound.labels]] = True
        teacher = np.array([sound.teacher for sound, _ in clips], np.float16).reshape(len(clips), len(self._index))
        lengths = [len(clip) for _, clip in clips]
        self._writer.append(
            [sound.name for sound, _ in clips],
            [np.pad(clip, (0, CLIP_SAMPLES - len(clip))) for _, clip in clips],
            target,
            groups=[sound.group for sound, _ in clips],
            teacher=teacher,
            note={"samples": lengths, "left_out": lost, "done": done},
        )
        self._samples += lengths
        self._left_out |= lost

    @property
    def left_out(self) -> list[str]:
        """A line for each sound or job that could not be had."""
        return list(self._left_out.values())

    def finish(self) -> int:
        """Make the HDF5 file; returns the number of its clips."""
        attributes = {"samples": np.array(self._samples, np.int32), "left_out": np.int64(len(self.left_out))}
        return self._writer.finish(attributes).clip_count


def make(sound: Sound, root: Path) -> np.ndarray | str:
    """int16 (samples,) of at most 10 s, or one line that says why there is none."""
    try:
        waveform = sound.make(root)[:CLIP_SAMPLES]
    except (AudioError, *containers.ERRORS) as error:
        return f"{sound.name}: {error}"
    return to_int16(waveform) if len(waveform) else f"{sound.name}: no samples"


def _batches(sounds: Sequence[Sound]) -> Iterator[Sequence[Sound]]:
    for first in range(0, len(sounds), BATCH):
        yield sounds[first : first + BATCH]

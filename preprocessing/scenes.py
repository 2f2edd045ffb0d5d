"""Scenes: short, clean recordings mixed into canvases that are closer to what a tagger will hear.

A scene is a canvas of some seconds with a few recordings at random places, levels and speeds over noise of a random
colour and level. Every scene is a pure function of (seed, index): workers, resumed runs and other machines make the
same. numpy and soxr only, so that it runs in data loader workers and without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from preprocessing.audio import SAMPLE_RATE
from preprocessing.hdf5 import ClipFile, ClipFileError, to_int16

NOISE_SECONDS = 20
NOISE_EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)  # power falls as 1 / f^exponent: white ... pink ... brown


@dataclass
class Recordings:
    """Recordings of different lengths with what is known about them.

    waveforms: N arrays, int16 (samples,), at 32 kHz; target: bool (N, C), the labels;
    teacher: float16 (N, C), a teacher's scores in [0, 1], or None.
    """

    waveforms: Sequence[np.ndarray]
    target: np.ndarray
    teacher: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.waveforms)

    def soft_target(self, index: int) -> np.ndarray:
        """float32 (C,): the harder of label and teacher score; a label the teacher does not hear stays a label."""
        target = self.target[index].astype(np.float32)
        return target if self.teacher is None else np.maximum(target, self.teacher[index].astype(np.float32))


def load_recordings(paths: Sequence[str | Path]) -> Recordings:
    """The clips of HDF5 files without the zeros that pad them, read when they are asked for.

    The lengths are in an attribute that `dcls-prepare open-sounds` writes; without it clips are whole. The files must
    all have a teacher's scores, or none is used.

    Raises ClipFileError for files that cannot be read or differ in their labels.
    """
    files = [ClipFile(path) for path in paths]
    for file in files:
        if file.labels != files[0].labels:
            raise ClipFileError(f"{file.path}: has other labels than {files[0].path}")
    waveforms = _StoredWaveforms(files)
    rows = [np.arange(len(file)) for file in files]
    target = np.concatenate([file.read("target", row) for file, row in zip(files, rows, strict=True)])
    if not all(file.has_teacher for file in files):
        return Recordings(waveforms, target)
    teacher = np.concatenate([file.read("teacher", row) for file, row in zip(files, rows, strict=True)])
    return Recordings(waveforms, target, teacher)


class _StoredWaveforms(Sequence[np.ndarray]):
    """The waveforms of files, each read when it is asked for: nothing to hold in memory or to send to workers."""

    def __init__(self, files: Sequence[ClipFile]) -> None:
        self._places = [
            (file, clip, int(length))
            for file in files
            for clip, length in enumerate(file.lengths if file.lengths is not None else [file.samples] * len(file))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        file, clip, length = self._places[index]
        return file.read_waveforms([clip], np.empty((1, length), np.int16))[0]


def drawing_weights(target: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(N,) how often to draw recordings with the labels `target`, (N, C): rare classes more often.

    1 / sqrt(number of recordings with its rarest label): half-way, in the exponent, from drawing recordings equally
    often to drawing classes so, which would wear out the two or three recordings that some have.
    """
    weight: npt.NDArray[np.float64] = np.sqrt((target / np.maximum(target.sum(0), 1)).max(1))
    return weight


@dataclass
class Scenes:
    """A dataset of scenes: `scenes[i]` is {"waveform", "target", "teacher", "clip"}, the same for the same seed and i.

    waveform: int16 (seconds * 32000,); target: bool (C,), any recording has the label; teacher: float16 (C,), the soft
    targets y of the recordings joined as 1 - prod(1 - y); clip: the scene's index.

    seconds: length of the canvas. recordings_per_scene: least and most recordings in it. speed: widest change of speed,
        as a factor either way. level: dB, range of the recordings' loudest parts, full scale is 0.
    noise: dB, range of the noise below the loudest recording; half of the scenes have none.
    repeat: probability that a recording under a third of the canvas is heard again, as dogs and doorbells are.
    weight: (N,) how often each recording is drawn; even where None.
    """

    recordings: Recordings
    length: int
    seconds: float = 10.0
    recordings_per_scene: tuple[int, int] = (1, 4)
    seed: int = 0
    speed: float = 1.15
    level: tuple[float, float] = (-26.0, -1.0)
    noise: tuple[float, float] = (-60.0, -12.0)
    repeat: float = 0.4
    weight: np.ndarray | None = None
    _noise: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.recordings):
            raise ValueError("scenes need at least one recording")
        self.samples = round(self.seconds * SAMPLE_RATE)
        self._noise = _noise_bank(max(NOISE_SECONDS, int(2 * self.seconds)))
        if self.weight is not None:
            self._cumulative = np.cumsum(self.weight / self.weight.sum())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        canvas = np.zeros(self.samples, np.float32)
        low, high = self.recordings_per_scene
        chosen = [self._draw(rng) for _ in range(rng.integers(low, high + 1))]
        loudest = -np.inf
        silent = np.ones(self.recordings.target.shape[1], np.float32)
        for recording in chosen:
            decibels = rng.uniform(*self.level)
            loudest = max(loudest, decibels)
            self._place(canvas, self.recordings.waveforms[recording], decibels, rng)
            silent *= 1 - self.recordings.soft_target(recording)
        if rng.random() < 0.5:
            canvas += 10 ** ((loudest + rng.uniform(*self.noise)) / 20) * self._cut_noise(rng)
        peak = np.abs(canvas).max()
        if peak > 1:
            canvas /= peak
        return {
            "waveform": to_int16(canvas),
            "target": self.recordings.target[chosen].any(axis=0),
            "teacher": (1 - silent).astype(np.float16),
            "clip": index,
        }

    def _draw(self, rng: np.random.Generator) -> int:
        if self.weight is None:
            return int(rng.integers(len(self.recordings)))
        return min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.recordings) - 1)

    def _place(self, canvas: np.ndarray, waveform: np.ndarray, decibels: float, rng: np.random.Generator) -> None:
        """Add `waveform` to `canvas` at a random speed and place, its loudest sample at `decibels`."""
        factor = self.speed ** rng.uniform(-1, 1)
        part = _loud_part(waveform, int(len(canvas) * factor) + 1, rng).astype(np.float32)
        peak = np.abs(part).max(initial=0)
        if not peak:
            return
        part = soxr.resample(part, SAMPLE_RATE * factor, SAMPLE_RATE, quality="QQ")[: len(canvas)]
        part *= 10 ** (decibels / 20) / peak
        start = int(rng.integers(len(canvas) - len(part) + 1))
        canvas[start : start + len(part)] += part
        if 3 * len(part) < len(canvas) and rng.random() < self.repeat:
            period = int(len(part) * rng.uniform(1, 2.5)) + 1
            for again in range(start + period, len(canvas) - len(part), period):
                canvas[again : again + len(part)] += part

    def _cut_noise(self, rng: np.random.Generator) -> np.ndarray:
        row = self._noise[rng.integers(len(self._noise))]
        start = int(rng.integers(len(row) - self.samples + 1))
        return row[start : start + self.samples]


def _loud_part(waveform: np.ndarray, samples: int, rng: np.random.Generator, tries: int = 3) -> np.ndarray:
    """The loudest of some random parts of `samples` samples: a label rarely holds for the silent ones."""
    spare = len(waveform) - samples
    if spare <= 0:
        return waveform
    starts = rng.integers(spare + 1, size=tries)
    energy = [np.square(waveform[start : start + samples : 16], dtype=np.float32).sum() for start in starts]
    start = starts[int(np.argmax(energy))]
    return waveform[start : start + samples]


@lru_cache(maxsize=4)
def _noise_bank(seconds: int) -> np.ndarray:
    """(exponents, samples) float32 noise of unit peak, one row a colour; scenes cut their noise out of it."""
    samples = seconds * SAMPLE_RATE
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 20.0)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(samples))
    rows = [np.fft.irfft(spectrum * frequency ** (-exponent / 2), samples) for exponent in NOISE_EXPONENTS]
    return np.stack([row / np.abs(row).max() for row in rows]).astype(np.float32)

"""Scenes: recordings mixed into short pieces that sound like what a tagger meets, as tensors on the device that trains.

A scene of some seconds holds one to three recordings at random offsets, levels and speeds, some of them repeated, over
noise, over a part of a long recording, or over nothing. Some scenes are then filtered (a telephone, an old recording, a
tilted spectrum), reverberated, or clipped.

Every scene is a function of (seed, index) alone: all random numbers are drawn on the CPU from numpy's generator of
these two (`Scenes.plan`), and tensor operations do the rest (`Scenes.__call__`), so that any device, worker or resumed
run makes the same scene, up to float32 rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from preprocessing.clips.layout import INT16_SCALE, ClipFileError
from preprocessing.clips.reader import ClipFile
from preprocessing.constants import SAMPLE_RATE
from preprocessing.files import atomic_write, lock

NOISE_SECONDS = 20
NOISE_EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)  # power falls as 1 / f^exponent: white ... pink ... brown
LOUD_PART_TRIES = 3
LONG_RECORDING = 5.0  # seconds; only these are backgrounds
RESPONSE_POINTS = 1025  # of a filter, 16 Hz apart
ROOMS = 64  # impulse responses in the bank
CONFIDENT = 0.5  # a teacher's score above which a class counts as present when recordings are drawn


@dataclass
class Recordings:
    """Recordings of different lengths, one after another in memory.

    Attributes:
        samples: int16 (total,), at 32 kHz.
        start, length: int64 (N,), where each recording lies in it.
        target: bool (N, C), the labels.
        teacher: float16 (N, C), a teacher's scores in [0, 1], or None.
        weight: float64 (N,), how often each is drawn.
        names: the N names.
    """

    samples: npt.NDArray[np.int16]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    target: npt.NDArray[np.bool_]
    teacher: npt.NDArray[np.float16] | None
    weight: npt.NDArray[np.float64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.start)

    def waveform(self, index: int) -> npt.NDArray[np.int16]:
        return self.samples[self.start[index] : self.start[index] + self.length[index]]


def load_recordings(
    paths: Sequence[str | Path], weights: Sequence[float] | None = None, exclude: str | Path | None = None
) -> Recordings:
    """The clips of HDF5 files without the zeros that pad them, in one memory-mapped file that all processes share.

    The file, `.recordings-<hash>.int16`, is made beside the first HDF5 file the first time, 64 kB a second of sound.

    Args:
        weights: a factor for each file on how often its recordings are drawn (`drawing_weights`); 1 by default.
        exclude: a text file with the names of clips to leave out, one a line.

    Raises ClipFileError for files that cannot be read or differ in their labels.
    """
    files = [ClipFile(path) for path in paths]
    for file in files:
        if file.labels != files[0].labels:
            raise ClipFileError(f"{file.path}: has other labels than {files[0].path}")
    left_out = excluded_names(exclude)
    names = [file.audio_names() for file in files]
    rows = [np.array([name not in left_out for name in of_file], bool).nonzero()[0] for of_file in names]
    length = np.concatenate([file.clip_lengths()[row] for file, row in zip(files, rows, strict=True)])
    target = np.concatenate([file.read("target", row) for file, row in zip(files, rows, strict=True)])
    teacher = None
    if all(file.has_teacher for file in files):
        teacher = np.concatenate([file.read("teacher", row) for file, row in zip(files, rows, strict=True)])
    factor = np.repeat(np.ones(len(files)) if weights is None else np.asarray(weights), [len(row) for row in rows])
    return Recordings(
        _packed(files, rows, length),
        np.cumsum(length) - length,
        length,
        target,
        teacher,
        factor * drawing_weights(target, teacher),
        [of_file[row] for of_file, of_rows in zip(names, rows, strict=True) for row in of_rows.tolist()],
    )


def excluded_names(path: str | Path | None) -> set[str]:
    """Names of clips in a text file, one a line; none without a file."""
    return set(Path(path).read_text(encoding="utf-8").splitlines()) if path else set()


def _packed(
    files: Sequence[ClipFile], rows: Sequence[npt.NDArray[np.int64]], length: npt.NDArray[np.int64]
) -> npt.NDArray[np.int16]:
    """The chosen rows one after another, int16 (total,), memory-mapped."""
    states = [(str(file.path.resolve()), file.path.stat().st_size, file.path.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps([states, [row.tolist() for row in rows]]).encode()).hexdigest()[:16]
    path = files[0].path.with_name(f".recordings-{digest}.int16")
    with path.with_suffix(".lock").open("w") as held:
        lock(held, wait=True)  # the processes of a run start at the same time
        if not path.exists():
            with atomic_write(path) as unfinished:
                packed = np.memmap(unfinished, np.int16, "w+", shape=(int(length.sum()),))
                offset = 0
                for file, row in zip(files, rows, strict=True):
                    lengths = file.clip_lengths()
                    for clip in row.tolist():
                        end = offset + int(lengths[clip])
                        file.read_waveforms([clip], packed[None, offset:end])
                        offset = end
                packed.flush()
    return np.memmap(path, np.int16, "c")  # never written to, but torch takes no read-only arrays


def drawing_weights(
    target: npt.NDArray[np.bool_], teacher: npt.NDArray[np.float16] | None = None
) -> npt.NDArray[np.float64]:
    """(N,) how often to draw recordings with the labels `target`, (N, C): rare classes more often.

    1 / sqrt(number of recordings with its rarest label): half-way, in the exponent, from drawing recordings equally
    often to drawing classes so, which would wear out the two or three recordings that some have. Recordings without
    any label count the classes that the teacher is confident of, and the commonest class if there are none.
    """
    present = target.copy()
    if teacher is not None:
        unlabelled = ~target.any(1)
        present[unlabelled] = teacher[unlabelled] > CONFIDENT
    count = np.maximum(present.sum(0), 1)
    weight: npt.NDArray[np.float64] = np.sqrt((present / count).max(1))
    weight[~present.any(1)] = np.sqrt(1 / count.max())
    return weight


@dataclass
class Event:
    """A recording in a scene.

    Attributes:
        scene: row of the batch.
        recording: its number.
        base: first sample in `Recordings.samples`.
        span: how many of them.
        speed: samples of the recording a sample of the scene.
        offset: sample of the scene that it begins at.
        period: samples from one repetition to the next, 0 for none.
        gain: amplitude of full-scale int16.
        heard: whether its labels are the scene's: a background's are not.
    """

    scene: int
    recording: int
    base: int
    span: int
    speed: float
    offset: int
    period: int
    gain: float
    heard: bool

    @property
    def samples(self) -> int:
        """Length in the scene, without repetitions."""
        return int((self.span - 1) / self.speed) + 1


@dataclass
class Plan:
    """What a batch of scenes is made of: the events, and for each scene numbers drawn once.

    Attributes:
        noise: row of the noise bank, offset in it, and amplitude, or None.
        highpass, lowpass: Hz; None for a scene that is not filtered, as of tilt, room and wet.
        tilt: dB an octave around 1 kHz.
        room: row of the bank of rooms.
        wet: the reverberation's share.
        clip: the amplification before clipping at full scale, 1 for none.
    """

    events: list[Event] = field(default_factory=list)
    noise: list[tuple[int, int, float] | None] = field(default_factory=list)
    filters: list[tuple[float, float, float, int, float] | None] = field(default_factory=list)
    clip: list[float] = field(default_factory=list)


class Scenes:
    """Batches of scenes: `scenes([5, 0, 7])` is {"waveform", "target", "teacher"}, a row for each index.

    waveform: int16 (B, samples), on `device`; target: bool (B, C), a recording that is heard has the label; teacher:
    float16 (B, C), absent without stored scores: the soft targets y = max(label, score) of the recordings heard,
    joined as 1 - prod(1 - y).

    Args:
        recordings: what to mix.
        seconds: length of a scene.
        max_recordings: most recordings in a scene, besides a background; the least is 1.
        seed: with the index, all that a scene depends on.
        speed: widest change of speed, as a factor either way.
        level: dB, range of the recordings' loudest samples; full scale is 0.
        repeat: probability that a recording under a third of the scene is heard again, as dogs and doorbells are.
        device: where scenes are made. The recordings lie there too: 64 kB a second of sound.
    """

    NOISE = 0.4, (-60.0, -12.0)  # probability, dB below the loudest recording
    BACKGROUND = 0.2, (-30.0, -8.0)
    FILTER, ROOM, CLIP = 0.3, 0.15, 0.06  # probabilities

    def __init__(
        self,
        recordings: Recordings,
        seconds: float = 2.56,
        max_recordings: int = 2,
        seed: int = 0,
        speed: float = 1.15,
        level: tuple[float, float] = (-30.0, -1.0),
        repeat: float = 0.4,
        device: torch.device | str = "cpu",
    ) -> None:
        if not len(recordings):
            raise ValueError("scenes need at least one recording")
        self.recordings = recordings
        self.samples = round(seconds * SAMPLE_RATE)
        self.max_recordings, self.seed, self.speed, self.level, self.repeat = max_recordings, seed, speed, level, repeat
        self.device = torch.device(device)
        cumulative = np.cumsum(recordings.weight)
        self._cumulative = cumulative / cumulative[-1]
        self._long = np.flatnonzero(recordings.length >= LONG_RECORDING * SAMPLE_RATE)
        self._samples = torch.from_numpy(recordings.samples).to(self.device)
        self._noise = torch.from_numpy(noise_bank(max(NOISE_SECONDS, int(2 * seconds)))).to(self.device)
        self._rooms = torch.from_numpy(room_bank(self.samples)).to(self.device)

    def __call__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        plan = self.plan(indices)
        waveform = self._mix(plan)
        waveform = self._filter(waveform, plan)
        gain = torch.tensor(plan.clip, dtype=torch.float32).to(self.device, non_blocking=True)
        waveform = (waveform * gain[:, None]).clamp_(-1, 1)
        return {"waveform": waveform.mul_(INT16_SCALE).round_().to(torch.int16), **self.targets(plan)}

    # ---- random numbers, on the CPU

    def plan(self, indices: Sequence[int]) -> Plan:
        """What the scenes are made of."""
        plan = Plan()
        for row, index in enumerate(indices):
            rng = np.random.default_rng((self.seed, int(index)))
            events = [self._event(rng, row) for _ in range(rng.integers(1, self.max_recordings + 1))]
            peak = max((event.gain * self._peak(event) for event in events), default=0.0)
            if len(self._long) and rng.random() < self.BACKGROUND[0]:
                events.append(self._background(rng, row, peak))
            plan.events += [event for event in events if event.gain]
            plan.noise.append(self._draw_noise(rng, peak))
            plan.filters.append(self._draw_filter(rng))
            plan.clip.append(10 ** (rng.uniform(3, 20) / 20) if rng.random() < self.CLIP else 1.0)
        return plan

    def _event(self, rng: np.random.Generator, row: int) -> Event:
        recording = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.recordings) - 1)
        speed = self.speed ** rng.uniform(-1, 1)
        event = self._part(rng, row, recording, speed)
        decibels = rng.uniform(*self.level)
        peak = self._peak(event)
        event.gain = 10 ** (decibels / 20) / peak if peak else 0.0
        event.offset = int(rng.integers(max(self.samples - event.samples, 0) + 1))
        if 3 * event.samples < self.samples and rng.random() < self.repeat:
            event.period = int(event.samples * rng.uniform(1, 2.5)) + 1
        return event

    def _background(self, rng: np.random.Generator, row: int, peak: float) -> Event:
        """A part of a long recording, as long as the scene or as the recording, behind the others."""
        event = self._part(rng, row, int(rng.choice(self._long)), 1.0, tries=1)
        own = self._peak(event)
        event.gain = peak * 10 ** (rng.uniform(*self.BACKGROUND[1]) / 20) / own if own else 0.0
        event.period, event.heard = event.samples, False
        return event

    def _part(
        self, rng: np.random.Generator, row: int, recording: int, speed: float, tries: int = LOUD_PART_TRIES
    ) -> Event:
        """The loudest of some random parts of a recording: a label rarely holds for the silent ones."""
        waveform = self.recordings.waveform(recording)
        span = min(len(waveform), int(self.samples * speed))
        first = 0
        if len(waveform) > span:
            starts = rng.integers(len(waveform) - span + 1, size=tries)
            energy = [np.square(waveform[start : start + span : 16], dtype=np.float32).sum() for start in starts]
            first = int(starts[int(np.argmax(energy))])
        return Event(row, recording, int(self.recordings.start[recording]) + first, span, speed, 0, 0, 0.0, True)

    def _peak(self, event: Event) -> float:
        part = self.recordings.samples[event.base : event.base + event.span]
        return max(int(part.max(initial=0)), -int(part.min(initial=0))) / INT16_SCALE

    def _draw_noise(self, rng: np.random.Generator, peak: float) -> tuple[int, int, float] | None:
        if rng.random() >= self.NOISE[0]:
            return None
        bank, length = self._noise.shape
        start = int(rng.integers(length - self.samples + 1))
        return int(rng.integers(bank)), start, peak * 10 ** (rng.uniform(*self.NOISE[1]) / 20)

    def _draw_filter(self, rng: np.random.Generator) -> tuple[float, float, float, int, float] | None:
        """Pass band in Hz, tilt in dB an octave, room and its share."""
        is_filtered, is_in_room = rng.random(2) < (self.FILTER, self.ROOM)
        low, high, tilt = 0.0, SAMPLE_RATE / 2, 0.0
        if is_filtered:
            match int(rng.integers(4)):
                case 0:  # a telephone
                    low, high = rng.uniform(200, 400), rng.uniform(3000, 4000)
                case 1:  # an old recording, or a low sampling rate
                    high = 2000 * 5 ** rng.random()
                case 2:  # a small loudspeaker or microphone
                    low = 60 * 8 ** rng.random()
                case _:
                    tilt = rng.uniform(-3, 3)
        room, wet = int(rng.integers(ROOMS)), float(rng.uniform(0.2, 0.9))
        if not (is_filtered or is_in_room):
            return None
        return low, high, tilt, room, wet if is_in_room else 0.0

    # ---- tensors, on the device

    def _mix(self, plan: Plan) -> Tensor:
        """float32 (B, samples): the recordings, resampled linearly, and the noise."""
        scene = torch.zeros(len(plan.clip), self.samples, device=self.device)
        for event in plan.events:  # a loop: most events are much shorter than the scene
            part = self._samples[event.base : event.base + event.span].to(torch.float32).mul_(event.gain / INT16_SCALE)
            part = F.interpolate(part[None, None], event.samples, mode="linear", align_corners=True)[0, 0]
            for start in range(event.offset, self.samples, event.period or self.samples):
                end = min(start + event.samples, self.samples)
                scene[event.scene, start:end] += part[: end - start]
        noisy = [(row, noise) for row, noise in enumerate(plan.noise) if noise is not None]
        for row, (colour, start, amplitude) in noisy:
            scene[row].add_(self._noise[colour, start : start + self.samples], alpha=amplitude)
        return scene

    def _filter(self, waveform: Tensor, plan: Plan) -> Tensor:
        """Filter and reverberate the scenes that are to be; the convolution wraps around the scene's ends."""
        rows = [row for row, chosen in enumerate(plan.filters) if chosen is not None]
        if not rows:
            return waveform
        # not a list: indexing by one waits for the device
        index = torch.tensor(rows).to(self.device, non_blocking=True)
        chosen = torch.tensor([plan.filters[row] for row in rows], dtype=torch.float32)
        chosen = chosen.to(self.device, non_blocking=True)
        low, high, tilt, room, wet = (column[:, None] for column in chosen.unbind(1))
        frequency = torch.linspace(0, SAMPLE_RATE / 2, RESPONSE_POINTS, device=self.device).clamp(min=20.0)
        response = (1 + (frequency / high) ** 8).rsqrt() * (1 + (low / frequency) ** 8).rsqrt()  # Butterworth, order 4
        response = response * 10 ** (tilt / 20 * torch.log2(frequency / 1000)).clamp(-1, 1)
        response = F.interpolate(response[:, None], self._rooms.shape[1], mode="linear", align_corners=True)[:, 0]
        plain = waveform[index]
        spectrum = torch.fft.rfft(plain) * response * (1 + wet * self._rooms[room[:, 0].long()])
        filtered = torch.fft.irfft(spectrum, self.samples)
        peak = filtered.abs().amax(1, keepdim=True).clamp(min=1e-9)
        return waveform.index_copy_(0, index, filtered * (plain.abs().amax(1, keepdim=True) / peak))

    def targets(self, plan: Plan) -> dict[str, Tensor]:
        """`target` and, with stored scores, `teacher`."""
        recordings = self.recordings
        classes = recordings.target.shape[1]
        target = np.zeros((len(plan.clip), classes), bool)
        silent = np.ones((len(plan.clip), classes), np.float32)
        for event in plan.events:
            if event.heard:
                label = recordings.target[event.recording]
                target[event.scene] |= label
                if recordings.teacher is not None:
                    silent[event.scene] *= 1 - np.maximum(label, recordings.teacher[event.recording].astype(np.float32))
        columns = {"target": torch.from_numpy(target)}
        if recordings.teacher is not None:
            columns["teacher"] = torch.from_numpy((1 - silent).astype(np.float16))
        return {name: column.to(self.device, non_blocking=True) for name, column in columns.items()}


def noise_bank(seconds: int) -> npt.NDArray[np.float32]:
    """(exponents, samples) noise of unit peak, one row a colour; scenes cut their noise out of it."""
    samples = seconds * SAMPLE_RATE
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 20.0)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(samples))
    rows = [np.fft.irfft(spectrum * frequency ** (-exponent / 2), samples) for exponent in NOISE_EXPONENTS]
    return np.stack([row / np.abs(row).max() for row in rows]).astype(np.float32)


def room_bank(samples: int, rooms: int = ROOMS) -> npt.NDArray[np.complex64]:
    """(rooms, samples // 2 + 1) spectra of reverberation without the direct sound, each of unit energy.

    Decaying noise, -60 dB after 0.1 to 0.8 s, whose high frequencies decay twice as fast, 2 to 30 ms behind the direct
    sound.
    """
    rng = np.random.default_rng(1)
    length = min(samples, SAMPLE_RATE)
    time = np.arange(length) / SAMPLE_RATE
    spectra = []
    for _ in range(rooms):
        envelope = 10 ** (-3 * time / (0.1 * 8 ** rng.random()))
        white = rng.standard_normal(length)
        dull = np.convolve(white, np.full(16, 0.25), "same")  # of the same power, below 1 kHz
        response = envelope * dull + envelope**2 * white
        response[: int(rng.uniform(0.002, 0.03) * SAMPLE_RATE)] = 0
        spectra.append(np.fft.rfft(response / np.sqrt(np.square(response).sum()), samples))
    return np.stack(spectra).astype(np.complex64)

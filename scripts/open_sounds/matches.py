"""Which pieces hold the same sound, by a map of band energies.

Two tests, either is enough:

- whole: maps of 16 bands x 30 frames of two pieces of the same length (4 %), both without the silence around them;
- part: 1.5 s of one piece, 16 bands x 30 frames of 50 ms, anywhere in the other one (pieces of 1.5 s or more).

A map is the log energies less their mean in each band, of unit length: so levels and equalisers do not matter, and the
product of two maps is a correlation. The mean spectra, as correlation too, must agree as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

RATE = 32_000
HOP, WINDOW = 160, 512  # 5 ms, 16 ms
BANDS, FRAMES = 16, 30
PART_STEP = 10  # hops of 5 ms in a frame of a part: 50 ms, so 30 frames are 1.5 s
RANGE = 1e-6  # energies below this share of the loudest are its floor: 60 dB
_EDGES = np.unique(np.round(np.geomspace(2, WINDOW // 2, BANDS + 1)).astype(int))
_EDGES = np.round(np.interp(np.arange(BANDS + 1), np.linspace(0, BANDS, len(_EDGES)), _EDGES)).astype(int)


@dataclass
class Print:
    """Fingerprint of a piece: seconds without silence around it, `whole` (480,), `spectrum` (16,), `parts` (n, 480)."""

    seconds: float
    whole: np.ndarray
    spectrum: np.ndarray
    parts: np.ndarray


def unit(maps: np.ndarray) -> np.ndarray:
    """(..., frames, bands) log energies -> (..., frames * bands) of unit length, without the mean of each band."""
    maps = maps - maps.mean(-2, keepdims=True)
    flat = maps.reshape(*maps.shape[:-2], maps.shape[-2] * maps.shape[-1])
    return (flat / (np.linalg.norm(flat, axis=-1, keepdims=True) + 1e-6)).astype(np.float32)


def energies(waveform: np.ndarray) -> np.ndarray:
    """(frames, bands) energies every 5 ms of int16 (samples,), from the first to the last frame above -50 dB."""
    padded = np.pad(waveform.astype(np.float32) / 32_768, (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW).astype(np.float32)
    power = np.abs(np.fft.rfft(frames)) ** 2
    bands = np.stack([power[:, low:high].mean(1) for low, high in pairwise(_EDGES)], 1)
    loud = np.flatnonzero(bands.sum(1) > bands.sum(1).max() * 1e-5)
    return bands[loud[0] : loud[-1] + 1]


def _pool(bands: np.ndarray, frames: int) -> np.ndarray:
    """(n, bands) -> (frames, bands): means of equal stretches."""
    edges = np.linspace(0, len(bands), frames + 1)
    sums = np.concatenate([np.zeros((1, bands.shape[1])), np.cumsum(bands, 0)])
    whole = np.minimum(edges.astype(int), len(bands) - 1)
    at = sums[whole] + (edges - whole)[:, None] * bands[whole]
    return np.diff(at, axis=0) / np.diff(edges)[:, None]


def fingerprint(waveform: np.ndarray, every: int = 1) -> Print | None:
    """The fingerprint of int16 (samples,), None of silence. `every`: frames of 50 ms between the starts of parts."""
    if not waveform.any():
        return None
    bands = energies(waveform)
    floor = bands.max() * RANGE
    whole = np.log(_pool(bands, FRAMES) + floor)
    spectrum = np.log(bands.mean(0) + floor)
    spectrum = spectrum - spectrum.mean()
    spectrum = spectrum / (np.linalg.norm(spectrum) + 1e-6)
    count = len(bands) // PART_STEP
    parts = np.zeros((0, BANDS * FRAMES), np.float32)
    if count >= FRAMES:
        steps = np.log(bands[: count * PART_STEP].reshape(count, PART_STEP, BANDS).mean(1) + floor)
        windows = np.lib.stride_tricks.sliding_window_view(steps, FRAMES, axis=0)[::every].transpose(0, 2, 1)
        lively = windows.std(1).mean(1) > 0.1  # a steady tone has no course to compare
        parts = unit(windows[lively])
    return Print(len(bands) * HOP / RATE, unit(whole), spectrum.astype(np.float32), parts)


class Queries:
    """Fingerprints that others are compared with."""

    def __init__(self, prints: Sequence[Print | None]) -> None:
        self.kept = np.array([index for index, print_ in enumerate(prints) if print_ is not None])
        some = [prints[index] for index in self.kept]
        self.seconds = np.array([print_.seconds for print_ in some])
        self.wholes = np.stack([print_.whole for print_ in some])
        self.spectra = np.stack([print_.spectrum for print_ in some])
        self.owner = np.concatenate([np.full(len(print_.parts), row) for row, print_ in enumerate(some)])
        self.parts = np.concatenate([print_.parts for print_ in some]).T.copy()

    def similar_wholes(self, other: Print, least: float = 0.8) -> Iterator[tuple[int, float, float]]:
        """(query, correlation of the maps, of the spectra) of queries as long as the other piece."""
        low, high = other.seconds / 1.04 - 0.015, other.seconds * 1.04 + 0.015
        near = np.flatnonzero((self.seconds >= low) & (self.seconds <= high))
        course = self.wholes[near] @ other.whole
        for hit in np.flatnonzero(course > least):
            row = near[hit]
            yield int(self.kept[row]), float(course[hit]), float(self.spectra[row] @ other.spectrum)

    def similar_parts(self, other: Print, least: float = 0.8) -> Iterator[tuple[int, float, float]]:
        """The same of the part of each query that resembles a part of the other piece most."""
        if not len(other.parts):
            return
        best = (other.parts @ self.parts).max(0)
        for row in np.unique(self.owner[best > least]):
            course = float(best[self.owner == row].max())
            yield int(self.kept[row]), course, float(self.spectra[row] @ other.spectrum)

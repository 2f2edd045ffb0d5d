"""Clips to learn from and to find: real recordings, each varied in level, noise and offset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from preprocessing.audio import SAMPLE_RATE, read_audio
from tests.conftest import RECORDINGS

# A class' recordings to learn from, and others to find it in: no source is on both sides.
LEARNED = {
    "alarm": ("air_raid_siren.mp3", "busy_signal.oga"),
    "bird": ("bird_song.ogg", "rooster.ogg"),
    "boom": ("explosion.wav", "applause.wav"),
    "background": ("speech_front_center.wav", "helicopter.ogg", "guitar.ogg"),
}
FOUND = {"alarm": "phone_ringing.oga", "bird": "duck.ogg", "boom": "thunder.wav"}


def varied(name: str, rng: np.random.Generator) -> np.ndarray:
    """(samples,) at 32 kHz."""
    waveform = read_audio(RECORDINGS / name)[: 5 * SAMPLE_RATE] * 10 ** rng.uniform(-0.5, 0.2)
    before, behind = (int(rng.uniform(0, SAMPLE_RATE)) for _ in range(2))
    longer = np.pad(waveform, (before, behind))
    return np.clip(longer + rng.uniform(0.0005, 0.005) * rng.standard_normal(len(longer)), -1, 1)


def write_clips(folder: Path, label: str, names: tuple[str, ...], count: int, seed: int = 0) -> list[Path]:
    """`count` clips in folder/label."""
    rng = np.random.default_rng([seed, len(label)])
    (folder / label).mkdir(parents=True)
    paths = []
    for number in range(count):
        name = names[number % len(names)]
        paths.append(folder / label / f"{number}_{Path(name).stem}.wav")
        soundfile.write(paths[-1], varied(name, rng), SAMPLE_RATE)
    return paths

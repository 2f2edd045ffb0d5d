"""What code without torch reads too: the log-mel spectrogram's numbers, those of the DCLS-Audio reference; suffixes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from preprocessing import checks

SAMPLE_RATE = 32_000  # Hz
N_FFT = 1024  # samples: a Hann window of 32 ms
HOP = SAMPLE_RATE // 100  # samples: 100 frames a second
N_MELS = 128  # HTK bands without area normalisation
F_MIN, F_MAX = 50, 14_000  # Hz
POWER_FLOOR = 1e-10  # -100 dB
MEAN, STD = -18.2696, 30.5735  # dB, over AudioSet's balanced train set


@dataclass(frozen=True)
class LogMelSettings:
    """What differs between the log-mel spectrograms of tagger families; the defaults are this project's.

    All have 128 bands, 100 frames a second and an FFT of 1024 samples at 32 kHz. `to_dict` is what a tagger's
    configuration holds; `from_dict` checks it.
    """

    preemphasis: float = 0.0
    """y[n] = x[n + 1] - preemphasis x[n], one sample shorter than x; 0 leaves the waveform as it is."""
    window: int = N_FFT
    """Samples of the Hann window in the middle of the FFT's: periodic if it fills the FFT, else symmetric."""
    f_min: float = F_MIN
    f_max: float = F_MAX
    triangles: str = "hertz"
    """"hertz": bands are triangles over frequency, as in torchaudio; "mel": over the mel scale, as in Kaldi."""
    decibels: bool = True
    """10 log10(max(power, floor)) if true, else ln(power + floor)."""
    floor: float = POWER_FLOOR
    mean: float = MEAN
    std: float = STD

    @property
    def silence(self) -> float:
        """The normalised value of silence."""
        log = 10 * math.log10(self.floor) if self.decibels else math.log(self.floor)
        return (log - self.mean) / self.std

    @property
    def dropped(self) -> int:
        """Samples by which pre-emphasis shortens the waveform."""
        return 1 if self.preemphasis else 0

    @property
    def decibel(self) -> float:
        """The difference that 1 dB makes to the normalised values."""
        return (1 if self.decibels else math.log(10) / 10) / self.std

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> LogMelSettings:
        """None gives the defaults. Raises ValueError for an unknown key or a value out of bounds."""
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise ValueError("log_mel is no dictionary of settings")
        for key, value in values.items():
            if key not in _CHECKS:
                raise ValueError(f"log_mel.{key!s:.40} is unknown; known are {', '.join(_CHECKS)}")
            _CHECKS[key](value, f"log_mel.{key}")
        settings = cls(**values)
        if settings.f_min >= settings.f_max:
            raise ValueError(f"log_mel.f_min={settings.f_min:g} is not below f_max={settings.f_max:g}")
        return settings


_CHECKS: dict[str, Any] = {
    "preemphasis": lambda value, name: checks.number(value, name, 0, 1),
    "window": lambda value, name: checks.integer(value, name, 16, N_FFT),
    "f_min": lambda value, name: checks.number(value, name, 0, SAMPLE_RATE / 2),
    "f_max": lambda value, name: checks.number(value, name, 1, SAMPLE_RATE / 2),
    "triangles": lambda value, name: checks.choice(value, name, ("hertz", "mel")),
    "decibels": checks.flag,
    "floor": lambda value, name: checks.number(value, name, 1e-20, 1),
    "mean": lambda value, name: checks.number(value, name, -1000, 1000),
    "std": lambda value, name: checks.number(value, name, 1e-3, 1000),
}

# Schmid et al., EfficientAT (arXiv 2211.04772): its AugmentMelSTFT in eval mode
EFFICIENTAT_LOG_MEL = LogMelSettings(
    preemphasis=0.97,
    window=800,
    f_min=0.0,
    f_max=15_000.0,
    triangles="mel",
    decibels=False,
    floor=1e-5,
    mean=-4.5,
    std=5.0,
)

# What folders and globs are searched for; a file that is named is tried whatever its suffix.
AUDIO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("wav", "wave", "flac", "mp3", "ogg", "oga", "opus", "m4a", "mp4", "aac", "aif", "aiff", "aifc", "au", "caf"),
        *("voc", "w64", "rf64", "wma", "webm", "mka", "mkv", "mov", "3gp", "amr", "ac3", "avi"),
    )
)

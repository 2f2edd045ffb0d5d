"""The network's input: waveform -> log-mel spectrogram of 128 bands and 100 frames a second, normalised."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torchaudio.transforms import MelScale, Spectrogram

from preprocessing.constants import F_MAX, F_MIN, HOP, MEAN, N_FFT, N_MELS, SAMPLE_RATE, STD, LogMelSettings

__all__ = ["F_MAX", "F_MIN", "HOP", "MEAN", "N_FFT", "N_MELS", "STD", "LogMel", "pad_or_trim"]

Array = TypeVar("Array", np.ndarray, Tensor)


class LogMel(nn.Module):
    """Normalised log-mel spectrogram of waveforms at 32 kHz, computed in float32 also under autocast.

    Power spectrum (Hann window and FFT of 1024 samples, hop 320, centred with reflection), 128 HTK mel bands from 50 to
    14,000 Hz, 10 log10 with a floor at 1e-10, then (x + 18.2696) / 30.5735: the reference's settings, which published
    checkpoints need. Taggers of other families have other `settings`: `AudioTagger.log_mel_settings`.

    Shape: (batch, samples) in [-1, 1] -> (batch, 1, 128, 1 + samples // 320) float32; (samples,) -> (1, 128, frames).

    `power` and `from_power` are the two halves, for what happens to the power spectrum in between (random erasing).

    >>> LogMel()(torch.zeros(2, 320_000)).shape
    torch.Size([2, 1, 128, 1001])
    """

    def __init__(self, settings: LogMelSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or LogMelSettings()
        self.spectrogram = Spectrogram(N_FFT, hop_length=HOP, power=None)
        self.spectrogram.window = hann_window(self.settings)
        self.mel_scale = MelScale(N_MELS, SAMPLE_RATE, self.settings.f_min, self.settings.f_max, N_FFT // 2 + 1)
        self.mel_scale.fb = mel_filters(self.settings)

    def forward(self, waveform: Tensor) -> Tensor:
        if waveform.device.type == "cpu" and waveform.dim() == 2 and not torch.compiler.is_compiling():
            # one clip's spectrum stays in the cache, those of a batch do not (benchmarks/loading.py)
            return torch.cat([self.from_power(self.power(clip)) for clip in waveform.split(1)])
        return self.from_power(self.power(waveform))

    def power(self, waveform: Tensor) -> Tensor:
        """(..., samples) in [-1, 1] -> power spectrogram (..., 513, 1 + samples // 320)."""
        if not waveform.is_floating_point():
            raise TypeError(f"LogMel takes floats in [-1, 1], not {waveform.dtype}: divide int16 by 32767 first")
        with _float32(waveform.device):
            dropped = self.settings.dropped
            frames = 1 + max(waveform.shape[-1] - dropped, 0) // HOP
            waveform = waveform.float()
            if waveform.shape[-1] <= N_FFT // 2 + dropped:  # reflection needs more than half a window
                waveform = pad_or_trim(waveform, N_FFT // 2 + 1 + dropped)
            waveform = emphasise(waveform, self.settings)
            parts = torch.view_as_real(self.spectrogram(waveform)[..., :frames])
            # abs() ** 2 takes half of the whole transform's time on a CPU: a square root, to be squared again
            return parts[..., 0].square().addcmul(parts[..., 1], parts[..., 1])

    def from_power(self, power: Tensor) -> Tensor:
        """Power spectrogram (..., 513, frames) -> normalised log-mel (..., 1, 128, frames)."""
        with _float32(power.device):
            return normalised_log(self.mel_scale(power.float()), self.settings).unsqueeze(-3)


def hann_window(settings: LogMelSettings) -> Tensor:
    """(1024,): the window in the middle of zeros."""
    window = torch.hann_window(settings.window, periodic=settings.window == N_FFT)
    before = (N_FFT - settings.window) // 2
    return nn.functional.pad(window, (before, N_FFT - settings.window - before))


def mel_filters(settings: LogMelSettings) -> Tensor:
    """(513, 128): bins of the power spectrum -> mel bands, mel = 1127 ln(1 + f / 700)."""
    if settings.triangles == "hertz":
        return torchaudio.functional.melscale_fbanks(
            N_FFT // 2 + 1, settings.f_min, settings.f_max, N_MELS, SAMPLE_RATE
        )
    hertz = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)[:, None]
    edges = _mel(torch.tensor([settings.f_min, settings.f_max], dtype=torch.float64))
    low, high = edges.tolist()
    width = (high - low) / (N_MELS + 1)
    left = low + width * torch.arange(N_MELS, dtype=torch.float64)
    position = (_mel(hertz) - left) / width  # 0 at the triangle's left end, 1 at its top, 2 at its right end
    return torch.minimum(position, 2 - position).relu().float()


def emphasise(waveform: Tensor, settings: LogMelSettings) -> Tensor:
    """(..., samples) -> (..., samples - settings.dropped)."""
    if not settings.preemphasis:
        return waveform
    return waveform[..., 1:] - settings.preemphasis * waveform[..., :-1]


def normalised_log(mel: Tensor, settings: LogMelSettings) -> Tensor:
    """Power in mel bands -> dB or natural logarithm, normalised."""
    log = 10 * torch.log10(mel.clamp(min=settings.floor)) if settings.decibels else (mel + settings.floor).log()
    return (log - settings.mean) / settings.std


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * (1 + hertz / 700).log()


def _float32(device: torch.device) -> AbstractContextManager[object]:
    """No autocast; the meta device has none to switch off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def pad_or_trim(waveform: Array, samples: int) -> Array:
    """The first `samples` of (..., length), zeros appended if it is shorter; NumPy or torch, any dtype.

    Nothing is copied if the length fits or is longer.
    """
    missing = samples - waveform.shape[-1]
    if missing <= 0:
        return waveform[..., :samples]
    if isinstance(waveform, Tensor):
        return nn.functional.pad(waveform, (0, missing))
    return np.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, missing)])

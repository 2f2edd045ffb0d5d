"""The log-mel spectrogram as matrix products, for graphs that run without torch.

ONNX Runtime's STFT operator takes 77 ms for a 10 s clip. This takes 10 ms, as NumPy's FFT beside the graph would
(`benchmarks/tag.py`), keeps the file self-contained and runs outside of Python's lock. The DFT of N = 32 x 32 samples
is two DFTs of 32 (Cooley and Tukey's step, once): with n = 32 n1 + n2 and k = k1 + 32 k2,

    A[k1, n2] = sum_n1 x[32 n1 + n2] exp(-2 pi i n1 k1 / 32)
    X[k1 + 32 k2] = sum_n2 A[k1, n2] exp(-2 pi i n2 (k1 + 32 k2) / N)

A real x needs k1 = 0 ... 16 alone: the other bins are conjugates, X[N - k] = X[k]*. Sums of 32 and 64 terms keep
float32 as exact as an FFT does, where one of 1024 would drown the quiet bands of lossy recordings in rounding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preprocessing.constants import HOP, N_FFT, N_MELS, LogMelSettings
from preprocessing.log_mel import emphasise, hann_window, mel_filters, normalised_log

_ROOT = math.isqrt(N_FFT)  # 32
_KEPT = _ROOT // 2 + 1  # values of k1


class MatmulLogMel(nn.Module):
    """What `preprocessing.LogMel` computes: (B, samples) in [-1, 1] -> (B, 1, 128, 1 + samples // 320), normalised.

    Needs more than N_FFT / 2 = 512 samples, after pre-emphasis. Built of slices, products and a logarithm alone, with
    both axes dynamic.
    """

    window: Tensor
    first: Tensor
    second: Tensor
    mel: Tensor

    def __init__(self, settings: LogMelSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or LogMelSettings()
        n = torch.arange(_ROOT, dtype=torch.float64)
        k1 = torch.arange(_KEPT, dtype=torch.float64)
        phase = 2 * math.pi / _ROOT * k1[:, None] * n
        # (2 * 17, 32): for each k1 a row of cosines and one of sines
        first = torch.stack([phase.cos(), -phase.sin()], 1).flatten(0, 1)
        bins = k1[:, None] + _ROOT * n  # k of (k1, k2)
        phase = 2 * math.pi / N_FFT * n[:, None] * bins[:, None]  # (k1, n2, k2)
        cos, sin = phase.cos(), phase.sin()
        # (17, 64, 64): [Re A, Im A] -> [Re X, Im X]
        second = torch.cat([torch.cat([cos, -sin], 2), torch.cat([sin, cos], 2)], 1)
        filters = mel_filters(self.settings)
        bins = bins.long()
        mel = filters[torch.minimum(bins, N_FFT - bins)]  # (k1, k2, band)
        mel[0, _ROOT // 2 + 1 :] = 0  # of k1 = 0 and 16 both a bin and its conjugate are computed
        mel[-1, _ROOT // 2 :] = 0
        self.register_buffer("window", hann_window(self.settings))
        self.register_buffer("first", first.float())
        self.register_buffer("second", second.float())
        self.register_buffer("mel", mel.flatten(0, 1).contiguous())

    def forward(self, waveform: Tensor) -> Tensor:
        waveform = emphasise(waveform, self.settings)
        batch, frames = waveform.shape[0], waveform.shape[1] // HOP + 1
        padded = F.pad(waveform[:, None], (N_FFT // 2, N_FFT // 2), mode="reflect")[:, 0]
        # rows of one hop: frame t is row t, t + 1, t + 2 and the start of t + 3, so no sample is gathered by index
        padded = F.pad(padded, (0, 4 * HOP - N_FFT))[:, : (frames + 3) * HOP]
        rows = padded.reshape(batch, frames + 3, HOP)
        pieces = [rows[:, :-3], rows[:, 1:-2], rows[:, 2:-1], rows[:, 3:, : N_FFT - 3 * HOP]]
        windowed = (torch.cat(pieces, 2) * self.window).reshape(-1, _ROOT, _ROOT)  # (frame, n1, n2)
        a = (self.first @ windowed).reshape(-1, _KEPT, 2 * _ROOT).transpose(0, 1)  # (k1, frame, [Re n2, Im n2])
        x = (a @ self.second) ** 2
        power = (x[..., :_ROOT] + x[..., _ROOT:]).transpose(0, 1).reshape(-1, _KEPT * _ROOT)  # (frame, k)
        mel = (power @ self.mel).reshape(batch, frames, N_MELS).transpose(1, 2)
        return normalised_log(mel, self.settings)[:, None]

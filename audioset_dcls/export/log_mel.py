"""The log-mel spectrogram as products of matrices, for graphs that run without torch.

ONNX Runtime's STFT operator takes 77 ms for a 10 s clip. This takes 7 ms, less than NumPy's FFT beside the graph would
(`benchmarks/tag.py`), keeps the file self-contained and runs outside of Python's lock. The DFT of N = 32 x 32 samples
is two DFTs of 32 (Cooley and Tukey's step, once): with n = 32 n1 + n2 and k = k1 + 32 k2, of a windowed frame x

    A[k1, n2] = sum_n1 x[32 n1 + n2] exp(-2 pi i n1 k1 / 32)
    X[k1 + 32 k2] = sum_n2 A[k1, n2] exp(-2 pi i n2 (k1 + 32 k2) / N)

A real x needs k1 = 0 ... 16 alone: the other bins are conjugates, X[N - k] = X[k]*. Frames are the last axis
throughout, so each product takes what the one before gives, unmoved. Sums of 32 and 64 terms keep float32 as exact as
an FFT does, where one of 1024 would drown the quiet bands of lossy recordings in rounding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preprocessing.constants import HOP, N_FFT, LogMelSettings
from preprocessing.log_mel import emphasise, hann_window, mel_filters, normalised_log

_ROOT = math.isqrt(N_FFT)  # 32
_KEPT = _ROOT // 2 + 1  # values of k1
_BANDS = (64, 32, 32)  # multiplied at once: the lower ones lie in few bins


class MatmulLogMel(nn.Module):
    """What `preprocessing.LogMel` computes: (B, samples) in [-1, 1] -> (B, 1, 128, 1 + samples // 320), normalised.

    Needs more than N_FFT / 2 = 512 samples, after pre-emphasis. Both axes are dynamic.
    """

    window: Tensor
    first: Tensor
    real: Tensor
    imaginary: Tensor

    def __init__(self, settings: LogMelSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or LogMelSettings()
        window = hann_window(self.settings).reshape(_ROOT, _ROOT)  # (n1, n2)
        inside = window.any(1).nonzero().flatten()
        rows = slice(int(inside[0]), int(inside[-1]) + 1)  # n1 that the window does not silence
        self.start, self.stop = _ROOT * rows.start, _ROOT * rows.stop
        self.register_buffer("window", window[rows].reshape(-1, 1))
        n = torch.arange(_ROOT, dtype=torch.float64)
        k1 = torch.arange(_KEPT, dtype=torch.float64)
        phase = 2 * math.pi / _ROOT * k1[:, None] * n
        first = torch.stack([phase.cos(), -phase.sin()], 1).flatten(
            0, 1
        )  # for each k1 a row of cosines and one of sines
        self.register_buffer("first", first[:, rows].float())

        # k2 and 31 - k2 hold neighbouring bins, mirrored: side by side, bands that lie in few bins lie in few rows
        half = torch.arange(_ROOT // 2)
        k2 = torch.stack([half, _ROOT - 1 - half], 1).flatten()
        bins = k1[:, None].long() + _ROOT * k2
        mel = mel_filters(self.settings)[torch.minimum(bins, N_FFT - bins)]  # (k1, k2, band)
        mel[0, k2 > _ROOT // 2] = 0  # of k1 = 0 and 16 both a bin and its conjugate are computed
        mel[-1, k2 >= _ROOT // 2] = 0
        used = _pairs(mel)[1]
        phase = 2 * math.pi / N_FFT * (bins[:, :used, None] * n)  # (k1, k2, n2)
        cos, sin = phase.cos(), phase.sin()
        self.register_buffer("real", torch.cat([cos, sin], 2).float())  # (k1, k2, [Re A, Im A])
        self.register_buffer("imaginary", torch.cat([-sin, cos], 2).float())
        self.spans = []
        for index, bands in enumerate(mel.split(_BANDS, 2)):
            low, high = _pairs(bands)
            self.spans.append((low, high))
            self.register_buffer(f"mel_{index}", bands[:, low:high].flatten(0, 1).T.contiguous())

    def forward(self, waveform: Tensor) -> Tensor:
        waveform = emphasise(waveform, self.settings)
        batch, frames = waveform.shape[0], waveform.shape[1] // HOP + 1
        padded = F.pad(waveform[:, None], (N_FFT // 2, N_FFT // 2), mode="reflect")[:, 0]
        padded = F.pad(padded, (0, 4 * HOP - N_FFT))[:, : (frames + 3) * HOP]
        hops = padded.reshape(batch, frames + 3, HOP).transpose(1, 2)  # (batch, sample of the hop, hop)
        # frame t is hops t, t + 1, t + 2 and the start of t + 3
        pieces = [
            hops[:, max(self.start - hop * HOP, 0) : self.stop - hop * HOP, hop : frames + hop]
            for hop in range(-(-self.stop // HOP))
        ]
        windowed = torch.cat(pieces, 1) * self.window  # (batch, [n1, n2], frames)
        a = self.first @ windowed.reshape(batch, -1, _ROOT * frames)  # (batch, [k1, Re or Im], [n2, frames])
        a = a.reshape(batch, _KEPT, 2 * _ROOT, frames)
        real, imaginary = self.real @ a, self.imaginary @ a
        power = real * real + imaginary * imaginary  # (batch, k1, k2, frames)
        parts = [
            self.get_buffer(f"mel_{index}") @ power[:, :, low:high].reshape(batch, -1, frames)
            for index, (low, high) in enumerate(self.spans)
        ]
        return normalised_log(torch.cat(parts, 1), self.settings)[:, None]


def _pairs(mel: Tensor) -> tuple[int, int]:
    """Of (k1, k2, band): the range along k2, of whole pairs, outside which all is zero."""
    rows = mel.any(2).any(0).nonzero().flatten()
    return int(rows[0]) // 2 * 2, int(rows[-1]) // 2 * 2 + 2

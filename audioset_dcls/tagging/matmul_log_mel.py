"""The log-mel spectrogram as four small matrix products, for graphs that run without torch.

ONNX Runtime's STFT operator takes 77 ms for a 10 s clip, a plain DFT matrix 1024 x 447 is four times the arithmetic of
what stands here, and numpy beside the graph is slower too (`benchmarks/tag.py`). The split of the real DFT: with the
window folded in, a frame x of N samples has

    X[k] = sum_n x[n] exp(-2 pi i k n / N),   cos symmetric and sin antisymmetric about n = N/2, so
    Re X[k] = sum_{n <= N/2}  e[n] cos(2 pi k n / N),   e[n] = x[n] + x[N - n]
    Im X[k] = -sum_{n <= N/2} o[n] sin(2 pi k n / N),   o[n] = x[n] - x[N - n]

and about n = N/4 the same again, with one sign for even k and the other for odd k: N/4 + 1 = 257 terms remain.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from preprocessing.constants import F_MAX, F_MIN, HOP, MEAN, N_FFT, N_MELS, POWER_FLOOR, SAMPLE_RATE, STD

_QUARTER, _HALF = N_FFT // 4, N_FFT // 2


class MatmulLogMel(nn.Module):
    """What `preprocessing.LogMel` computes: (B, samples) in [-1, 1] -> (B, 1, 128, 1 + samples // 320), normalised.

    Needs more than N_FFT / 2 = 512 samples. Built of slices, products and `log` alone, with both axes dynamic.
    """

    cos_even: Tensor
    cos_odd: Tensor
    sin_even: Tensor
    sin_odd: Tensor
    mel_even: Tensor
    mel_odd: Tensor
    outer_window: Tensor
    inner_window: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = torchaudio.functional.melscale_fbanks(_HALF + 1, F_MIN, F_MAX, N_MELS, SAMPLE_RATE)
        used = filters.sum(1).nonzero()  # bins outside of F_MIN to F_MAX reach no band
        bins = torch.arange(int(used[0]), int(used[-1]) + 1)
        n = torch.arange(_QUARTER + 1, dtype=torch.float64)
        weight = torch.ones(_QUARTER + 1, 1, dtype=torch.float64)
        weight[-1] = 0.5  # n = N/4 is its own partner
        for name, chosen in (("even", bins[bins % 2 == 0]), ("odd", bins[bins % 2 == 1])):
            phase = 2 * math.pi / N_FFT * n[:, None] * chosen
            self.register_buffer(f"cos_{name}", (phase.cos() * weight).float())
            self.register_buffer(f"sin_{name}", (phase.sin() * weight).float())
            self.register_buffer(f"mel_{name}", filters[chosen].clone())
        window = torch.hann_window(N_FFT, dtype=torch.float64)
        inner = window[_HALF : _HALF + _QUARTER + 1].clone()
        inner[0] = 0.5  # n = N/2 is its own partner; n = 0 needs no care, the window is 0 there
        self.register_buffer("outer_window", window[: _QUARTER + 1].float())
        self.register_buffer("inner_window", inner.float())

    def forward(self, waveform: Tensor) -> Tensor:
        frames = waveform.shape[1] // HOP + 1
        padded = F.pad(waveform[:, None], (_HALF, _HALF), mode="reflect")[:, 0]
        # rows of one hop: frame t is row t, t + 1, t + 2 and the start of t + 3, so no sample is gathered by index
        padded = F.pad(padded, (0, 4 * HOP - N_FFT))[:, : (frames + 3) * HOP]
        rows = padded.reshape(padded.shape[0], frames + 3, HOP)
        reversed_rows = rows.flip(2)
        first, after = _ascending(rows, frames, 0), _ascending(rows, frames, _HALF)
        last, before = _descending(reversed_rows, frames, N_FFT), _descending(reversed_rows, frames, _HALF)
        outer_sum, outer_difference = (first + last) * self.outer_window, (first - last) * self.outer_window
        inner_sum, inner_difference = (before + after) * self.inner_window, (before - after) * self.inner_window
        even = ((outer_sum + inner_sum) @ self.cos_even) ** 2 + (
            (outer_difference - inner_difference) @ self.sin_even
        ) ** 2
        odd = ((outer_sum - inner_sum) @ self.cos_odd) ** 2 + (
            (outer_difference + inner_difference) @ self.sin_odd
        ) ** 2
        mel = (even @ self.mel_even + odd @ self.mel_odd).clamp(min=POWER_FLOOR).transpose(1, 2)
        return ((10 * torch.log10(mel) - MEAN) / STD)[:, None]


def _ascending(rows: Tensor, frames: Tensor | int, start: int) -> Tensor:
    """x[start + n] for n = 0 ... N/4 of every frame: (B, frames, N/4 + 1), cut from the rows it lies in."""
    pieces, stop = [], start + _QUARTER + 1
    for row in range(start // HOP, (stop - 1) // HOP + 1):
        pieces.append(rows[:, row : row + frames, max(start - row * HOP, 0) : min(stop - row * HOP, HOP)])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)


def _descending(reversed_rows: Tensor, frames: Tensor | int, start: int) -> Tensor:
    """x[start - n] for n = 0 ... N/4 of every frame, from rows that run backwards."""
    pieces, stop = [], start - _QUARTER
    for row in range(start // HOP, stop // HOP - 1, -1):
        end = (row + 1) * HOP - 1  # the sample that a reversed row begins with
        pieces.append(reversed_rows[:, row : row + frames, max(end - start, 0) : min(end - stop + 1, HOP)])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)

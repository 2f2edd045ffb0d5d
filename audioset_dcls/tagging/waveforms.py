"""Arrays and tensors that a caller has already -> mono float32 waveforms at the tagger's rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from preprocessing.audio import AudioError, check_amplitude, check_rate
from preprocessing.decoding.spans import Waveform, scale

_SCALED = ("int8", "int16", "int32", "uint8")  # as in files; 64-bit arrays rarely use their whole range


def is_waveform(source: Any) -> bool:
    """Whether a source is samples and not a file: a NumPy array, or a tensor of torch or a like library."""
    return isinstance(source, np.ndarray) or (hasattr(source, "__array__") and hasattr(source, "ndim"))


def to_waveform(source: Any, sample_rate: int | None, model_rate: int) -> Waveform:
    """(samples,) float32 at `model_rate` of an array or tensor; full scale is [-1, 1].

    Args:
        source: (samples,), or (1, samples) or (samples, 1). Floats are taken as they are, int8, int16, int32 and
            uint8 are scaled from their range.
        sample_rate: of the source, Hz; None for `model_rate`.

    Raises AudioError for other shapes and types, no samples, NaN, infinite samples or values far beyond full scale
    (integers in floats), and rates outside of 1 to 768 kHz.
    """
    array = _array(source)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise AudioError(
            f"a waveform must have the shape (samples,), not {array.shape}; take one channel, or the mean over them"
        )
    if array.dtype.kind != "f" and array.dtype.name not in _SCALED:
        raise AudioError(f"a waveform must hold floats in [-1, 1], {', '.join(_SCALED)}, not {array.dtype}; convert it")
    if not len(array):
        raise AudioError("the waveform has no samples")
    samples = scale(array)
    check_amplitude("the waveform", samples)
    rate = model_rate if sample_rate is None else sample_rate
    check_rate("the waveform", rate)
    if rate == model_rate:
        return np.ascontiguousarray(samples)
    import soxr

    resampled: Waveform = soxr.resample(samples, rate, model_rate, quality="HQ")
    return resampled


def _array(source: Any) -> np.ndarray:
    if hasattr(source, "detach"):  # a tensor of torch: maybe on a GPU, part of a graph, or of a type NumPy lacks
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
        return np.asarray(source.numpy())
    return np.asarray(source)

"""A part of a recording, as the model hears it."""

from __future__ import annotations

import numpy as np

from preprocessing.audio import MIX, AudioError, iter_audio

_BLOCK = 10.0  # s
_LONGEST = 3600.0  # s: more of a recording is not taken into memory


def cut(path: str, start: float, end: float | None, rate: int, least: float = 0.0) -> np.ndarray:
    """(samples,) float32 at `rate` Hz of a recording from `start` to `end` seconds, or to its end.

    Args:
        least: seconds; a shorter part is widened to so much, by the same on both sides as far as the recording goes.

    Raises AudioError where it cannot be read, or ends before `start`.
    """
    if end is not None:
        missing = max(least - (end - start), 0.0)
        start = max(start - missing / 2, 0.0)
        end = max(end + missing / 2, start + least)
    first, last = round(start * rate), round(min(start + _LONGEST, end or np.inf) * rate)
    parts, at = [], 0
    # what `least` lacks at the end of the recording is taken from before `start`
    kept = max(first - round(least * rate), 0)
    for block in iter_audio(path, _BLOCK, rate, MIX, lambda note: None):
        if at + len(block) > kept:
            parts.append(block[max(kept - at, 0) : max(last - at, 0)])
        at += len(block)
        if at >= last:
            break
    if at <= first:
        raise AudioError(f"{path}: ends at {at / rate:.1f} s, before {start:.1f} s")
    samples = np.concatenate(parts)
    wanted = max(min(at, last) - first, round(least * rate))
    return samples[-wanted:]

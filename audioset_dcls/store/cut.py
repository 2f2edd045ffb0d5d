"""Parts of recordings, as the model hears them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from audioset_dcls.tagging.results import Decode
from preprocessing.audio import MIX, AudioError, iter_audio

_BLOCK = 10.0  # s
_LONGEST = 3600.0  # s: more of a recording is not taken into memory


def cut(path: str, start: float, end: float | None, rate: int) -> np.ndarray:
    """(samples,) float32 at `rate` Hz of a recording from `start` to `end` seconds, or to its end.

    Raises AudioError where it cannot be read, or ends before `start`.
    """
    (part,) = cut_parts(path, [(start, end)], rate)
    if part is None:
        raise AudioError(f"{path}: ends before {start:.1f} s")
    return part


def cut_parts(
    path: str,
    parts: Sequence[tuple[float, float | None]],
    rate: int,
    least: float = 0.0,
    decode: Decode = iter_audio,
) -> Iterator[np.ndarray | None]:
    """The same for many parts of a recording, by their starts, which is decoded once; None for one behind its end.

    Args:
        least: seconds; a shorter part is widened to so much, by the same on both sides as far as the recording goes.
        decode: called like `iter_audio`.
    """
    blocks = decode(path, _BLOCK, rate, MIX, lambda note: None)
    shortest = round(least * rate)
    buffer, offset = np.empty(0, np.float32), 0
    for start, end in parts:
        first, last = _span(start, end, rate, shortest)
        while offset + len(buffer) < last and (block := next(blocks, None)) is not None:
            # what a part lacks at the end of the recording is taken from before it
            spare = min(max(first - shortest - offset, 0), len(buffer))
            buffer, offset = np.concatenate([buffer[spare:], block]), offset + spare
        stop = min(offset + len(buffer), last)
        if stop <= round(start * rate):
            yield None
        else:
            begin = min(first, stop - shortest)
            yield buffer[max(begin - offset, 0) : stop - offset]


def _span(start: float, end: float | None, rate: int, shortest: int) -> tuple[int, int]:
    """First and last sample of a part, widened."""
    first, last = round(start * rate), round(min(start + _LONGEST, np.inf if end is None else end) * rate)
    missing = max(shortest - (last - first), 0)
    first = max(first - missing // 2, 0)
    return first, max(last + missing - missing // 2, first + shortest) if missing else last

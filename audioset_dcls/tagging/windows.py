"""How recordings are cut in windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

LONGEST_WINDOW = 10.0  # s: a default; longer ones can be asked for
SHORTEST_WINDOW = 0.1  # s
DROPPED_TAIL = 0.1  # s: "ten-second" clips are often a few milliseconds longer; that is no reason for a second window

FAR = 2.0  # times the length of the clips in training, or one over it


def window_warning(window: float, learned: float) -> str | None:
    """One line if windows of `window` seconds are far from the `learned` ones, else None."""
    if learned / FAR <= window <= learned * FAR:
        return None
    return (
        f"windows of {window:g} s are far from the {learned:g} s that this tagger learned from: "
        f"expect mistakes, or choose {learned / FAR:g} to {learned * FAR:g} s"
    )


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int, tail: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, samples) of each window, from consecutive blocks of a waveform.

    Windows of `window` samples begin every `hop`; what remains at the end, if it is more than `tail` samples, gets a
    window that ends with the waveform. A waveform shorter than `window` is one window as it is. At most one window and
    one block are held.
    """
    buffer, offset, next_start, covered = np.empty(0, np.float32), 0, 0, 0
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while offset + len(buffer) >= next_start + window:
            begin = next_start - offset
            yield next_start, buffer[begin : begin + window]
            covered, next_start = next_start + window, next_start + hop
        # the last `window` samples may be needed for the last window
        spare = min(max(len(buffer) - window, 0), next_start - offset)
        buffer, offset = buffer[spare:], offset + spare
    length = offset + len(buffer)
    if length and (length - covered > tail or not covered):
        begin = max(length - window, 0)
        yield begin, buffer[begin - offset :]

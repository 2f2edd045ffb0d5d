"""Events of a stream as audio files, from the last seconds of sound, which are kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from audioset_dcls.tagging.clips import CONTEXT, write_clip
from audioset_dcls.tagging.live.listener import END, START, News
from audioset_dcls.tagging.recordings import safe_name
from preprocessing.decoding.spans import Waveform

LONGEST = 30.0  # s of an event: what lasts longer is known by its start


@dataclass
class _Due:
    label: str
    start: float  # s
    end: float  # s; LONGEST after the start until it is known


class ClipRecorder:
    """Writes `20230101T123000_Bark.flac`, CONTEXT longer at both ends.

    Args:
        window: seconds by which news of a start are late.
        time_of: seconds since the first sound -> time of day.
    """

    def __init__(self, folder: Path, rate: int, window: float, time_of: Callable[[float], datetime]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rate, self._window, self._time_of = folder, rate, window, time_of
        self._kept: deque[Waveform] = deque()
        self._count = 0  # samples in `_kept`
        self._end = 0.0  # s, of what is kept
        self._due: dict[int, _Due] = {}

    def keep(self, base: float, blocks: Iterator[Waveform]) -> Iterator[Waveform]:
        """The same blocks of a segment that starts at `base` seconds; clips are written on the way."""
        self._kept.clear()
        self._count, samples = 0, 0
        self._end = base
        most = round((LONGEST + 2 * CONTEXT + 2 * self._window) * self._rate)
        for block in blocks:
            self._kept.append(block)
            self._count += len(block)
            samples += len(block)
            self._end = base + samples / self._rate
            while self._count - len(self._kept[0]) >= most:
                self._count -= len(self._kept.popleft())
            self._write([number for number, due in self._due.items() if due.end + CONTEXT <= self._end])
            yield block

    def heard(self, news: list[News]) -> None:
        for one in news:
            if one.kind == START:
                start = max(one.event.start, one.at - self._window)
                self._due[one.number] = _Due(one.event.label, start, start + LONGEST)
            elif one.kind == END and (due := self._due.get(one.number)) is not None:
                due.end = min(due.end, max(one.event.end, due.start))

    def finish(self) -> None:
        """Write what is waiting for sound that does not come any more: at the end of a segment."""
        self._write(list(self._due))

    def _write(self, numbers: list[int]) -> None:
        if not numbers:
            return
        kept, first = np.concatenate(self._kept), self._end - self._count / self._rate
        for number in numbers:
            due = self._due.pop(number)
            begin, end = (round((at - first) * self._rate) for at in (due.start - CONTEXT, due.end + CONTEXT))
            name = f"{self._time_of(due.start):%Y%m%dT%H%M%S}_{safe_name(due.label)}.flac"
            write_clip(self._folder / name, kept[max(begin, 0) : max(end, 1)], self._rate)

"""Events as audio files: to listen to, to sort, to learn from."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.tagging.recordings import Recording, flat_names, safe_name, unique_names
from audioset_dcls.tagging.writers.formats import Record
from preprocessing.constants import SAMPLE_RATE
from preprocessing.files import atomic_write

CLIP_COUNT = 20  # a class
CONTEXT = 1.0  # s before and after an event
BLOCK = 10.0  # s that are decoded at once
_MAX_RATE = 655_350  # Hz: FLAC's

Picked = list[tuple[Record, list[dict[str, Any]]]]


class ClipPicker:
    """Keeps, of each class, the `count` events with the highest scores, the earlier ones of equal scores."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self._order = itertools.count(0, -1)
        self._best: dict[str, list[tuple[float, int, str, Record, dict[str, Any]]]] = {}

    def add(self, recording: Recording, record: Record) -> None:
        about = {**record, "tags": [], "events": []}  # not all of a long recording's events
        for event in record["events"]:
            best = self._best.setdefault(event["label"], [])
            item = (event["score"], next(self._order), recording.path, about, event)
            if len(best) < self.count:
                heapq.heappush(best, item)
            else:
                heapq.heappushpop(best, item)

    def picked(self) -> dict[str, Picked]:
        """Path of a recording -> its records (a channel each), each with its events by start."""
        found: dict[str, dict[int, tuple[Record, list[dict[str, Any]]]]] = {}
        for _, _, path, record, event in itertools.chain.from_iterable(self._best.values()):
            found.setdefault(path, {}).setdefault(id(record), (record, []))[1].append(event)
        for records in found.values():
            for _, events in records.values():
                events.sort(key=lambda event: (event["start"], event["label"]))
        return {path: list(records.values()) for path, records in found.items()}


def clip_rate(record: Record) -> int:
    """Hz: that of the recording, so that nothing is lost."""
    return min(record["rate"] or SAMPLE_RATE, _MAX_RATE)


def clip_stems(recordings: Sequence[Recording]) -> dict[str, str]:
    """Path of each recording -> what its clips' names begin with."""
    flat = flat_names(recordings)
    stems = unique_names(safe_name(flat[recording.path]) for recording in recordings)
    return {recording.path: stem for recording, stem in zip(recordings, stems, strict=True)}


def write_clips(
    folder: Path, stem: str, record: Record, events: list[dict[str, Any]], blocks: Iterator[np.ndarray]
) -> None:
    """Write a FLAC file for each event of a recording, CONTEXT longer at both ends.

    Args:
        stem: begins the clips' names.
        events: by start.
        blocks: samples at `clip_rate(record)`; they are read to the end of the last clip, in constant memory.
    """
    rate = clip_rate(record)
    names = _names(stem, record, events)
    pending = deque(
        _Clip(max(round((event["start"] - CONTEXT) * rate), 0), round((event["end"] + CONTEXT) * rate), folder / name)
        for event, name in zip(events, names, strict=True)
    )
    at = 0
    with ExitStack() as stack:  # what is not finished is removed after an error
        open_: list[_Clip] = []
        for block in blocks:
            while pending and pending[0].start < at + len(block):
                open_.append(pending.popleft())
                open_[-1].open(stack.enter_context(ExitStack()), rate)
            for clip in open_:
                clip.add(block[max(clip.start - at, 0) : max(clip.end - at, 0)])
            at += len(block)
            for clip in [clip for clip in open_ if clip.end <= at]:
                open_.remove(clip)
                clip.close()
            if not pending and not open_:
                break
        for clip in open_:  # the recording ends within the context
            clip.close()


class _Clip:
    """From `start` to `end`, in samples; written to `path` as they come."""

    def __init__(self, start: int, end: int, path: Path) -> None:
        self.start, self.end, self._path = start, end, path

    def open(self, stack: ExitStack, rate: int) -> None:
        import soundfile

        self._stack = stack
        unfinished = stack.enter_context(atomic_write(self._path))
        self._file = stack.enter_context(soundfile.SoundFile(unfinished, "w", rate, 1, "PCM_16", format="FLAC"))

    def add(self, samples: np.ndarray) -> None:
        self._file.write(samples)

    def close(self) -> None:
        self._stack.close()


def _names(stem: str, record: Record, events: list[dict[str, Any]]) -> Iterator[str]:
    """Recording, channel if each was tagged, start, class: sorted by name they are sorted by time."""
    start = stem if record["channel"] is None else f"{stem}_{record['channel']}"
    names = unique_names(f"{start}_{_time(event['start'])}_{safe_name(event['label'])}" for event in events)
    return (f"{name}.flac" for name in names)


def _time(seconds: float) -> str:
    """1h02m03.400s."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60}h{minutes % 60:02}m{rest // 1000:02}.{rest % 1000:03}s"


def write_clip(path: Path, samples: np.ndarray, rate: int) -> None:
    """Mono samples as FLAC."""
    import soundfile

    with atomic_write(path) as unfinished:
        soundfile.write(unfinished, samples, rate, "PCM_16", format="FLAC")

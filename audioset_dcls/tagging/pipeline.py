"""Decoding runs ahead of the model, and memory does not grow with the length of a recording."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from audioset_dcls.tagging.contract import EMBEDDING, SCORES
from audioset_dcls.tagging.events import EventTracker
from audioset_dcls.tagging.results import Decode, Failure, OneChannel, Result, Settings, Source
from audioset_dcls.tagging.session import OnnxModel
from audioset_dcls.tagging.waveforms import is_waveform, to_waveform
from audioset_dcls.tagging.windows import DROPPED_TAIL, cut_windows
from preprocessing.audio import AudioError, Note

T = TypeVar("T")
BATCH = {"cpu": 1, "cuda": 32}  # windows: larger ones are no faster on a core, and take more memory
LOOKAHEAD = 32  # recordings begun before the first unfinished one is done


def _display_name(source: Source) -> str:
    if is_waveform(source):
        return "<waveform>"
    if isinstance(source, OneChannel):
        return source.name
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    name = source if isinstance(source, str | Path) else getattr(source, "name", "<file object>")
    return str(name).encode("utf-8", "backslashreplace").decode()


@dataclass
class _Window:
    recording: int
    number: int
    start: int  # samples
    new: int  # samples that the windows before did not hold
    waveform: np.ndarray
    outputs: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class _End:
    """After the last window of a recording: how much there was of it."""

    recording: int
    windows: int
    samples: int
    error: Exception | None = None
    note: Note | None = None


class _Channel(Generic[T]):
    """A bounded queue between threads that can be closed by its writers and stopped by anyone."""

    def __init__(self, size: int) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._closed = self._stopped = False
        self._changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Wait for room and add the item; False once the channel is stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._size)
            if not self._stopped:
                self._items.append(item)
                self._changed.notify_all()
            return not self._stopped

    def take(self, count: int = 1, alike: Callable[[T], Any] = lambda item: None) -> list[T]:
        """The next items, `count` at most and all alike; waits for the first; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._closed or self._items)
            taken: list[T] = []
            while self._items and not self._stopped and len(taken) < count:
                if taken and alike(self._items[0]) != alike(taken[0]):
                    break
                taken.append(self._items.popleft())
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Pipeline:
    """Decoding threads -> bounded queue of windows -> model threads -> the caller's thread, which pools and merges.

    Every queue is bounded, so decoding waits for the model and the model for a caller who writes to a slow disk.
    """

    def __init__(
        self, model: OnnxModel, sources: Iterable[Source], options: Settings, jobs: int, decode: Decode
    ) -> None:
        if EMBEDDING not in model.outputs:  # taggers of others may have none
            options = replace(options, embeddings=False)
        self._model, self._options, self._jobs, self._decode_file = model, options, jobs, decode
        self._sources = enumerate(sources)
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()
        self._batch = BATCH[model.device]
        self._runners = jobs if model.device == "cpu" else 1
        self._decoded: _Channel[_Window] = _Channel(2 * self._batch * self._runners)
        self._scored: _Channel[_Window | _End | BaseException] = _Channel(64)
        self._ahead = threading.Semaphore(LOOKAHEAD + jobs)
        self._stopped = False
        self._outputs = [SCORES, EMBEDDING] if options.embeddings else [SCORES]
        self._labels = options.labels or model.labels
        index = {label: i for i, label in enumerate(model.labels)}
        if unknown := [label for label in (*self._labels, *(options.thresholds or ())) if label not in index]:
            raise ValueError(f"the tagger knows no class {unknown[0]!r}")
        self._columns = np.array([index[label] for label in self._labels])

    def results(
        self, raise_failures: bool, on_audio: Callable[[float], None]
    ) -> Generator[Result | Failure, None, None]:
        decoders = self._start(self._decode, self._jobs, then=self._decoded.close)
        runners = self._start(self._run, self._runners, then=self._scored.close)
        try:
            yield from self._collect(raise_failures, on_audio)
        finally:
            self._stopped = True
            self._decoded.stop()
            self._scored.stop()
            for _ in range(self._jobs):
                self._ahead.release()
            for thread in runners:  # the interpreter must not end while the model runs
                thread.join()
            for thread in decoders:
                thread.join(timeout=2)

    def _start(self, work: Callable[[], None], count: int, then: Callable[[], None]) -> list[threading.Thread]:
        """Run `work` in `count` threads, and `then` when the last one is done."""
        remaining = count

        def target() -> None:
            nonlocal remaining
            try:
                work()
            except BaseException as error:  # the caller's to see; he would wait for ever otherwise
                self._scored.put(error)
            with self._lock:
                remaining -= 1
                last = remaining == 0
            if last:
                then()

        threads = [threading.Thread(target=target, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def _decode(self) -> None:
        while True:
            self._ahead.acquire()
            if self._stopped:
                return
            with self._lock:
                item = next(self._sources, None)
            if item is None:
                self._ahead.release()  # for the other threads, to find the same
                return
            recording, source = item
            self._names[recording] = _display_name(source)
            end = _End(recording, 0, 0)
            try:
                self._put_windows(source, end)
            except (AudioError, MemoryError) as error:
                end.error = error
            self._scored.put(end)

    def _put_windows(self, source: Source, end: _End) -> None:
        rate = self._model.sample_rate
        window, hop = round(self._options.window * rate), round(self._options.hop * rate)

        def blocks() -> Iterator[np.ndarray]:
            for block in self._blocks(source, end):
                end.samples += len(block)
                yield block

        covered = 0
        for start, waveform in cut_windows(blocks(), window, hop, round(DROPPED_TAIL * rate)):
            new, covered = start + len(waveform) - covered, start + len(waveform)
            if not self._decoded.put(_Window(end.recording, end.windows, start, new, waveform)):
                return
            end.windows += 1

    def _blocks(self, source: Any, end: _End) -> Iterator[np.ndarray]:
        rate = self._model.sample_rate
        if is_waveform(source):
            return iter([to_waveform(source, None, rate)])

        def keep(note: Note) -> None:
            end.note = note

        one = source if isinstance(source, OneChannel) else OneChannel(source, self._options.channel, "")
        return self._decode_file(one.file, self._options.window, rate, one.channel, keep)

    def _run(self) -> None:
        while windows := self._decoded.take(self._batch, alike=lambda window: len(window.waveform)):
            outputs = self._model.run(np.stack([window.waveform for window in windows]), self._outputs)
            for i, window in enumerate(windows):
                window.outputs = {name: output[i] for name, output in zip(self._outputs, outputs, strict=True)}
                window.waveform = window.waveform[:0]
                self._scored.put(window)

    def _collect(self, raise_failures: bool, on_audio: Callable[[float], None]) -> Iterator[Result | Failure]:
        pools: dict[int, _Pool] = {}
        finished: dict[int, Result | Failure] = {}
        upcoming = 0
        while items := self._scored.take():
            item = items[0]
            if isinstance(item, BaseException):
                raise item
            recording = item.recording
            pool = pools.setdefault(
                recording, _Pool(self._options, self._labels, self._columns, self._model.sample_rate)
            )
            pool.add(item)
            if isinstance(item, _Window):
                on_audio(item.new / self._model.sample_rate)
            if not pool.complete:
                continue
            del pools[recording]
            finished[recording] = pool.outcome(self._names.pop(recording))
            while upcoming in finished:
                outcome = finished.pop(upcoming)
                if raise_failures and isinstance(outcome, Failure):
                    raise AudioError(outcome.message)
                yield outcome
                upcoming += 1
                self._ahead.release()


class _Pool:
    """The windows of one recording, put into order and pooled as they come."""

    def __init__(self, options: Settings, labels: tuple[str, ...], columns: np.ndarray, sample_rate: int) -> None:
        self._options, self._labels, self._columns, self._rate = options, labels, columns, sample_rate
        self._thresholds = options.thresholds_of(labels)
        self._tracker = EventTracker(labels, self._thresholds, options.top)
        self._early: dict[int, _Window] = {}
        self._end: _End | None = None
        self._starts: list[float] = []
        self._best = np.zeros(len(labels), np.float32)
        self._sum = np.zeros(len(labels))
        self._timeline: list[np.ndarray] = []
        self._embeddings: list[np.ndarray] = []

    @property
    def complete(self) -> bool:
        return self._end is not None and len(self._starts) == self._end.windows

    def add(self, item: _Window | _End) -> None:
        if isinstance(item, _End):
            self._end = item
            return
        self._early[item.number] = item
        while window := self._early.pop(len(self._starts), None):
            start = window.start / self._rate
            scores = window.outputs[SCORES][self._columns]
            self._tracker.add(start, start + self._options.window, scores)
            self._starts.append(start)
            np.maximum(self._best, scores, out=self._best)
            self._sum += scores
            if self._options.timeline:
                self._timeline.append(scores)
            if self._options.embeddings:
                self._embeddings.append(window.outputs[EMBEDDING].copy())  # not the whole batch

    def outcome(self, name: str) -> Result | Failure:
        assert self._end is not None
        if self._end.error is not None:
            message = str(self._end.error) or "not enough memory"
            return Failure(name, message if message.startswith(name) else f"{name}: {message}")
        duration = self._end.samples / self._rate
        return Result(
            source=name,
            duration=duration,
            labels=self._labels,
            scores=self._best,
            mean_scores=(self._sum / len(self._starts)).astype(np.float32),
            starts=np.array(self._starts),
            window=self._options.window,
            thresholds=self._thresholds,
            events=[event._replace(end=min(event.end, round(duration, 3))) for event in self._tracker.finish()],
            timeline=np.stack(self._timeline) if self._options.timeline else None,
            embeddings=np.stack(self._embeddings) if self._options.embeddings else None,
            note=self._end.note,
        )

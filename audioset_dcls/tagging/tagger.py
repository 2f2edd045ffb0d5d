"""Tagging: audio in; scores, events and embeddings out.

Decoding runs ahead of the model, and memory does not grow with the length of a recording.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic, TypeAlias, TypeVar

import numpy as np

from audioset_dcls.tagging.model import ModelError, OnnxModel, open_model
from audioset_dcls.tagging.timeline import Event, EventTracker
from audioset_dcls.tagging.waveforms import is_waveform, to_waveform
from preprocessing.audio import MIX, AudioError, Note, iter_audio, to_channel
from preprocessing.cores import usable_cores

__all__ = ["AudioError", "Event", "Failure", "ModelError", "Options", "Result", "Tagger"]

T = TypeVar("T")
File: TypeAlias = str | Path | IO[bytes] | bytes
Decode: TypeAlias = Callable[[Any, float, int, str | int, Callable[[Note], None]], Iterator[np.ndarray]]
LONGEST_WINDOW, THRESHOLD, TOP = 10.0, 0.2, 5  # a default; longer ones can be asked for
SHORTEST_WINDOW = 0.1  # s
DROPPED_TAIL = 0.1  # s: "ten-second" clips are often a few milliseconds longer; that is no reason for a second window
BATCH = {"cpu": 1, "cuda": 32}  # windows: larger ones are no faster on a core, and take more memory
LOOKAHEAD = 32  # recordings begun before the first unfinished one is done


@dataclass(frozen=True)
class Options:
    """How to cut, pool and report.

    window, hop: seconds; longer recordings are cut in windows of `window` every `hop`. By default a window is as long
        as the clips that the tagger learned from, 10 s at most, and the hop what its file says, or half the window.
    threshold, top: what counts as an event, see `EventTracker`. They leave `Result.scores` alone.
    labels: display names; the results hold these classes only.
    channel: which one of a file to hear: "mix", "left", "right", or its number from 1.
    timeline, embeddings: keep them for every window (2 kB and about 1.3 kB a window).
    """

    window: float | None = None
    hop: float | None = None
    threshold: float = THRESHOLD
    top: int = TOP
    labels: tuple[str, ...] | None = None
    channel: str | int = MIX
    timeline: bool = True
    embeddings: bool = True

    def __post_init__(self) -> None:
        if self.window is not None and not SHORTEST_WINDOW <= self.window <= 3600:
            raise ValueError(f"window must be {SHORTEST_WINDOW} to 3600 seconds, not {self.window:g}")
        longest = 3600 if self.window is None else self.window
        if self.hop is not None and not SHORTEST_WINDOW <= self.hop <= longest:
            raise ValueError(f"hop must be {SHORTEST_WINDOW} to {longest:g} seconds (the window), not {self.hop:g}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, not {self.threshold:g}")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, not {self.top}")
        to_channel(self.channel)

    def of(self, tagger: Tagger) -> Settings:
        """With the tagger's own window where none is given. Raises ValueError where the hop is longer."""
        window = tagger.window if self.window is None else self.window
        hop = self.hop
        if hop is None:
            hop = tagger.hop if self.window is None else max(window / 2, SHORTEST_WINDOW)
        return Settings(**{**vars(self), "window": window, "hop": hop})


@dataclass(frozen=True)
class Settings(Options):
    """Options of which nothing is left open."""

    window: float = LONGEST_WINDOW
    hop: float = LONGEST_WINDOW / 2


@dataclass
class Result:
    """What was heard in one recording. Scores are independent sigmoid probabilities: they do not sum to 1.

    Attributes:
        source: what was tagged, for display.
        duration: seconds.
        labels: display names in the order of the scores.
        scores, mean_scores: (C,) float32, the highest and the mean of the windows' scores.
        starts: (windows,) seconds; a window lasts `window` seconds, the last one ends with the recording.
        window: seconds.
        events: tags from when to when, see `EventTracker`.
        timeline: (windows, C) float32 scores, or None.
        embeddings: (windows, D) float32, or None.
        note: what the user should know of the recording, such as sound that is missing in it, or None.
    """

    source: str
    duration: float
    labels: tuple[str, ...]
    scores: np.ndarray
    mean_scores: np.ndarray
    starts: np.ndarray
    window: float
    events: list[Event]
    timeline: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    note: Note | None = None

    @property
    def embedding(self) -> np.ndarray | None:
        """(D,) float32: the mean over the windows."""
        return None if self.embeddings is None else self.embeddings.mean(0)

    def top(self, count: int = TOP, threshold: float = 0.0) -> list[tuple[str, float]]:
        """The `count` best tags with a score of at least `threshold`: (display name, score), best first."""
        best = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.labels[i], float(self.scores[i])) for i in best if self.scores[i] >= threshold]


@dataclass(frozen=True)
class OneChannel:
    """One channel of a file as a recording of its own, called `name`."""

    file: File
    channel: str | int
    name: str


Source: TypeAlias = File | np.ndarray | OneChannel  # or a tensor


@dataclass(frozen=True)
class Failure:
    """A recording that could not be tagged; `message` is one line that names it."""

    source: str
    message: str


class Tagger:
    """Tags recordings with an exported model; torch is not imported.

    model: None for the embedded tagger; the path of an .onnx file that `dcls-export` wrote; or what `load_checkpoint`
        takes, a path or a published name, which needs torch once to export it into the cache.
    device: "cpu", or "cuda" with onnxruntime-gpu.
    jobs: threads that decode, and on the CPU as many that run the model; all cores by default.

    Raises ModelError if the model cannot be opened.

    >>> tagger = Tagger()                                       # doctest: +SKIP
    >>> tagger("clip.wav").top(2)                               # doctest: +SKIP
    [('Dog', 0.93), ('Bark', 0.88)]
    """

    def __init__(self, model: str | Path | None = None, device: str = "cpu", jobs: int | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs must be at least 1, not {jobs}")
        self.model: OnnxModel = open_model(model, device)
        self.jobs = jobs or usable_cores()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.model.labels

    @property
    def metadata(self) -> dict[str, Any]:
        return self.model.metadata

    @property
    def window(self) -> float:
        """Seconds that a window lasts by default: the length of the clips in training, 10 s at most or if unknown."""
        return min(float(self.metadata.get("clip_seconds", LONGEST_WINDOW)), LONGEST_WINDOW)

    @property
    def hop(self) -> float:
        """Seconds from window to window by default."""
        return float(self.metadata.get("hop_seconds", self.window / 2))

    def __call__(self, source: Source, sample_rate: int | None = None, **options: Any) -> Result:
        """Tag one recording: a path, a binary file object, the bytes of a file, or a waveform (samples,).

        sample_rate: of a waveform, Hz; 32 kHz if it is not given. A waveform is a NumPy array or a torch tensor: floats
            in [-1, 1], or int8, int16, int32, uint8, which are scaled.
        options: the fields of `Options`.

        Raises AudioError for a source without sound to tag, ValueError for options that cannot be.
        """
        if is_waveform(source):
            source = to_waveform(source, sample_rate, self.model.sample_rate)
        elif sample_rate is not None:
            raise ValueError("sample_rate is for waveforms; a file has its own")
        result = next(self.tag_all([source], Options(**options), raise_failures=True))
        assert isinstance(result, Result)
        return result

    def tag_all(
        self,
        sources: Iterable[Source],
        options: Options | None = None,
        raise_failures: bool = False,
        on_audio: Callable[[float], None] | None = None,
        decode: Decode = iter_audio,
    ) -> Generator[Result | Failure, None, None]:
        """Tag many recordings, in order, decoding ahead and batching windows across recordings.

        A recording that cannot be read gives a Failure (with `raise_failures`, its AudioError) and the rest goes on.
        on_audio: called with the seconds of audio that each window adds, for progress within long recordings.
        decode: called like `iter_audio`, from several threads; `DecoderPool.iter_audio` decodes in other processes.
        """
        pipeline = _Pipeline(self.model, sources, (options or Options()).of(self), self.jobs, decode)
        return pipeline.results(raise_failures, on_audio or (lambda seconds: None))


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


class _Pipeline:
    """Decoding threads -> bounded queue of windows -> model threads -> the caller's thread, which pools and merges.

    Every queue is bounded, so decoding waits for the model and the model for a caller who writes to a slow disk.
    """

    def __init__(
        self, model: OnnxModel, sources: Iterable[Source], options: Settings, jobs: int, decode: Decode
    ) -> None:
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
        self._outputs = ["scores", "embedding"] if options.embeddings else ["scores"]
        self._labels = options.labels or model.labels
        index = {label: i for i, label in enumerate(model.labels)}
        if unknown := [label for label in self._labels if label not in index]:
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
        self._tracker = EventTracker(labels, options.threshold, options.top)
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
            scores = window.outputs["scores"][self._columns]
            self._tracker.add(start, start + self._options.window, scores)
            self._starts.append(start)
            np.maximum(self._best, scores, out=self._best)
            self._sum += scores
            if self._options.timeline:
                self._timeline.append(scores)
            if self._options.embeddings:
                self._embeddings.append(window.outputs["embedding"].copy())  # not the whole batch

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
            events=[event._replace(end=min(event.end, round(duration, 3))) for event in self._tracker.finish()],
            timeline=np.stack(self._timeline) if self._options.timeline else None,
            embeddings=np.stack(self._embeddings) if self._options.embeddings else None,
            note=self._end.note,
        )

"""A live source in a thread of its own: it reads on while the model runs, in bounded memory, and connects again."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from preprocessing.audio import AudioError, checked, rebuffer, resample
from preprocessing.decoding.spans import Waveform
from preprocessing.live import LiveSource

_BLOCK = 0.1  # s
_HELD = 300  # blocks between the source and the model
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # s before connecting again


@dataclass(frozen=True)
class _Mark:
    """The end of a segment: the connection was lost, as `line` says, and a new one follows; or it is the last one.

    error: what kept the source from being opened, or ended a sound that had an end of its own.
    """

    line: str = ""
    last: bool = False
    error: Exception | None = None


class Feed:
    """Blocks of a source at `sample_rate`, in segments without a gap.

    on_note: called with a line on each connection that is lost. clock, wait: of the time between connections.
    """

    def __init__(
        self,
        source: LiveSource,
        sample_rate: int,
        on_note: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._source, self._rate, self._on_note, self._clock = source, sample_rate, on_note, clock
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._items: queue.Queue[Waveform | _Mark] = queue.Queue(_HELD)
        self._began = 0.0
        self._samples = 0  # of the present segment
        self._mark = _Mark()  # what ended the last segment

    @property
    def elapsed(self) -> float:
        """Seconds since the first sound came."""
        return self._clock() - self._began

    def time_of(self, seconds: float) -> datetime:
        """The time of day, with its zone, of a moment in seconds since the first sound."""
        return datetime.now().astimezone() + timedelta(seconds=seconds - self.elapsed)

    def segments(self) -> Iterator[tuple[float, Iterator[Waveform]]]:
        """(start, blocks) of each stretch of sound; start in seconds since the first sound. Take all its blocks first.

        Raises AudioError if the source cannot be opened at all, or breaks off and has an end of its own.
        """
        threading.Thread(target=self._read, daemon=True).start()
        position: float | None = None
        item = self._items.get()
        while not (isinstance(item, _Mark) and item.last):
            if isinstance(item, _Mark):
                self._on_note(item.line)
                item = self._items.get()
                continue
            length = len(item) / self._rate
            if position is None:
                self._began = self._clock() - length
            base = 0.0 if position is None else max(position, self.elapsed - length)
            yield base, self._segment(item)
            position = base + self._samples / self._rate
            item = self._mark
        if item.error is not None:
            raise item.error

    def stop(self) -> None:
        """End after what is there."""
        self._stopped.set()

    def _segment(self, item: Waveform | _Mark) -> Iterator[Waveform]:
        self._samples = 0
        while not isinstance(item, _Mark):
            self._samples += len(item)
            yield item
            item = self._items.get()
        self._mark = item

    def _read(self) -> None:
        delay, connected = _FIRST_DELAY, False
        while not self._stopped.is_set():
            reason = f"{self._source.name}: the connection ended"
            try:
                blocks = checked(self._source.name, self._source.connect())
                for block in rebuffer(resample(blocks, self._rate), round(_BLOCK * self._rate)):
                    connected, delay = True, _FIRST_DELAY
                    self._items.put(block)
                    if self._stopped.is_set():
                        break
                if not connected:
                    raise AudioError(f"{self._source.name}: gives no sound")
                if not self._source.endless:
                    break
            except Exception as error:  # a fault of ours, too: nobody else would see it
                reason = str(error)
                if not (connected and self._source.endless):
                    self._items.put(_Mark(last=True, error=error))
                    return
            self._items.put(_Mark(f"{reason}; connecting again in {delay:g} s"))
            self._wait(delay)
            delay = min(2 * delay, _LONGEST_DELAY)
        self._items.put(_Mark(last=True))

"""A live source in a thread of its own: it reads on while the model runs, in bounded memory, and connects again."""

from __future__ import annotations

import math
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
_RECENT = 600  # s of sound
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # s before connecting again


@dataclass(frozen=True)
class _Mark:
    """The end of a segment: the connection was lost, as `line` says, and a new one follows; or it is the last one.

    Attributes:
        error: what kept the source from being opened, or ended a sound that had an end of its own.
    """

    line: str = ""
    last: bool = False
    error: Exception | None = None


class Feed:
    """Blocks of a source at `sample_rate`, in segments without a gap.

    Args:
        on_note: called with a line on each connection that is lost.
        clock, wait: of the time between connections.
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
        self._items: queue.Queue[tuple[Waveform, float] | _Mark] = queue.Queue(_HELD)
        self._began = math.inf  # on the clock
        self._lowest = math.inf  # `_began` as the last minutes have it
        self._samples = 0  # of the present segment
        self._periods = 0  # of _RECENT in it
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
            base = 0.0
            if position is not None:
                block, arrival = item
                base = max(position, arrival - len(block) / self._rate - self._began)
            yield base, self._segment(base, item)
            position = base + self._samples / self._rate
            item = self._mark
        if item.error is not None:
            raise item.error

    def stop(self) -> None:
        """End after what is there."""
        self._stopped.set()

    def _segment(self, base: float, item: tuple[Waveform, float] | _Mark) -> Iterator[Waveform]:
        self._samples = self._periods = 0
        while not isinstance(item, _Mark):
            block, arrival = item
            self._samples += len(block)
            self._keep_time(arrival - base - self._samples / self._rate)
            yield block
            item = self._items.get()
        self._mark = item

    def _keep_time(self, began: float) -> None:
        """When the first sound came, as seen from the arrival of a block.

        The earliest is right: what comes later has waited somewhere. Sound cards are up to seconds a day fast or slow,
        and networks lose sound, so it is the earliest of the last minutes that counts.
        """
        self._lowest = min(self._lowest, began)
        self._began = min(self._began, began)
        if self._samples // (_RECENT * self._rate) > self._periods:
            self._periods += 1
            self._began, self._lowest = self._lowest, math.inf

    def _read(self) -> None:
        delay, connected = _FIRST_DELAY, False
        while not self._stopped.is_set():
            reason = f"{self._source.name}: the connection ended"
            try:
                blocks = checked(self._source.name, self._source.connect())
                for block in rebuffer(resample(blocks, self._rate), round(_BLOCK * self._rate)):
                    connected, delay = True, _FIRST_DELAY
                    self._items.put((block, self._clock()))
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

"""A source that breaks off, ends, or cannot be opened; and one that outruns the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from audioset_dcls.tagging.live.feed import Feed
from preprocessing.audio import AudioError
from preprocessing.decoding.spans import Waveform

RATE = 1000


class Source:
    """Plays one list of blocks a connection; an exception in it is raised. tick: called with seconds before a block."""

    name = "fake"

    def __init__(
        self,
        *connections: list[Waveform | Exception],
        endless: bool = True,
        tick: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.endless, self._tick = endless, tick
        self._connections = list(connections)
        self.count = 0

    def connect(self) -> Iterator[tuple[int, Waveform]]:
        self.count += 1
        for item in self._connections.pop(0):
            if isinstance(item, Exception):
                raise item
            self._tick(len(item) / RATE)
            yield RATE, item


def ramp(seconds: float, start: float = 0.0) -> Waveform:
    return (np.arange(round(seconds * RATE), dtype=np.float32) / 1e6 + np.float32(start)).astype(np.float32)


def gone() -> AudioError:
    return AudioError("fake: gone")


def segments(feed: Feed) -> list[tuple[float, Waveform]]:
    return [(base, np.concatenate(list(blocks))) for base, blocks in feed.segments()]


def test_a_source_with_an_end() -> None:
    source = Source([ramp(0.25), ramp(0.5), ramp(0.001)], endless=False)
    ((base, samples),) = segments(Feed(source, RATE, pytest.fail))
    assert base == 0
    np.testing.assert_array_equal(samples, np.concatenate([ramp(0.25), ramp(0.5), ramp(0.001)]))


def test_it_connects_again_with_longer_and_longer_delays() -> None:
    """What comes afterwards stands later, by the time that went by; sound that came begins the delays anew."""
    now, delays, notes = [100.0], [], []
    noted = threading.Semaphore(0)

    def note(line: str) -> None:
        notes.append(line)
        noted.release()

    def wait(seconds: float) -> None:
        noted.acquire()  # all before it was taken
        delays.append(seconds)
        now[0] += seconds
        source.endless = len(delays) < 5

    def tick(seconds: float) -> None:
        now[0] += seconds

    second = [ramp(0.1)] * 10
    source = Source([*second * 2, gone()], [gone()], [gone()], [gone()], second, second * 3, tick=tick)
    found = segments(Feed(source, RATE, note, lambda: now[0], wait))
    assert delays == [1, 2, 4, 8, 1]
    assert [(round(base, 6), len(samples)) for base, samples in found] == [(0, 2000), (17, 1000), (19, 3000)]
    assert [line.partition("; ") for line in notes[3:]] == [
        ("fake: gone", "; ", "connecting again in 8 s"),
        ("fake: the connection ended", "; ", "connecting again in 1 s"),
    ]


def test_delays_have_an_end() -> None:
    delays: list[float] = []

    def wait(seconds: float) -> None:
        delays.append(seconds)
        source.endless = len(delays) < 10

    source = Source([ramp(1), gone()], *[[gone()] for _ in range(9)], [ramp(1)])
    assert len(segments(Feed(source, RATE, lambda line: None, wait=wait))) == 2
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source([gone()]), "fake: gone"),
        (Source([]), "fake: gives no sound"),
        (Source([ramp(1), gone()], endless=False), "fake: gone"),
        (Source([np.full(1000, np.nan, np.float32)]), "NaN"),
        (Source([ZeroDivisionError("a fault of ours")]), "fault"),
    ],
)
def test_what_cannot_be_had(source: Source, message: str) -> None:
    """At first, or of a sound with an end of its own: an error, not a second try."""
    with pytest.raises((AudioError, ZeroDivisionError), match=message):
        segments(Feed(source, RATE, pytest.fail))
    assert source.count == 1


def test_a_source_that_outruns_the_model_waits() -> None:
    """Half a minute is held at most."""
    produced, ahead = [0], threading.Event()

    class Eager(Source):
        def connect(self) -> Iterator[tuple[int, Waveform]]:
            for _ in range(2000):
                produced[0] += 1
                if produced[0] > 290:
                    ahead.set()
                yield RATE, ramp(0.1)

    for _, blocks in Feed(Eager(endless=False), RATE, pytest.fail).segments():
        assert ahead.wait(60)
        assert produced[0] < 310
        assert sum(len(block) for block in blocks) == 200_000


@pytest.mark.parametrize("pace", [0.9999, 1.0, 1.0001])
def test_a_clock_of_its_own(pace: float) -> None:
    """A sound card that is fast or slow: the time of day follows, ten minutes later at most."""
    now = [100.0]

    def tick(seconds: float) -> None:
        now[0] += seconds * pace

    source = Source([ramp(0.1)] * 36_000, endless=False, tick=tick)
    feed = Feed(source, RATE, pytest.fail, lambda: now[0])
    segments(feed)
    assert feed.elapsed == pytest.approx(3600, abs=0.2)


def test_sound_that_waited_on_its_way_came_earlier() -> None:
    """Three seconds that come at once have begun three seconds ago."""
    feed = Feed(Source([ramp(3)], endless=False), RATE, pytest.fail, lambda: 100.0)
    segments(feed)
    assert feed.elapsed == pytest.approx(3)

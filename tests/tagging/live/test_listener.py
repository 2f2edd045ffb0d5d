"""What is heard live is what `dcls-tag` hears, soon, and for ever."""

from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from audioset_dcls.tagging.live.feed import Feed
from audioset_dcls.tagging.live.listener import END, START, Listener, News
from audioset_dcls.tagging.results import Options
from audioset_dcls.tagging.tagger import Tagger
from preprocessing.audio import read_audio
from preprocessing.decoding.spans import Waveform
from tests.conftest import RECORDINGS

RATE = 32_000
SOUNDS = {3.0: "rooster.ogg", 11.0: "cow.ogg", 22.5: "dog_bark.ogg", 34.6: "duck.ogg"}  # s in the night


def blocks_of(waveform: Waveform, size: int = 3200) -> Iterator[Waveform]:
    return (waveform[at : at + size] for at in range(0, len(waveform), size))


@pytest.fixture(scope="module")
def embedded() -> Tagger:
    return Tagger(jobs=1)


@pytest.fixture(scope="module")
def night() -> Waveform:
    """Forty seconds with four sounds in faint noise."""
    waveform = np.random.default_rng(0).normal(0, 1e-3, 40 * RATE).astype(np.float32)
    for at, name in SOUNDS.items():
        sound = read_audio(RECORDINGS / name)[: 2 * RATE]
        waveform[round(at * RATE) : round(at * RATE) + len(sound)] += sound
    return waveform


@pytest.mark.parametrize(("window", "hop"), [(None, None), (2.5, 0.5), (7.0, 3.0)])
def test_the_same_events_as_from_a_file(
    window: float | None, hop: float | None, night: Waveform, embedded: Tagger
) -> None:
    settings = Options(window, hop).of(embedded)
    news = [one for many in Listener(embedded.model, settings).listen(0.0, blocks_of(night)) for one in many]
    ended = sorted(one.event for one in news if one.kind == END)
    assert ended == sorted(embedded(night, window=window, hop=hop).events)
    assert {"Crowing, cock-a-doodle-doo", "Moo", "Bark"} <= {event.label for event in ended}
    starts = {one.number: one for one in news if one.kind == START}
    assert len(starts) == len(ended)
    for one in news:
        if one.kind == END:
            assert starts[one.number].event.label == one.event.label
            assert starts[one.number].at <= one.at


@pytest.mark.parametrize(("window", "hop"), [(5.0, 5.0), (2.5, 0.5), (7.0, 3.5)])
def test_news_are_at_most_one_and_a_half_windows_late(
    window: float, hop: float, night: Waveform, embedded: Tagger
) -> None:
    """From the moment that a sound begins to the sound that has to have come before it is told."""
    taken = 0

    def counted() -> Iterator[Waveform]:
        nonlocal taken
        for block in blocks_of(night):
            taken += len(block)
            yield block

    told: list[tuple[str, float]] = []
    for news in Listener(embedded.model, Options(window, hop).of(embedded)).listen(0.0, counted()):
        told += [(one.event.label, taken / RATE) for one in news if one.kind == START]
        assert all(taken / RATE - one.at <= 0.1 + 1e-6 for one in news)
    expected = right_answers()
    for at, name in SOUNDS.items():
        delays = [when - at for label, when in told if label in expected[name] and when > at]
        assert min(delays) <= 1.5 * window, name


def right_answers() -> dict[str, list[str]]:
    with (RECORDINGS / "expected.csv").open(encoding="utf-8", newline="") as file:
        return {row["file"]: row["labels"].split(";") for row in csv.DictReader(file)}


class Loudness:
    """A model that hears how loud it is: "loud" above a half, "quiet" below."""

    labels = ("loud", "quiet")
    sample_rate = 1000

    def run(self, waveforms: np.ndarray, outputs: Any) -> list[np.ndarray]:
        level = np.abs(waveforms).max(axis=1)
        return [np.stack([level, 1 - level], axis=1)]


class Stream:
    """Hours of silence with a second of noise at each quarter of an hour; many blocks, two arrays."""

    name, endless = "stream", False

    def __init__(self, hours: float) -> None:
        self._seconds = round(hours * 3600)

    def connect(self) -> Iterator[tuple[int, Waveform]]:
        silence, noise = np.zeros(1000, np.float32), np.full(1000, 0.9, np.float32)
        for second in range(self._seconds):
            yield 1000, noise if second % 900 == 450 else silence


def simulate(hours: float, settings: Any) -> tuple[list[News], list[int]]:
    """All news of "loud", and the memory in use, bytes, at each of them."""
    listener: Listener = Listener(Loudness(), settings)  # type: ignore[arg-type]
    heard: list[News] = []
    memory: list[int] = []
    tracemalloc.start()
    for base, blocks in Feed(Stream(hours), 1000, pytest.fail).segments():
        for news in listener.listen(base, blocks):
            for one in news:
                if one.event.label == "loud":
                    heard.append(one)
                    memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return heard, memory


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, pytest.param(24, marks=pytest.mark.slow)])
def test_a_long_stream_neither_grows_nor_drifts(hours: float, tagger: Tagger) -> None:
    """Each noise is heard at its own second, the last as the first, and nothing is kept of what was before."""
    heard, memory = simulate(hours, Options(1.0, 1.0, threshold=0.5, labels=("loud", "quiet")).of(tagger))
    times = [(one.event.start, one.event.end) for one in heard if one.kind == END]
    assert times == [(450 + 900 * i, 451 + 900 * i) for i in range(round(4 * hours))]
    assert max(memory) < memory[0] + 500_000
    assert len(memory) == 2 * len(times)

"""Windows are cut without gaps, and scores over windows become events at the right times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioset_dcls.tagging.events import Event, EventTracker
from audioset_dcls.tagging.windows import cut_windows


def track(scores: list[float], window: float = 10, hop: float = 5, threshold: float = 0.4) -> list[tuple[float, float]]:
    """(start, end) of the events of one class with these window scores."""
    tracker = EventTracker(["a"], threshold, top=5)
    for i, score in enumerate(scores):
        tracker.add(i * hop, i * hop + window, np.array([score], np.float32))
    return [(event.start, event.end) for event in tracker.finish()]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([0.1, 0.1], []),
        ([0.9], [(0, 10)]),  # a short clip
        ([0.0, 0.9, 0.9, 0.0], [(10, 15)]),  # what both windows and neither neighbour heard
        ([0.0, 0.9, 0.0], [(5, 15)]),  # its neighbours cover all of it: no closer than the window
        ([0.9, 0.9, 0.9], [(0, 20)]),
        ([0.9, 0.0, 0.0, 0.9], [(0, 5), (20, 25)]),
        ([0.0, 0.3, 0.9, 0.3, 0.0], [(10, 20)]),  # hysteresis: lasts from half the threshold to half the threshold
        ([0.3, 0.3, 0.3], []),  # never reaches the threshold
        ([0.9, 0.3, 0.9], [(0, 20)]),  # one event, not two
    ],
)
def test_overlapping_windows(scores: list[float], expected: list[tuple[float, float]]) -> None:
    assert track(scores) == expected


def test_windows_side_by_side() -> None:
    assert track([0.0, 0.9, 0.9, 0.0], window=2, hop=2) == [(2, 6)]


def test_scores_of_an_event_are_those_of_its_windows() -> None:
    tracker = EventTracker(["a", "b"], 0.5, top=2)
    for i, score in enumerate([0.3, 0.9, 0.6, 0.1]):
        tracker.add(i, i + 1, np.array([0.0, score], np.float32))
    (event,) = tracker.finish()
    assert event == Event(0, 3, "b", pytest.approx(0.9), pytest.approx(0.6))


def test_only_the_best_of_a_window_begin_an_event() -> None:
    tracker = EventTracker(["a", "b", "c"], 0.5, top=2)
    tracker.add(0, 10, np.array([0.6, 0.9, 0.8], np.float32))
    assert [event.label for event in tracker.finish()] == ["b", "c"]


def test_each_class_has_its_threshold() -> None:
    tracker = EventTracker(["a", "b"], np.array([0.5, 0.9]), top=2)
    tracker.add(0, 10, np.array([0.6, 0.8], np.float32))
    assert [event.label for event in tracker.finish()] == ["a"]


@pytest.mark.parametrize(
    ("barks", "implied"), [([0.9, 0.9, 0.0, 0.0], True), ([0.9, 0.0, 0.0, 0.0], False), ([0.4] * 4, False)]
)
def test_an_ancestor_is_implied_while_its_descendant_is_heard(barks: list[float], implied: bool) -> None:
    """In half of its windows or more; below the threshold a descendant says nothing."""
    tracker = EventTracker(["Animal", "Bark", "Speech"], 0.5, top=1)
    for i, bark in enumerate(barks):
        tracker.add(i, i + 1, np.array([0.95, bark, 0.0], np.float32))
    events = {event.label: event for event in tracker.finish()}
    assert events["Animal"] == Event(0, 4, "Animal", pytest.approx(0.95), pytest.approx(0.95), implied)
    assert ("Bark" in events) == (0.9 in barks)  # top=1: what is implied takes no place
    assert not any(event.implied for event in events.values() if event.label != "Animal")


@given(
    blocks=st.lists(st.integers(0, 40), max_size=8),
    window=st.integers(1, 30),
    hop=st.integers(1, 30),
    tail=st.integers(0, 5),
)
def test_windows_against_the_whole_waveform(blocks: list[int], window: int, hop: int, tail: int) -> None:
    hop = min(hop, window)
    waveform = np.arange(sum(blocks), dtype=np.float32)
    cuts = np.split(waveform, np.cumsum(blocks)[:-1]) if blocks else []
    windows = list(cut_windows(cuts, window, hop, tail))
    length = len(waveform)
    expected = list(range(0, length - window + 1, hop)) if length >= window else [0] * bool(length)
    if length > window and length - (expected[-1] + window) > tail:
        expected.append(length - window)
    assert [start for start, _ in windows] == expected
    for start, samples in windows:
        assert np.array_equal(samples, waveform[start : start + window])

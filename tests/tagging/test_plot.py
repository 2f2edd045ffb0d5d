"""Which classes a picture shows."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from audioset_dcls.tagging.plot import _cells, _label_time, _specific, tags_to_show
from audioset_dcls.tagging.results import Result


def test_every_window_is_told_of() -> None:
    """Not the highest scores alone, which are all of the first window's; in the order of their peaks."""
    timeline = np.zeros((3, 6))
    timeline[0, [0, 1, 2]] = 0.99, 0.98, 0.97
    timeline[1, 4] = 0.5
    timeline[2, 3] = 0.7
    assert tags_to_show(timeline, 0.2, count=3) == [0, 4, 3]
    assert tags_to_show(timeline, 0.2, count=4) == [0, 1, 4, 3]
    assert tags_to_show(timeline, 0.6, count=3) == [0, 1, 3]


def test_the_best_where_none_reaches_the_threshold() -> None:
    assert tags_to_show(np.array([[0.01, 0.05, 0.02]]), 0.2) == [1]


def test_what_others_imply_is_left_out() -> None:
    """In windows in which they do."""
    timeline = np.array([[0.9, 0.8, 0.0], [0.9, 0.1, 0.7]], np.float32)
    lowest, best = np.full(3, 0.2, np.float32), timeline.max(0)
    result = Result(
        *("x.wav", 2.0, ("Animal", "Bark", "Speech"), best, best, np.arange(2.0), 1.0, lowest, []), timeline=timeline
    )
    assert _specific(result).tolist() == [[0, timeline[0, 1], 0], timeline[1].tolist()]


def test_an_event_of_an_hour_is_wide_enough_to_see() -> None:
    starts = np.arange(0, 3600, 5.0)
    scores = np.zeros((720, 2), np.float32)
    scores[333, 1] = 0.9
    edges, cells = _cells(starts, scores, 5.0, 3600.0)
    assert len(edges) == len(cells) + 1 <= 201
    (at,) = np.flatnonzero(cells[:, 1])
    assert edges[at] <= starts[333] < edges[at + 1]
    assert (edges[0], edges[-1], cells.max()) == (0, 3600, np.float32(0.9))
    edges, cells = _cells(starts[:3], scores[:3], 5.0, 15.0)
    assert edges.tolist() == [0, 5, 10, 15]


@pytest.mark.parametrize(
    ("end", "expected", "unit"),
    [
        (30, None, "time (s)"),
        (300, ["0:00", "0:30", "1:00", "1:30"], "time (min:s)"),
        (3600, ["0:00", "5:00", "10:00"], "time (h:min:s)"),
        (86_400, ["0:00", "2:00:00", "4:00:00"], "time (h:min:s)"),
    ],
)
def test_time_is_that_of_a_clock(end: float, expected: list[str] | None, unit: str) -> None:
    axes = Figure().subplots()
    axes.set(xlim=(0, end))
    _label_time(axes, end)
    assert axes.get_xlabel() == unit
    if expected is not None:
        shown = [axes.xaxis.get_major_formatter()(at) for at in axes.get_xticks() if 0 <= at <= end]
        assert shown[: len(expected)] == expected

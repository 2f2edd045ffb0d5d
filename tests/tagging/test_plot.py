"""Which classes a picture shows."""

from __future__ import annotations

import numpy as np

from audioset_dcls.tagging.plot import tags_to_show


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

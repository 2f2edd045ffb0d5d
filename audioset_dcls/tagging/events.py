"""From window scores to events: which tag sounds from when to when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from preprocessing.labels import ancestor_matrix

RELEASE = 0.5  # an event lasts while the score stays above this share of the threshold that began it


class Event(NamedTuple):
    """A tag from `start` to `end`, in seconds; `score` and `mean` are over the windows that heard it.

    Attributes:
        implied: in half or more of the windows where it reaches its threshold one of its descendants does, too:
            "Animal" during a "Bark".
    """

    start: float
    end: float
    label: str
    score: float
    mean: float
    implied: bool = False


def implied_classes(passes: np.ndarray, above: np.ndarray) -> np.ndarray:
    """(C,) bool: the classes among `passes` (C,) with a descendant among them; `above` is an `ancestor_matrix`."""
    implied: np.ndarray = passes & above[passes].any(axis=0)
    return implied


class EventTracker:
    """Merges consecutive windows into events as they come, in constant memory (apart from the events found).

    Double threshold per class, the usual hysteresis of sound event detection: a run of windows whose score stays at or
    above RELEASE * threshold is one event if at least one of them reaches the threshold with the class among its `top`
    best, implied ones not counted. If windows overlap, an event is trimmed by what its silent neighbours did not
    hear: what only the first window of the run heard lies after the end of the window before it, likewise at the end of
    the run.

    Args:
        thresholds: one for all classes, or (C,).
    """

    def __init__(self, labels: Sequence[str], thresholds: float | np.ndarray, top: int) -> None:
        classes = len(labels)
        self.labels, self.thresholds, self.top = labels, np.broadcast_to(thresholds, classes), top
        self.events: list[Event] = []
        self._active = np.zeros(classes, bool)
        self._confirmed = np.zeros(classes, bool)
        self._first_start = np.zeros(classes)  # of the run's first window
        self._onset = np.zeros(classes)  # trimmed
        self._best = np.zeros(classes)
        self._sum = np.zeros(classes)
        self._count = np.zeros(classes, int)
        self._passed = np.zeros(classes, int)  # windows in which it reaches its threshold
        self._implied = np.zeros(classes, int)  # of these, windows in which a descendant does
        self._above = ancestor_matrix(tuple(labels))
        self._last: tuple[float, float] | None = None

    def add(self, start: float, end: float, scores: np.ndarray) -> None:
        """The next window, from `start` to `end` seconds: scores (C,)."""
        held = scores >= self.thresholds * RELEASE
        self._close(self._active & ~held, offset=start)
        opened = held & ~self._active
        self._active |= opened
        self._confirmed[opened] = False
        self._first_start[opened] = start
        self._onset[opened] = start if self._last is None else max(start, self._last[1])
        for total in (self._best, self._sum, self._count, self._passed, self._implied):
            total[opened] = 0
        np.maximum(self._best, scores, out=self._best, where=held)
        self._sum[held] += scores[held]
        self._count[held] += 1
        passes = scores >= self.thresholds
        implied = implied_classes(passes, self._above)
        self._passed += passes
        self._implied += implied
        own = np.flatnonzero(passes & ~implied)
        self._confirmed |= implied
        self._confirmed[own[np.argsort(-scores[own], kind="stable")[: self.top]]] = True
        self._last = (start, end)

    def take(self) -> list[Event]:
        """The events that have ended since the last call, which are forgotten here: a stream may never end."""
        ended, self.events = self.events, []
        return ended

    def sounding(self) -> list[Event]:
        """The events that have not ended yet, up to the end of the last window."""
        if self._last is None:
            return []
        end = self._last[1]
        return [self._event(int(i), self._onset[i], end) for i in np.flatnonzero(self._active & self._confirmed)]

    def finish(self) -> list[Event]:
        """All events, by start, then by falling score."""
        if self._last is not None:
            self._close(self._active.copy(), offset=self._last[1])
        self.events.sort(key=lambda event: (event.start, -event.score, event.label))
        return self.events

    def _close(self, classes: np.ndarray, offset: float) -> None:
        self._active &= ~classes
        if self._last is None:
            return
        for index in np.flatnonzero(classes & self._confirmed):
            start, end = self._onset[index], min(self._last[1], offset)
            if start >= end:  # its neighbours together cover the whole window, yet only this one heard it
                start, end = self._first_start[index], self._last[1]
            self.events.append(self._event(int(index), start, end))

    def _event(self, index: int, start: float, end: float) -> Event:
        return Event(
            round(float(start), 3),
            round(float(end), 3),
            self.labels[index],
            float(self._best[index]),
            float(self._sum[index] / self._count[index]),
            bool(2 * self._implied[index] >= self._passed[index]),
        )

"""From blocks of sound to news of what begins and ends, as the windows are filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from audioset_dcls.tagging.events import Event, EventTracker
from audioset_dcls.tagging.results import Settings
from audioset_dcls.tagging.session import OnnxModel
from audioset_dcls.tagging.windows import DROPPED_TAIL, cut_windows
from preprocessing.decoding.spans import Waveform

START, END = "start", "end"
_DIGITS = 4  # of a score


@dataclass(frozen=True)
class News:
    """An event begins or has ended.

    Attributes:
        number: the same for both.
        at: seconds since the first sound up to which was heard when this became known.

    An event that begins has the scores so far; what it implies may change until it ends.
    """

    kind: str
    number: int
    event: Event
    at: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types: those of an event of `dcls-tag`, and `type`, `number`, `at`; without `end` while it lasts."""
        event = self.event._replace(score=round(self.event.score, _DIGITS), mean=round(self.event.mean, _DIGITS))
        values = {"type": self.kind, "number": self.number, "at": round(self.at, 3), **event._asdict()}
        if self.kind == START:
            del values["end"]
        return values


class Listener:
    """Tags segments of a stream, in constant memory. `at`: seconds up to which was heard."""

    def __init__(self, model: OnnxModel, settings: Settings) -> None:
        self._model, self._settings = model, settings
        self._labels = settings.labels or model.labels
        self._columns = np.array([model.labels.index(label) for label in self._labels])
        self._thresholds = settings.thresholds_of(self._labels)
        self._tracker = self._new_tracker()
        self._numbers: dict[str, int] = {}  # of the events that sound
        self._count = 0
        self.at = 0.0

    def listen(self, base: float, blocks: Iterator[Waveform]) -> Iterator[list[News]]:
        """The news of each window of a segment that starts at `base` seconds; at last those of its end."""
        rate, settings = self._model.sample_rate, self._settings
        window, hop, tail = (round(seconds * rate) for seconds in (settings.window, settings.hop, DROPPED_TAIL))
        self._tracker = self._new_tracker()
        for start, waveform in cut_windows(blocks, window, hop, tail):
            (scores,) = self._model.run(waveform[None], ["scores"])
            begin = base + start / rate
            self.at = begin + len(waveform) / rate
            self._tracker.add(begin, begin + settings.window, scores[0, self._columns])
            yield self._news()
        yield self.finish()

    def finish(self) -> list[News]:
        """The news of the segment's end: all that sounds has ended."""
        ended = self._tracker.finish()
        self._tracker = self._new_tracker()
        return self._ends([event._replace(end=min(event.end, round(self.at, 3))) for event in ended])

    def _news(self) -> list[News]:
        news = self._ends(self._tracker.take())
        for event in self._tracker.sounding():
            if event.label not in self._numbers:
                news.append(News(START, self._number(event.label), event, self.at))
        return news

    def _ends(self, events: list[Event]) -> list[News]:
        return [News(END, self._numbers.pop(event.label), event, self.at) for event in events]

    def _number(self, label: str) -> int:
        self._count += 1
        self._numbers[label] = self._count
        return self._count

    def _new_tracker(self) -> EventTracker:
        return EventTracker(self._labels, self._thresholds, self._settings.top)

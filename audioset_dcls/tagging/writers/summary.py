"""What was heard in a whole run: a CSV with a row a class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from audioset_dcls.tagging.writers.csv import csv_line
from audioset_dcls.tagging.writers.formats import Format, Record, clock
from preprocessing.terminal import printable

COLUMNS = (
    *("label", "recordings", "events", "minutes"),
    *("first_file", "first_start", "highest", "highest_file", "highest_start"),
)


@dataclass
class Heard:
    """A class: in how many recordings, events and seconds; (file, start in s) of its first and its best event."""

    label: str
    first: tuple[str, float] = ("", 0.0)
    recordings: int = 0
    events: int = 0
    seconds: float = 0.0
    score: float = 0.0
    best: tuple[str, float] = ("", 0.0)


@dataclass
class Totals:
    """What was heard in the records that `add` was given."""

    seconds: float = 0.0  # of audio
    recordings: int = 0
    classes: dict[str, Heard] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        self.seconds += record["duration"]
        self.recordings += 1
        for label in {event["label"] for event in record["events"]}:
            self.classes.setdefault(label, Heard(label)).recordings += 1
        for event in record["events"]:  # by start
            heard, where = self.classes[event["label"]], (record["file"], event["start"])
            if not heard.events:
                heard.first = where
            heard.events += 1
            heard.seconds += event["end"] - event["start"]
            if event["score"] > heard.score:
                heard.score, heard.best = event["score"], where

    def by_minutes(self) -> list[Heard]:
        """The longest heard first."""
        return sorted(self.classes.values(), key=lambda heard: (-heard.seconds, heard.label))

    def table(self, most: int) -> Iterator[str]:
        """Lines for a terminal: the `most` longest heard classes."""
        yield f"{'events':>7}  {'time':>8}  {'highest':>7}  class"
        classes = self.by_minutes()
        for heard in classes[:most]:
            yield f"{heard.events:>7}  {clock(heard.seconds):>8}  {heard.score:>7.2f}  {printable(heard.label)}"
        if len(classes) > most:
            yield f"and {len(classes) - most} more classes; --format summary has them all"


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    totals = Totals()
    for record in records:
        totals.add(record)
    yield csv_line(COLUMNS)
    for heard in totals.by_minutes():
        minutes = round(heard.seconds / 60, 2)
        counts = (heard.recordings, heard.events, minutes)
        yield csv_line([heard.label, *counts, *heard.first, heard.score, *heard.best])


SUMMARY = Format(".summary.csv", _render)

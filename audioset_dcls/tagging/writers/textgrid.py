"""A TextGrid of Praat: an interval tier a class, whose intervals hold the scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.formats import Format, Record, tiers
from preprocessing.terminal import printable

_EMPTY = "events"  # the tier of a recording in which nothing was heard: Praat opens no TextGrid without one


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    for record in records:
        end, found = record["duration"], tiers(record) or {_EMPTY: []}
        yield (
            'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
            f"xmin = 0\nxmax = {end}\ntiers? <exists>\nsize = {len(found)}\nitem []:\n"
        )
        for number, (label, events) in enumerate(found.items(), 1):
            intervals = list(_intervals(events, end))
            yield (
                f'    item [{number}]:\n        class = "IntervalTier"\n        name = {_quoted(label)}\n'
                f"        xmin = 0\n        xmax = {end}\n        intervals: size = {len(intervals)}\n"
            )
            for index, (start, stop, text) in enumerate(intervals, 1):
                yield (
                    f"        intervals [{index}]:\n            xmin = {start}\n            xmax = {stop}\n"
                    f"            text = {_quoted(text)}\n"
                )


def _intervals(events: list[tuple[float, float, float]], end: float) -> Iterator[tuple[float, float, str]]:
    """Those of the events and the empty ones between them: together they fill the recording."""
    at = 0.0
    for start, stop, score in events:
        if start > at:
            yield at, start, ""
        yield start, stop, f"{score:.2f}"
        at = stop
    if at < end:
        yield at, end, ""


def _quoted(text: str) -> str:
    return f'"{printable(text).replace(chr(34), chr(34) * 2)}"'


TEXTGRID = Format(".TextGrid", _render, of="recording")

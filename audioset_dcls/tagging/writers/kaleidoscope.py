"""A CSV of Kaleidoscope Pro: a row an event, which it opens as it opens its own results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.csv import csv_line
from audioset_dcls.tagging.writers.formats import Format, Record, moment_at

COLUMNS = (
    *("INDIR", "FOLDER", "IN FILE", "CHANNEL", "OFFSET", "DURATION", "Fmin", "Fmax", "DATE", "TIME", "HOUR"),
    *("TOP1MATCH", "TOP1DIST", "MANUAL ID"),
)


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    yield csv_line(COLUMNS)
    for record in records:
        folder, name = os.path.split(record["path"] or record["file"])
        channel = (record["channel"] or 1) - 1
        for event in record["events"]:
            moment = moment_at(record, event["start"])
            when = ("", "", "") if moment is None else (f"{moment:%Y-%m-%d}", f"{moment:%H:%M:%S}", moment.hour)
            location = (folder, "", name, channel, event["start"], round(event["end"] - event["start"], 3))
            distance = round(1 - event["score"], 4)  # Kaleidoscope's: 0 is the nearest
            yield csv_line([*location, *record["band"], *when, event["label"], distance, ""])


KALEIDOSCOPE = Format(".kaleidoscope.csv", _render)

"""CSV: a row a tag, from 0 to the recording's end; with `timeline` a row an event."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from audioset_dcls.tagging.writers.formats import COLUMNS, Format, Record, rows
from preprocessing.terminal import csv_cell


def csv_line(values: Iterable[Any]) -> str:
    """One line of a CSV, without formulas."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(map(csv_cell, values))
    return line.getvalue()


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    yield csv_line(COLUMNS)
    for record in records:
        yield "".join(csv_line([row[column] for column in COLUMNS]) for row in rows(record, timeline))


CSV = Format(".csv", _render)

"""CSV: a row a tag, from 0 to the recording's end; with `timeline` a row an event.

UTF-8 without a byte-order mark: Python's `csv`, `cut` and `sort` would take one for a part of the first column's name.
"""

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
    cells = (str(value).lower() if isinstance(value, bool) else csv_cell(value) for value in values)
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    yield csv_line(COLUMNS)
    for record in records:
        yield "".join(csv_line([row[column] for column in COLUMNS]) for row in rows(record, timeline))


CSV = Format(".csv", _render, for_programs=True)

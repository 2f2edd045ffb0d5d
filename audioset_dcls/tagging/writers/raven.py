"""A selection table of Raven Pro and Raven Lite, for each recording and for all together.

In the table of all, begin and end count from the start of the first recording, as Raven does with a list of files that
it opened; `File Offset (s)` counts from the start of the selection's own file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.formats import Format, Record
from preprocessing.terminal import printable

COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Begin Path", "File Offset (s)", "Label", "Score"),
)


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    yield "\t".join(COLUMNS) + "\n"
    number, begin = 0, 0.0
    for record in records:
        low, high = record["band"]
        path, channel = printable(record["path"] or record["file"]), record["channel"] or 1
        for event in record["events"]:
            number += 1
            start, end = begin + event["start"], begin + event["end"]
            yield (
                f"{number}\tSpectrogram 1\t{channel}\t{start:.3f}\t{end:.3f}\t{low:.0f}\t{high:.0f}\t{path}\t"
                f"{event['start']:.3f}\t{printable(event['label'])}\t{event['score']:.4f}\n"
            )
        begin += record["duration"]


RAVEN = Format(".raven.txt", _render, of="both")

"""A selection table of Raven Pro and Raven Lite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.formats import Format, Record
from preprocessing.terminal import printable

COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Label", "Score", "Begin Path"),
)


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    yield "\t".join(COLUMNS) + "\n"
    for record in records:
        path = printable(record["file"])
        for number, e in enumerate(record["events"], 1):
            times = f"{e['start']:.3f}\t{e['end']:.3f}"
            yield f"{number}\tSpectrogram 1\t1\t{times}\t50\t14000\t{printable(e['label'])}\t{e['score']:.4f}\t{path}\n"


RAVEN = Format(".raven.txt", _render, events_only=True)

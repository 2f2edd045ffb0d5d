"""A label track of Audacity: File > Import > Labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.formats import Format, Record
from preprocessing.terminal import printable


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    for record in records:
        for e in record["events"]:
            yield f"{e['start']:.3f}\t{e['end']:.3f}\t{printable(e['label'])} {e['score']:.2f}\n"


AUDACITY = Format(".audacity.txt", _render, of="recording")

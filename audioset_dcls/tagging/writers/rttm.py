"""RTTM, a line an event: what speech tools read, with the class in the speaker's place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.formats import Format, Record
from preprocessing.terminal import printable


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    for record in records:
        file, channel = _word(os.path.splitext(record["file"])[0]), record["channel"] or 1  # noqa: PTH122
        for event in record["events"]:
            length = event["end"] - event["start"]
            yield (
                f"SPEAKER {file} {channel} {event['start']:.3f} {length:.3f} <NA> <NA> {_word(event['label'])} "
                f"{event['score']:.4f} <NA>\n"
            )


def _word(text: str) -> str:
    """Spaces part the fields."""
    return "_".join(printable(text).split()) or "_"


RTTM = Format(".rttm", _render)

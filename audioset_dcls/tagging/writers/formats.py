"""What a format is, and the records that it writes.

A record is what the journal keeps of a `Result`: plain types, one dictionary a recording,

    {"file": path, "duration": s, "best": {"label", "score"},
     "tags": [{"label", "score", "mean"}], "events": [{"start", "end", "label", "score", "mean"}]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from preprocessing.files import atomic_write

Record: TypeAlias = dict[str, Any]
COLUMNS = ("file", "start", "end", "label", "score", "mean")


@dataclass(frozen=True)
class Format:
    """How records become a file: a text format has `render`, another one has `save`.

    suffix: of its files, with the dot.
    render: (records, timeline) -> pieces of text, so that a long run streams.
    save: (path, records, timeline) writes the file at `path`.
    events_only: labels for one recording's time line: a file never holds two recordings.
    """

    suffix: str
    render: Callable[[Iterable[Record], bool], Iterator[str]] | None = None
    save: Callable[[Path, Iterable[Record], bool], None] | None = None
    events_only: bool = False

    def write(self, path: Path, records: Iterable[Record], timeline: bool) -> None:
        """Write a file, whole or not at all."""
        with atomic_write(path) as unfinished:
            if self.save is not None:
                self.save(unfinished, records, timeline)
                return
            assert self.render is not None
            with unfinished.open("w", encoding="utf-8", newline="") as file:
                file.writelines(self.render(records, timeline))


def rows(record: Record, timeline: bool) -> Iterator[Record]:
    """One dictionary with COLUMNS for every tag, or for every event."""
    whole = {"start": 0.0, "end": record["duration"]}
    for entry in record["events"] if timeline else record["tags"]:
        yield {"file": record["file"], **whole, **entry}


def clock(seconds: float) -> str:
    """0:03, 1:02:03; tenths below ten minutes, where a window is seconds long."""
    whole = int(seconds)
    if whole < 600:
        return f"{whole // 60}:{seconds % 60:04.1f}" if round(seconds % 60, 1) < 60 else f"{whole // 60 + 1}:00.0"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"

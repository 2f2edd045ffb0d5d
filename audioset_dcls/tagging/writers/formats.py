"""What a format is, and the records that it writes.

A record is what the journal keeps of a recording: plain types, one dictionary,

    {"file": path as the user wrote it, "duration": s, "best": {"label", "score"},
     "tags": [{"label", "score", "mean", "implied"}],
     "events": [{"start", "end", "label", "score", "mean", "implied"}],
     "path": absolute, None for stdin; "channel": from 1, None for all; "rate": Hz in the file, None if unknown;
     "band": [lowest, highest] Hz that the tagger hears of it;
     "recorded": ISO 8601 time of its start, None if unknown}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from preprocessing.files import atomic_write

Record: TypeAlias = dict[str, Any]
COLUMNS = ("file", "start", "end", "label", "score", "mean", "implied", "time")


class View(NamedTuple):
    """What to show of records: events or tags, and with `all_levels` also classes that others imply."""

    timeline: bool = False
    all_levels: bool = False


@dataclass(frozen=True)
class Format:
    """How records become a file: a text format has `render`, another one has `save`.

    Attributes:
        suffix: of its files, with the dot.
        render: (records, timeline) -> pieces of text, so that a long run streams.
        save: (path, records, timeline) writes the file at `path`.
        of: "run": one file of all recordings, or one each if the user asks for it; "recording": a time line's labels,
            so a file never holds two recordings; "both".
        for_programs: gets implied classes, too, which it marks; the others show them with `all_levels` alone.
    """

    suffix: str
    render: Callable[[Iterable[Record], bool], Iterator[str]] | None = None
    save: Callable[[Path, Iterable[Record], bool], None] | None = None
    of: Literal["run", "recording", "both"] = "run"
    for_programs: bool = False

    def text(self, records: Iterable[Record], view: View) -> Iterator[str]:
        """Pieces of a text format."""
        assert self.render is not None
        return self.render(self._shown(records, view), view.timeline)

    def write(self, path: Path, records: Iterable[Record], view: View) -> None:
        """Write a file, whole or not at all."""
        with atomic_write(path) as unfinished:
            if self.save is not None:
                self.save(unfinished, self._shown(records, view), view.timeline)
                return
            with unfinished.open("w", encoding="utf-8", newline="") as file:
                file.writelines(self.text(records, view))

    def _shown(self, records: Iterable[Record], view: View) -> Iterable[Record]:
        return records if self.for_programs or view.all_levels else map(specific, records)


def specific(record: Record) -> Record:
    """Without what is implied."""
    return {**record, **{key: [entry for entry in record[key] if not entry["implied"]] for key in ("tags", "events")}}


def rows(record: Record, timeline: bool) -> Iterator[Record]:
    """One dictionary with COLUMNS for every tag, or for every event; one without a label if there is none."""
    whole = {"start": 0.0, "end": record["duration"]}
    nothing = {"label": "", "score": None, "mean": None, "implied": False}
    for entry in (record["events"] if timeline else record["tags"]) or [nothing]:
        row = {"file": record["file"], **whole, **entry}
        yield row | {"time": time_at(record, row["start"])}


def time_at(record: Record, seconds: float) -> str:
    """ISO 8601 time of a moment in a recording, in its own time zone if that is known; "" if its start is unknown."""
    moment = moment_at(record, seconds)
    return "" if moment is None else moment.isoformat(timespec="milliseconds")


def moment_at(record: Record, seconds: float) -> datetime | None:
    if record["recorded"] is None:
        return None
    return datetime.fromisoformat(record["recorded"]) + timedelta(seconds=seconds)


def tiers(record: Record) -> dict[str, list[tuple[float, float, float]]]:
    """Class -> (start, end, score) of its events, for formats in whose tiers they may not overlap."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for event in record["events"]:  # by start
        tier = found.setdefault(event["label"], [])
        start = max(event["start"], tier[-1][1]) if tier else event["start"]
        if start < event["end"]:
            tier.append((start, event["end"], event["score"]))
    return found


def clock(seconds: float, tenths: bool = True) -> str:
    """0:03, 1:02:03; with `tenths` below ten minutes, where a window is seconds long."""
    whole = int(seconds)
    if tenths and whole < 600:
        return f"{whole // 60}:{seconds % 60:04.1f}" if round(seconds % 60, 1) < 60 else f"{whole // 60 + 1}:00.0"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"

"""Records of tagged recordings in the formats that people and programs read.

A record is what the journal keeps of a `Result`: plain types, one dictionary a recording,

    {"file": path, "duration": s, "best": {"label", "score"},
     "tags": [{"label", "score", "mean"}], "events": [{"start", "end", "label", "score", "mean"}]}

Each text format is a generator, records in, pieces of text out, so that a long run streams.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from audioset_dcls.tagging.results import Options, Result
from preprocessing.files import atomic_write
from preprocessing.terminal import csv_cell, json_text, printable

Record: TypeAlias = dict[str, Any]
COLUMNS = ("file", "start", "end", "label", "score", "mean")
RAVEN_COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Label", "Score", "Begin Path"),
)


@dataclass(frozen=True)
class Format:
    """A text format; `events_only` ones are labels for one recording's time line, so a file never holds two."""

    suffix: str
    render: Callable[[Iterable[Record], bool], Iterator[str]]
    events_only: bool = False


def record_of(result: Result, options: Options) -> Record:
    """The tags that reach the threshold, `options.top` at most, and all events."""
    return result.to_dict(options.top, options.threshold)


def table(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    """For people."""
    for record in records:
        lines = [f"{printable(record['file'])}  {clock(record['duration'])}"]
        if timeline:
            lines += [
                f"  {clock(e['start']):>7} - {clock(e['end']):<7}  {e['score']:.2f}  {printable(e['label'])}"
                for e in record["events"]
            ]
        else:
            lines += [f"  {tag['score']:.2f}  {printable(tag['label'])}" for tag in record["tags"]]
        if len(lines) == 1:
            best = record["best"]
            lines.append(f"  nothing above the threshold; best: {best['score']:.2f}  {printable(best['label'])}")
        yield "\n".join(lines) + "\n"


def json_array(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    """One array of objects, one line each."""
    separator = "[\n"
    for record in records:
        yield separator + _json(record, timeline)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def json_lines(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    """One object a line."""
    for record in records:
        yield _json(record, timeline) + "\n"


def csv_rows(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    """A row a tag, from 0 to the recording's end; with `timeline` a row an event."""
    yield _csv_line(COLUMNS)
    for record in records:
        yield "".join(_csv_line([row[column] for column in COLUMNS]) for row in rows(record, timeline))


def audacity(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    """A label track: File > Import > Labels."""
    for record in records:
        for e in record["events"]:
            yield f"{e['start']:.3f}\t{e['end']:.3f}\t{printable(e['label'])} {e['score']:.2f}\n"


def raven(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    """A selection table of Raven Pro / Lite."""
    yield "\t".join(RAVEN_COLUMNS) + "\n"
    for record in records:
        path = printable(record["file"])
        for number, e in enumerate(record["events"], 1):
            times = f"{e['start']:.3f}\t{e['end']:.3f}"
            yield f"{number}\tSpectrogram 1\t1\t{times}\t50\t14000\t{printable(e['label'])}\t{e['score']:.4f}\t{path}\n"


TEXT_FORMATS = {
    "table": Format(".txt", table),
    "json": Format(".json", json_array),
    "jsonl": Format(".jsonl", json_lines),
    "csv": Format(".csv", csv_rows),
    "audacity": Format(".audacity.txt", audacity, events_only=True),
    "raven": Format(".raven.txt", raven, events_only=True),
}
FORMATS = (*TEXT_FORMATS, "parquet")


def write_file(path: Path, name: str, records: Iterable[Record], timeline: bool) -> None:
    """Write records in the format `name`; the file appears whole or not at all."""
    if name == "parquet":
        _write_parquet(path, records, timeline)
        return
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        file.writelines(TEXT_FORMATS[name].render(records, timeline))


def suffix_of(name: str) -> str:
    return TEXT_FORMATS[name].suffix if name in TEXT_FORMATS else f".{name}"


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


def _json(record: Record, timeline: bool) -> str:
    shown = ("file", "duration", "tags", "events") if timeline else ("file", "duration", "tags")
    return json_text(json.dumps({key: record[key] for key in shown}, ensure_ascii=False))


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(map(csv_cell, values))
    return line.getvalue()


def _write_parquet(path: Path, records: Iterable[Record], timeline: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"start": pa.float64(), "end": pa.float64(), "score": pa.float32(), "mean": pa.float32()}
    schema = pa.schema([(column, numbers.get(column, pa.string())) for column in COLUMNS])
    with atomic_write(path) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        for chunk in _chunks((row for record in records for row in rows(record, timeline)), 10_000):
            writer.write_table(pa.Table.from_pylist(chunk, schema))


def _chunks(items: Iterable[Record], size: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

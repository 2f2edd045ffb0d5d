"""JSON: an object a recording, in one array or one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.formats import Format, Record
from preprocessing.terminal import json_text


def json_array(objects: Iterable[str]) -> Iterator[str]:
    """One array, an object a line."""
    separator = "[\n"
    for text in objects:
        yield separator + text
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def _array(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    yield from json_array(_object(record, timeline) for record in records)


def _lines(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    for record in records:
        yield _object(record, timeline) + "\n"


def _object(record: Record, timeline: bool) -> str:
    shown = ("file", "duration", "recorded", "tags", *(["events"] if timeline else []))
    return json_text(json.dumps({key: record[key] for key in shown}, ensure_ascii=False))


JSON = Format(".json", _array, for_programs=True)
JSON_LINES = Format(".jsonl", _lines, for_programs=True)

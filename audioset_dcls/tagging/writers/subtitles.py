"""Subtitles, a cue an event: WebVTT for browsers, SubRip (SRT) for players and editors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.formats import Format, Record
from preprocessing.terminal import printable

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def _vtt(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    for record in records:
        yield "WEBVTT\n"
        for event in record["events"]:
            text = printable(event["label"]).translate(_ESCAPES)
            yield f"\n{_time(event['start'], '.')} --> {_time(event['end'], '.')}\n{text}\n"


def _srt(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    for record in records:
        for number, event in enumerate(record["events"], 1):
            span = f"{_time(event['start'], ',')} --> {_time(event['end'], ',')}"
            yield f"{number}\n{span}\n{printable(event['label'])}\n\n"


def _time(seconds: float, point: str) -> str:
    """01:02:03.500."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


VTT = Format(".vtt", _vtt, of="recording")
SRT = Format(".srt", _srt, of="recording")

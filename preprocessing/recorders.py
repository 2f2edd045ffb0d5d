"""When a recording began, as recorders write it: into the file's metadata, or its name."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO

from preprocessing.decoding.riff import chunks

_LARGEST = 2**16  # bytes of a chunk of metadata
_BEXT_DATE = slice(320, 338)  # of a bext chunk: 2023-01-01, then 12:30:00
_YEARS = range(1980, 2100)

# 20230101_123000 (AudioMoth, Song Meter), 20230101T123000+1000 (BAR-LT), 20230101$123000 (Song Meter, gated)
_NAME = re.compile(r"(?<!\d)(\d{8})[_T$-](\d{6})(?!\d)(Z|[+-]\d{4})?")
# Recorded at 12:30:00 01/01/2023 (UTC+2) by AudioMoth 24...
_AUDIOMOTH = re.compile(rb"Recorded at (\d\d:\d\d:\d\d) (\d\d/\d\d/\d{4}) \(UTC([+-]\d{1,2})?(?::(\d\d))?\)")
_GUANO = re.compile(rb"^Timestamp:\s*(\S.*?)\s*$", re.MULTILINE)


def start_time(path: str | os.PathLike[str]) -> datetime | None:
    """When the recording in a file began, with a time zone if that is given; None if nothing tells.

    Asked in this order: GUANO's Timestamp, AudioMoth's comment, the date of a bext chunk (Broadcast Wave), the file's
    name. Nothing is raised for damaged metadata.
    """
    with suppress(OSError):
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                if (time := _of_metadata(file)) is not None:
                    return time
    return _of_name(Path(path).name)


def _of_metadata(file: IO[bytes]) -> datetime | None:
    found: dict[bytes, bytes] = {}
    for name, offset, size in chunks(file):
        if name in (b"guan", b"bext", b"LIST") and name not in found and size <= _LARGEST:
            file.seek(offset)
            found[name] = file.read(size)
    readers = ((b"guan", _of_guano), (b"LIST", _of_comment), (b"bext", _of_bext))
    times = (reader(found[name]) for name, reader in readers if name in found)
    return next((time for time in times if time is not None), None)


def _of_guano(chunk: bytes) -> datetime | None:
    match = _GUANO.search(chunk)
    if match is None:
        return None
    try:
        return _plausible(datetime.fromisoformat(match[1].decode("ascii")))
    except ValueError:
        return None


def _of_comment(chunk: bytes) -> datetime | None:
    match = _AUDIOMOTH.search(chunk)
    if match is None:
        return None
    clock, date, hours, minutes = (group.decode() if group else "" for group in match.groups())
    offset = timedelta(hours=int(hours or 0), minutes=int((hours[:1] if minutes else "") + (minutes or "0")))
    try:
        return _plausible(datetime.strptime(f"{date} {clock}", "%d/%m/%Y %H:%M:%S").replace(tzinfo=timezone(offset)))
    except ValueError:
        return None


def _of_bext(chunk: bytes) -> datetime | None:
    digits = re.sub(rb"\D", b"", chunk[_BEXT_DATE])  # recorders part them by any sign
    try:
        return _plausible(datetime.strptime(digits.decode(), "%Y%m%d%H%M%S"))
    except ValueError:
        return None


def _of_name(name: str) -> datetime | None:
    for match in _NAME.finditer(name):
        pattern = "%Y%m%d%H%M%S" + "%z" * (match[3] is not None)
        with suppress(ValueError):
            if time := _plausible(datetime.strptime("".join(filter(None, match.groups())), pattern)):
                return time
    return None


def _plausible(time: datetime) -> datetime | None:
    """The time, or None for one of a clock that was never set."""
    return time if time.year in _YEARS else None

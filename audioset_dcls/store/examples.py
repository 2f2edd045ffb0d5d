"""Examples of own classes, as people have them: a folder a class, a CSV, or label files beside recordings."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audioset_dcls.tagging.recordings import find_recordings
from preprocessing import checks

BACKGROUND = ("background", "other")  # what is none of the classes, in upper or lower case
_RAVEN_TIMES = ("Begin Time (s)", "End Time (s)")
_RAVEN_OFFSET = "File Offset (s)"  # in a table of several recordings, times within the file
_RAVEN_LABELS = ("Annotation", "Label", "Species", "Common Name", "Class", "Tag")
_LONGEST = 1e6  # s


class ExamplesError(ValueError):
    """Examples that cannot be learned from. The message is one line: the file, what is wrong, what to do."""


@dataclass(frozen=True)
class Example:
    """A recording or a part of one. `label` is None for what is none of the classes; `end` is None for its end."""

    path: str
    start: float
    end: float | None
    label: str | None


def read_examples(source: Path) -> list[Example]:
    """The examples of a folder or CSV, each once, in an order that never changes.

    A folder with label files (Audacity's or Raven's, called like the recording and .txt) holds labelled recordings;
    without one each folder in it is a class. A CSV has the columns file, start, end, label; an empty start or end is
    that of the recording, and file names are relative to the CSV.

    Raises ExamplesError, one line.
    """
    try:
        if source.is_dir():
            found = list(_beside(source)) or list(_by_folder(source))
        elif source.suffix.lower() == ".csv":
            found = list(_from_csv(source))
        else:
            raise ExamplesError(
                f"{source}: is no folder and no .csv; give the folder that holds a folder for each class"
            )
    except OSError as error:
        raise ExamplesError(f"{error.filename or source}: cannot be read: {error.strerror}") from None
    if not found:
        raise ExamplesError(f"{source}: holds no examples; make a folder for each class in it, with 5 to 50 clips")
    return list(dict.fromkeys(found))


def _by_folder(source: Path) -> Iterator[Example]:
    for folder in sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found = find_recordings([str(folder)])
        if found.problems:
            raise ExamplesError(f"{found.problems[0]}; add 5 to 50 clips, or remove the folder")
        label = _label(folder.name, str(folder))
        yield from (Example(recording.path, 0.0, None, label) for recording in found.recordings)


def _from_csv(path: Path) -> Iterator[Example]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    missing = [name for name in ("file", "start", "end", "label") if name not in (rows.fieldnames or ())]
    if missing:
        raise ExamplesError(f"{path}: has no column {missing[0]!r}; its first line must be file,start,end,label")
    for number, row in enumerate(rows, 2):
        where = f"{path}: line {number}"
        if not row["file"]:
            raise ExamplesError(f"{where} names no file")
        start, end = _time(row["start"] or "0", where), _time(row["end"], where) if row["end"] else None
        yield _example(os.path.join(path.parent, row["file"]), start, end, row["label"] or "", where)  # noqa: PTH118


def _beside(folder: Path) -> Iterator[Example]:
    """From the label files beside recordings; nothing if there are none."""
    for recording in find_recordings([str(folder)]).recordings:
        audio = Path(recording.path)
        names = (audio.name, audio.stem)
        for path in sorted(audio.parent.glob("*.txt")):
            if any(path.name.startswith(f"{name}.") for name in names):
                yield from _label_file(path, recording.path)


def _label_file(path: Path, recording: str) -> Iterator[Example]:
    lines = _text(path).splitlines()
    if lines and all(name in lines[0].split("\t") for name in _RAVEN_TIMES):
        yield from _raven(path, lines, recording)
        return
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if not line.strip() or cells[0] == "\\":  # a second line of a label with frequencies
            continue
        where = f"{path}: line {number}"
        if len(cells) < 3:
            raise ExamplesError(f"{where} is no label of Audacity or Raven: start, end and class with tabs between")
        yield _example(recording, _time(cells[0], where), _time(cells[1], where), cells[2], where)


def _raven(path: Path, lines: list[str], recording: str) -> Iterator[Example]:
    columns = lines[0].split("\t")
    label = next((name for name in _RAVEN_LABELS if name in columns), None)
    if label is None:
        raise ExamplesError(f"{path}: has no column {', '.join(_RAVEN_LABELS[:-1])} or {_RAVEN_LABELS[-1]}; add one")
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        where, row = f"{path}: line {number}", dict(zip(columns, line.split("\t"), strict=False))
        start, end = (_time(row.get(name, ""), where) for name in _RAVEN_TIMES)
        if row.get(_RAVEN_OFFSET):
            offset = _time(row[_RAVEN_OFFSET], where)
            start, end = offset, offset + end - start
        yield _example(recording, start, end, row.get(label, ""), where)


def _example(path: str, start: float, end: float | None, label: str, where: str) -> Example:
    if end is not None and end < start:
        raise ExamplesError(f"{where} ends before it starts")
    return Example(path, start, end, _label(label, where))


def _label(text: str, where: str) -> str | None:
    name = text.strip()
    try:
        checks.labels([name])
    except ValueError:
        raise ExamplesError(f"{where} names no class") from None
    return None if name.casefold() in BACKGROUND else name


def _time(text: str | None, where: str) -> float:
    try:
        return checks.number(float(text or ""), "time", 0.0, _LONGEST)
    except ValueError:
        raise ExamplesError(f"{where} has no time in seconds but {text!r}") from None


def _text(path: Path) -> str:
    try:
        return checks.small_text(path).removeprefix("\ufeff")
    except ValueError as error:
        raise ExamplesError(f"{path}: {error}") from None

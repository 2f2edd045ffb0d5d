"""What a corpus is made of: clips in a fixed order, from audio that may be damaged."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from preprocessing.clips.layout import ClipFileError
from preprocessing.corpora.archives import Slice
from preprocessing.corpora.excerpts import (
    CUT,
    FIRST,
    SEGMENT,
    SHORTENED,
    Part,
)

Source: TypeAlias = str | Slice | bytes | OSError | None  # what a process decodes
FORMAT = 2  # of what is made of the same sources: others do not go on with it
REASONS = ("missing", "unreadable", "duplicate")
CUT_CLIP = "cut_clips"
CHANGES = (CUT, CUT_CLIP, SEGMENT, SHORTENED)


@dataclass(frozen=True)
class Clip:
    """A clip to be, or several of one file: name, classes, where the audio lies, how to speak of that, what to take."""

    name: str
    classes: Sequence[int]
    audio: str | Slice | bytes | Callable[[], bytes | None]
    file: str
    part: Part = FIRST


@dataclass(frozen=True)
class LeftOut:
    """A clip or a file that is not in the HDF5, and why: one of REASONS."""

    clip: str
    reason: str
    file: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Collection:
    """What shall become one file: `clips` gives the same stream each time, `expected` the clip ids it should have."""

    clips: Callable[[], Iterator[Clip | LeftOut]]
    expected: Iterable[str]
    total: int
    labels: tuple[str, ...] | None
    source: str
    """A hash of the lists and the names of the files behind the clips: another one is another collection."""
    warnings: tuple[str, ...] = ()
    """Lines about what looks like a mistake."""


def csv_rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV that are not empty, numbered."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            for row in reader:
                if row and any(cell.strip() for cell in row):
                    yield reader.line_num, row
    except OSError as error:
        raise ClipFileError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ClipFileError(f"{path}: is not a CSV ({error})") from None


def walk(folder: str | Path) -> Iterator[str]:
    """The files in a folder and those below it, sorted, without hidden ones."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (f"{root}/{name}" for name in sorted(names) if not name.startswith("."))

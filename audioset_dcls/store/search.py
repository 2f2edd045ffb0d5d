"""Windows like an example, or of a class: best first, neighbours merged."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from audioset_dcls.store.database import SCORE_UNIT, Database
from audioset_dcls.store.vectors import nearest
from preprocessing.terminal import csv_cell, json_text, printable

TOP = 20
_MERGED = 0.05  # s between two windows that are still one place
_DIGITS = 4
COLUMNS = ("file", "start", "end", "score")


@dataclass(frozen=True)
class Hit:
    """A place in a recording: one window, or neighbours that were found, too.

    Attributes:
        file: absolute path. start, end: seconds.
        score: the best window's cosine with the example, or its score of the class.
    """

    file: str
    start: float
    end: float
    score: float


def search_like(database: Database, embedding: np.ndarray, top: int = TOP) -> list[Hit]:
    """The `top` places whose windows are nearest to an embedding (D,) by cosine."""
    size = database.facts.embedding_size
    if embedding.shape != (size,):
        raise ValueError(f"the embedding has the shape {embedding.shape}, those of the store ({size},)")

    def first(count: int) -> Sequence[tuple[int, float]]:
        ids, cosines = nearest(database, embedding, count)
        return list(zip(ids.tolist(), cosines.tolist(), strict=True))

    return _merged(database, first, top)


def search_label(database: Database, label: str, top: int = TOP) -> list[Hit]:
    """The `top` places with the highest scores of a class, written in upper or lower case; scores are 0.01 or more.

    Raises ValueError for a class that the store's model does not know.
    """
    number = class_of(database, label)

    def first(count: int) -> Sequence[tuple[int, float]]:
        sql = 'SELECT "window", score FROM scores WHERE class = ? ORDER BY score DESC, "window" LIMIT ?'
        return [(window, score / SCORE_UNIT) for window, score in database.query(sql, [number, count])]

    return _merged(database, first, top)


def class_of(database: Database, label: str) -> int:
    """The index of a class. Raises ValueError, with similar names, for one that the store's model does not know."""
    labels = database.facts.labels
    plain = [" ".join(name.casefold().split()) for name in labels]
    wanted = " ".join(label.casefold().split())
    if wanted in plain:
        return plain.index(wanted)
    from audioset_dcls.tagging.selection import near_names

    near = " or ".join(repr(name) for name in near_names(label, labels))
    raise ValueError(f"{database.path}: its model knows no {label!r}" + f"; did you mean {near}?" * bool(near))


def render(hits: Iterable[Hit], style: str) -> str:
    """Hits as a "table" for people, "json" or "csv"; the text ends with a line feed unless it is empty."""
    if style == "json":
        return json_text(json.dumps([_row(hit) for hit in hits], indent=2, ensure_ascii=False)) + "\n"
    if style == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([csv_cell(value) for value in _row(hit).values()] for hit in hits)
        return text.getvalue()
    from audioset_dcls.tagging.writers.formats import clock

    return "".join(
        f"{hit.score:5.2f}  {clock(hit.start):>7} - {clock(hit.end):<7}  {printable(shown_path(hit.file))}\n"
        for hit in hits
    )


def shown_path(path: str) -> str:
    """A path below the current folder is shown from there."""
    below = os.path.relpath(path)
    return path if below.startswith("..") else below


def cut_clips(hits: Sequence[Hit], folder: Path, label: str) -> Iterator[str]:
    """Write each place as a FLAC file, a second longer at both ends; one line for each recording that failed.

    label: ends the clips' names.
    """
    from audioset_dcls.tagging.clips import BLOCK, clip_rate, clip_stems, write_clips
    from audioset_dcls.tagging.recordings import Recording
    from preprocessing.audio import MIX, AudioError, iter_audio
    from preprocessing.decoding.header import read_header

    places: dict[str, list[dict[str, object]]] = {}
    for hit in sorted(hits, key=lambda hit: hit.start):
        places.setdefault(hit.file, []).append({"start": hit.start, "end": hit.end, "label": label})
    stems = clip_stems([Recording(path, path) for path in places])
    for path, events in places.items():
        record = {"rate": read_header(path).rate, "channel": None}
        blocks = iter_audio(path, BLOCK, clip_rate(record), MIX, lambda note: None)
        try:
            write_clips(folder, stems[path], record, events, blocks)
        except AudioError as error:
            yield str(error)


def _row(hit: Hit) -> dict[str, object]:
    return {
        **asdict(hit),
        "file": os.fsencode(hit.file).decode(errors="backslashreplace"),
        "score": round(hit.score, _DIGITS),
    }


def _merged(database: Database, first: Callable[[int], Sequence[tuple[int, float]]], top: int) -> list[Hit]:
    """The `top` best places, from ever more of the best windows: first(count) gives (id, score), best first."""
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    count = 2 * top
    while True:
        found = first(count)
        hits = _merge(database, found)
        # a window further down can only lengthen a place, or be one of its own behind the others
        if len(hits) >= top or len(found) < count:
            return hits[:top]
        count *= 4


def _merge(database: Database, found: Sequence[tuple[int, float]]) -> list[Hit]:
    by_recording: dict[str, list[Hit]] = {}
    for number, score in found:
        sql = 'SELECT path, start, "end" FROM windows JOIN recordings ON recordings.id = recording WHERE windows.id = ?'
        for path, start, end in database.query(sql, [number]):
            by_recording.setdefault(path, []).append(Hit(path, start, end, score))
    merged: list[Hit] = []
    for hits in by_recording.values():
        hits.sort(key=lambda hit: hit.start)
        joined = hits[:1]
        for hit in hits[1:]:
            last = joined[-1]
            if hit.start <= last.end + _MERGED:
                joined[-1] = Hit(hit.file, last.start, max(last.end, hit.end), max(last.score, hit.score))
            else:
                joined.append(hit)
        merged += joined
    return sorted(merged, key=lambda hit: (-hit.score, hit.file, hit.start))

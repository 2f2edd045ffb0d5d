"""AudioSet: segment lists, and audio in folders, tar and Parquet files."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.clips.layout import ClipFileError
from preprocessing.corpora.archives import shortened, table_row_count, table_rows, tar_members
from preprocessing.corpora.collection import FORMAT, Clip, Collection, LeftOut, csv_rows, walk
from preprocessing.corpora.excerpts import (
    FIRST,
    Part,
)
from preprocessing.labels import labels as audioset_labels

_MID = re.compile(r"/[a-z]/\w+")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_NOT_AUDIO = (".json", ".txt", ".csv", ".tsv", ".md", ".vtt", ".srt", ".jpg", ".jpeg", ".png", ".webp", ".npy", ".npz")


# AudioSet ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segments:
    """A segment list: class indices and, if it has them, (start, end) in seconds of each video id, in its order.

    Attributes:
        repeated: the ids it has more than once.
    """

    classes: dict[str, tuple[int, ...]]
    times: dict[str, tuple[float, float]]
    repeated: list[str]


def read_segments(path: str | Path) -> Segments:
    """Read a segment list in any of its forms.

    - AudioSet's own: three comment lines, then `id, start, end, "mid,mid"`;
    - PANNs' parts of it: three lines `empty` in place of the comments;
    - tables with a header, as on the Hugging Face hub: a column `YTID`, `video_id`, `youtube_id` or `id` and a column
      `positive_labels` or `labels`, the MIDs separated in any way; `start_seconds` and `end_seconds` if it has them.

    An id may have PANNs' leading `Y`. Of an id that comes twice the first line counts.

    Raises ClipFileError, with the line, at what is none of these and at a MID that is not among the 527.
    """
    classes = {label.mid: label.index for label in audioset_labels()}
    segments = Segments({}, {}, [])
    tuples: dict[str, tuple[int, ...]] = {}  # few combinations differ: two million tuples need not be
    times: dict[tuple[str, ...], tuple[float, float]] = {}
    id_column, label_columns = 0, slice(3, None)  # unquoted MIDs are columns of their own
    time_columns: tuple[int, ...] = (1, 2)
    for number, row in csv_rows(path):
        if row[0].startswith("#") or row == ["empty"]:
            continue
        header = [cell.strip().lower() for cell in row]
        named = [header.index(name) for name in ("ytid", "video_id", "youtube_id", "id") if name in header]
        if not segments.classes and named:
            labelled = [header.index(name) for name in ("positive_labels", "labels") if name in header]
            if not labelled:
                raise ClipFileError(f"{path}:{number}: has no column positive_labels or labels")
            id_column, label_columns = named[0], slice(labelled[0], labelled[0] + 1)
            has_times = {"start_seconds", "end_seconds"} <= {*header}
            time_columns = (header.index("start_seconds"), header.index("end_seconds")) if has_times else ()
            continue
        text = ",".join(row[label_columns])
        video = re.fullmatch(r"Y?([\w-]{11})(?:\.\w+)?", row[id_column].strip() if id_column < len(row) else "")
        if video is None or not (mids := _MID.findall(text)):
            raise ClipFileError(f"{path}:{number}: not a segment of AudioSet: {','.join(row)[:80]!r}")
        if text not in tuples:
            if unknown := [mid for mid in mids if mid not in classes]:
                raise ClipFileError(f"{path}:{number}: {unknown[0]} is none of the 527 classes")
            tuples[text] = tuple(classes[mid] for mid in mids)
        if (cells := tuple(row[column] for column in time_columns if column < len(row))) not in times:
            times[cells] = _times(cells, f"{path}:{number}")
        if video[1] in segments.classes:
            segments.repeated.append(video[1])
        else:
            segments.classes[video[1]] = tuples[text]
            if cells:
                segments.times[video[1]] = times[cells]
    if not segments.classes:
        raise ClipFileError(f"{path}: holds no segment")
    return segments


def _times(cells: tuple[str, ...], row: str) -> tuple[float, float]:
    try:
        start, end = map(float, cells or (0, 10))
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        raise ClipFileError(f"{row}: start and end are {' and '.join(map(repr, cells))}, not seconds")
    return start, end


def audioset_collection(audio: Sequence[str | Path], segment_list: str | Path | None = None) -> Collection:
    """AudioSet from `audio`: folders (searched through), tar shards (also compressed), Parquet files, or a mixture.

    Files and members of tars are found by their video id: `<id>.flac`, `Y<id>.wav` as PANNs names them, or with the
    segment behind the id (`<id>_30.000_40.000.mp3`): then the file is the segment. Of other files that are longer than
    the segment in the list, by over a second, its start to end is taken. Parquet files have the columns of
    agkphysics/AudioSet: `video_id`, `audio` with `bytes`, `labels` with MIDs. Only these may do without `segment_list`,
    which says what clips belong to the split; if it is given, its labels count.

    Raises ClipFileError for what cannot be found and for a list that cannot be read.
    """
    files, tars, tables = _find_audio(audio)
    segments = read_segments(segment_list) if segment_list is not None else None
    if segments is None and (files or tars or not tables):
        raise ClipFileError(f"{audio[0]}: needs --segments, the list of the split's clips; only Parquet files have it")
    listed = segments.classes if segments is not None else {}
    times = segments.times if segments is not None else {}
    found = _index(files, listed)
    sources: list[Any] = [[video, *(file.rpartition("/")[2] for file in files)] for video, files in found.items()]
    sources += [[path.name, path.stat().st_size] for path in (*tars, *tables)]
    signature = hashlib.sha256(json.dumps([FORMAT, *sources]).encode())
    if segment_list is not None:
        signature.update(Path(segment_list).read_bytes())

    def clips() -> Iterator[Clip | LeftOut]:
        for video in segments.repeated if segments is not None else ():
            yield LeftOut(video, "duplicate", str(segment_list), "listed more than once")
        for video, files in found.items():
            for file in files:
                yield Clip(_panns_name(video), listed[video], file, file, _part(file, video, times))
        for tar in tars:
            yield from _tar_clips(tar, listed, times)
        for table in tables:
            yield from _parquet_clips(table, listed if segments is not None else None, times)

    streamed = bool(tars or tables)
    total = (len(listed) or sum(map(table_row_count, tables))) if streamed else sum(map(len, found.values()))
    return Collection(clips, listed, total, None, signature.hexdigest())


def _panns_name(video: str) -> str:
    return f"Y{video}.wav"


def _find_audio(paths: Sequence[str | Path]) -> tuple[list[str], list[Path], list[Path]]:
    """Loose files, tars and Parquet files at the paths, each sorted by folder and name."""
    files: list[str] = []  # not Path: there may be two million
    for path in paths:
        if Path(path).is_dir():
            files += walk(path)
        elif Path(path).is_file():
            files.append(str(path))
        else:
            raise ClipFileError(f"{path}: no such file or folder")
    tars = [Path(file) for file in files if file.lower().endswith(_TARS)]
    tables = [Path(file) for file in files if file.lower().endswith(".parquet")]
    others = (*_TARS, ".parquet", *_NOT_AUDIO)
    return [file for file in files if not file.lower().endswith(others)], tars, tables


def _video_id(file: str, listed: Container[str]) -> str | None:
    """The id, of those listed, that the file's name stands for."""
    name = file.rpartition("/")[2]
    for start in (0, 1) if name.startswith("Y") else (0,):
        video, rest = name[start : start + 11], name[start + 11 :]
        if video in listed and re.fullmatch(r"(_[\d._]+)?(\.\w+)?", rest):
            return video
    return None


def _part(file: str, video: str, times: dict[str, tuple[float, float]]) -> Part:
    """The segment in the list, unless the name says that the file is it: numbers behind the id."""
    is_segment = re.search(re.escape(video) + r"_[\d._]*\d", file.rpartition("/")[2])
    return FIRST if is_segment else times.get(video, FIRST)


def _index(files: list[str], listed: dict[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """{video id: its files}, in the order of the list."""
    found: dict[str, list[str]] = {}
    for file in files:
        if (video := _video_id(file, listed)) is not None:
            found.setdefault(video, []).append(file)
    return {video: found[video] for video in listed if video in found}


def _tar_clips(
    path: Path, listed: dict[str, tuple[int, ...]], times: dict[str, tuple[float, float]]
) -> Iterator[Clip | LeftOut]:
    """The listed members of a tar."""

    def is_wanted(name: str) -> bool:
        return not name.lower().endswith(_NOT_AUDIO) and _video_id(name, listed) is not None

    try:
        for member in tar_members(path, is_wanted):
            video, file = _video_id(member.name, listed), f"{path}: {shortened(member.name)}"
            assert video is not None
            if member.audio is None:
                yield LeftOut(video, "unreadable", file, member.problem)
            else:
                part = _part(member.name, video, times)
                yield Clip(_panns_name(video), listed[video], member.audio, file, part)
    except OSError as error:
        yield LeftOut("", "unreadable", str(path), f"the rest of the tar: {error}")


def _parquet_clips(
    path: Path, listed: dict[str, tuple[int, ...]] | None, times: dict[str, tuple[float, float]]
) -> Iterator[Clip | LeftOut]:
    """The rows of a Parquet file."""
    classes = {label.mid: label.index for label in audioset_labels()}
    try:
        for row in table_rows(path):
            file = f"{path}: {shortened(row.clip)}"
            if row.audio is None:
                yield LeftOut(row.clip, "unreadable", file, row.problem)
            elif listed is not None:
                if row.clip in listed:
                    part = times.get(row.clip, FIRST)
                    yield Clip(_panns_name(row.clip), listed[row.clip], row.audio, file, part)
            elif row.labels and classes.keys() >= set(row.labels):
                yield Clip(_panns_name(row.clip), [classes[mid] for mid in row.labels], row.audio, file)
            else:
                named = shortened(", ".join(row.labels)) or "none"
                yield LeftOut(row.clip, "unreadable", file, f"labels are not of the 527 classes: {named}")
    except OSError as error:
        yield LeftOut("", "unreadable", str(path), f"the rest of the Parquet file: {error}")

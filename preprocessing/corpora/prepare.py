"""Audio and its labels -> an HDF5 file of clips: AudioSet from segment lists, and one's own classes.

The clips come as a stream in a fixed order, so that a run that was killed goes on where its journal ends
(`hdf5.ClipWriter`): from folders in the order of the segment list, from tar and Parquet files in their own order.
Processes decode, this one writes. Clips without audio, with audio that no decoder reads, or met twice are left out,
counted, and listed in `<name>.left_out.csv` beside the file.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from preprocessing.audio import AudioError
from preprocessing.clips.file import SAMPLE_RATE, ClipFile, ClipFileError, ClipWriter, clip_id
from preprocessing.constants import AUDIO_SUFFIXES
from preprocessing.cores import usable_cores
from preprocessing.corpora.archives import LONGEST_NAME, Slice, shortened, table_row_count, table_rows, tar_members
from preprocessing.corpora.excerpts import (
    ALL,
    CUT,
    FIRST,
    SEGMENT,
    SHORTENED,
    SPOOL,
    Decoded,
    Part,
    decode_excerpts,
    is_disk_full,
)
from preprocessing.files import atomic_write
from preprocessing.labels import labels as audioset_labels
from preprocessing.terminal import csv_cell, first_line, printable

_BATCH = 16  # clips a process decodes, and the writer commits, at once: 10 MB
_FORMAT = 2  # of what is made of the same sources: others do not go on with it
_MOST_LISTED = 50  # classes; of more the extremes are told
_MID = re.compile(r"/[a-z]/\w+")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_NOT_AUDIO = (".json", ".txt", ".csv", ".tsv", ".md", ".vtt", ".srt", ".jpg", ".jpeg", ".png", ".webp", ".npy", ".npz")

Source: TypeAlias = str | Slice | bytes | OSError | None  # what a process decodes

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


@dataclass(frozen=True)
class Prepared:
    """The summary of a run.

    changes: how many files were CUT, and into how many CUT_CLIPs; of how many a SEGMENT was taken, and how many were
    SHORTENED to their first 10 s.
    """

    path: Path
    clip_count: int
    clip_ids_sha256: str
    left_out: dict[str, int]
    left_out_csv: Path
    changes: dict[str, int]

    def lines(self) -> tuple[list[str], list[str]]:
        """What to tell of the file: results, and warnings of classes without clips."""
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        lines = [
            f"{self.path}: {self.clip_count} clips, SHA-256 of their ids {self.clip_ids_sha256}",
            f"left out: {left_out}; see {self.left_out_csv}" if left_out else "left out: none",
        ]
        if self.changes[CUT]:
            lines.append(f"cut: {self.changes[CUT]} files of over 10 s into {self.changes[CUT_CLIP]} clips")
        if self.changes[SEGMENT]:
            lines.append(f"longer than their segment: {self.changes[SEGMENT]} files, of which start to end was taken")
        if self.changes[SHORTENED]:
            lines.append(f"shortened: {self.changes[SHORTENED]} files of over 10 s to their first 10 s")
        clips = ClipFile(self.path)
        counts = dict(zip(clips.labels, clips.label_counts().tolist(), strict=True))
        empty = [label for label, count in counts.items() if not count]
        if len(counts) <= _MOST_LISTED:
            lines += [f"{count:8}  {label}" for label, count in counts.items()]
        else:
            lines.append(f"{len(counts)} classes, {min(counts.values())} to {max(counts.values())} clips each")
        if not empty:
            return lines, []
        named = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        return lines, [f"{self.path}: no clip of {len(empty)} of the {len(counts)} classes: {named}"]


def prepare(
    collection: Collection, output: str | Path, *, workers: int | None = None, compression: str | None = None
) -> Prepared:
    """Decode the clips of a collection into the HDF5 file `output`; go on where a run before was cut off.

    Clips of less than 10 s are zero-padded at the end, and the file then has the lengths without padding, its attribute
    `samples`. Clips of a file that is cut are named by where they begin, `<name>@<seconds>`. Memory does not grow with
    the audio: some batches a process are under way at once. If the file is there already, made from the same, it stays
    as it is.

    Raises ClipFileError where the file is there and made from something else, `.part` beside it was begun so, nothing
    can be decoded, or the disk is full; what has been done is kept for the next run.
    """
    output = Path(output)
    left_out_csv = output.with_suffix(".left_out.csv")
    if output.exists():
        return _already_prepared(output, collection, left_out_csv)
    workers = workers or usable_cores()
    with ClipWriter(output, collection.labels, compression=compression, source=collection.source) as writer:
        for spool in writer.folder.glob(f"{SPOOL}*"):
            spool.unlink()  # of a run that was killed
        done = _Done(writer)
        with progress_bar() as progress:
            task = progress.add_task(printable(output.name), total=collection.total, completed=done.consumed)
            remaining = itertools.islice(collection.clips(), done.consumed, None)
            for batch, decoded in _decode_all(remaining, workers, compression, str(writer.folder)):
                done.append(batch, decoded)
                progress.advance(task, len(batch))
        met = {clip_id(name) for name in writer.audio_names}
        met.update(entry.clip for entry in done.left_out if entry.reason == "unreadable")
        done.left_out += [LeftOut(clip, "missing") for clip in collection.expected if clip not in met]
        counts = dict.fromkeys(REASONS, 0) | Counter(entry.reason for entry in done.left_out)
        _write_left_out(left_out_csv, done.left_out)
        if not len(writer):
            raise ClipFileError(f"{output}: not one clip has audio that can be read; {left_out_csv.name} tells why")
        attributes: dict[str, Any] = {name: np.int64(count) for name, count in (counts | done.changes).items()}
        if min(done.lengths) < writer.samples:
            attributes["samples"] = np.array(done.lengths, np.int32)
        written = writer.finish(attributes)
    return Prepared(output, written.clip_count, written.clip_ids_sha256, counts, left_out_csv, done.changes)


def _already_prepared(output: Path, collection: Collection, left_out_csv: Path) -> Prepared:
    try:
        with h5py.File(output, "r") as file:
            stored = dict(file.attrs)
    except OSError:
        stored = {}
    if stored.get("source") != collection.source:
        raise ClipFileError(f"{output}: is there already, made from something else; remove it or choose another name")
    counts, changes = ({name: int(stored[name]) for name in names} for names in (REASONS, CHANGES))
    return Prepared(output, int(stored["clip_count"]), stored["clip_ids_sha256"], counts, left_out_csv, changes)


class _Done:
    """What has been written and left out, this time and in the runs before, whose notes the writer has."""

    def __init__(self, writer: ClipWriter) -> None:
        self._writer = writer
        self.consumed = 0
        """Entries of the collection's stream."""
        self.left_out: list[LeftOut] = []
        self.lengths: list[int] = []
        """Samples of each clip, without padding."""
        self.changes = dict.fromkeys(CHANGES, 0)
        self._begun = 0  # clips of the file that was being cut when a run before ended
        for note in writer.notes:
            self._add(note)
        self._new = _Rows()

    def _add(self, note: dict[str, Any]) -> None:
        self.consumed += note["consumed"]
        self.left_out += [LeftOut(*entry) for entry in note["left_out"]]
        self.lengths += note["lengths"]
        for change in note["changes"]:
            self.changes[change] += 1
        self._begun = 0 if note["consumed"] else self._begun + len(note["lengths"])

    def append(self, batch: list[Clip | LeftOut], decoded: list[Decoded | str | None]) -> None:
        """Write what was decoded of a batch, and note down the rest."""
        for clip, result in zip(batch, decoded, strict=True):
            if isinstance(clip, LeftOut):
                self._new.left_out.append(clip)
            elif not isinstance(result, Decoded):
                self._new.left_out.append(LeftOut(clip_id(clip.name), "unreadable", clip.file, result or ""))
            elif result.spool:
                self._append_cut(clip, result)
                continue
            elif clip.name in self._writer or clip.name in self._new.names:
                self._new.left_out.append(LeftOut(clip_id(clip.name), "duplicate", clip.file))
            else:
                self._new.add(clip.name, clip.classes, result.chunk, result.lengths[0])
                self._new.changes += [result.change] if result.change else []
            self._new.consumed += 1
        self._write()

    def _append_cut(self, clip: Clip, decoded: Decoded) -> None:
        """Some clips of a file at a time; the last ones are noted as its end."""
        self._write()
        names = [f"{clip.name}@{start / SAMPLE_RATE:.10g}" for start in decoded.starts]
        if names[0] in self._writer and not self._begun:
            self._new.left_out.append(LeftOut(clip_id(clip.name), "duplicate", clip.file))
        else:
            rows = zip(names, decoded.chunks(), decoded.lengths, strict=True)
            for name, chunk, length in itertools.islice(rows, self._begun, None):
                if len(self._new.names) == _BATCH:
                    self._write()
                self._new.add(name, clip.classes, chunk, length)
                self._new.changes.append(CUT_CLIP)
            self._new.changes.append(CUT)
        decoded.remove_spool()
        self._new.consumed += 1
        self._write()

    def _write(self) -> None:
        new = self._new
        if not new.consumed and not new.names:
            return
        targets = np.zeros((len(new.names), len(self._writer.labels)), bool)
        for row, classes in enumerate(new.names.values()):
            targets[row, list(classes)] = True
        entries = [[entry.clip, entry.reason, entry.file, entry.detail] for entry in new.left_out]
        note = {"consumed": new.consumed, "left_out": entries, "lengths": new.lengths, "changes": new.changes}
        self._writer.append(list(new.names), new.chunks, targets, note=note)
        self._add(note)
        self._new = _Rows()


class _Rows:
    """What is written at once: clips, entries of the stream that end with them, what was left out before."""

    def __init__(self) -> None:
        self.names: dict[str, Sequence[int]] = {}  # with their classes
        self.chunks: list[bytes] = []
        self.lengths: list[int] = []
        self.left_out: list[LeftOut] = []
        self.changes: list[str] = []
        self.consumed = 0

    def add(self, name: str, classes: Sequence[int], chunk: bytes, length: int) -> None:
        self.names[name] = classes
        self.chunks.append(chunk)
        self.lengths.append(length)


def _write_left_out(path: Path, left_out: list[LeftOut]) -> None:
    with (
        atomic_write(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.writer(file)
        table.writerow(["clip", "reason", "file", "detail"])
        table.writerows(map(csv_cell, (entry.clip, entry.reason, entry.file, entry.detail)) for entry in left_out)


def progress_bar() -> Any:
    """Of clips; off where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} clips/s" if task.speed else "")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=120)


# decoding ------------------------------------------------------------------------------------------------------------


def _decode_batch(audio: list[tuple[Source, Part]], compression: str | None, folder: str) -> list[Decoded | str | None]:
    """In a worker process: the clips of each file, and what is wrong (str) with those that cannot be read."""
    results: list[Decoded | str | None] = []
    for source, part in audio:
        try:
            if isinstance(source, OSError):
                raise source
            encoded = source.read() if isinstance(source, Slice) else source
            results.append(
                "there are no bytes of audio"
                if encoded is None
                else decode_excerpts(encoded, part, compression, folder)
            )
        except (AudioError, OSError, MemoryError) as error:
            if isinstance(error, OSError) and is_disk_full(error):
                raise
            results.append(first_line(error))
    return results


def _decode_all(
    clips: Iterator[Clip | LeftOut], workers: int, compression: str | None, folder: str
) -> Iterator[tuple[list[Clip | LeftOut], list[Decoded | str | None]]]:
    """Batches of the stream with what was decoded of them, in its order; LeftOut entries and None go through.

    A decoder that crashes on a hostile file takes its process and so the pool with it: then the batch is decoded again,
    file by file, to find that one, and the others go on in a new pool.
    """
    pending: deque[tuple[list[Clip | LeftOut], list[tuple[Source, Part]], Future[list[Decoded | str | None]]]] = deque()
    pool = start_pool(workers)

    def submit(audio: list[tuple[Source, Part]]) -> Future[list[Decoded | str | None]]:
        try:
            return pool.submit(_decode_batch, audio, compression, folder)
        except BrokenProcessPool as error:
            future: Future[list[Decoded | str | None]] = Future()
            future.set_exception(error)
            return future

    try:
        while True:
            while len(pending) < 2 * workers and (batch := list(itertools.islice(clips, _BATCH))):
                audio = [_job(entry) for entry in batch]
                pending.append((batch, audio, submit(audio)))
            if not pending:
                return
            batch, audio, future = pending.popleft()
            try:
                decoded = future.result()
            except BrokenProcessPool:
                pool.shutdown()
                decoded = [_decode_alone(one, compression, folder) for one in audio]
                pool = start_pool(workers)
                pending = deque((batch, audio, submit(audio)) for batch, audio, _ in pending)
            yield batch, decoded
    finally:
        pool.shutdown(cancel_futures=True)


def _job(entry: Clip | LeftOut) -> tuple[Source, Part]:
    return (None, FIRST) if isinstance(entry, LeftOut) else (_portable(entry.audio), entry.part)


def _portable(audio: str | Slice | bytes | Callable[[], bytes | None]) -> Source:
    """What goes to another process; the error if it cannot be had."""
    try:
        return audio() if callable(audio) else audio
    except OSError as error:
        return error


def _decode_alone(audio: tuple[Source, Part], compression: str | None, folder: str) -> Decoded | str | None:
    with start_pool(1) as pool:
        try:
            return pool.submit(_decode_batch, [audio], compression, folder).result()[0]
        except BrokenProcessPool:
            return "the decoder crashed on it"


def start_pool(
    workers: int, initializer: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Processes that leave Ctrl-C to this one and do not outlive it; each calls `initializer(*arguments)` first."""
    # spawn: this process has threads (progress, Arrow), and those do not survive a fork
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(initializer, arguments)
    )


def _start_worker(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Leave Ctrl-C to the parent, and end when it was killed: a pool's processes would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


# AudioSet ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segments:
    """A segment list: class indices and, if it has them, (start, end) in seconds of each video id, in its order.

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
    for number, row in _rows(path):
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


def _times(cells: tuple[str, ...], place: str) -> tuple[float, float]:
    try:
        start, end = map(float, cells or (0, 10))
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        raise ClipFileError(f"{place}: start and end are {' and '.join(map(repr, cells))}, not seconds")
    return start, end


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
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


def audioset_collection(audio: Sequence[str | Path], segment_list: str | Path | None = None) -> Collection:
    """AudioSet from `audio`: folders (searched through), tar shards (also compressed), Parquet files, or a mixture.

    Files and members of tars are found by their video id: `<id>.flac`, `Y<id>.wav` as PANNs names them, or with the
    segment behind the id (`<id>_30.000_40.000.mp3`): then the file is the segment. Of other files that are longer than
    the segment in the list, by over a second, its start to end is taken. Parquet files have the columns of
    agkphysics/AudioSet: `video_id`, `audio` with `bytes`, `labels` with MIDs. Only these may do without `segment_list`,
    which says what clips belong to the split; where it is given, its labels count.

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
    signature = hashlib.sha256(json.dumps([_FORMAT, *sources]).encode())
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


def _find_audio(places: Sequence[str | Path]) -> tuple[list[str], list[Path], list[Path]]:
    """Loose files, tars and Parquet files at the places, each sorted by folder and name."""
    files: list[str] = []  # not Path: there may be two million
    for place in places:
        if Path(place).is_dir():
            files += _walk(place)
        elif Path(place).is_file():
            files.append(str(place))
        else:
            raise ClipFileError(f"{place}: no such file or folder")
    tars = [Path(file) for file in files if file.lower().endswith(_TARS)]
    tables = [Path(file) for file in files if file.lower().endswith(".parquet")]
    others = (*_TARS, ".parquet", *_NOT_AUDIO)
    return [file for file in files if not file.lower().endswith(others)], tars, tables


def _walk(folder: str | Path) -> Iterator[str]:
    """The files in a folder and those below it, sorted, without hidden ones."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (f"{place}/{name}" for name in sorted(names) if not name.startswith("."))


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


# own classes ---------------------------------------------------------------------------------------------------------


def folder_collection(place: str | Path, labels: Sequence[str] | None = None) -> Collection:
    """One's own sounds: a folder whose sub-folders are named by class, or a CSV `file,labels`.

    The CSV's paths are relative to its folder. A file's labels are separated by `;`, or, if no line has one, by `,` (in
    quotes). A clip's name is its path as written. `labels` gives the classes and their order, e.g. those of the train
    file for its test file; by default they are the names that occur, sorted. Long files are cut into clips of 10 s.

    Raises ClipFileError for a place without classes and for a label that is not among `labels`.
    """
    place = Path(place)
    named, warnings = (_listed_files(place), []) if place.is_file() else _files_by_folder(place)
    root = place.parent if place.is_file() else place
    occurring = sorted({label for _, file_labels in named for label in file_labels})
    classes = {label: index for index, label in enumerate(labels if labels is not None else occurring)}
    if unknown := [label for label in occurring if label not in classes]:
        raise ClipFileError(f"{place}: the label {unknown[0]!r} is none of the {len(classes)} that were given")
    signature = hashlib.sha256(json.dumps([_FORMAT, named, list(classes)]).encode())

    def clips() -> Iterator[Clip | LeftOut]:
        for name, file_labels in named:
            if len(name) > LONGEST_NAME or printable(name) != name:
                yield LeftOut(shortened(name), "unreadable", shortened(name), "its name is too long or has line breaks")
            elif (root / name).exists():
                path = str(root / name)
                yield Clip(name, [classes[label] for label in file_labels], path, path, ALL)
            else:
                yield LeftOut(name, "missing", str(root / name))

    return Collection(clips, (), len(named), tuple(classes), signature.hexdigest(), tuple(warnings))


def _files_by_folder(root: Path) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """(path below the root, [class]) of each sound, and lines about folders that may not be what was meant."""
    if not root.is_dir():
        raise ClipFileError(f"{root}: no such folder or CSV")
    named, warnings, nested = [], [], []
    suffixes: Counter[str] = Counter()
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found = [Path(file) for file in _walk(folder)]
        files = [file for file in found if file.suffix.lower() in AUDIO_SUFFIXES]
        suffixes.update(file.suffix or file.name for file in found if file.suffix.lower() not in AUDIO_SUFFIXES)
        named += [(file.relative_to(root).as_posix(), [folder.name]) for file in files]
        if not files:
            warnings.append(f"{folder}: holds no audio; there will be no class {folder.name!r}")
        elif all(file.parent != folder for file in files):
            nested.append((folder, files[0].relative_to(folder).parts[0]))
    if not named:
        raise ClipFileError(f"{root}: has no sub-folders with audio; name one after each class")
    if suffixes:
        listed = ", ".join(f"{count} x {name}" for name, count in suffixes.most_common(5))
        warnings.append(f"{root}: {suffixes.total()} files without the name of a sound file are left alone ({listed})")
    if nested and len(nested) == len({label for _, (label,) in named}):
        folder, inner = nested[0]
        warnings.append(
            f"{root}: looks one level too high: its folders hold no audio, only folders such as {inner!r}; "
            f"if those are the classes, give {folder}"
        )
    return named, warnings


def _listed_files(path: Path) -> list[tuple[str, list[str]]]:
    rows = _rows(path)
    _, header = next(rows, (0, []))
    columns = [cell.strip().lower() for cell in header]
    if "file" not in columns or "labels" not in columns:
        raise ClipFileError(f"{path}: its first line must name the columns file,labels")
    file_column, label_column = columns.index("file"), columns.index("labels")
    listed = []
    for number, row in rows:
        if len(row) != len(columns):
            raise ClipFileError(f"{path}:{number}: {len(row)} columns for {len(columns)}; quote what has commas")
        listed.append((row[file_column].strip(), row[label_column]))
    separator = ";" if any(";" in text for _, text in listed) else ","
    named = [(file, [label.strip() for label in text.split(separator) if label.strip()]) for file, text in listed]
    for file, file_labels in named:
        if not file_labels:
            raise ClipFileError(f"{path}: {file} has no label")
    if not named:
        raise ClipFileError(f"{path}: lists no file")
    return named

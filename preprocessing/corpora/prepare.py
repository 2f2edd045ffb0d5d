"""A collection -> an HDF5 file of clips.

The clips come as a stream in a fixed order, so that a run that was killed goes on where its journal ends
(`ClipWriter`). Processes decode, this one writes. Clips without audio, with audio that no decoder reads, or met twice
are left out, counted, and listed in `<name>.left_out.csv` beside the file.
"""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from preprocessing.audio import SAMPLE_RATE, AudioError
from preprocessing.clips.layout import ClipFileError, clip_id
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from preprocessing.cores import usable_cores
from preprocessing.corpora.archives import Slice
from preprocessing.corpora.collection import CHANGES, CUT_CLIP, REASONS, Clip, Collection, LeftOut, Source
from preprocessing.corpora.excerpts import (
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
from preprocessing.progress import progress_bar
from preprocessing.terminal import csv_cell, first_line, printable

_BATCH = 16  # clips a process decodes, and the writer commits, at once: 10 MB
_MOST_LISTED = 50  # classes; of more the extremes are told


@dataclass(frozen=True)
class Prepared:
    """The summary of a run.

    Attributes:
        changes: how many files were CUT, and into how many CUT_CLIPs; of how many a SEGMENT was taken, and how many
            were SHORTENED to their first 10 s.
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

    Raises ClipFileError if the file is there and made from something else, `.part` beside it was begun so, nothing
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
        with clip_bar() as progress:
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


def clip_bar() -> Any:
    from rich.progress import MofNCompleteColumn, ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} clips/s" if task.speed else "")

    return progress_bar(MofNCompleteColumn(), Rate(), speed_estimate_period=120)


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

"""Writes HDF5 files of clips so that a kill loses nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.layout import CLIP_SAMPLES, ClipFileError, hash_ids
from preprocessing.files import lock, no_links
from preprocessing.labels import labels as audioset_labels

_HEADER_BYTES = 4096  # room for HDF5's superblock and the first object headers, before the waveforms
_GZIP_LEVEL = 4  # the usual one; on our sounds 29 % of the bytes, level 1: 31 %, level 6, a third slower: 28 %


@dataclass(frozen=True)
class Written:
    """What `ClipWriter.finish` made."""

    path: Path
    clip_count: int
    clip_ids_sha256: str


class ClipWriter:
    """Writes a file of clips so that SIGKILL, a full disk or a power cut at any moment costs the batch in hand at most.

    HDF5 itself can be left unreadable by a kill. So nothing is HDF5 until the end: in the folder `<path>.part` the
    columns grow as plain binary files, and a journal gets one line after each batch has reached the disk. A writer made
    again with the same arguments reads the journal, cuts off what lies past it, and tells by `len(writer)` and `notes`
    where to go on. `finish` writes HDF5's headers around the waveforms where they lie (without filters a chunked
    dataset of fixed size is one extent), copies nothing, and renames the file, which is the same to the byte however
    often it was interrupted. With `compression` the chunks have no fixed size, and `finish` copies them.

    Arguments:
        path: of the HDF5 file to be.
        labels: C display names; None for the 527 of AudioSet.
        samples: length of a clip.
        compression: None or "gzip" (lossless, read by every HDF5 library).
        teacher, group: whether the optional columns are written.
        embedding: width of the teacher's embeddings, 0 for none.
        source: any string that tells these contents from others, e.g. a hash of the lists they are made from; stored.

    Raises ClipFileError if the file exists, another process writes it, or `.part` was begun with other arguments.

    >>> with ClipWriter(path, samples=32_000) as writer:                                    # doctest: +SKIP
    ...     for first in range(len(writer), len(names), 32):
    ...         batch = slice(first, first + 32)
    ...         writer.append(names[batch], waveforms[batch], targets[batch])
    ...     writer.finish()
    """

    def __init__(
        self,
        path: str | Path,
        labels: Sequence[str] | None = None,
        *,
        samples: int = CLIP_SAMPLES,
        compression: str | None = None,
        teacher: bool = False,
        group: bool = False,
        embedding: int = 0,
        source: str = "",
    ) -> None:
        if compression not in (None, "gzip"):
            raise ClipFileError(f"{path}: compression is gzip or none, not {compression!r}")
        if 2 * samples < _HEADER_BYTES:
            raise ClipFileError(f"{path}: clips of {samples} samples are too short, {_HEADER_BYTES // 2} is the least")
        self.path = Path(path)
        self.labels = tuple(labels) if labels is not None else tuple(label.display_name for label in audioset_labels())
        self.samples = samples
        self.compression = compression
        self.source = source
        self.audio_names: list[str] = []
        self.groups: list[str] | None = [] if group else None
        self.notes: list[Any] = []
        """What `append` was given as `note`, in order, from the runs before this one."""
        self._seen: set[str] = set()
        self._chunk_bytes: list[int] = []
        if self.path.exists():
            raise ClipFileError(f"{path}: exists already; remove it to make it again")
        self._part = self.path.with_name(self.path.name + ".part")
        self._part.mkdir(parents=True, exist_ok=True)
        if self._part.is_symlink():
            raise ClipFileError(f"{self._part}: is a link; remove it")
        self._journal = self._binary("journal")
        if not lock(self._journal):
            self._journal.close()
            raise ClipFileError(f"{path}: another process is writing it")
        header = {
            "version": 1,
            "labels": hashlib.sha256(json.dumps(self.labels).encode()).hexdigest(),
            "samples": samples,
            "compression": compression,
            "teacher": teacher,
            "group": group,
            "source": source,
        } | ({"embedding": embedding} if embedding else {})
        self._tables: dict[str, tuple[type[np.generic], int]] = {"target": (np.bool_, len(self.labels))}
        if teacher:
            self._tables["teacher"] = np.float16, len(self.labels)
        if embedding:
            self._tables["embedding"] = np.float16, embedding
        self._columns = {name: self._binary(name) for name in ("waveform", *self._tables)}
        self._recover(header)

    @property
    def folder(self) -> Path:
        """Where the columns grow; `finish` removes it with all that is in it."""
        return self._part

    def _binary(self, name: str) -> IO[bytes]:
        descriptor = no_links(str(self._part / name), os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
        return open(descriptor, "r+b", buffering=0)  # noqa: PTH123 - of a descriptor

    def _recover(self, header: dict[str, Any]) -> None:
        """Take over what the journal vouches for and cut off the rest."""
        lines = self._journal.read().split(b"\n")
        lines.pop()  # what follows the last line feed: nothing, or a line that a kill cut short
        if not lines:
            self._journal.truncate(0)
            self._journal.seek(0)
            self._log(header)
        elif json.loads(lines[0]) != header:
            self.close()
            raise ClipFileError(f"{self._part}: begun from other sources or settings; give those again or remove it")
        else:
            for line in lines[1:]:
                self._take(json.loads(line))
            self._journal.seek(sum(len(line) + 1 for line in lines))
            self._journal.truncate()
        self._cut_off()

    def _cut_off(self) -> None:
        """Shorten the columns to what the journal vouches for."""
        self._columns["waveform"].truncate(self._waveform_bytes())
        for name, (dtype, width) in self._tables.items():
            self._columns[name].truncate(len(self) * width * np.dtype(dtype).itemsize)
        for column in self._columns.values():
            column.seek(0, os.SEEK_END)

    def _waveform_bytes(self) -> int:
        if self.compression:
            return sum(self._chunk_bytes)
        return _HEADER_BYTES + 2 * self.samples * len(self)

    def _take(self, entry: dict[str, Any]) -> None:
        self.audio_names += entry["names"]
        self._seen.update(entry["names"])
        self._chunk_bytes += entry.get("bytes", ())
        if self.groups is not None:
            self.groups += entry["groups"]
        self.notes.append(entry.get("note"))

    def _log(self, entry: dict[str, Any]) -> None:
        _write(self._journal, json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        os.fsync(self._journal.fileno())

    def __len__(self) -> int:
        """Clips that are safely written, those of earlier runs included."""
        return len(self.audio_names)

    def __contains__(self, audio_name: str) -> bool:
        return audio_name in self._seen

    def append(
        self,
        audio_names: Sequence[str],
        waveforms: Sequence[npt.NDArray[np.int16]] | Sequence[bytes] | npt.NDArray[np.int16],
        targets: npt.ArrayLike,
        *,
        groups: Sequence[str] | None = None,
        teacher: npt.ArrayLike | None = None,
        embedding: npt.ArrayLike | None = None,
        note: Any = None,
    ) -> None:
        """Write B clips: all on the disk when it returns; cut short, none of them.

        Args:
            waveforms: B times int16 (samples,), or what `encode` made of them in a worker process.
            targets: (B, C) bool.
            teacher, embedding: (B, C) and (B, D), if such columns were announced.
            note: anything JSON can hold, for the caller's own bookkeeping; comes back in `notes`.
        """
        given = {"target": targets, "teacher": teacher, "embedding": embedding}
        columns = {name: np.asarray(given[name], dtype) for name, (dtype, _) in self._tables.items()}
        chunks = [chunk if isinstance(chunk, bytes) else encode(chunk, self.compression) for chunk in waveforms]
        self._check(audio_names, chunks, columns, groups)
        entry: dict[str, Any] = {"names": list(audio_names)}
        if self.compression:
            entry["bytes"] = [len(chunk) for chunk in chunks]
        if self.groups is not None:
            entry["groups"] = list(groups or ())
        if note is not None:
            entry["note"] = note
        self._commit(chunks, columns)
        self._log(entry)
        self._take(entry)
        self.notes.pop()  # only those of earlier runs are kept

    def _check(
        self,
        audio_names: Sequence[str],
        chunks: Sequence[bytes],
        columns: dict[str, npt.NDArray[Any]],
        groups: Sequence[str] | None,
    ) -> None:
        """Raises ClipFileError for names that are there, and for what is not as it was announced."""
        count = len(audio_names)
        if len(set(audio_names)) < count or not self._seen.isdisjoint(audio_names):
            raise ClipFileError(f"{self.path}: a clip name was given twice in {list(audio_names)[:3]}...")
        for name, values in columns.items():
            if values.shape != (count, self._tables[name][1]):
                raise ClipFileError(f"{self.path}: {name} is {values.shape}, not ({count}, {self._tables[name][1]})")
        if len(chunks) != count or (not self.compression and {*map(len, chunks)} - {2 * self.samples}):
            raise ClipFileError(f"{self.path}: {count} clips of {self.samples} samples were promised")
        if self.groups is not None and (groups is None or len(groups) != count):
            raise ClipFileError(f"{self.path}: a group for each of the {count} clips is needed")

    def _commit(self, chunks: Sequence[bytes], columns: dict[str, npt.NDArray[Any]]) -> None:
        """To the disk; nothing of it if that is full."""
        try:
            _write(self._columns["waveform"], b"".join(chunks))
            for name, values in columns.items():
                _write(self._columns[name], values.tobytes())
            for column in self._columns.values():
                os.fsync(column.fileno())
        except OSError:
            self._cut_off()
            raise

    def finish(self, attributes: dict[str, Any] | None = None) -> Written:
        """Make the HDF5 file and put it in its place. `attributes` are stored beside the layout's own."""
        if not len(self):
            raise ClipFileError(f"{self.path}: there is not one clip to write")
        written = Written(self.path, len(self), hash_ids(self.audio_names))
        made = self._part / ("finished" if self.compression else "waveform")
        with self._create(made) as file:
            self._store_waveforms(file)
            file["audio_name"] = np.array([name.encode() for name in self.audio_names], "S")
            for name, (dtype, width) in self._tables.items():
                file[name] = np.memmap(self._part / name, dtype, "r", shape=(len(self), width))
            if self.groups is not None:
                file["group"] = np.array([group.encode() for group in self.groups], "S")
            file.attrs["labels"] = json.dumps(self.labels, ensure_ascii=False)
            file.attrs["sample_rate"] = np.int32(SAMPLE_RATE)
            file.attrs["clip_count"] = written.clip_count
            file.attrs["clip_ids_sha256"] = written.clip_ids_sha256
            file.attrs["source"] = self.source
            for name, value in (attributes or {}).items():
                file.attrs[name] = value
        with made.open("r+b") as stream:
            os.fsync(stream.fileno())
        made.rename(self.path)
        self.close()
        shutil.rmtree(self._part)
        return written

    def _create(self, path: Path) -> h5py.File:
        if self.compression:
            return h5py.File(path, "w", libver="v110")
        around = _AroundWaveforms(self._columns["waveform"].fileno(), self._waveform_bytes())
        # what is larger than the header starts at a multiple of its size: the waveforms do, right behind it
        return h5py.File(
            around, "w", libver="v110", alignment_threshold=_HEADER_BYTES, alignment_interval=_HEADER_BYTES
        )

    def _store_waveforms(self, file: h5py.File) -> None:
        shape = (len(self), self.samples)
        if self.compression:
            dataset = file.create_dataset(
                "waveform", shape, np.int16, chunks=(1, self.samples), shuffle=True, compression=_GZIP_LEVEL
            )
            with (self._part / "waveform").open("rb") as chunks:
                for row, size in enumerate(self._chunk_bytes):
                    dataset.id.write_direct_chunk((row, 0), chunks.read(size))
            return
        # allocated at once and never filled, such a dataset is one extent without an index: the bytes already there
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((1, self.samples))
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        layout.set_obj_track_times(False)
        space = h5py.h5s.create_simple(shape)
        dataset = h5py.h5d.create(file.id, b"waveform", h5py.h5t.STD_I16LE, space, layout)
        first, last = dataset.get_chunk_info(0), dataset.get_chunk_info(len(self) - 1)
        if first.byte_offset != _HEADER_BYTES or last.byte_offset + last.size != self._waveform_bytes():
            raise RuntimeError(f"HDF5 {h5py.version.hdf5_version} lays out waveforms otherwise; please report this")

    def close(self) -> None:
        """Let go of the files; what was appended stays in `.part` for the next run."""
        for stream in (*self._columns.values(), self._journal):
            stream.close()

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raises ClipFileError in place of a disk that was full meanwhile."""
        self.close()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ClipFileError(
                f"{self.path}: the disk is full; make room and run the same again, it goes on from here"
            ) from None


def encode(waveform: npt.NDArray[np.int16], compression: str | None) -> bytes:
    """The chunk that HDF5 stores for a clip: its int16 as they are, or byte-shuffled and deflated."""
    samples = np.ascontiguousarray(waveform, "<i2")
    if not compression:
        return samples.tobytes()
    return zlib.compress(samples.view(np.uint8).reshape(-1, 2).T.tobytes(), _GZIP_LEVEL)


def _write(stream: IO[bytes], data: bytes) -> None:
    """All of it: an unbuffered write may stop half-way, e.g. when the disk fills up, and says so only the next time."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


class _AroundWaveforms:
    """A file that HDF5 takes for an empty one, though the waveforms lie in it: HDF5 writes around them."""

    def __init__(self, descriptor: int, kept_bytes: int) -> None:
        self._descriptor = descriptor
        self._kept = kept_bytes
        self._position = 0
        self._end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        return os.pread(self._descriptor, size, self._position)

    def readinto(self, buffer: Any) -> int:
        return os.preadv(self._descriptor, [buffer], self._position)

    def write(self, data: Any) -> int:
        count = os.pwrite(self._descriptor, data, self._position)
        self._position += count
        self._end = max(self._end, self._position)
        return count

    def truncate(self, size: int) -> int:
        os.ftruncate(self._descriptor, max(size, self._kept))
        self._end = size
        return size

    def flush(self) -> None:
        """os.pwrite has no buffer."""

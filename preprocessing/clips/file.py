"""The HDF5 layout of PANNs and DCLS-Audio, one file a split: reading it, and writing it so that a kill loses nothing.

| dataset      | type                | holds                                                             |
| ------------ | ------------------- | ----------------------------------------------------------------- |
| `audio_name` | S (N,)              | the clip's name; for AudioSet PANNs' `Y<video id>.wav`             |
| `waveform`   | int16 (N, samples)  | 32 kHz mono, `float * 32767`; one chunk a clip, so one read a clip |
| `target`     | bool (N, C)         | the labels                                                        |
| `group`      | S (N,), optional    | what must not be split over train and test, e.g. the speaker      |
| `teacher`    | float16 (N, C), opt.| a teacher's scores                                                |
| `embedding`  | float16 (N, D), opt.| a teacher's pooled embedding                                      |

Attributes: `labels` (JSON list of C display names; absent in PANNs' files, which have the 527 of AudioSet),
`sample_rate`, `clip_count`, `clip_ids_sha256` (see `hash_ids`), and, where clips are padded with zeros, their true
lengths as `samples`, int32 (N,).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import reprlib
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from preprocessing import checks
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.checks import attribute, dataset, texts
from preprocessing.files import lock, no_links
from preprocessing.labels import labels as audioset_labels
from preprocessing.terminal import first_line

CLIP_SAMPLES = 10 * SAMPLE_RATE
INT16_SCALE = 32_767  # PANNs': 1.0 <-> 32767
LONGEST_CLIP = 600 * SAMPLE_RATE  # samples of a clip in a file that is read
WIDEST_EMBEDDING = 65_536
_HEADER_BYTES = 4096  # room for HDF5's superblock and the first object headers, before the waveforms
_GZIP_LEVEL = 4  # the usual one; on our sounds 29 % of the bytes, level 1: 31 %, level 6, a third slower: 28 %


class ClipFileError(ValueError):
    """An HDF5 file of clips that cannot be read or written; one line that names the file."""


def to_int16(waveform: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
    """Float waveform in [-1, 1] (clipped to it) -> int16 of the same shape, rounded to nearest."""
    return np.rint(np.clip(waveform, -1, 1) * INT16_SCALE).astype(np.int16)


def clip_id(audio_name: str) -> str:
    """The id of a clip: `Y<11 characters>.wav`, PANNs' name of an AudioSet clip, gives the video id; others stay whole.

    >>> clip_id("Y--PJHxphWEs.wav"), clip_id("dog/1.wav")
    ('--PJHxphWEs', 'dog/1.wav')
    """
    panns = re.fullmatch(r"Y([\w-]{11})\.wav", audio_name)
    return panns[1] if panns else audio_name


def hash_ids(audio_names: Iterable[str]) -> str:
    """SHA-256 of the sorted clip ids, one a line: equal for the same clips in whatever order they were written."""
    return hashlib.sha256("\n".join(sorted(map(clip_id, audio_names))).encode()).hexdigest()


class ClipFile:
    """A file of clips, opened anew in every process that reads it: safe to pass to forked and to spawned workers.

    Clips that PANNs' script did not find stay in its files as rows without a name; they are left out here, so clip `i`
    is the i-th row that has a name.

    Raises ClipFileError for a file that is missing, damaged or of another layout.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        try:
            self._take_layout(self._open())
        except KeyError as error:
            raise ClipFileError(f"{path}: a dataset is missing, this is no file of clips ({error.args[0]})") from None
        except ClipFileError:
            raise
        except (OSError, RuntimeError, TypeError, ValueError) as error:  # HDF5 says of damage what it likes
            raise ClipFileError(f"{path}: {first_line(error)}") from None

    def _take_layout(self, file: h5py.File) -> None:
        """Check the datasets and attributes, and keep what describes the clips."""
        names: npt.NDArray[np.bytes_] = texts(file, "audio_name")
        waveform = dataset(file, "waveform", "iuf", 2)
        if waveform.dtype != np.int16:
            raise ValueError(f"waveform is {waveform.dtype} {waveform.shape}, not int16 (clips, samples)")
        target = dataset(file, "target", "biuf", 2)
        if not len(waveform) == len(target) == len(names):
            rows = f"{len(names)}, {len(waveform)} and {len(target)}"
            raise ValueError(f"audio_name, waveform and target have {rows} rows")
        rate = attribute(file, "sample_rate")
        if rate is not None and not (isinstance(rate, int | float) and rate == SAMPLE_RATE):
            raise ValueError(f"sampled at {reprlib.repr(rate)} Hz, not {SAMPLE_RATE}; make it again with dcls-prepare")
        if (stored := attribute(file, "labels")) is None:
            self.labels = tuple(label.display_name for label in audioset_labels())
        elif isinstance(stored, str):
            self.labels = checks.labels(checks.parse_json(stored, "labels"))
        else:
            raise ValueError("the attribute labels is no text")
        if len(self.labels) != target.shape[1]:
            raise ValueError(f"{target.shape[1]} columns in target for {len(self.labels)} labels")
        self.samples = checks.integer(int(waveform.shape[1]), "the length of a clip in samples", 1, LONGEST_CLIP)
        named = np.flatnonzero(names != b"")
        self._rows = None if len(named) == len(names) else named
        self.clips = len(named)
        self.has_teacher = "teacher" in file
        if self.has_teacher and dataset(file, "teacher", "f", 2, len(names)).shape[1] != len(self.labels):
            raise ValueError(f"{file['teacher'].shape[1]} columns in teacher for {len(self.labels)} labels")
        self.embedding_size = 0
        if "embedding" in file:
            width = int(dataset(file, "embedding", "f", 2, len(names)).shape[1])
            self.embedding_size = checks.integer(width, "the width of embedding", 1, WIDEST_EMBEDDING)
        self.lengths: npt.NDArray[np.int64] | None = None
        """(N,) samples before the zeros that pad the clips; None where the file does not tell."""
        if (lengths := attribute(file, "samples")) is not None:
            self.lengths = self._of_clips(self._checked_lengths(lengths, len(names)))
        self.has_group = "group" in file
        if self.has_group:
            dataset(file, "group", "S", 1, len(names))

    def _checked_lengths(self, lengths: Any, rows: int) -> npt.NDArray[np.int64]:
        if not isinstance(lengths, np.ndarray) or lengths.shape != (rows,) or lengths.dtype.kind not in "iu":
            raise ValueError("the attribute samples is no length for each clip")
        if rows and not (lengths.min() >= 0 and lengths.max() <= self.samples):
            raise ValueError(f"clips are {lengths.min()} to {lengths.max()} samples long, expected 0 to {self.samples}")
        return lengths.astype(np.int64)

    def __len__(self) -> int:
        return self.clips

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_pid": -1}

    def _open(self) -> h5py.File:
        """The handle of this process: HDF5's state must not be shared over a fork."""
        if self._file is None or self._pid != os.getpid():
            try:
                # no chunk cache: a clip is read once an epoch, straight to where it belongs
                self._file = h5py.File(self.path, "r", rdcc_nbytes=0, locking="best-effort")
            except FileNotFoundError:
                raise ClipFileError(f"{self.path}: no such file") from None
            except OSError as error:
                raise ClipFileError(f"{self.path}: not a readable HDF5 file ({first_line(error)})") from None
            self._pid = os.getpid()
        return self._file

    def _row(self, clips: npt.ArrayLike) -> npt.NDArray[np.int64]:
        rows = np.asarray(clips, np.int64)
        return rows if self._rows is None else self._rows[rows]

    def _column(self, name: str) -> npt.NDArray[Any]:
        return self._of_clips(texts(self._open(), name))

    def _of_clips(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values if self._rows is None else values[self._rows]

    def audio_names(self) -> list[str]:
        """The N names, in the order of the clips."""
        return [name.decode("utf-8", "backslashreplace") for name in self._column("audio_name").tolist()]

    def groups(self) -> list[str]:
        """The N groups; KeyError where the file has none."""
        return [group.decode("utf-8", "backslashreplace") for group in self._column("group").tolist()]

    def sources(self) -> list[str] | None:
        """The N sources, e.g. the Debian package or the repository; None if the file does not tell.

        The source is the group, except in files of `dcls-prepare open-sounds` if the group is a part of the source,
        e.g. an instrument: there the source is the first part of the clip's name, PACKAGE/PATH. Clips of one source are
        not independent.
        """
        if not self.has_group:
            return None
        named_by_package = str(self._open().attrs.get("source", "")).startswith("open-sounds")
        pairs = zip(self.audio_names(), self.groups(), strict=True)
        return [_source(name, group) if named_by_package else group for name, group in pairs]

    def label_counts(self) -> npt.NDArray[np.int64]:
        """(C,) number of clips a label has."""
        counts = np.zeros(len(self.labels), np.int64)
        for first in range(0, self.clips, 65_536):
            counts += self.read("target", np.arange(first, min(first + 65_536, self.clips))).sum(0, dtype=np.int64)
        return counts

    def read(self, column: str, clips: npt.ArrayLike) -> npt.NDArray[Any]:
        """Rows of `target`, `teacher` or `embedding`, (B, C or D), in the order of `clips`."""
        rows, dataset = self._row(clips), self._open()[column]
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            return np.asarray(dataset[rows[0] : rows[-1] + 1])
        out = np.empty((len(rows), dataset.shape[1]), dataset.dtype)
        _read_rows(dataset, rows, out)
        return out

    def read_waveforms(
        self,
        clips: npt.ArrayLike,
        out: npt.NDArray[np.int16],
        places: Sequence[int] | None = None,
        starts: Sequence[int] | None = None,
    ) -> npt.NDArray[np.int16]:
        """Read clips (B,) into rows of `out` (any number, samples wanted), without a copy in between.

        Arguments:
            places: the row of each, by default 0, 1, ...; asked for in ascending order the disk is read forward.
            starts: the first sample of each that is wanted, by default 0.
        """
        _read_rows(self._open()["waveform"], self._row(clips), out, places, starts)
        return out

    def waveform(self, clip: int) -> npt.NDArray[np.int16]:
        """int16 (length,) of one clip, without the zeros that pad it as far as the file knows them."""
        length = self.samples if self.lengths is None else int(self.lengths[clip])
        return self.read_waveforms([clip], np.empty((1, length), np.int16))[0]

    def waveforms(self, clips: npt.ArrayLike) -> npt.NDArray[np.int16]:
        """(B, samples) int16 of clips (B,)."""
        clips = np.asarray(clips)
        return self.read_waveforms(clips, np.empty((len(clips), self.samples), np.int16))

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None


def _source(name: str, group: str) -> str:
    """The package or repository of a clip of open sounds; a name without "/" has none, its group is the source."""
    return group if name.startswith(f"{group}/") or "/" not in name else name.partition("/")[0]


def _read_rows(
    dataset: h5py.Dataset,
    rows: npt.NDArray[np.int64],
    out: npt.NDArray[Any],
    places: Sequence[int] | None = None,
    starts: Sequence[int] | None = None,
) -> None:
    """`read_direct` of many rows, by h5py's low level: half the time a clip, because nothing is made anew for each."""
    wanted = out.shape[1]
    in_file, in_memory = dataset.id.get_space(), h5py.h5s.create_simple((wanted,))
    for number, row in enumerate(rows.tolist()):
        in_file.select_hyperslab((row, starts[number] if starts is not None else 0), (1, wanted))
        dataset.id.read(in_memory, in_file, out[places[number] if places is not None else number])


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

    Raises ClipFileError where the file exists, another process writes it, or `.part` was begun with other arguments.

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

        Arguments:
            waveforms: B times int16 (samples,), or what `encode` made of them in a worker process.
            targets: (B, C) bool. teacher: (B, C), embedding: (B, D), where such columns were announced.
            note: anything JSON can hold, for the caller's own bookkeeping; comes back in `notes`.
        """
        count = len(audio_names)
        if len(set(audio_names)) < count or not self._seen.isdisjoint(audio_names):
            raise ClipFileError(f"{self.path}: a clip name was given twice in {list(audio_names)[:3]}...")
        given = {"target": targets, "teacher": teacher, "embedding": embedding}
        columns = {name: np.asarray(given[name], dtype) for name, (dtype, _) in self._tables.items()}
        for name, values in columns.items():
            if values.shape != (count, self._tables[name][1]):
                raise ClipFileError(f"{self.path}: {name} is {values.shape}, not ({count}, {self._tables[name][1]})")
        chunks = [chunk if isinstance(chunk, bytes) else encode(chunk, self.compression) for chunk in waveforms]
        if len(chunks) != count or (not self.compression and {*map(len, chunks)} - {2 * self.samples}):
            raise ClipFileError(f"{self.path}: {count} clips of {self.samples} samples were promised")
        entry: dict[str, Any] = {"names": list(audio_names)}
        if self.compression:
            entry["bytes"] = [len(chunk) for chunk in chunks]
        if self.groups is not None:
            if groups is None or len(groups) != count:
                raise ClipFileError(f"{self.path}: a group for each of the {count} clips is needed")
            entry["groups"] = list(groups)
        if note is not None:
            entry["note"] = note
        try:
            _write(self._columns["waveform"], b"".join(chunks))
            for name, values in columns.items():
                _write(self._columns[name], values.tobytes())
            for column in self._columns.values():
                os.fsync(column.fileno())
        except OSError:  # a full disk
            self._cut_off()
            raise
        self._log(entry)
        self._take(entry)
        self.notes.pop()  # only those of earlier runs are kept

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

"""Reads HDF5 files of clips, which others may have made."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from preprocessing import checks
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.checks import attribute, dataset, texts
from preprocessing.clips.layout import LONGEST_CLIP, WIDEST_EMBEDDING, ClipFileError
from preprocessing.labels import labels as audioset_labels
from preprocessing.terminal import first_line


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
        """(N,) samples before the zeros that pad the clips; None if the file does not tell."""
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
        """The N groups; KeyError if the file has none."""
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
        out_rows: Sequence[int] | None = None,
        starts: Sequence[int] | None = None,
    ) -> npt.NDArray[np.int16]:
        """Read clips (B,) into rows of `out` (any number, samples wanted), without a copy in between.

        Arguments:
            out_rows: the row of each, by default 0, 1, ...; asked for in ascending order the disk is read forward.
            starts: the first sample of each that is wanted, by default 0.
        """
        _read_rows(self._open()["waveform"], self._row(clips), out, out_rows, starts)
        return out

    def waveform(self, clip: int) -> npt.NDArray[np.int16]:
        """int16 (length,) of one clip, without the zeros that pad it as far as the file knows them."""
        length = self.samples if self.lengths is None else int(self.lengths[clip])
        return self.read_waveforms([clip], np.empty((1, length), np.int16))[0]

    def clip_lengths(self) -> npt.NDArray[np.int64]:
        """(N,) samples of the clips as `waveform` gives them."""
        return self.lengths if self.lengths is not None else np.full(len(self), self.samples, np.int64)

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
    out_rows: Sequence[int] | None = None,
    starts: Sequence[int] | None = None,
) -> None:
    """`read_direct` of many rows, by h5py's low level: half the time a clip, because nothing is made anew for each."""
    wanted = out.shape[1]
    in_file, in_memory = dataset.id.get_space(), h5py.h5s.create_simple((wanted,))
    for number, row in enumerate(rows.tolist()):
        in_file.select_hyperslab((row, starts[number] if starts is not None else 0), (1, wanted))
        dataset.id.read(in_memory, in_file, out[out_rows[number] if out_rows is not None else number])

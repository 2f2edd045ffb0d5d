"""Recordings inside tar archives and Parquet files, which may be damaged or made to harm.

Nothing larger than MOST_BYTES is taken into memory for one recording, whatever an archive declares or unpacks to. A
recording that cannot be had is an entry with a `problem`; an archive whose rest cannot be read raises OSError.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from preprocessing.terminal import first_line, printable

MOST_BYTES = 2**28  # of one recording: three minutes of 8 channels at 192 kHz and 32 bits
LONGEST_NAME = 1000  # characters
_LARGEST_HEADER = 2**20  # bytes of a tar's extended header: long names and attributes
_BATCH = 64  # rows whose ids and labels are read at once
_LONGEST_CELL = 4096  # bytes of an id or a list of labels, on average over a row group
_SHOWN = 100  # characters of a name in a message


class ContainerError(OSError):
    """The rest of an archive cannot be read; one line without its name."""


def shortened(name: str) -> str:
    """A name for a message or a list: what is too long or would break a line is cut or escaped."""
    shown = printable(name[: _SHOWN + 1])
    return shown if len(name) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(name):,} characters)"


# tar -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """Bytes `offset` to `offset + size` of a file: a member of a tar."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Raises OSError if they are not all there."""
        with Path(self.path).open("rb") as file:
            if self.offset + self.size > os.fstat(file.fileno()).st_size:
                raise OSError("the tar ends in the middle of the clip")
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Member:
    """A file in a tar. `audio` is None if it cannot be had, and `problem` then says why."""

    name: str
    audio: Slice | bytes | None
    problem: str = ""


def tar_members(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[Member]:
    """The wanted files of a tar, plain or packed with gzip, bzip2 or xz, in its order.

    Of a plain one only the headers are read: the audio is a Slice for another process to read. Raises OSError.
    """
    try:
        with _unpacked(path) as file:
            plain = isinstance(file, _Bounded) and file.is_plain
            last = -1
            with tarfile.open(fileobj=file, mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    tar.members = []  # or it keeps every header it has met
                    if member.offset <= last or member.size < 0:
                        raise ContainerError("its headers lead backwards")
                    last = member.offset
                    if member.isreg() and is_wanted(member.name):
                        yield _member(path, file, member, plain)
    except ContainerError:
        raise
    except (
        *(OSError, EOFError, OverflowError, MemoryError, ValueError),
        *(tarfile.TarError, zlib.error, lzma.LZMAError),
    ) as error:
        raise ContainerError(first_line(error)) from error


def _member(path: Path, file: _Bounded, member: tarfile.TarInfo, plain: bool) -> Member:
    if member.size > MOST_BYTES:
        return Member(member.name, None, f"declares {member.size:,} bytes, at most {MOST_BYTES:,} are read")
    if member.issparse():
        return Member(member.name, None, "is stored with holes, which no recording needs")
    if plain:
        return Member(member.name, Slice(str(path), member.offset_data, member.size))
    file.seek(member.offset_data)
    audio = file.read_audio(member.size)
    if len(audio) < member.size:
        return Member(member.name, None, "the tar ends in the middle of the clip")
    return Member(member.name, audio)


class _Bounded:
    """What tarfile reads from: no header may be large, because tarfile takes it into memory whole."""

    def __init__(self, file: IO[bytes], is_plain: bool) -> None:
        self._file, self.is_plain = file, is_plain

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise ContainerError(f"a header of it declares {size:,} bytes")
        return self._file.read(size)

    def read_audio(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        if offset < 0:
            raise ContainerError("its headers lead backwards")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _unpacked(path: Path) -> _Bounded:
    with path.open("rb") as file:
        start = file.read(6)
    openers: dict[bytes, Callable[[Path], Any]] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ\x00": lzma.open,
    }
    for magic, opener in openers.items():
        if start.startswith(magic):
            return _Bounded(opener(path), False)
    return _Bounded(path.open("rb"), True)


# Parquet -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of a Parquet file in AudioSet's form; `audio` reads its bytes, rows in ascending order. See `Member`."""

    clip: str
    labels: tuple[str, ...]
    audio: Callable[[], bytes | None] | None
    problem: str = ""


def table_row_count(path: Path) -> int:
    """Rows of a Parquet file; 0 if it cannot be read."""
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError, ValueError):
        return 0


def table_rows(path: Path) -> Iterator[Row]:
    """The rows: ids and labels now, a few at a time, the audio when it is asked for. Raises OSError."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            _check_columns(table.schema_arrow)
            for group in range(table.num_row_groups):
                _check_texts(table.metadata.row_group(group))
                audio = _GroupAudio(path, group)
                batches = table.iter_batches(_BATCH, row_groups=[group], columns=["video_id", "labels"])
                number = 0
                for batch in batches:
                    for clip, labels in zip(batch["video_id"], batch["labels"], strict=True):
                        yield _row(clip, labels, audio, number)
                        number += 1
    except ContainerError:
        raise
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError, KeyError) as error:
        raise ContainerError(first_line(error)) from error


def _row(clip: Any, labels: Any, audio: _GroupAudio, number: int) -> Row:
    try:
        name, mids = clip.as_py(), labels.as_py() or ()
    except ValueError:  # UnicodeDecodeError is one
        return Row(f"row {number}", (), None, "its id or labels are no text")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or printable(name) != name:
        return Row(shortened(str(name)), (), None, "its id is no name of a clip")
    return Row(name, tuple(map(str, mids)), lambda: audio.read(number))


def _check_columns(schema: Any) -> None:
    """Raise ContainerError for other columns than those of agkphysics/AudioSet."""
    from pyarrow import types

    if absent := {"video_id", "audio", "labels"} - set(schema.names):
        raise ContainerError(f"lacks the columns {', '.join(sorted(absent))} of agkphysics/AudioSet")
    kinds = {name: schema.field(name).type for name in ("video_id", "audio", "labels")}

    def is_text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    is_list = types.is_list(kinds["labels"]) or types.is_large_list(kinds["labels"])
    fields = kinds["audio"] if types.is_struct(kinds["audio"]) else []
    content = [field.type for field in fields if field.name == "bytes"]
    if not is_text(kinds["video_id"]):
        raise ContainerError(f"its column video_id holds {kinds['video_id']}, expected string")
    if not is_list or not is_text(kinds["labels"].value_type):
        raise ContainerError(f"its column labels holds {kinds['labels']}, expected list of string")
    if len(content) != 1 or not (types.is_binary(content[0]) or types.is_large_binary(content[0])):
        raise ContainerError(f"its column audio holds {str(kinds['audio'])[:_SHOWN]}, expected bytes in a struct")


def _check_texts(group: Any) -> None:
    """Raise ContainerError for ids and labels of absurd size: one text stored once can stand in every row."""
    for index in range(group.num_columns):
        column = group.column(index)
        most = 2**20 + _LONGEST_CELL * group.num_rows
        if column.path_in_schema.split(".")[0] in ("video_id", "labels") and column.total_uncompressed_size > most:
            raise ContainerError(f"its ids or labels take {column.total_uncompressed_size:,} bytes")


class _GroupAudio:
    """The audio of a row group, read forward row by row: a group can hold gigabytes, and a row too."""

    def __init__(self, path: Path, group: int) -> None:
        self._path, self._group = path, group
        self._rows: Iterator[Any] | None = None
        self._next = 0

    def read(self, row: int) -> bytes | None:
        """The bytes of a row; rows must be asked for in ascending order. Raises OSError."""
        import pyarrow
        import pyarrow.parquet

        try:
            if self._rows is None:
                # streamed: Arrow would otherwise buffer the whole group
                table = pyarrow.parquet.ParquetFile(self._path, buffer_size=2**20, pre_buffer=False)
                self._rows = table.iter_batches(1, row_groups=[self._group], columns=["audio.bytes"], use_threads=False)
            while self._next <= row:
                batch = next(self._rows)
                self._next += 1
            cell = batch.column(0).field("bytes")[0]
            buffer = cell.as_buffer()
            if buffer is None:
                return None
            if buffer.size > MOST_BYTES:
                raise ContainerError(f"has {buffer.size:,} bytes, at most {MOST_BYTES:,} are read")
            return bytes(buffer)
        except ContainerError:
            raise
        except (pyarrow.ArrowException, OSError, MemoryError, StopIteration, ValueError) as error:
            raise ContainerError(f"cannot be read from {self._path.name}: {first_line(error)}") from error

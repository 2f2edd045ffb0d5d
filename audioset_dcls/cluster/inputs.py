"""What a user names -> files, tar shards and Parquet files with audio, local or remote."""

from __future__ import annotations

import csv
import glob
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

from audioset_dcls.tagging.recordings import STDIN, find_recordings
from preprocessing.constants import AUDIO_SUFFIXES
from preprocessing.terminal import first_line, printable

COLUMNS = ("path", "file", "uri", "url")  # of a list, in this order
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_LISTS = (".csv", ".txt")
_PARQUET = ".parquet"
_ROWS = 10_000  # of a list in Parquet that are in memory
_LONGEST_PATH = 4096  # characters
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class InputError(ValueError):
    """An input that cannot be read; one line that names it."""


@dataclass(frozen=True)
class Input:
    """A recording, or a shard that holds many: `name` is its path or URI, as it stands in the results."""

    name: str
    kind: Literal["file", "tar", "parquet"]


def is_remote(name: str) -> bool:
    """If a name is a URI for fsspec: s3://, gs://, hf://, ..."""
    return _REMOTE.match(name) is not None


def find_inputs(texts: Iterable[str], problems: list[str]) -> Iterator[Input]:
    """The inputs behind files, folders, globs, lists, shards and URIs, in an order that never changes.

    Folders and globs give audio files, as `find_recordings` does; a glob that ends in the suffix of a shard or list
    gives those. A list (.csv or .parquet with a column path, file, uri or url; .txt with a path a line) names files and
    shards, relative ones beside the list. A Parquet file with the columns of AudioSet's mirror is a shard.

    problems: gets one line for each input that gives nothing; the others go on. Raises InputError for stdin.
    """
    plain: list[str] = []
    for text in texts:
        if text == STDIN:
            raise InputError("--ray reads files that all nodes see: stdin is none")
        if is_remote(text) or _has(text, (*_TARS, *_LISTS, _PARQUET)):
            yield from _files(plain, problems)
            plain = []
            try:
                yield from chain.from_iterable(map(_of_container, _expanded(text)))
            except InputError as error:
                problems.append(str(error))
            except Exception as error:  # fsspec's file systems share no exceptions
                problems.append(f"{printable(text)}: cannot be read: {first_line(error)}")
        else:
            plain.append(text)
    yield from _files(plain, problems)


def open_input(name: str) -> IO[bytes]:
    """A path or URI as a binary file. Raises what the file system raises."""
    if not is_remote(name):
        return Path(name).open("rb")
    import fsspec

    file: IO[bytes] = fsspec.open(name, "rb").open()
    return file


def _files(texts: list[str], problems: list[str]) -> Iterator[Input]:
    found = find_recordings(texts)
    problems += found.problems
    return (Input(recording.path, "file") for recording in found.recordings)


def _expanded(text: str) -> list[str]:
    """The files of a path, a glob or a remote folder. Raises InputError."""
    if not is_remote(text):
        if os.path.lexists(text) or not glob.has_magic(text):
            return [text]
        found = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - paths stay strings
        if not found:
            raise InputError(f"{printable(text)}: no file matches")
        return found
    import fsspec

    system, path = fsspec.core.url_to_fs(text)
    if glob.has_magic(path):
        found = sorted(system.glob(path))
    elif system.isdir(path):
        found = sorted(system.find(path))
    else:
        return [text]
    found = [system.unstrip_protocol(one) for one in found if _has(one, (*AUDIO_SUFFIXES, *_TARS, _PARQUET))]
    if not found:
        raise InputError(f"{printable(text)}: no audio files and no shards there")
    return found


def _of_container(name: str) -> Iterator[Input]:
    """A shard, what a list names, or a file. Raises InputError."""
    if _has(name, _TARS):
        yield Input(name, "tar")
    elif _has(name, (_PARQUET,)):
        yield from _of_parquet(name)
    elif _has(name, _LISTS):
        names = _lines(name) if _has(name, (".txt",)) else _cells(name)
        yield from (_named(one, name) for one in names)
    else:
        yield Input(name, "file")


def _of_parquet(name: str) -> Iterator[Input]:
    import pyarrow
    import pyarrow.parquet

    with open_input(name) as file, pyarrow.parquet.ParquetFile(file) as table:
        schema = table.schema_arrow
        if "audio" in schema.names and pyarrow.types.is_struct(schema.field("audio").type):
            yield Input(name, "parquet")
            return
        column = _column(schema.names, name)
        for batch in table.iter_batches(_ROWS, columns=[column]):
            for value in batch.column(0).to_pylist():
                yield _named(value, name)


def _cells(name: str) -> Iterator[Any]:
    with open_input(name) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        column = _column(rows.fieldnames or (), name)
        try:
            yield from (row[column] for row in rows)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{printable(name)}: line {rows.line_num}: {first_line(error)}") from error


def _lines(name: str) -> Iterator[str]:
    with open_input(name) as file, io.TextIOWrapper(file, "utf-8-sig") as text:
        try:
            yield from (line.strip() for line in text if line.strip())
        except UnicodeDecodeError as error:
            raise InputError(f"{printable(name)}: is no text ({first_line(error)})") from error


def _column(names: Iterable[str], name: str) -> str:
    there = list(names)
    found = next((column for column in COLUMNS if column in there), None)
    if found is None:
        raise InputError(
            f"{printable(name)}: has no column {' or '.join(COLUMNS)}, and is no Parquet file of AudioSet's mirror "
            f"(its columns: {printable(', '.join(there))[:200] or 'none'})"
        )
    return found


def _named(value: Any, source: str) -> Input:
    """What a list names. Raises InputError for what is no path."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_PATH or "\0" in value:
        raise InputError(f"{printable(source)}: names {printable(repr(value))[:100]}, expected a path or URI")
    if not is_remote(value) and not os.path.isabs(value):  # noqa: PTH117 - paths stay strings
        value = f"{source.rpartition('/')[0] or '.'}/{value}"
    return Input(value, "tar" if _has(value, _TARS) else "file")


def _has(name: str, suffixes: Iterable[str]) -> bool:
    return name.lower().endswith(tuple(suffixes))

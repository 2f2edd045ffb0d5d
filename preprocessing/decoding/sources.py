"""What a caller names - a path, bytes, a file object, a pipe - as a binary file that can seek."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from typing import IO, TypeAlias

from preprocessing.decoding.spans import AudioError
from preprocessing.terminal import printable

Source: TypeAlias = str | os.PathLike[str] | IO[bytes] | bytes | bytearray | memoryview

_IN_MEMORY = 2**26  # bytes: what a pipe gives beyond is kept in a temporary file
_CHUNK = 2**20


class _Quiet(io.IOBase):
    """A file whose `read` and `seek` never raise: libraries print what is raised inside of their callbacks.

    A damaged header may send a decoder to before the start: that fails. A read that fails is the file's end, and
    `failure` says why.
    """

    failure: OSError | None = None

    def read(self, size: int | None = -1) -> bytes:
        try:
            content: bytes = super().read(size)
        except OSError as error:
            self.failure = error
            return b""
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


class Memory(_Quiet, io.BytesIO):
    """Bytes as a file."""


class File(_Quiet, io.FileIO):
    """A file on disk."""


def open_source(source: Source) -> tuple[str, Memory | File]:
    """The source's name for messages and a binary file at its start: on disk as a raw `FileIO`, else in memory.

    Raises AudioError for what cannot be opened or read, TypeError for what is no source.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{memoryview(source).nbytes} bytes>", Memory(source)
    if isinstance(source, str | os.PathLike):
        return _open_path(source)
    if not hasattr(source, "read"):
        raise TypeError(f"expected a path, bytes or a binary file object, not {type(source).__name__}")
    name = printable(getattr(source, "name", None) or "<file object>")
    try:
        return name, _seekable(source)
    except TypeError as error:
        raise AudioError(f'{name}: gives text instead of bytes; open it in binary mode ("rb")') from error
    except (OSError, ValueError, EOFError) as error:  # among them: closed file, broken gzip, text that is not UTF-8
        raise AudioError(f"{name}: cannot be read ({printable(error)}); open it again in binary mode") from error


def _open_path(path: str | os.PathLike[str]) -> tuple[str, Memory | File]:
    name = printable(os.fspath(path))
    try:
        file = File(path)
        mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file; check the path") from error
    except PermissionError as error:
        raise AudioError(f"{name}: no permission to read it; change the file's mode or owner") from error
    except IsADirectoryError as error:
        raise AudioError(f"{name}: is a folder; give the files in it") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise AudioError(f"{name}: cannot be opened ({printable(error)}); check the path") from error
    if stat.S_ISREG(mode):
        file.name = "<file>"  # ffmpeg would otherwise believe a wrong extension
        return name, file
    with file:
        if not stat.S_ISFIFO(mode):  # such as /dev/zero, which never ends
            raise AudioError(f"{name}: is neither a file nor a pipe; give a sound file")
        return name, _seekable(file)


def _seekable(stream: IO[bytes]) -> Memory | File:
    """The rest of a stream: in memory, or on disk if it is long. Raises TypeError for a stream of text."""
    memory = Memory()
    while chunk := stream.read(_CHUNK):
        memory.write(chunk)
        if memory.tell() > _IN_MEMORY:
            return _on_disk(memory, stream)
    memory.seek(0)
    return memory


def _on_disk(begun: Memory, stream: IO[bytes]) -> File:
    with tempfile.TemporaryFile(buffering=0) as unnamed:
        file = File(os.dup(unnamed.fileno()), "r+")
    try:
        _write(file, begun.getbuffer())
        while chunk := stream.read(_CHUNK):
            _write(file, memoryview(chunk))
    except BaseException:
        file.close()
        raise
    file.seek(0)
    file.name = "<file>"
    return file


def _write(file: File, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]

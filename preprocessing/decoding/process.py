"""Decoding in child processes: a recording on which a decoder crashes or runs out of memory costs that recording alone.

A request is a length and so many bytes of JSON, and so is each answer; an answer that announces samples is followed by
them as float32. Nothing that a child sends is unpickled: it reads what strangers made.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

import numpy as np

from preprocessing.audio import MIX, AudioError, Note, OnNote, channel_count, iter_audio
from preprocessing.decoding.header import Header, read_header
from preprocessing.decoding.sources import Source
from preprocessing.decoding.spans import Waveform
from preprocessing.terminal import printable

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from preprocessing.decoding.process import serve; serve()"
)
_LENGTH = struct.Struct("<I")
_LONGEST_ANSWER = 2**20  # bytes, without samples
_log = logging.getLogger(__name__)


class DecoderPool:
    """Child processes that decode: as many as `iter_audio` is called side by side; each serves one recording at a time.

    A context manager: at its end the children are gone. Its methods may be called from several threads.
    """

    def __init__(self, started: int = 0) -> None:
        """`started` children begin at once to load their libraries."""
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._closed = False
        self._headers: dict[str, Header] = {}  # of files that were decoded, until somebody asks
        with contextlib.suppress(OSError):  # the first request will say what keeps them from starting
            for _ in range(started):
                self._idle.append(_Child())

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the children, also those at work."""
        with self._lock:
            self._closed = True
            children = [*self._idle, *self._busy]
        for child in children:
            child.kill()

    def iter_audio(
        self,
        source: Source,
        block_seconds: float,
        sample_rate: int,
        channel: str | int = MIX,
        on_note: OnNote | None = None,
    ) -> Iterator[Waveform]:
        """As `preprocessing.audio.iter_audio`; AudioError also if the decoder's process dies of the source.

        What is no regular file (a file object, a pipe, a descriptor of this process) is decoded in this process.
        """
        if not isinstance(source, str | os.PathLike) or not _is_for_children(os.fspath(source)):
            yield from iter_audio(source, block_seconds, sample_rate, channel, on_note)
            return
        with self._child(os.fspath(source)) as child:
            child.ask("blocks", block_seconds=block_seconds, sample_rate=sample_rate, channel=channel)
            while "samples" in (answer := child.answer()):
                yield child.samples(answer["samples"], round(block_seconds * sample_rate))
        self._headers[os.fspath(source)] = Header(*answer["header"])
        if "note" in answer:
            note = Note(*answer["note"])
            if on_note is None:
                _log.warning("%s: %s", source, note.text)
            else:
                on_note(note)

    def channel_count(self, source: Source) -> int:
        """As `preprocessing.audio.channel_count`."""
        if not isinstance(source, str | os.PathLike) or not _is_for_children(os.fspath(source)):
            return channel_count(source)
        with self._child(os.fspath(source)) as child:
            child.ask("channels")
            return int(child.answer()["channels"])

    def header(self, path: str) -> Header:
        """As `read_header`; at once for the file that was decoded last."""
        if (known := self._headers.pop(path, None)) is not None:
            return known
        if not _is_for_children(path):
            return Header()
        try:
            with self._child(path) as child:
                child.ask("header")
                return Header(*child.answer()["header"])
        except AudioError:
            return Header()

    @contextlib.contextmanager
    def _child(self, path: str) -> Iterator[_Child]:
        child = self._take(path)
        try:
            yield child
        finally:
            self._give_back(child)

    def _take(self, path: str) -> _Child:
        with self._lock:
            while self._idle:
                if (child := self._idle.pop()).ready:
                    break
                child.kill()
            else:
                try:
                    child = _Child()
                except OSError as error:
                    raise AudioError(
                        f"{printable(path)}: no process can be started to decode it ({error.strerror})"
                    ) from error
            self._busy.add(child)
            child.path = path
            return child

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            self._busy.discard(child)
            if child.ready and not self._closed:
                self._idle.append(child)
                return
        child.kill()


class _Child:
    """One process, and the state of the request that it works on."""

    def __init__(self) -> None:
        folders = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 - "" is the current folder
        folders.append(str(Path(__file__).resolve().parents[1]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, json.dumps(folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders complain there; what matters comes as an answer
            bufsize=0,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self.path = ""  # of the recording that it works on, for messages
        self._answered = True

    @property
    def ready(self) -> bool:
        """Whether it can take a request: it lives, and the last one is answered to the end."""
        return self._answered and self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._requests.close()
        # a thread may still read from it, and gets its end now
        if self._answered:
            self._answers.close()

    def ask(self, what: str, **arguments: float | str) -> None:
        self._answered = False
        with contextlib.suppress(BrokenPipeError):  # its death is seen when the answer is read
            _send(self._requests.fileno(), {"path": self.path, "what": what, "arguments": arguments})

    def answer(self) -> dict[str, Any]:
        """The next answer; one without "samples" is the last. Raises AudioError for an error, or if the child died."""
        answer = self._message()
        if "samples" not in answer:
            self._answered = True
            if "error" in answer:
                raise AudioError(answer["error"])
        return answer

    def samples(self, count: int, most: int) -> Waveform:
        if not 0 < count <= most:
            self._fail()
        return self._read(np.empty(count, np.float32))

    def _message(self) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self._read(np.empty(_LENGTH.size, np.uint8)).tobytes())
        if length > _LONGEST_ANSWER:
            self._fail()
        message: dict[str, Any] = json.loads(self._read(np.empty(length, np.uint8)).tobytes())
        return message

    def _read(self, array: np.ndarray) -> np.ndarray:
        """Fill the array."""
        view, done = array.data.cast("B"), 0
        while done < len(view):
            try:
                got = self._answers.readinto(view[done:])  # type: ignore[attr-defined]
            except ValueError:  # closed
                got = 0
            if not got:
                self._fail()
            done += got
        return array

    def _fail(self) -> NoReturn:
        self._process.kill()
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise AudioError(f"{printable(self.path)}: the decoder crashed on it ({how}); convert it to WAV or FLAC")


def serve() -> None:
    """What a child does: answer the requests on its stdin until that ends."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # some libraries print there
    with os.fdopen(requests, "rb") as file:
        while head := file.read(_LENGTH.size):
            request = json.loads(file.read(_LENGTH.unpack(head)[0]))
            try:
                _send(answers, _last_answer(answers, request["what"], request["path"], request["arguments"]))
            except BrokenPipeError:  # the parent is gone
                return
            except AudioError as error:
                _send(answers, {"error": str(error)})
            except MemoryError:
                _send(answers, {"error": f"{printable(request['path'])}: not enough memory to decode it"})
            except Exception as error:  # a fault of ours costs this recording, too, not the run
                reason = f"{type(error).__name__}: {error}"
                _send(
                    answers,
                    {"error": f"{printable(request['path'])}: cannot be decoded ({reason}); convert it to WAV or FLAC"},
                )


def _last_answer(answers: int, what: str, path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for; the answers before the last one are sent on the way."""
    if what == "header":
        return {"header": read_header(path)}
    if what == "channels":
        return {"channels": channel_count(path)}
    notes: list[Note] = []
    for block in iter_audio(path, on_note=notes.append, **arguments):
        _send(answers, {"samples": len(block)})
        _write(answers, np.ascontiguousarray(block).data.cast("B"))
    about: dict[str, Any] = {"header": read_header(path)}
    return {**about, "note": notes[0]} if notes else about


def _send(descriptor: int, message: dict[str, Any]) -> None:
    content = json.dumps(message).encode()
    _write(descriptor, _LENGTH.pack(len(content)) + content)


def _write(descriptor: int, content: bytes | memoryview) -> None:
    view, done = memoryview(content), 0
    while done < len(view):
        done += os.write(descriptor, view[done:])


def _is_for_children(path: str) -> bool:
    # a descriptor (/dev/fd/63, what the shell makes of `<(command)`) means another file in another process
    return os.path.isfile(path) and not path.startswith(("/dev/", "/proc/"))  # noqa: PTH113 - paths stay strings

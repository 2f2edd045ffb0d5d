"""What a run has finished, on disk after every recording, so that the same command continues after a kill."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from preprocessing.files import lock

NAME = "dcls-tag.journal"
_FORMAT = 3
_SAMPLE = 2**16  # bytes


class JournalError(Exception):
    """The journal cannot be used; the message is one line."""


class FolderRemovedError(JournalError):
    """The folder that the run writes to is not there any more."""


class Journal:
    """An append-only file of JSON lines: the run's fingerprint, then one record for every recording tagged.

    A record counts only if the path still leads to the file it was made from: the same absolute path, size, time of
    change, and bytes in the middle (names, sizes and times are often alike on two memory cards, and card readers number
    files anew). The fingerprint (model, version, settings) must be the same, too. Each record is one write; a line cut
    short by a kill is dropped on the next start.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any], resume: bool = True) -> None:
        """Open or begin the journal in `folder`; `started_over` names the settings that differ from the last run's.

        Raises JournalError if another process has it open.
        """
        self.path = folder / NAME
        self.started_over: list[str] = []
        self._offsets: dict[str, int] = {}
        self._valid: set[str] = set()  # records of this run, and older ones that were compared with their files
        self._file = self._open()
        header = {"journal": _FORMAT, "fingerprint": json.loads(json.dumps(fingerprint))}
        if not (resume and self._read(header)):
            self._offsets.clear()
            self._file.truncate(0)
            self._append(header)

    def __contains__(self, path: str) -> bool:
        if path not in self._valid and path in self._offsets:
            entry = self._at(self._offsets[path])
            if entry["absolute"] == _absolute(path) and _is_unchanged(path, entry["state"]):
                self._valid.add(path)
        return path in self._valid

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, path: str, record: dict[str, Any], before: list[int] | None) -> bool:
        """Keep the record of a file whose `file_state` was `before` when reading began.

        False if the file has changed since: the record counts in this run, but not in the next one.
        Raises FolderRemovedError, and OSError if it cannot be written.
        """
        self.check_folder()
        state = _state_with_sample(path)
        changed = before is not None and (state is None or state[:2] != before)
        entry = {
            "path": path,
            "absolute": _absolute(path),
            "state": None if changed or before is None else state,
            "record": record,
        }
        self._offsets[path] = self._append(entry)
        self._valid.add(path)
        return not changed

    def records(self, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The records of those of `paths` that are done, in that order, read from disk one by one."""
        for path in paths:
            if path in self:
                yield self._at(self._offsets[path])["record"]

    def check_folder(self) -> None:
        """Raises FolderRemovedError if the journal is no longer where it was opened."""
        if not self._in_place(self._file):
            raise FolderRemovedError(f"{self.path.parent}: was removed while this run wrote to it; run it again")

    def close(self, delete: bool = False) -> None:
        while_locked = os.name == "posix"  # Windows removes no open file
        if delete and while_locked:
            self.path.unlink(missing_ok=True)
        self._file.close()
        if delete and not while_locked:
            self.path.unlink(missing_ok=True)

    def _open(self) -> BinaryIO:
        while True:
            file: BinaryIO = self.path.open("a+b", buffering=0)
            if not lock(file):
                file.close()
                raise JournalError(
                    f"{self.path.parent}: another dcls-tag is writing there; wait for it or choose another -o"
                )
            if self._in_place(file):
                return file
            file.close()  # the run that held the lock has deleted it

    def _in_place(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(file.fileno()))
        except OSError:
            return False

    def _read(self, header: dict[str, Any]) -> bool:
        """Find the records of an earlier run; False if there is none that fits."""
        self._file.seek(0)
        end = 0
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            for line in lines:
                entry = _parse(line)
                if entry is None:
                    break
                if end == 0 and entry != header:
                    theirs, ours = entry.get("fingerprint") or {}, header["fingerprint"]
                    different = sorted(key for key in theirs | ours if theirs.get(key) != ours.get(key))
                    self.started_over = different or ["the journal's format"]
                    return False
                if end:
                    if not {"path", "absolute", "state", "record"} <= entry.keys():
                        break
                    self._offsets[entry["path"]] = end
                end += len(line)
        self._file.truncate(end)
        return end > 0

    def _append(self, entry: dict[str, Any]) -> int:
        offset = os.fstat(self._file.fileno()).st_size
        line = json.dumps(entry).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(offset)
            raise
        return offset

    def _at(self, offset: int) -> dict[str, Any]:
        self._file.seek(offset)
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            entry: dict[str, Any] = json.loads(lines.readline())
        return entry


def file_state(path: str) -> list[int] | None:
    """Size and time of change; None for what is no regular file (stdin, a pipe) and for what is not there."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns] if Path(path).is_file() else None


def _is_unchanged(path: str, state: list[Any] | None) -> bool:
    # size and time first: most changes show there, and need no reading
    return state is not None and file_state(path) == state[:2] and _state_with_sample(path) == state


def _state_with_sample(path: str) -> list[Any] | None:
    """Size, time of change, and a hash of the bytes in the middle: headers are often alike, sound is not."""
    state = file_state(path)
    if state is None:
        return None
    try:
        with Path(path).open("rb", buffering=0) as file:
            file.seek(max(state[0] - _SAMPLE, 0) // 2)
            return [*state, hashlib.sha256(file.read(_SAMPLE)).hexdigest()[:16]]
    except OSError:
        return None


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links stay: a card is known by where it is mounted


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if line.endswith(b"\n") and isinstance(entry, dict) else None

"""What a run has finished, on disk after every recording, so that the same command continues after a kill."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

NAME = "dcls-tag.journal"


class JournalError(Exception):
    """The journal cannot be used; the message is one line."""


class Journal:
    """An append-only file of JSON lines: the run's fingerprint, then one record for every recording tagged.

    A record counts only if the recording still has the size and time of change it had, and the fingerprint (model,
    version, settings) is the same: anything else would mix results that do not belong together. Each record is one
    write; a line cut short by a kill is dropped on the next start.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any], resume: bool = True) -> None:
        """Open or begin the journal in `folder`; `started_over` names the settings that differ from the last run's."""
        self.path = folder / NAME
        self.started_over: list[str] = []
        self._places: dict[str, int] = {}
        self._file: BinaryIO = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise JournalError(
                f"{folder}: another dcls-tag is writing there; wait for it or choose another -o"
            ) from error
        header = {"journal": 1, "fingerprint": json.loads(json.dumps(fingerprint))}
        if not (resume and self._read(header)):
            self._places.clear()
            self._file.truncate(0)
            self._append(header)

    def __contains__(self, path: str) -> bool:
        state = _state(path)
        return state is not None and path in self._places and self._at(self._places[path])["state"] == state

    def __len__(self) -> int:
        return len(self._places)

    def add(self, path: str, record: dict[str, Any]) -> None:
        self._places[path] = self._append({"path": path, "state": _state(path), "record": record})

    def records(self, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The records of those of `paths` that have one, in that order, read from disk one by one."""
        for path in paths:
            if path in self._places:
                yield self._at(self._places[path])["record"]

    def close(self, delete: bool = False) -> None:
        if delete:
            self.path.unlink(missing_ok=True)
        self._file.close()

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
                    self.started_over = sorted(key for key in theirs | ours if theirs.get(key) != ours.get(key))
                    return False
                if end:
                    self._places[entry["path"]] = end
                end += len(line)
        self._file.truncate(end)
        return end > 0

    def _append(self, entry: dict[str, Any]) -> int:
        place = os.fstat(self._file.fileno()).st_size
        line = json.dumps(entry).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(place)
            raise
        return place

    def _at(self, place: int) -> dict[str, Any]:
        self._file.seek(place)
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            return json.loads(lines.readline())


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if line.endswith(b"\n") and isinstance(entry, dict) else None


def _state(path: str) -> list[int] | None:
    """Size and time of change; None for stdin and for what is not there."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]

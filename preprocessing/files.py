"""Files that others may have named, may read meanwhile, or may write at the same time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """The path of a new, empty file to write to: renamed to `path` at the end, removed after an error.

    The folder is made if it is missing. The new file lies in it under a name that depends on `path` alone, so that a
    run after a kill replaces what was left over. It is created exclusively: what a link of that name points to is never
    touched. Raises OSError, also if another process replaced the new file meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(_temporary_name(path.name))
    descriptor = _create(unfinished)
    try:
        yield unfinished
        if not _is_file(descriptor, unfinished):
            raise FileExistsError(errno.EEXIST, "another process writes this file, too", str(path))
        os.close(descriptor)  # Windows neither renames nor removes an open file
        descriptor = -1
        unfinished.replace(path)
    except BaseException:
        ours = descriptor < 0 or _is_file(descriptor, unfinished)
        if descriptor >= 0:
            os.close(descriptor)
        if ours:
            unfinished.unlink(missing_ok=True)
        raise


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Lock an open file for this process, until it is closed or the process ends; `wait` for a process that holds it.

    False only if another process holds the lock. On a file system without locks (some NFS, FUSE and cluster file
    systems) the answer is True: the file can be used, but nothing keeps a second process out.
    """
    from filelock import lock_descriptor  # 40 ms

    try:
        return lock_descriptor(file.fileno(), blocking=wait)
    except OSError:  # contention is no error here: flock is not there, or the server does not answer
        return True


def no_links(path: str, flags: int) -> int:
    """An `opener` for `open` that refuses a path which is a link, with OSError (ELOOP)."""
    return os.open(path, flags | _NO_LINKS, 0o666)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary_name(name: str) -> str:
    """A hidden name that is no longer than `name` may be."""
    if len(name.encode(errors="surrogateescape")) <= 200:
        return f".{name}.unfinished"
    return f".{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:24]}.unfinished"


def _create(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS
    for _ in range(10):  # another process may create it between the two calls
        with contextlib.suppress(FileExistsError):
            return os.open(path, flags, 0o666)
        path.unlink(missing_ok=True)  # left over from an earlier run, or a link: what it points to stays
    return os.open(path, flags, 0o666)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False

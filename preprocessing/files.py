"""Writing and reading files whose names or contents others may have chosen."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        ours = _is_file(descriptor, unfinished)
    except BaseException:
        if _is_file(descriptor, unfinished):
            os.close(descriptor)  # Windows removes no open file
            unfinished.unlink()
        else:
            os.close(descriptor)
        raise
    os.close(descriptor)
    if not ours:
        raise FileExistsError(errno.EEXIST, "another process writes this file, too", str(path))
    unfinished.replace(path)


def no_links(path: str, flags: int) -> int:
    """An `opener` for `open` that refuses a path which is a link, with OSError (ELOOP)."""
    return os.open(path, flags | _NO_LINKS, 0o666)


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

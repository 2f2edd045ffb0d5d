"""Parts of a file as a file."""

from __future__ import annotations

import io
from typing import IO


class Ranges(io.RawIOBase):
    """Stretches of a file, one after the other, as a file. It never raises in a decoder's callback."""

    def __init__(self, file: IO[bytes], ranges: list[tuple[int, int]]) -> None:
        super().__init__()
        self._file, self._ranges = file, ranges
        self._size = sum(end - begin for begin, end in ranges)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            return -1
        self._at = at
        return at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view, done, skipped = memoryview(buffer).cast("B"), 0, 0
        for begin, end in self._ranges:
            within = self._at - skipped
            if within < end - begin and done < len(view):
                self._file.seek(begin + within)
                data = self._file.read(min(end - begin - within, len(view) - done))
                view[done : done + len(data)] = data
                done, self._at = done + len(data), self._at + len(data)
            skipped += end - begin
        return done

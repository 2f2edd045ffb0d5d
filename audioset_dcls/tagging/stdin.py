"""A recording on stdin: read once, kept where it can be read again."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile


class Stdin(io.FileIO):
    """What stdin gave, in an unnamed temporary file, or an error for the decoder to put into words."""

    failure: OSError | None = None

    def __init__(self) -> None:
        with tempfile.TemporaryFile(buffering=0) as unnamed:
            super().__init__(os.dup(unnamed.fileno()), "r+")
        self.name = "stdin"

    def read(self, size: int | None = -1) -> bytes:
        if self.failure is not None:
            raise self.failure
        return super().read(-1 if size is None else size)


def read_stdin() -> Stdin:
    stdin = Stdin()
    if sys.stdin is not None:  # None: the shell's `<&-`
        try:
            shutil.copyfileobj(sys.stdin.buffer, stdin, 1 << 20)  # constant memory, however long a recording is
        except OSError as error:
            stdin.failure = error
    stdin.seek(0)
    return stdin

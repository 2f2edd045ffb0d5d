"""The progress bar: recordings done, rate, time left. On stderr, once a run takes more than two seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.progress import TextColumn

from audioset_dcls.tagging.writers.formats import clock
from preprocessing.progress import progress_bar

_DELAY = 2.0  # s
_MEASURED = 20  # as many recordings are asked for their length, so that the bar moves within them


class Bar:
    """A context in which `audio` is called with seconds of audio done, `recording` after each recording.

    Args:
        seconds_of: the length of the file at a path, or None if its header does not tell.
    """

    def __init__(self, paths: Sequence[str], seconds_of: Callable[[str], float | None]) -> None:
        self._seconds = _total_seconds(paths, seconds_of) if len(paths) <= _MEASURED else None
        self._count, self._recordings, self._audio = len(paths), 0, 0.0
        self._began = time.monotonic()
        self._progress = progress_bar(
            TextColumn("{task.fields[rate]}"),
            transient=True,
            # a table on the same terminal goes above the bar; what is piped must not be touched
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task("", total=self._seconds or self._count, rate="")
        self._timer = threading.Timer(_DELAY, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> Bar:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()
        self._progress.stop()

    def audio(self, seconds: float) -> None:
        self._audio += seconds
        self._show()

    def recording(self) -> None:
        self._recordings += 1
        self._show()

    def _show(self) -> None:
        rate = self._audio / max(time.monotonic() - self._began, 1e-9)
        self._progress.update(
            self._task,
            completed=self._audio if self._seconds else self._recordings,
            description=f"{self._recordings}/{self._count}",
            rate=f"{clock(self._audio)}, {rate:.0f}x real time",
        )


def _total_seconds(paths: Sequence[str], seconds_of: Callable[[str], float | None]) -> float | None:
    """The length of all, or None if that of one is unknown."""
    total = 0.0
    for path in paths:
        if (seconds := seconds_of(path)) is None:
            return None
        total += seconds
    return total

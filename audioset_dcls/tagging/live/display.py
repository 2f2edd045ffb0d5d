"""What sounds now and what was heard last, on a terminal."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from audioset_dcls.tagging.live.listener import START, News
from audioset_dcls.tagging.writers.formats import clock
from preprocessing.terminal import printable

_LAST = 12  # events that have ended
_BAR = 20  # characters


class Display:
    """A context that shows the state of a stream on a console."""

    def __init__(self, source: str, console: Console) -> None:
        self._source = printable(source)
        self._now: dict[int, News] = {}
        self._last: deque[str] = deque(maxlen=_LAST)
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def heard(self, news: list[News], at: float, behind: float, time: datetime) -> None:
        """After each window, with news or without: `at` and `behind` in seconds, `time` of day at `at`."""
        for one in news:
            if one.kind == START:
                self._now[one.number] = one
            else:
                self._now.pop(one.number, None)
                event = one.event
                span = f"{clock(event.start):>7} - {clock(event.end):<7}"
                self._last.append(f"  {span}  {event.score:.2f}  {printable(event.label)}")
        self._live.update(Group(*map(Text, self._lines(at, behind, time))), refresh=True)

    def note(self, line: str) -> None:
        """A line that stays."""
        self._live.console.print(Text(printable(line)))

    def _lines(self, at: float, behind: float, time: datetime) -> list[str]:
        late = f", {behind:.0f} s behind" * (behind >= 1)
        lines = [f"{self._source}  {time:%H:%M:%S}  {clock(at)}{late}"]
        for one in self._now.values():
            bar = "#" * round(one.event.score * _BAR)
            lines.append(f"  {bar:<{_BAR}}  {one.event.score:.2f}  {printable(one.event.label)}")
        return [*lines, *reversed(self._last)]

"""Tells everyone who asked what is heard in a stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from audioset_dcls.tagging.live.clips import ClipRecorder
from audioset_dcls.tagging.live.command import CommandRunner
from audioset_dcls.tagging.live.listener import END, START, News
from audioset_dcls.tagging.live.mqtt import Mqtt
from preprocessing.decoding.spans import Waveform
from preprocessing.terminal import json_text, show

_LATE = 2.0  # windows behind: said once, and again whenever it has doubled


@dataclass(frozen=True)
class Listeners:
    """Who wants to know: a folder for clips, an MQTT broker, a command; all of `Reporter`'s by default nobody."""

    clips: Path | None = None
    mqtt: str | None = None
    command: str | None = None
    all_levels: bool = False
    quiet: bool = False


class Reporter:
    """A context. JSON lines go to stdout unless that and stderr are a terminal, which gets a display instead.

    Args:
        time_of: seconds since the first sound -> time of day.

    Raises OSError and ValueError for what cannot be reached, ModuleNotFoundError for a library that is missing.
    """

    def __init__(
        self, source: str, listeners: Listeners, rate: int, window: float, time_of: Callable[[float], datetime]
    ) -> None:
        self._listeners, self._window, self._time_of = listeners, window, time_of
        self._late = _LATE * window
        self._told: set[int] = set()  # numbers of the events that people were told of
        self._display = None
        if sys.stderr.isatty() and not listeners.quiet:
            from rich.console import Console

            from audioset_dcls.tagging.live.display import Display

            self._display = Display(source, Console(stderr=True))
        self._lines = not (sys.stdout.isatty() and self._display)
        self._clips = listeners.clips and ClipRecorder(listeners.clips, rate, window, time_of)
        self._command = listeners.command and CommandRunner(listeners.command, self.note)
        self._mqtt = listeners.mqtt and Mqtt(listeners.mqtt)

    def __enter__(self) -> Reporter:
        self._stack = ExitStack()
        if self._mqtt:
            self._stack.callback(self._mqtt.close)
        if self._display:
            self._stack.enter_context(self._display)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def note(self, line: str) -> None:
        """Tell the user something about the stream itself."""
        if self._listeners.quiet:
            return
        if self._display:
            self._display.note(f"dcls-listen: {line}")
        else:
            show(f"dcls-listen: {line}", sys.stderr)

    def pass_on(self, base: float, blocks: Iterator[Waveform]) -> Iterator[Waveform]:
        """The blocks of a segment, on their way to the model."""
        return self._clips.keep(base, blocks) if self._clips else blocks

    def heard(self, news: list[News], at: float, behind: float) -> None:
        """After each window: what is new, up to which moment was heard, and how far that is behind; seconds."""
        for one in news:
            line = one.to_dict() | {"time": self._iso(one.event.start), "behind": round(max(behind, 0.0), 1)}
            if self._lines:
                sys.stdout.write(json_text(json.dumps(line, ensure_ascii=False)) + "\n")
                sys.stdout.flush()
        told = [one for one in news if self._is_told(one)]
        if self._clips:
            self._clips.heard(told)
        for one in told:
            event = one.to_dict() | {"time": self._iso(one.event.start)}
            if self._command and one.kind == START:
                self._command.heard(event)
            if self._mqtt:
                self._mqtt.heard(event)
        if self._display:
            self._display.heard(told, at, behind, self._time_of(at))
        if behind > self._late:
            self._late = 2 * behind
            self.note(f"{behind:.0f} s behind: this machine is too slow; take a longer --hop, or fewer programs")

    def segment_ended(self) -> None:
        """Nothing more comes of this stretch of sound."""
        if self._clips:
            self._clips.finish()

    def _is_told(self, news: News) -> bool:
        """Whether it is for people: what another class implies is not. The end of an event follows its start."""
        if news.kind == START and (self._listeners.all_levels or not news.event.implied):
            self._told.add(news.number)
        known = news.number in self._told
        if news.kind == END:
            self._told.discard(news.number)
        return known

    def _iso(self, seconds: float) -> str:
        return self._time_of(seconds).isoformat(timespec="milliseconds")

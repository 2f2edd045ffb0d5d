"""What decoders hand on: stretches of samples with their place on the file's own time axis, and notes for the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Waveform: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Mix: TypeAlias = Callable[[np.ndarray], Waveform]  # (samples, channels) -> (samples,)

GAP = 0.05  # s: a smaller difference between time stamps and counted samples is rounding or jitter of the writer
JUMP_BACK = 0.5  # s: time stamps that go back by more start a new count
LATE = 0.5  # s: sound that begins later is worth a note
JUMP_AHEAD = 1.0  # s: a larger one must be confirmed by what follows
_CONFIRMED = 1.0  # s: of sound that follows a jump without another one
LONGEST_GAP = 3600.0  # s, in files that do not declare their length
MAX_SILENCE = 24 * 3600.0  # s, in all: what time stamps may put between the packets of one file
SHORT = 0.1  # s: encoders pad their last frame, so a smaller difference between declared and decoded is no loss
_SILENT_BLOCK = 2**18  # samples


class AudioError(ValueError):
    """A source that gives no waveform. The message is one line: the source's name, what is wrong, what to do."""


class Note(NamedTuple):
    """What the user should know of a recording that was decoded all the same; the text is one line without its name.

    Attributes:
        misplaced: sound is missing, and how much is unknown: times after it are earlier than in the recording.
    """

    text: str
    misplaced: bool = False


class Span(NamedTuple):
    """Consecutive mono samples. `start` is in seconds from the file's time zero; None continues the span before."""

    rate: int
    samples: Waveform
    start: float | None = None

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def end(self, before: float) -> float:
        """Seconds from time zero; the span before ended at `before`."""
        return self.seconds + (before if self.start is None else self.start)


@dataclass
class Findings:
    """What a decoder learns about a file while it decodes.

    Attributes:
        declared: seconds that the file says to last, from its time zero.
        damaged: packets that could not be decoded.
        uncertain: sound follows damage in a format without time stamps, so its time was estimated.
    """

    declared: float | None = None
    damaged: int = 0
    uncertain: bool = False
    notes: list[Note] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)  # (place, length) in seconds

    def say(self, text: str, misplaced: bool = False) -> None:
        self.notes.append(Note(text, misplaced))

    def note(self) -> Note | None:
        """All of it in one line, or None."""
        if not self.notes:
            return None
        return Note("; ".join(note.text for note in self.notes), any(note.misplaced for note in self.notes))


def scale(samples: np.ndarray) -> np.ndarray:
    """Integers to [-1, 1) float32, floats to float32."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
    with np.errstate(over="ignore"):  # what overflows is refused later, in words
        return samples.astype(np.float32, copy=False)


def on_time_axis(spans: Iterator[Span], findings: Findings) -> Iterator[tuple[int, Waveform]]:
    """(sample rate, block) pairs without holes: what is missing between spans becomes silence of its length.

    Time stamps that cannot be (beyond the declared end or, if there is none, an hour ahead; more than a day of silence
    in all; back in time) move the count instead, and a note says that times are counted on from there. Adds notes on
    gaps, and on an end before the declared one.
    """
    clock = _Clock(findings)
    for span in _without_outliers(spans):
        silence = 0.0 if span.start is None else clock.silence_before(span.start)
        for size in _sizes(round(silence * span.rate)):
            yield span.rate, np.zeros(size, np.float32)
        yield span.rate, span.samples
        clock.position += silence + len(span.samples) / span.rate
    clock.finish()


def _without_outliers(spans: Iterator[Span]) -> Iterator[Span]:
    """The same spans. A short one that jumps and whose successor does not follow on it has a damaged time stamp."""
    time = 0.0  # at the end of the span before
    held: Span | None = None
    for span in spans:
        if held is not None:
            if span.start is not None and abs(span.start - time - held.seconds) < abs(span.start - held.end(time)):
                held = held._replace(start=None)
            time = held.end(time)
            yield held
            held = None
        jumps = span.start is not None and not -JUMP_BACK < span.start - time < JUMP_AHEAD
        if jumps and span.seconds < _CONFIRMED:
            held = span
            continue
        time = span.end(time)
        yield span
    if held is not None:
        yield held


def _sizes(samples: int) -> Iterator[int]:
    while samples > 0:
        yield min(samples, _SILENT_BLOCK)
        samples -= _SILENT_BLOCK


class _Clock:
    """Compares time stamps with the seconds that were handed on."""

    def __init__(self, findings: Findings) -> None:
        self.position = 0.0  # s, handed on
        self._shift = 0.0  # s: time stamp minus position, after a jump that was not believed
        self._silence = 0.0  # s, in all
        self._findings = findings

    def silence_before(self, start: float) -> float:
        """Seconds that are missing before a span that starts at `start`."""
        difference = start - (self.position + self._shift)
        if difference > GAP and self._believed(start, difference):
            self._silence += difference
            if self.position:
                self._findings.gaps.append((self.position, difference))
            elif difference > LATE:
                self._findings.say(f"its sound begins at {_clock(difference)}")
            return difference
        if difference > GAP or difference < -JUMP_BACK:
            self._shift += difference
            jump = f"its time stamps jump by {difference:+.1f} s at {_clock(self.position)}"
            self._findings.say(f"{jump}; times are counted on from there", misplaced=difference > 0)
        return 0.0

    def _believed(self, start: float, difference: float) -> bool:
        declared = self._findings.declared
        within = difference <= LONGEST_GAP if declared is None or self._shift else start <= declared + 1
        return within and self._silence + difference <= MAX_SILENCE

    def finish(self) -> None:
        findings, declared = self._findings, self._findings.declared
        missing = 0.0 if declared is None else declared - self.position - self._shift
        if findings.gaps:
            total = sum(length for _, length in findings.gaps)
            places = f"in {len(findings.gaps)} places, the first " if len(findings.gaps) > 1 else ""
            findings.say(f"{total:.1f} s are missing {places}at {_clock(findings.gaps[0][0])}; they count as silence")
        if missing > SHORT:
            findings.say(f"{self.position:.1f} s of the declared {declared:.1f} s can be decoded")
        if findings.damaged and not findings.gaps and not missing > SHORT:
            count = findings.damaged
            findings.say(f"{count} damaged packet{'s are' if count > 1 else ' is'} left out")
        if findings.uncertain and (declared is None or abs(missing) > SHORT):
            findings.say("times after the damage may be too early", misplaced=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"

"""What is tagged and how, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from audioset_dcls.tagging.events import Event, implied_classes
from audioset_dcls.tagging.windows import LONGEST_WINDOW, SHORTEST_WINDOW
from preprocessing.audio import MIX, Note, to_channel
from preprocessing.labels import ancestor_matrix

if TYPE_CHECKING:
    from audioset_dcls.tagging.tagger import Tagger

File: TypeAlias = str | Path | IO[bytes] | bytes
Decode: TypeAlias = Callable[[Any, float, int, str | int, Callable[[Note], None]], Iterator[np.ndarray]]
THRESHOLD, TOP = 0.2, 5
_DIGITS = 4  # of a score


@dataclass(frozen=True)
class Options:
    """How to cut, pool and report.

    Attributes:
        window, hop: seconds; longer recordings are cut in windows of `window` every `hop`. By default a window is as
            long as the clips that the tagger learned from, 10 s at most, and the hop what its file says, or half the
            window.
        threshold, top: what counts as heard, and how many tags of a recording or window, see `EventTracker`. They leave
            `Result.scores` alone.
        thresholds: display name -> the threshold of that class, instead of `threshold`.
        labels: display names; the results hold these classes only.
        channel: which one of a file to hear: "mix", "left", "right", or its number from 1.
        timeline, embeddings: keep them for every window (2 kB and about 1.3 kB a window); a tagger without the output
            "embedding" gives none.
    """

    window: float | None = None
    hop: float | None = None
    threshold: float = THRESHOLD
    top: int = TOP
    labels: tuple[str, ...] | None = None
    channel: str | int = MIX
    timeline: bool = True
    embeddings: bool = True
    thresholds: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not SHORTEST_WINDOW <= self.window <= 3600:
            raise ValueError(f"window must be {SHORTEST_WINDOW} to 3600 seconds, not {self.window:g}")
        longest = 3600 if self.window is None else self.window
        if self.hop is not None and not SHORTEST_WINDOW <= self.hop <= longest:
            raise ValueError(f"hop must be {SHORTEST_WINDOW} to {longest:g} seconds (the window), not {self.hop:g}")
        for threshold in (self.threshold, *(self.thresholds or {}).values()):
            if not 0 < threshold <= 1:
                raise ValueError(f"threshold must be above 0 and at most 1, not {threshold:g}")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, not {self.top}")
        to_channel(self.channel)

    def of(self, tagger: Tagger) -> Settings:
        """With the tagger's own window if none is given. Raises ValueError if the hop is longer."""
        window = tagger.window if self.window is None else self.window
        hop = self.hop
        if hop is None:
            hop = tagger.hop if self.window is None else max(window / 2, SHORTEST_WINDOW)
        return Settings(**{**vars(self), "window": window, "hop": hop})

    def thresholds_of(self, labels: Sequence[str]) -> np.ndarray:
        """(C,) float32: the threshold of each class."""
        own = self.thresholds or {}
        return np.array([own.get(label, self.threshold) for label in labels], np.float32)


@dataclass(frozen=True)
class Settings(Options):
    """Options of which nothing is left open."""

    window: float = LONGEST_WINDOW
    hop: float = LONGEST_WINDOW / 2

    def fingerprint(self) -> dict[str, Any]:
        """What a recording's tags and events depend on, apart from it and from the tagger; plain values."""
        return {
            "window": self.window,
            "hop": self.hop,
            "threshold": self.threshold,
            "thresholds": dict(self.thresholds or {}),
            "top": self.top,
            "labels": self.labels,
            "channel": self.channel,
        }


@dataclass(repr=False)
class Result:
    """What was heard in one recording. Scores are independent sigmoid probabilities: they do not sum to 1.

    Attributes:
        source: what was tagged, for display.
        duration: seconds.
        labels: display names in the order of the scores.
        scores, mean_scores: (C,) float32, the highest and the mean of the windows' scores.
        starts: (windows,) seconds; a window lasts `window` seconds, the last one ends with the recording.
        window: seconds.
        thresholds: (C,) float32, the scores from which the classes count as heard.
        events: tags from when to when, see `EventTracker`; those with `implied` are of a class above another one.
        timeline: (windows, C) float32 scores, or None.
        embeddings: (windows, D) float32, or None.
        note: what the user should know of the recording, such as sound that is missing in it, or None.
    """

    source: str
    duration: float
    labels: tuple[str, ...]
    scores: np.ndarray
    mean_scores: np.ndarray
    starts: np.ndarray
    window: float
    thresholds: np.ndarray
    events: list[Event]
    timeline: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    note: Note | None = None

    @property
    def embedding(self) -> np.ndarray | None:
        """(D,) float32: the mean over the windows."""
        return None if self.embeddings is None else self.embeddings.mean(0)

    @property
    def implied(self) -> np.ndarray:
        """(C,) bool: classes that count as heard and have a descendant in AudioSet's ontology that does, too."""
        return implied_classes(self.scores >= self.thresholds, ancestor_matrix(self.labels))

    def top(self, count: int = TOP, threshold: float = 0.0, all_levels: bool = False) -> list[tuple[str, float]]:
        """The `count` best tags with a score of at least `threshold`: (display name, score), best first.

        The most specific ones: "Animal" is left out if "Bark" counts as heard, unless `all_levels` is set.
        """
        scores = self.scores if all_levels else np.where(self.implied, -1, self.scores)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(self.labels[i], float(scores[i])) for i in best if scores[i] >= threshold]

    def to_dict(self, count: int = TOP) -> dict[str, Any]:
        """Plain types, what `dcls-tag --format json` writes: the best tags, `count` at most, and all events.

        What the best tags imply is there, too, marked so, beyond `count`.
        """
        implied, passes = self.implied, self.scores >= self.thresholds
        order = [int(i) for i in np.argsort(-self.scores, kind="stable") if passes[i]]
        own = [i for i in order if not implied[i]][:count]
        (best,) = self.top(1)
        return {
            "file": self.source,
            "duration": round(self.duration, 3),
            "tags": [
                {
                    "label": self.labels[i],
                    "score": round(float(self.scores[i]), _DIGITS),
                    "mean": round(float(self.mean_scores[i]), _DIGITS),
                    "implied": bool(implied[i]),
                }
                for i in order
                if implied[i] or i in own
            ],
            "events": [
                event._replace(score=round(event.score, _DIGITS), mean=round(event.mean, _DIGITS))._asdict()
                for event in self.events
            ],
            "best": {"label": best[0], "score": round(best[1], _DIGITS)},
        }

    def __repr__(self) -> str:
        best = ", ".join(f"{label} {score:.2f}" for label, score in self.top(3))
        return f"<Result {self.source}, {self.duration:.1f} s: {best}>"


@dataclass(frozen=True)
class OneChannel:
    """One channel of a file as a recording of its own, called `name`."""

    file: File
    channel: str | int
    name: str


Source: TypeAlias = File | np.ndarray | OneChannel  # or a tensor


@dataclass(frozen=True)
class Failure:
    """A recording that could not be tagged; `message` is one line that names it."""

    source: str
    message: str

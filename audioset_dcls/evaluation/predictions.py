"""What a model said about a set of clips, beside the truth: the one thing that evaluation works on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from preprocessing import labels as audioset
from preprocessing.clips.layout import hash_ids

FULL = "full"  # the key of whole clips; those of cut ones are `length_name(seconds)`


def length_name(seconds: float | None) -> str:
    """None -> "full", 5.0 -> "5 s"."""
    return FULL if seconds is None else f"{seconds:g} s"


@dataclass(frozen=True)
class Predictions:
    """Scores of N clips in C classes, for whole clips and for cut ones.

    Attributes:
        clips: N names, each clip once.
        labels: C display names.
        targets: bool (N, C).
        scores: float32 (N, C), by length: "full" and, for clips cut to their first seconds, "5 s", "2 s", ...
        sources: N, e.g. package or repository, or None if they are not known.

    Raises ValueError if the shapes differ or a score is not finite, naming the clip and the class.
    """

    clips: Sequence[str]
    labels: Sequence[str]
    targets: NDArray[np.bool_]
    scores: Mapping[str, NDArray[np.float32]]
    sources: Sequence[str] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.clips), len(self.labels))
        if self.sources is not None and len(self.sources) != shape[0]:
            raise ValueError(f"{len(self.sources)} sources for {shape[0]} clips")
        for length, scores in {"targets": self.targets, **self.scores}.items():
            if scores.shape != shape:
                raise ValueError(f"{length}: {scores.shape} for {shape[0]} clips and {shape[1]} labels")
            if not (finite := np.isfinite(scores)).all():
                clip, label = np.argwhere(~finite)[0]
                raise ValueError(
                    f"{np.count_nonzero(~finite)} scores are not finite, the first for clip {self.clips[clip]!r}, "
                    f"class {self.labels[label]!r} ({length}): {scores[clip, label]}; the model or this audio holds NaN"
                )

    @cached_property
    def clip_hash(self) -> str:
        """SHA-256 of the sorted clip ids, as `dcls-prepare` stores it in the file."""
        return hash_ids(self.clips)

    @cached_property
    def target_hash(self) -> str:
        return hash_targets(self.clips, self.labels, self.targets, self.sources)

    @property
    def resampled(self) -> Sequence[str] | None:
        """The sources that intervals are taken over; None for the clips, if fewer than two sources are known."""
        return self.sources if self.sources is not None and len(set(self.sources)) > 1 else None

    @cached_property
    def depth(self) -> NDArray[np.int64]:
        """(C,) depth of the classes in AudioSet's ontology; 0 for all if one of them is not AudioSet's."""
        known = {label.display_name for label in audioset.labels()}
        if not known.issuperset(self.labels):
            return np.zeros(len(self.labels), np.int64)
        return np.array([audioset.depth(label) for label in self.labels], np.int64)


def hash_targets(
    clips: Sequence[str], labels: Sequence[str], targets: NDArray[np.bool_], sources: Sequence[str] | None = None
) -> str:
    """SHA-256 of names, targets and sources in their order: equal only if the same was asked of the same clips."""
    content = hashlib.sha256("\n".join([*clips, *labels, *(sources or ())]).encode())
    content.update(np.packbits(targets).tobytes())
    return content.hexdigest()

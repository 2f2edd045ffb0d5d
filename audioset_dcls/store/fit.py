"""Logistic regressions on embeddings, and what to expect of them, by cross-validation over recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from audioset_dcls.evaluation.bootstrap import bootstrap_average_precision, interval, resample_clips
from audioset_dcls.evaluation.calibration import sigmoid
from audioset_dcls.evaluation.metrics import average_precision
from audioset_dcls.store.examples import ExamplesError
from audioset_dcls.store.samples import Samples
from audioset_dcls.store.vectors import normalized

_STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)  # scikit-learn's C, the strongest regularisation first
_EQUAL = 0.005  # of average precision
_FOLDS = 5
_RESAMPLES = 1000
BACKGROUND_NAME = "(background)"
NOTHING = "(nothing)"


@dataclass(frozen=True)
class Expected:
    """What to expect of a class, on recordings that were not learned from.

    Attributes:
        label; clips, recordings: how many it was learned from.
        average_precision, low, high: with a 95 % bootstrap interval over recordings.
        threshold: from which a score counts; precision, recall: of clips there.
    """

    label: str
    clips: int
    recordings: int
    average_precision: float
    low: float
    high: float
    threshold: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Doubt:
    """An example that the others speak against: perhaps its class is wrong."""

    path: str
    start: float
    label: str  # what it is said to be
    score: float | None  # of that class; None for the background
    heard: str  # the other class that is most likely
    heard_score: float


@dataclass(frozen=True)
class Lesson:
    """What was learned.

    Attributes:
        labels: the new classes. weight, bias: (D, C) and (C,), of embeddings of length 1.
        expected: of each class. confusion: (rows, columns) clips; rows are the classes and the background, columns the
            classes and nothing. doubts: the most doubtful examples first.
        strength, class_weight: chosen by cross-validation, for scikit-learn's `LogisticRegression`.
    """

    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    expected: tuple[Expected, ...]
    confusion: np.ndarray
    doubts: tuple[Doubt, ...]
    strength: float
    class_weight: str | None


def learn(samples: Samples, precision: float = 0.9) -> Lesson:
    """Fit one logistic regression a class.

    Args:
        precision: wanted; a class' threshold is the lowest that has it on recordings not learned from, or the one with
            the highest precision there.

    Class weights and regularisation are those with the highest mean average precision in cross-validation; of those
    that are as good, with the lowest log-loss: the scores that are most like probabilities. No recording is on both
    sides. Raises ExamplesError for examples that no class can be learned from.
    """
    data = _Data(samples)
    tried = [data.attempt(strength, "balanced") for strength in _STRENGTHS]
    tried.append(data.attempt(_best(tried).strength, None))
    strength, class_weight, scores, _, _ = _best(tried)
    weight, bias = data.fit(np.ones(len(samples.clip), bool), strength, class_weight)
    expected = tuple(_expected(data, scores, number, precision) for number in range(len(data.labels)))
    thresholds = np.array([one.threshold for one in expected])
    return Lesson(
        data.labels,
        weight,
        bias,
        expected,
        _confusion(data, scores, thresholds),
        _doubts(data, scores, thresholds),
        strength,
        class_weight,
    )


class _Attempt(NamedTuple):
    """Scores (M, C) of clips by models that heard nothing of their recordings, and how good they are."""

    strength: float
    class_weight: str | None
    scores: np.ndarray
    quality: float  # mean average precision
    loss: float  # log-loss, nats


def _best(attempts: Sequence[_Attempt]) -> _Attempt:
    best = max(attempt.quality for attempt in attempts)
    return min((one for one in attempts if one.quality >= best - _EQUAL), key=lambda one: one.loss)


class _Data:
    """Samples as arrays, checked.

    Attributes: `labels`; `targets`, `known` (M, C) bool, a row a clip; `recording` (M,), a number for each content.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples, clips = samples, samples.clips
        self.labels = tuple(dict.fromkeys(label for clip in clips for label in sorted(clip.labels)))
        shape = len(clips), len(self.labels)
        self.targets = np.array([[label in clip.labels for label in self.labels] for clip in clips], bool).reshape(
            shape
        )
        self.known = np.array(
            [[clip.judged in (None, label) for label in self.labels] for clip in clips], bool
        ).reshape(shape)
        _, self.recording = np.unique([clip.content for clip in clips], return_inverse=True)
        self._check()
        # of the forms that studies/few_shot compares the best one; this length makes a feature 1 on average
        self._length = samples.embeddings.shape[1] ** 0.5
        self._values = normalized(samples.embeddings) * self._length
        # so that a long clip counts as much as a short one
        self._weight = 1 / np.bincount(samples.clip, minlength=len(clips))[samples.clip]
        self._fold = self._folds()

    def attempt(self, strength: float, class_weight: str | None) -> _Attempt:
        """Cross-validate."""
        scores = self.held_out(strength, class_weight)
        judged = [self.judged(scores, number) for number in range(len(self.labels))]
        quality = np.mean([_quality(truth, values) for truth, values in judged])
        loss = np.mean([_log_loss(truth, values) for truth, values in judged])
        return _Attempt(strength, class_weight, scores, float(quality), float(loss))

    def held_out(self, strength: float, class_weight: str | None) -> np.ndarray:
        """(M, C): each clip's scores, the best of its windows, by models that heard nothing of its recording."""
        clip, windows = self.samples.clip, np.empty((len(self.samples.clip), len(self.labels)))
        for fold in range(self._fold.max() + 1):
            held = self._fold[clip] == fold
            weight, bias = self.fit(~held, strength, class_weight)
            windows[held] = sigmoid(self._values[held] / self._length @ weight + bias)
        scores = np.zeros((len(self.samples.clips), len(self.labels)))
        np.maximum.at(scores, clip, windows)
        return scores

    def fit(self, used: np.ndarray, strength: float, class_weight: str | None) -> tuple[np.ndarray, np.ndarray]:
        """weight (D, C) and bias (C,) from the windows in `used`, bool (N,).

        A class of which they hold no example, or nothing else, gets scores of 0.
        """
        from sklearn.linear_model import LogisticRegression

        weight, bias = np.zeros((self._values.shape[1], len(self.labels))), np.full(len(self.labels), -10.0)
        for number in range(len(self.labels)):
            rows = np.flatnonzero(used & self.known[self.samples.clip, number])
            truth = self.targets[self.samples.clip[rows], number]
            if truth.all() or not truth.any():
                continue
            model = LogisticRegression(C=strength, class_weight=class_weight, max_iter=1000)
            model.fit(self._values[rows], truth, sample_weight=self._weight[rows])
            weight[:, number] = model.coef_[0] * self._length
            bias[number] = model.intercept_[0]
        return weight, bias

    def judged(self, scores: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(targets, scores) of the clips of which is known whether the class is in them."""
        known = self.known[:, number]
        return self.targets[known, number], scores[known, number]

    def recordings(self, number: int, present: bool) -> int:
        """How many recordings are known to have, or to lack, a class."""
        return len(set(self.recording[self.known[:, number] & (self.targets[:, number] == present)]))

    def _check(self) -> None:
        if not self.labels:
            raise ExamplesError("no class has an example that can be read; give 5 to 50 clips for each")
        for number, label in enumerate(self.labels):
            have, lack = (self.recordings(number, present) for present in (True, False))
            if not lack and len(self.labels) == 1:
                raise ExamplesError(
                    f"{label!r} is the only class; add another one, or a folder background/ of other sounds"
                )
            if have < 2:
                raise ExamplesError(f"{label!r} has 1 recording; give 2 at least, 5 to 50 are better")
            if lack < 2:
                raise ExamplesError(f"{lack} recordings are not {label!r}; add 2 at least, in a folder background/")

    def _folds(self) -> np.ndarray:
        """(M,): the part of the cross-validation that each clip is in: its recording's, dealt class by class."""
        smallest = min(
            self.recordings(number, present) for number in range(len(self.labels)) for present in (True, False)
        )
        count = min(_FOLDS, smallest)
        fold: dict[int, int] = {}
        for wanted in [*self.targets.T, ~self.targets.any(axis=1)]:
            new = [number for number in dict.fromkeys(self.recording[wanted].tolist()) if number not in fold]
            # those with other classes were dealt before: the rest goes where the fewest of this class are
            held = np.bincount(
                [fold[number] for number in set(self.recording[wanted].tolist()) & fold.keys()], minlength=count
            )
            for number in new:
                fold[number] = int(held.argmin())
                held[fold[number]] += 1
        return np.array([fold[number] for number in self.recording.tolist()])


def _expected(data: _Data, scores: np.ndarray, number: int, precision: float) -> Expected:
    truth, values = data.judged(scores, number)
    recordings = data.recording[data.known[:, number]]
    average = _quality(truth, values)
    draws = resample_clips(len(truth), _RESAMPLES, sources=[str(one) for one in recordings])
    low, high = interval(bootstrap_average_precision(truth[:, None], values[:, None], draws)[:, 0], average)
    threshold = threshold_for(truth, values, precision)
    heard = values >= threshold
    return Expected(
        data.labels[number],
        int(truth.sum()),
        data.recordings(number, True),
        average,
        max(low, 0.0),
        min(high, 1.0),
        threshold,
        float(truth[heard].mean()),
        float(heard[truth].mean()),
    )


def threshold_for(truth: np.ndarray, scores: np.ndarray, precision: float) -> float:
    """The lowest threshold with a precision, or that with the highest; halfway to the next lower score.

    truth: (M,) bool. scores: (M,).
    """
    order = np.argsort(-scores, kind="stable")
    values, found = scores[order], truth[order].cumsum() / np.arange(1, len(order) + 1)
    last = np.append(values[1:] < values[:-1], True)  # of equal scores
    places = np.flatnonzero(last & (found >= precision))
    place = int(places[-1]) if len(places) else int(np.where(last, found, -1).argmax())
    below = values[place + 1] if place + 1 < len(values) else 0.0
    return float(np.clip((values[place] + below) / 2, 0.001, values[place]))


def _confusion(data: _Data, scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    passed = np.where(scores >= thresholds, scores, -1)
    heard = np.where(passed.max(axis=1) >= 0, passed.argmax(axis=1), len(data.labels))
    counts = np.zeros((len(data.labels) + 1, len(data.labels) + 1), int)
    whole = data.known.all(axis=1)
    for row, truth in enumerate([*data.targets.T, ~data.targets.any(axis=1)]):
        counts[row] = np.bincount(heard[truth & whole], minlength=len(data.labels) + 1)
    return counts


def _doubts(data: _Data, scores: np.ndarray, thresholds: np.ndarray, count: int = 5) -> tuple[Doubt, ...]:
    """Examples whose score of their own class is below its threshold, or less above it than another one."""
    found: list[tuple[float, Doubt]] = []
    for clip, truth, values in zip(data.samples.clips, data.targets, scores, strict=True):
        if clip.judged is not None:
            continue
        margins = _logit(values) - _logit(thresholds)
        others = float(np.where(truth, -np.inf, margins).max())
        own = float(margins[truth].max()) if truth.any() else -others
        if own < 0 or others > own:
            best = int(np.where(truth, -np.inf, margins).argmax())
            name = "; ".join(sorted(clip.labels)) or BACKGROUND_NAME
            score = float(values[truth].max()) if truth.any() else None
            doubt = Doubt(clip.path, clip.start, name, score, data.labels[best], float(values[best]))
            found.append((own - others, doubt))
    found.sort(key=lambda pair: (pair[0], pair[1].path, pair[1].start))
    return tuple(doubt for _, doubt in found[:count])


def _quality(truth: np.ndarray, scores: np.ndarray) -> float:
    return float(average_precision(truth[:, None], scores[:, None])[0])


def _log_loss(truth: np.ndarray, scores: np.ndarray) -> float:
    """Nats a clip."""
    right = np.where(truth, scores, 1 - scores)
    return float(-np.log(np.maximum(right, 1e-6)).mean())


def _logit(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(scores, 1e-6, 1 - 1e-6)
    result: np.ndarray = np.log(inside / (1 - inside))
    return result


def confusion_names(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of the rows and of the columns of a confusion table."""
    return [*labels, BACKGROUND_NAME], [*labels, NOTHING]

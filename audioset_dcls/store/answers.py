"""What a person said of windows: kept in the store; the precision at each threshold, and what to ask next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from audioset_dcls.store.database import SCORE_UNIT, Database

ANSWERS = ("yes", "no", "unsure")
EDGES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # the thresholds that are told of
START = 0.5  # what is taken for the threshold until the answers tell it
_DRAWS = 4000
_LEVEL = 0.95


@dataclass(frozen=True)
class Candidate:
    """A window that may hold the class: id, absolute path, start and end in seconds, score."""

    window: int
    path: str
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Precision:
    """Of the windows with at least `threshold`: how many there are, and which share holds the class.

    estimate, low, high: posterior mean and 95 % interval. answered: how many of them were.
    """

    threshold: float
    windows: int
    answered: int
    estimate: float
    low: float
    high: float


def save_answer(database: Database, label: str, window: int, answer: str) -> None:
    """Keep what a person said of a window; a later answer replaces it. Raises ValueError for what is no answer."""
    if answer not in ANSWERS:
        raise ValueError(f"{answer!r} is none of {', '.join(ANSWERS)}")
    number = database.facts.labels.index(label)
    row = next(
        database.query(
            'SELECT content, start, windows."end", score FROM windows '
            "JOIN recordings ON recordings.id = recording "
            'JOIN scores ON scores."window" = windows.id AND class = ? WHERE windows.id = ?',
            [number, window],
        ),
        None,
    )
    if row is None:
        raise ValueError(f"window {window} is no candidate for {label!r}")
    content, start, end, score = row
    values = [content, start, end, label, answer, score / SCORE_UNIT, datetime.now(UTC).isoformat(timespec="seconds")]
    with database.transaction():
        database.insert("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", values)


class Review:
    """The candidates for a class and the answers so far, read once.

    target: the precision that a threshold is wanted for.
    """

    def __init__(self, database: Database, label: str, target: float) -> None:
        self.label, self.target = label, target
        rows = database.query(
            "SELECT windows.id, recording, scores.score, answer FROM scores "
            'JOIN windows ON windows.id = scores."window" '
            "JOIN recordings ON recordings.id = recording "
            "LEFT JOIN answers ON answers.content = recordings.content AND answers.start = windows.start "
            'AND answers."end" = windows."end" AND answers.label = ? WHERE class = ? ORDER BY windows.id',
            [label, database.facts.labels.index(label)],
        )
        numbers = {answer: number for number, answer in enumerate(ANSWERS)}
        table = np.array([(*row[:3], numbers.get(row[3], -1)) for row in rows], np.int64).reshape(-1, 4)
        self.windows, self.recordings, self.answers = table[:, 0], table[:, 1], table[:, 3]
        self.scores = table[:, 2] / SCORE_UNIT

    def record(self, window: int, answer: str) -> None:
        """An answer that was saved since."""
        self.answers[self.windows == window] = ANSWERS.index(answer)

    def precisions(self) -> list[Precision]:
        """At each of EDGES that a candidate reaches.

        Answers are not evenly spread over the scores, so each stratum between two edges is estimated by itself (the
        posterior of its share, from Jeffreys' prior) and counts with the number of its candidates.
        """
        stratum = np.searchsorted(EDGES, self.scores, side="right") - 1
        judged = np.isin(self.answers, (0, 1))
        count, yes, no = (
            np.bincount(stratum[chosen], minlength=len(EDGES))
            for chosen in (stratum >= 0, self.answers == 0, self.answers == 1)
        )
        draws = np.random.default_rng(0).beta(yes + 0.5, no + 0.5, (_DRAWS, len(EDGES)))
        found = []
        for number, threshold in enumerate(EDGES):
            above = count[number:]
            if not above.sum():
                break
            share = draws[:, number:] @ above / above.sum()
            low, high = np.quantile(share, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
            answered = int((judged & (stratum >= number)).sum())
            found.append(Precision(threshold, int(above.sum()), answered, float(share.mean()), float(low), float(high)))
        return found

    def threshold(self) -> float | None:
        """The lowest threshold that is estimated to have the target precision; None if there is none."""
        return next((one.threshold for one in self.precisions() if one.estimate >= self.target), None)

    def upcoming(self, count: int) -> list[int]:
        """The ids of the windows to ask about next: nearest to the threshold, in turns of the recordings."""
        threshold = self.threshold() or START
        open_ = np.flatnonzero(self.answers < 0)
        distance = np.abs(_logit(self.scores[open_]) - _logit(np.array(threshold)))
        # the turn of a candidate: how many of its recording are answered, or nearer
        order = np.lexsort((distance, self.recordings[open_]))
        ordered = self.recordings[open_][order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else np.empty(0, int)
        turn = np.arange(len(ordered)) - np.repeat(first, np.diff(np.append(first, len(ordered))))
        answered = np.unique(self.recordings[self.answers >= 0], return_counts=True)
        turn += _lookup(ordered, *answered)
        best = np.lexsort((distance[order], turn))[:count]
        return [int(number) for number in self.windows[open_][order][best]]


def candidate(database: Database, label: str, window: int) -> Candidate | None:
    """A window with its score of the class; None if it is none of its candidates."""
    rows = database.query(
        'SELECT windows.id, path, start, windows."end", score FROM windows '
        "JOIN recordings ON recordings.id = recording "
        'JOIN scores ON scores."window" = windows.id AND class = ? WHERE windows.id = ?',
        [database.facts.labels.index(label), window],
    )
    for number, path, start, end, score in rows:
        return Candidate(number, path, start, end, score / SCORE_UNIT)
    return None


def _lookup(keys: np.ndarray, known: np.ndarray, values: Sequence[int] | np.ndarray) -> np.ndarray:
    """The value of each key, 0 for an unknown one; `known` is sorted."""
    if not len(known):
        return np.zeros(len(keys), int)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, np.asarray(values)[place], 0)


def _logit(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(scores, 1e-4, 1 - 1e-4)
    result: np.ndarray = np.log(inside / (1 - inside))
    return result

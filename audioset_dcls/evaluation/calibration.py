"""Scores that mean what they say: a temperature and a bias for each class, fitted on labelled clips.

calibrated logit = logit / temperature + bias[class]

After Platt (1999) and Guo et al. (2017). The temperature and one shared bias are fitted on all classes together; each
class' own bias then departs from the shared one as far as its clips call for: the prior keeps it there where there are
few (maximum a posteriori, a normal distribution around the shared bias). Order within a class never changes, so no AP
does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audioset_dcls.evaluation.metrics import checked

Floats = NDArray[np.float64]

BIAS_DEVIATION = 0.5  # of the classes' biases around the shared one, in logits; see `fit_calibration`
_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """`calibration(logits)` are calibrated ones; bias is (C,), shared_bias what they are shrunk to."""

    temperature: float
    bias: Floats
    shared_bias: float

    def __call__(self, logits: ArrayLike) -> Floats:
        return np.asarray(logits, np.float64) / self.temperature + self.bias


def fit_calibration(targets: ArrayLike, logits: ArrayLike, bias_deviation: float = BIAS_DEVIATION) -> Calibration:
    """The most probable temperature and biases for targets, bool (N, C), and logits, float (N, C).

    Args:
        bias_deviation: how far classes' biases are expected to lie from the shared one, one standard deviation: a class
            with two positives hardly moves, one with thirty goes where they say. Of 0.001, 0.25, 0.5, 1 and 2 the
            default had the lowest log-loss on open sounds' validation recordings in two folds by package.

    Raises ValueError for what `metrics.checked` refuses, and if no clip has a label.
    """
    truth, values = checked(targets, np.asarray(logits, np.float64))
    if not truth.any():
        raise ValueError("not one clip has a label: nothing to calibrate on")
    truth = truth.astype(np.float64)
    slope, shared = 1.0, 0.0
    for _ in range(_STEPS):  # Newton's method on a convex function, damped so that no step leaps
        probability = sigmoid(slope * values + shared)
        error, curvature = probability - truth, probability * (1 - probability)
        gradient = np.array([(error * values).sum(), error.sum()])
        hessian = np.array(
            [
                [(curvature * values**2).sum(), (curvature * values).sum()],
                [(curvature * values).sum(), curvature.sum()],
            ]
        )
        step = np.linalg.solve(hessian + 1e-9 * np.eye(2), gradient).clip(-0.5, 0.5)
        slope, shared = max(slope - step[0], 1e-2), shared - step[1]
        if np.abs(step).max() < 1e-9:
            break
    bias = np.full(values.shape[1], shared)
    precision = 1 / bias_deviation**2
    for _ in range(_STEPS):
        probability = sigmoid(slope * values + bias)
        gradient = (probability - truth).sum(0) + precision * (bias - shared)
        step = (gradient / ((probability * (1 - probability)).sum(0) + precision)).clip(-0.5, 0.5)
        bias = bias - step
        if np.abs(step).max() < 1e-9:
            break
    return Calibration(1 / slope, bias, float(shared))


def f1_thresholds(targets: ArrayLike, scores: ArrayLike, least: int = 5) -> dict[int, float]:
    """Class -> the score from which on F1 is highest, of the classes with at least `least` positives and a negative.

    targets, scores: as in `metrics`. A threshold lies halfway between the scores that it parts; of several with the
    same F1 the highest one is taken.
    """
    truth, values = checked(targets, scores)
    found = {}
    for index in np.flatnonzero((truth.sum(0) >= least) & ~truth.all(0)).tolist():
        order = np.argsort(-values[:, index], kind="stable")
        ranked, hits = values[order, index].astype(np.float64), truth[order, index].cumsum()
        f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
        lower = np.append(ranked[1:], 0.0)
        f1[ranked == lower] = -1.0  # no threshold parts equal scores
        best = int(f1.argmax())
        found[index] = float((ranked[best] + lower[best]) / 2)
    return found


def log_loss(targets: ArrayLike, logits: ArrayLike) -> float:
    """Mean binary cross-entropy over clips and classes, in nats: what calibration lowers."""
    truth, values = checked(targets, logits)
    return float((np.logaddexp(0, values) - truth * values).mean())


def calibration_error(targets: ArrayLike, scores: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: mean |share of positives - mean score| over bins of scores above 0.05, by their size.

    The many scores next to 0 would hide all others.
    """
    truth, values = checked(targets, scores)
    counted = values > 0.05
    bin_index = np.minimum((values[counted] * bins).astype(int), bins - 1)
    size = np.bincount(bin_index, minlength=bins)
    gap = np.bincount(bin_index, truth[counted] - values[counted], minlength=bins)
    return float(np.abs(gap).sum() / max(size.sum(), 1))


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-logits)), without overflow."""
    result: Floats = 0.5 * (1 + np.tanh(logits / 2))
    return result

"""The numbers of an evaluation: every metric at every length, with the clips they were taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audioset_dcls.evaluation import metrics
from audioset_dcls.evaluation.predictions import FULL, Predictions

Floats = NDArray[np.float64]
RESAMPLES = 1000
METRICS = ("mAP", "micro_mAP", "AUC", "d_prime", "lwlrap", "top_3")


@dataclass(frozen=True)
class Summary:
    """Metrics by length, and per class, of the classes that have positives.

    overall: by length, of each metric its value. mean_interval: 95 % bootstrap interval over clips of the whole clips'
    mAP, of which `resampled_mean` (resamples,) are the samples. classes: indices of the evaluated ones, which the
    per-class arrays are in the order of: positives, average_precision by length, intervals (K, 2) and area_under_roc of
    whole clips, NaN where every clip is a positive.
    """

    predictions: Predictions
    overall: dict[str, dict[str, float]]
    mean_interval: tuple[float, float]
    resampled_mean: Floats
    classes: NDArray[np.intp]
    positives: NDArray[np.intp]
    average_precision: dict[str, Floats]
    intervals: Floats
    area_under_roc: Floats

    @property
    def left_out(self) -> list[str]:
        """Names of the classes without positives, which no number counts."""
        return [self.predictions.labels[index] for index in np.setdiff1d(self._all(), self.classes)]

    @property
    def without_negatives(self) -> list[str]:
        """Names of the classes that every clip has: they have an AP, but no AUC."""
        return [self.predictions.labels[index] for index in self.classes[np.isnan(self.area_under_roc)]]

    @property
    def counted(self) -> dict[str, Any]:
        """What stands beside every number: clips, their hash, and classes."""
        hashed = self.predictions.clip_hash
        return {"clips": len(self.predictions.clips), "clip_hash": hashed, "classes": len(self.classes)}

    def _all(self) -> NDArray[np.intp]:
        return np.arange(len(self.predictions.labels))


def summarize(
    predictions: Predictions, resamples: int = RESAMPLES, advance: Callable[[], object] | None = None
) -> Summary:
    """Compute all metrics; `advance` is called after each class's bootstrap, the slow part: some 5 s for AudioSet.

    Raises ValueError where no class has a positive.
    """
    present = metrics.classes_with_positives(predictions.targets)
    if not present.size:
        raise ValueError(f"none of the {len(predictions.labels)} classes has a positive: there is nothing to evaluate")
    targets = predictions.targets[:, present]
    scores = {length: values[:, present] for length, values in predictions.scores.items()}
    precision = {length: metrics.average_precision(targets, values) for length, values in scores.items()}
    areas = {length: _area_under_roc(targets, values) for length, values in scores.items()}
    draws = metrics.resample_clips(len(targets), resamples)
    samples = metrics.bootstrap_average_precision(targets, scores[FULL], draws, advance)
    resampled_mean = np.nanmean(samples, axis=1)
    return Summary(
        predictions=predictions,
        overall={
            length: _overall(targets, scores[length], precision[length], areas[length])
            | {"top_3": metrics.top_hits(predictions.targets, predictions.scores[length])}
            for length in scores
        },
        mean_interval=_probabilities(metrics.interval(resampled_mean, precision[FULL].mean())),
        resampled_mean=resampled_mean,
        classes=present,
        positives=np.count_nonzero(targets, axis=0),
        average_precision=precision,
        intervals=np.array(
            [_probabilities(metrics.interval(*pair)) for pair in zip(samples.T, precision[FULL], strict=True)]
        ),
        area_under_roc=areas[FULL],
    )


def _probabilities(bounds: tuple[float, float]) -> tuple[float, float]:
    return max(bounds[0], 0.0), min(bounds[1], 1.0)


def _overall(targets: NDArray[np.bool_], scores: NDArray[Any], precision: Floats, areas: Floats) -> dict[str, float]:
    numbers = {
        "mAP": float(precision.mean()),
        "micro_mAP": metrics.micro_average_precision(targets, scores),
        "lwlrap": metrics.lwlrap(targets, scores),
    }
    if not np.isnan(areas).all():
        numbers["AUC"] = float(np.nanmean(areas))
        numbers["d_prime"] = metrics.d_prime(numbers["AUC"])
    return {name: numbers[name] for name in METRICS if name in numbers}


def _area_under_roc(targets: NDArray[np.bool_], scores: NDArray[Any]) -> Floats:
    areas = np.full(targets.shape[1], np.nan)
    defined = ~targets.all(axis=0)
    areas[defined] = metrics.area_under_roc(targets[:, defined], scores[:, defined])
    return areas

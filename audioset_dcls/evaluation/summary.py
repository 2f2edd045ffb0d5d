"""The numbers of an evaluation: every metric at every length, with the clips they were taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audioset_dcls.evaluation import bootstrap, metrics
from audioset_dcls.evaluation.predictions import FULL, Predictions

Floats = NDArray[np.float64]
RESAMPLES = 1000
TOP_COUNTS = (1, 3, 5)
SPECIFIC = tuple(f"specific_top_{count}" for count in TOP_COUNTS)
RESAMPLED = ("mAP", *SPECIFIC)  # what has a bootstrap of its own
METRICS = ("mAP", *SPECIFIC, "micro_mAP", "AUC", "d_prime", "lwlrap")


@dataclass(frozen=True)
class Summary:
    """Metrics by length, and per class, of the classes that have positives.

    Attributes:
        overall: `overall[length][metric]`.
        resampled: (resamples,) bootstrap samples of the whole clips' mAP and specific top hits, and `overall_intervals`
            their 95 % intervals, by metric. The bootstrap draws sources if they are known, else clips.
        classes: indices of the evaluated ones, which the per-class arrays are in the order of: positives,
            average_precision by length, intervals (K, 2) and area_under_roc of whole clips, NaN if every clip is a
            positive.
    """

    predictions: Predictions
    overall: dict[str, dict[str, float]]
    overall_intervals: dict[str, tuple[float, float]]
    resampled: dict[str, Floats]
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

    @property
    def resampled_units(self) -> str:
        """What the bootstrap drew, in words: "33 sources", or "clips"."""
        sources = self.predictions.resampled
        return "clips" if sources is None else f"{len(set(sources))} sources"

    def _all(self) -> NDArray[np.intp]:
        return np.arange(len(self.predictions.labels))


def summarize(
    predictions: Predictions, resamples: int = RESAMPLES, advance: Callable[[], object] | None = None
) -> Summary:
    """Compute all metrics; `advance` is called after each class's bootstrap, the slow part: some 5 s for AudioSet.

    Raises ValueError if no class has a positive.
    """
    present = metrics.classes_with_positives(predictions.targets)
    if not present.size:
        raise ValueError(f"none of the {len(predictions.labels)} classes has a positive: there is nothing to evaluate")
    targets = predictions.targets[:, present]
    scores = {length: values[:, present] for length, values in predictions.scores.items()}
    precision = {length: metrics.average_precision(targets, values) for length, values in scores.items()}
    areas = {length: _area_under_roc(targets, values) for length, values in scores.items()}
    hits = {length: _hits(predictions, values) for length, values in predictions.scores.items()}
    draws = bootstrap.resample_clips(len(targets), resamples, sources=predictions.resampled)
    samples = bootstrap.bootstrap_average_precision(targets, scores[FULL], draws, advance)
    resampled = {"mAP": bootstrap.mean_of_defined(samples)}
    resampled |= dict(zip(SPECIFIC, bootstrap.bootstrap_mean(hits[FULL], draws).T, strict=True))
    overall = {
        length: _overall(targets, scores[length], precision[length], areas[length], hits[length]) for length in scores
    }
    return Summary(
        predictions=predictions,
        overall=overall,
        overall_intervals={
            name: _probabilities(bootstrap.interval(values, overall[FULL][name])) for name, values in resampled.items()
        },
        resampled=resampled,
        classes=present,
        positives=np.count_nonzero(targets, axis=0),
        average_precision=precision,
        intervals=np.array(
            [_probabilities(bootstrap.interval(*pair)) for pair in zip(samples.T, precision[FULL], strict=True)]
        ),
        area_under_roc=areas[FULL],
    )


def _probabilities(bounds: tuple[float, float]) -> tuple[float, float]:
    return max(bounds[0], 0.0), min(bounds[1], 1.0)


def _hits(predictions: Predictions, scores: NDArray[Any]) -> Floats:
    """(N, len(TOP_COUNTS)); all classes compete, those without positives too."""
    return metrics.hits(metrics.specific_ranks(predictions.targets, scores, predictions.depth), TOP_COUNTS)


def _overall(
    targets: NDArray[np.bool_], scores: NDArray[Any], precision: Floats, areas: Floats, hits: Floats
) -> dict[str, float]:
    numbers = {
        "mAP": float(precision.mean()),
        **dict(zip(SPECIFIC, np.nanmean(hits, axis=0).tolist(), strict=True)),
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

"""Bootstrap over clips or sources: resamples of AP and of means, and their percentile intervals.

targets, scores: as in `metrics`. Subtract the results of two models on the same draws for a paired comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audioset_dcls.evaluation.metrics import Floats, checked, with_positives


def resample_clips(
    clips: int, resamples: int = 1000, seed: int = 0, sources: Sequence[str] | None = None
) -> NDArray[np.unsignedinteger[Any]]:
    """How often each clip was drawn, (N, resamples), if `clips` clips are resampled with replacement.

    Args:
        sources: of each clip, e.g. its package or repository. Sources are drawn, as many as there are, each with all of
            its clips: clips of one source are not independent. Default: each clip is a source of its own.

    The same arguments draw the same clips: subtract two models' results for a paired comparison.
    """
    names, source = np.unique(np.arange(clips) if sources is None else np.asarray(sources), return_inverse=True)
    generator = np.random.default_rng(seed)
    counts = np.empty((names.size, resamples), np.uint32)
    for resample in range(resamples):
        counts[:, resample] = np.bincount(generator.integers(names.size, size=names.size), minlength=names.size)
    drawn = np.bincount(source, minlength=names.size) @ counts
    # no sum of draws is larger than the clips drawn in a resample, and the narrower type sums faster
    narrow: type[np.unsignedinteger[Any]] = np.uint16 if drawn.max() < 2**16 else np.uint32
    return counts.astype(narrow)[source]


def bootstrap_average_precision(
    targets: ArrayLike,
    scores: ArrayLike,
    draws: NDArray[np.unsignedinteger[Any]],
    advance: Callable[[], object] | None = None,
) -> Floats:
    """AP of each class in resamples of the clips, (resamples, C); NaN if one drew no positive.

    Args:
        draws: of `resample_clips`. `mean_of_defined` gives the resamples of the mAP, `interval` its bounds (those of a
            class with few positives, or of few sources, are too narrow: with 4 positives they hold the true AP in some
            80 % of cases, not 95). 1000 resamples fix a bound to a few per cent of the interval's width. `advance` is
            called after each class.

    Raises ValueError if a class has no positives.
    """
    truth, values = with_positives(*checked(targets, scores))
    samples = np.empty((draws.shape[1], truth.shape[1]))
    for index in range(truth.shape[1]):
        samples[:, index] = _resampled_average_precision(truth[:, index], values[:, index], draws)
        if advance is not None:
            advance()
    return samples


def bootstrap_mean(values: Floats, draws: NDArray[np.unsignedinteger[Any]]) -> Floats:
    """Mean of each column of `values`, (N, K), in resamples of the clips: (resamples, K); NaN if one drew no value.

    Args:
        draws: of `resample_clips`. Rows of NaN, e.g. `hits` of clips without a label, are left out.
    """
    present = ~np.isnan(values).any(axis=1)
    chosen = draws[present].astype(np.float64)
    with np.errstate(invalid="ignore"):
        means: Floats = (chosen.T @ values[present]) / chosen.sum(axis=0)[:, None]
    return means


def mean_of_defined(samples: Floats) -> Floats:
    """Mean of each row, (resamples, C) -> (resamples,), over the classes whose AP is not NaN; NaN if all are."""
    defined = ~np.isnan(samples)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(defined, samples, 0).sum(axis=1) / defined.sum(axis=1)
    return means


def interval(samples: ArrayLike, estimate: float, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap percentile interval from samples (resamples,), shifted so that it is centred on `estimate`.

    The shift is the distance of the samples' mean from the estimate: a positive drawn twice ranks next to itself, so
    that the AP of a resample is too high, in a mean over rare classes by more than the interval is wide.
    """
    values = np.asarray(samples, np.float64)
    bounds = np.nanquantile(values, ((1 - level) / 2, (1 + level) / 2)) - np.nanmean(values) + estimate
    return float(bounds[0]), float(bounds[1])


def _resampled_average_precision(target: NDArray[np.bool_], score: NDArray[Any], draws: NDArray[Any]) -> Floats:
    """AP of one class, (resamples,), with clip n counted draws[n, b] times in resample b."""
    order = np.argsort(-score, kind="stable")
    positive = order[target[order]]
    # how many clips lie at or above each threshold, a threshold being a score that a positive has
    ends = score.size - np.searchsorted(score[order][::-1], score[positive])
    ends, first = np.unique(ends, return_index=True)
    taken = _sums_between(draws, order, ends).cumsum(axis=0, dtype=np.int64)
    found = _sums_between(draws, positive, np.append(first[1:], positive.size))
    hits = found.cumsum(axis=0, dtype=np.int64)
    precision = np.divide(hits, taken, out=np.zeros(hits.shape), where=taken > 0)
    total = hits[-1]
    return np.divide((found * precision).sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0)


def _sums_between(draws: NDArray[Any], order: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[Any]:
    """Sums of the draws of the clips in that order, from one end to the next: 20 times as fast as np.add.reduceat."""
    starts = np.append(0, ends[:-1])
    return np.stack(
        [draws[order[start:end]].sum(axis=0, dtype=draws.dtype) for start, end in zip(starts, ends, strict=True)]
    )

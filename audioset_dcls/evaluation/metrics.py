"""Metrics of multi-label tagging from targets and scores: AP, mAP, AUC, d', lwlrap, specific top hits.

Every function takes `targets`, bool (N, C) for N clips and C classes, and `scores`, float (N, C), of which only the
order matters, and agrees with `sklearn.metrics` to rounding, ties included. A class without positives has no AP: the
per-class functions raise ValueError for it, the means over classes leave it out, and `classes_with_positives` names
those left.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def checked(targets: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Both as arrays (N, C), targets as bool. Raises ValueError for other shapes or values, scores not finite included.

    A NaN must not pass: sorting would give it a rank, and the mean a plausible value.
    """
    truth, values = np.asarray(targets), np.asarray(scores)
    if truth.ndim != 2 or truth.shape != values.shape:
        raise ValueError(f"targets {truth.shape} and scores {values.shape} must have the same shape (clips, classes)")
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise ValueError("targets must be 0 or 1")
        truth = truth.astype(np.bool_)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        clip, index = np.argwhere(~finite)[0]
        raise ValueError(
            f"{finite.size - np.count_nonzero(finite)} of {finite.size} scores are not finite, "
            f"the first in clip {clip}, class {index}: {values[clip, index]}"
        )
    return truth, values


def classes_with_positives(targets: ArrayLike) -> NDArray[np.intp]:
    """Indices of the classes that at least one clip has: the only ones whose AP is defined."""
    return np.flatnonzero(np.asarray(targets).any(axis=0))


def average_precision(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """AP of each class, (C,): precision at each positive, averaged, as `sklearn.metrics.average_precision_score`.

    Clips with the same score share the rank of the last of them, so that their order does not count. Raises ValueError
    if a class has no positives.
    """
    truth, values = with_positives(*checked(targets, scores))
    return _average_precision(truth.T, values.T)


def mean_average_precision(targets: ArrayLike, scores: ArrayLike) -> float:
    """Macro mAP, AudioSet's metric: the mean AP of the classes with positives. Raises ValueError if none has any."""
    truth, values = _scorable(*checked(targets, scores))
    return float(_average_precision(truth.T, values.T).mean())


def micro_average_precision(targets: ArrayLike, scores: ArrayLike) -> float:
    """AP of all (clip, class) pairs in one ranking, over the classes with positives."""
    truth, values = _scorable(*checked(targets, scores))
    return float(_average_precision(truth.reshape(1, -1), values.reshape(1, -1))[0])


def lwlrap(targets: ArrayLike, scores: ArrayLike) -> float:
    """Label-weighted label-ranking average precision: each label's precision in the ranking of its clip's classes.

    `sklearn.metrics.label_ranking_average_precision_score` with clips weighted by their number of labels, over the
    classes with positives; a clip without labels has no weight.
    """
    truth, values = _scorable(*checked(targets, scores))
    labels, precision = _lwlrap_terms(truth, values)
    return float(labels @ precision / labels.sum())


def specific_ranks(
    targets: ArrayLike, scores: ArrayLike, depth: ArrayLike, counted: ArrayLike | None = None
) -> NDArray[np.intp]:
    """(N,) rank of each clip's most specific label, 1 for the best; 0 for a clip without such a label.

    The most specific label is the deepest one, of several equally deep ones that with the highest score. It competes
    with all classes that are not labels of the clip: its ancestors and other right labels take no rank. Of classes with
    the same score it has the last rank.

    Args:
        depth: (C,) of the classes in an ontology; all 0 if there is none: then any label may be the one.
        counted: (C,) bool, the classes that may be the most specific label. A clip whose deepest labels are all others
            has rank 0. Default: all.
    """
    truth, values = checked(targets, scores)
    candidates = deepest_labels(truth, depth)
    if counted is not None:
        candidates &= np.asarray(counted, np.bool_)
    best = np.where(candidates, values, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + np.count_nonzero(~truth & (values >= best), axis=1)
    return np.where(candidates.any(axis=1), ranks, 0)


def deepest_labels(targets: NDArray[np.bool_], depth: ArrayLike) -> NDArray[np.bool_]:
    """(N, C) each clip's labels that none of its others is deeper than; `depth` as in `specific_ranks`."""
    levels = np.broadcast_to(np.asarray(depth), targets.shape)
    deepest = np.where(targets, levels, -1).max(axis=1, keepdims=True)
    return targets & (levels == deepest)


def specific_top_hits(
    targets: ArrayLike, scores: ArrayLike, depth: ArrayLike, counts: Sequence[int] = (1, 3, 5)
) -> Floats:
    """Share of the clips with labels whose most specific label is among the first `counts` classes: (len(counts),).

    `specific_ranks` tells what competes. Raises ValueError if no clip has a label.
    """
    ranks = specific_ranks(targets, scores, depth)
    if not ranks.any():
        raise ValueError(f"none of the {ranks.size} clips has a label")
    return hits(ranks[ranks > 0], counts).mean(axis=0)


def hits(ranks: ArrayLike, counts: Sequence[int] = (1, 3, 5)) -> Floats:
    """(N, len(counts)) 1 if the clip's rank is at most the count, else 0; NaN for rank 0."""
    given = np.asarray(ranks)[:, None]
    return np.where(given > 0, given <= np.asarray(counts), np.nan)


def area_under_roc(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """AUC of each class, (C,): how often a positive scores above a negative, ties counting half.

    Raises ValueError if a class has no positives or no negatives.
    """
    truth, values = with_positives(*checked(targets, scores))
    full = np.flatnonzero(truth.all(axis=0))
    if full.size:
        raise ValueError(f"AUC is undefined for classes without negatives: {_listed(full)}")
    areas = np.empty(truth.shape[1])
    for index, (row, ranked) in enumerate(zip(truth.T, _sorted(values.T), strict=True)):
        positives = np.sort(values[row, index])
        below = np.searchsorted(ranked, positives) - np.searchsorted(positives, positives)
        not_above = np.searchsorted(ranked, positives, "right") - np.searchsorted(positives, positives, "right")
        areas[index] = (below + not_above).mean() / (2 * (ranked.size - positives.size))
    return areas


def d_prime(auc: float) -> float:
    """d' = sqrt(2) * (inverse normal CDF of AUC): the distance of two unit Gaussians of that AUC (Gemmeke et al. 2017).

    Of the mean AUC over classes, as AudioSet's papers report it. Infinite for an AUC of 0 or 1.
    """
    return sqrt(2) * NormalDist().inv_cdf(auc) if 0 < auc < 1 else (inf if auc >= 1 else -inf)


def precision_recall_curve(target: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    """Precision and recall of one class at each threshold that gains a positive, recall rising.

    Args:
        target, score: (N,). The steps under these points sum to the class's AP.

    Raises ValueError without positives.
    """
    truth, values = with_positives(*checked(np.asarray(target)[:, None], np.asarray(score)[:, None]))
    positives = np.sort(values[truth])
    thresholds = np.unique(positives)[::-1]
    found = positives.size - np.searchsorted(positives, thresholds)
    taken = values.size - np.searchsorted(np.sort(values[:, 0]), thresholds)
    return found / taken, found / positives.size


def _average_precision(targets: NDArray[np.bool_], scores: NDArray[Any]) -> Floats:
    """AP of each row. A positive's precision is the share of positives among all scores at or above its own."""
    precisions = np.empty(targets.shape[0])
    for index, (truth, values, ranked) in enumerate(zip(targets, scores, _sorted(scores), strict=True)):
        positives = np.sort(values[truth])
        found = positives.size - np.searchsorted(positives, positives)
        precisions[index] = (found / (ranked.size - np.searchsorted(ranked, positives))).mean()
    return precisions


def _lwlrap_terms(targets: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[NDArray[np.intp], Floats]:
    """Of each clip the number of labels and their mean precision, 0 if it has none."""
    labels = np.count_nonzero(targets, axis=1)
    precision = np.zeros(labels.size)
    precision[labels > 0] = _average_precision(targets[labels > 0], scores[labels > 0])
    return labels, precision


def _sorted(rows: NDArray[Any]) -> NDArray[Any]:
    ranked = np.array(rows, order="C")
    ranked.sort(axis=1)
    return ranked


def with_positives(targets: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    empty = np.flatnonzero(~targets.any(axis=0))
    if empty.size:
        raise ValueError(f"AP is undefined for classes without positives: {_listed(empty)}")
    return targets, scores


def _scorable(targets: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    present = classes_with_positives(targets)
    if not present.size:
        raise ValueError(f"none of the {targets.shape[1]} classes has a positive among {targets.shape[0]} clips")
    return (targets, scores) if present.size == targets.shape[1] else (targets[:, present], scores[:, present])


def _listed(indices: NDArray[np.intp]) -> str:
    return ", ".join(map(str, indices[:10])) + (f" and {indices.size - 10} more" if indices.size > 10 else "")

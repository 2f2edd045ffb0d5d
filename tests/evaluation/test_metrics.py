"""Metrics against scikit-learn, equal to 1e-9 (the same sums in another order); ties and degenerate classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    top_k_accuracy_score,
)

from audioset_dcls.evaluation import metrics

TOLERANCE = {"rel": 0, "abs": 1e-9}


def random_data(clips: int, classes: int, seed: int, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Few decimals make many ties, within and between positives and negatives."""
    generator = np.random.default_rng(seed)
    targets = generator.random((clips, classes)) < generator.uniform(0.01, 0.4, classes)
    targets[0], targets[1] = True, False
    return targets, np.round(generator.normal(targets * generator.uniform(0, 2, classes)), decimals).astype(np.float32)


@st.composite
def tied_data(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Up to 12 clips and 5 classes, each class with a positive and a negative, and at most 4 different scores."""
    clips, classes = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    targets = np.array(draw(st.lists(st.booleans(), min_size=clips * classes, max_size=clips * classes)))
    levels = st.sampled_from([0.0, 0.25, 1 / 3, 1.0])
    scores = np.array(draw(st.lists(levels, min_size=clips * classes, max_size=clips * classes)))
    targets, scores = targets.reshape(clips, classes), scores.reshape(clips, classes)
    targets[0], targets[1] = True, False
    return targets, scores


def assert_equal_to_sklearn(targets: np.ndarray, scores: np.ndarray) -> None:
    classes = range(targets.shape[1])
    precision = [average_precision_score(targets[:, index], scores[:, index]) for index in classes]
    assert metrics.average_precision(targets, scores) == pytest.approx(precision, **TOLERANCE)
    assert metrics.mean_average_precision(targets, scores) == pytest.approx(np.mean(precision), **TOLERANCE)
    micro = average_precision_score(targets, scores, average="micro")
    assert metrics.micro_average_precision(targets, scores) == pytest.approx(micro, **TOLERANCE)
    areas = [roc_auc_score(targets[:, index], scores[:, index]) for index in classes]
    assert metrics.area_under_roc(targets, scores) == pytest.approx(areas, **TOLERANCE)
    labels = targets.sum(axis=1)
    ranking = label_ranking_average_precision_score(targets, scores, sample_weight=labels)
    assert metrics.lwlrap(targets, scores) == pytest.approx(ranking, **TOLERANCE)


@pytest.mark.parametrize(("clips", "classes", "decimals"), [(2, 1, 2), (50, 1, 1), (400, 30, 2), (2000, 8, 7)])
def test_equal_to_sklearn(clips: int, classes: int, decimals: int) -> None:
    assert_equal_to_sklearn(*random_data(clips, classes, seed=clips, decimals=decimals))


@settings(max_examples=80, deadline=None)
@given(tied_data())
def test_equal_to_sklearn_with_ties(data: tuple[np.ndarray, np.ndarray]) -> None:
    assert_equal_to_sklearn(*data)


@settings(max_examples=30, deadline=None)
@given(tied_data(), st.randoms(use_true_random=False))
def test_order_of_clips_does_not_count(data: tuple[np.ndarray, np.ndarray], random: object) -> None:
    targets, scores = data
    order = list(range(len(targets)))
    random.shuffle(order)  # type: ignore[attr-defined]
    first, second = metrics.average_precision(targets, scores), metrics.average_precision(targets[order], scores[order])
    assert first == pytest.approx(second, **TOLERANCE)


def test_equal_scores_give_the_prevalence() -> None:
    targets = np.array([[True, False], [False, True], [False, True], [False, True]])
    assert metrics.average_precision(targets, np.zeros((4, 2))) == pytest.approx([0.25, 0.75])
    assert metrics.area_under_roc(targets, np.zeros((4, 2))) == pytest.approx([0.5, 0.5])


def test_perfect_scores() -> None:
    targets, _ = random_data(100, 6, seed=1)
    scores = targets.astype(np.float64)
    assert metrics.average_precision(targets, scores).tolist() == [1.0] * 6
    assert metrics.area_under_roc(targets, scores).tolist() == [1.0] * 6
    assert metrics.micro_average_precision(targets, scores) == metrics.lwlrap(targets, scores) == 1.0


def test_means_leave_out_classes_without_positives() -> None:
    targets, scores = random_data(200, 6, seed=2)
    targets[:, [1, 4]] = False
    present = [0, 2, 3, 5]
    assert metrics.classes_with_positives(targets).tolist() == present
    for mean in (metrics.mean_average_precision, metrics.micro_average_precision, metrics.lwlrap):
        assert mean(targets, scores) == mean(targets[:, present], scores[:, present])


def test_top_hits_of_one_label_are_sklearn_s_top_k_accuracy() -> None:
    rng = np.random.default_rng(5)
    labels, scores = rng.integers(0, 6, 300), rng.random((300, 6))
    for count in (1, 3):
        expected = top_k_accuracy_score(labels, scores, k=count)
        assert metrics.top_hits(np.eye(6, dtype=bool)[labels], scores, count) == pytest.approx(expected, abs=1e-12)


def test_top_hits_take_any_label_and_the_last_rank_of_equal_scores() -> None:
    scores = [[0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.5, 0.5], [0.9, 0.8, 0.7, 0.1]]
    targets = np.array([[0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])  # the last has no label
    assert metrics.top_hits(targets, np.array(scores)) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="none of the 4 clips has a label"):
        metrics.top_hits(np.zeros((4, 4)), np.array(scores))


@pytest.mark.parametrize("per_class", [metrics.average_precision, metrics.area_under_roc])
def test_per_class_metrics_name_classes_without_positives(per_class: object) -> None:
    targets, scores = random_data(50, 40, seed=3)
    targets[:, 7:30] = False
    with pytest.raises(ValueError, match=r"without positives: 7, 8, .* and 13 more"):
        per_class(targets, scores)  # type: ignore[operator]


def test_auc_names_classes_without_negatives() -> None:
    targets, scores = random_data(50, 4, seed=3)
    targets[:, 2] = True
    assert metrics.average_precision(targets, scores)[2] == 1.0
    with pytest.raises(ValueError, match=r"without negatives: 2$"):
        metrics.area_under_roc(targets, scores)


def test_no_positives_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of the 3 classes has a positive among 5 clips"):
        metrics.mean_average_precision(np.zeros((5, 3), bool), np.zeros((5, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_an_error(bad: float) -> None:
    targets, scores = random_data(20, 3, seed=4)
    scores[5, 2] = scores[9, 0] = bad
    for function in (metrics.average_precision, metrics.mean_average_precision, metrics.area_under_roc, metrics.lwlrap):
        with pytest.raises(ValueError, match=r"2 of 60 scores are not finite, the first in clip 5, class 2"):
            function(targets, scores)


def test_shapes_and_targets_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\) and scores \(3, 4\) must have the same shape"):
        metrics.average_precision(np.ones((4, 3)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="0 or 1"):
        metrics.average_precision(np.full((4, 3), 0.5), np.ones((4, 3)))
    assert metrics.average_precision([[1, 0], [0, 1]], [[3, 1], [1, 2]]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("auc", [0.5, 0.75, 0.9735, 0.02])
def test_d_prime(auc: float) -> None:
    assert metrics.d_prime(auc) == pytest.approx(math.sqrt(2) * norm.ppf(auc), **TOLERANCE)


def test_d_prime_of_perfect_scores_is_infinite() -> None:
    assert metrics.d_prime(1.0) == math.inf
    assert metrics.d_prime(0.0) == -math.inf


def test_precision_recall_curve_holds_sklearn_s_points_and_sums_to_the_ap() -> None:
    targets, scores = random_data(500, 3, seed=5, decimals=1)
    for target, score in zip(targets.T, scores.T, strict=True):
        precision, recall = metrics.precision_recall_curve(target, score)
        reference = set(zip(*(np.round(curve, 9) for curve in precision_recall_curve(target, score)[:2]), strict=True))
        assert set(zip(np.round(precision, 9), np.round(recall, 9), strict=True)) <= reference
        area = np.diff(recall, prepend=0) @ precision
        assert area == pytest.approx(metrics.average_precision(target[:, None], score[:, None])[0], **TOLERANCE)


def test_bootstrap_is_the_ap_of_resampled_clips() -> None:
    targets, scores = random_data(150, 5, seed=6)
    targets[:, 4], targets[3, 4] = False, True
    samples = metrics.bootstrap_average_precision(targets, scores, resamples=20, seed=7)
    generator = np.random.default_rng(7)
    undrawn = 0
    for sample in samples:
        drawn = generator.integers(150, size=150)
        present = metrics.classes_with_positives(targets[drawn])
        undrawn += 5 - present.size
        assert np.flatnonzero(~np.isnan(sample)).tolist() == present.tolist()
        resampled = metrics.average_precision(targets[drawn][:, present], scores[drawn][:, present])
        assert sample[present] == pytest.approx(resampled, **TOLERANCE)
    assert undrawn > 0  # the class of one clip is missing from some resamples


def test_bootstrap_counts_more_clips_than_16_bits_hold() -> None:
    targets, scores = random_data(70_000, 1, seed=8)
    samples = metrics.bootstrap_average_precision(targets, scores, resamples=2, seed=9)
    generator = np.random.default_rng(9)
    for sample in samples[:, 0]:
        drawn = generator.integers(70_000, size=70_000)
        assert sample == pytest.approx(metrics.average_precision(targets[drawn], scores[drawn])[0], **TOLERANCE)


def test_intervals_of_rare_classes_mean_cover_its_expectation() -> None:
    """Of 95 % intervals for the mAP of 30 classes of 12 positives, at least 50 of 60 hold it (99.9 % of binomials).

    Plain percentiles would hold it in 65 %: they lie above the estimate.
    """
    generator = np.random.default_rng(10)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        targets = generator.random((400, 30)) < 0.03
        targets[0] = True
        return targets, generator.normal(1.5 * targets)

    expected = np.mean([metrics.mean_average_precision(*draw()) for _ in range(200)])
    covered = 0
    for _ in range(60):
        targets, scores = draw()
        samples = np.nanmean(metrics.bootstrap_average_precision(targets, scores, resamples=100), axis=1)
        low, high = metrics.interval(samples, metrics.mean_average_precision(targets, scores))
        covered += low < expected < high
    assert covered >= 50


def test_interval_is_centred_on_the_estimate() -> None:
    assert metrics.interval(np.arange(1001) / 1000, 0.3, level=0.9) == pytest.approx((-0.15, 0.75))

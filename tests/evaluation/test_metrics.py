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
from tests.evaluation.random_data import random_data

TOLERANCE = {"rel": 0, "abs": 1e-9}


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


def specific_rank_by_hand(target: np.ndarray, score: np.ndarray, depth: np.ndarray) -> int:
    """The definition, step by step, for one clip."""
    right = np.flatnonzero(target).tolist()
    if not right:
        return 0
    deepest = max(depth[label] for label in right)
    chosen = max((label for label in right if depth[label] == deepest), key=lambda label: score[label])
    rivals = [label for label in range(len(score)) if label not in right]
    return 1 + sum(score[rival] >= score[chosen] for rival in rivals)


@settings(max_examples=80, deadline=None)
@given(tied_data(), st.lists(st.integers(0, 2), min_size=5, max_size=5))
def test_specific_ranks_are_those_of_the_definition(data: tuple[np.ndarray, np.ndarray], levels: list[int]) -> None:
    targets, scores = data
    depth = np.array(levels[: targets.shape[1]])
    expected = [specific_rank_by_hand(*pair, depth) for pair in zip(targets, scores, strict=True)]
    ranks = metrics.specific_ranks(targets, scores, depth)
    assert ranks.tolist() == expected
    labelled = ranks[ranks > 0]
    shares = metrics.specific_top_hits(targets, scores, depth, (1, 2))
    assert shares == pytest.approx([(labelled <= 1).mean(), (labelled <= 2).mean()], **TOLERANCE)


def test_ancestors_neither_count_nor_take_ranks() -> None:
    """Animal > Dog > Bark, with Music, Bell and Rain as rivals."""
    depth = [0, 1, 2, 0, 1, 0]
    dog = np.array([[True, True, True, False, False, False]])
    only_ancestors = [[0.9, 0.8, 0.1, 0.7, 0.6, 0.5]]  # Animal and Dog first: "Bark" has three rivals above it
    assert metrics.specific_ranks(dog, only_ancestors, depth).tolist() == [4]
    assert metrics.specific_top_hits(dog, only_ancestors, depth).tolist() == [0, 0, 1]
    bark_after_them = [[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]]
    assert metrics.specific_top_hits(dog, bark_after_them, depth).tolist() == [1, 1, 1]
    equal = [[0.5] * 6]
    assert metrics.specific_ranks(dog, equal, depth).tolist() == [4]  # ties count against it


def test_of_equally_deep_labels_the_best_scored_one_counts() -> None:
    targets = np.array([[True, True, False, False], [True, True, False, False], [False] * 4])
    scores = [[0.1, 0.9, 0.5, 0.5], [0.4, 0.2, 0.5, 0.3], [0.1, 0.2, 0.3, 0.4]]
    assert metrics.specific_ranks(targets, scores, [1, 1, 1, 0]).tolist() == [1, 2, 0]
    # with class 1 not counted the other one is left; with neither no clip counts
    assert metrics.specific_ranks(targets, scores, [1, 1, 1, 0], [True, False, True, True]).tolist() == [3, 2, 0]
    assert metrics.specific_ranks(targets, scores, [1, 1, 1, 0], [False, False, True, True]).tolist() == [0, 0, 0]
    # a counted ancestor does not stand in for a specific label that is not counted
    assert metrics.specific_ranks(targets, scores, [1, 0, 1, 0], [False, True, True, True]).tolist() == [0, 0, 0]


def test_specific_top_hits_of_one_label_are_sklearn_s_top_k_accuracy() -> None:
    rng = np.random.default_rng(5)
    labels, scores = rng.integers(0, 6, 300), rng.random((300, 6))
    expected = [top_k_accuracy_score(labels, scores, k=count) for count in (1, 3, 5)]
    shares = metrics.specific_top_hits(np.eye(6, dtype=bool)[labels], scores, rng.integers(0, 4, 6))
    assert shares == pytest.approx(expected, **TOLERANCE)


def test_specific_top_hits_need_a_label() -> None:
    with pytest.raises(ValueError, match="none of the 4 clips has a label"):
        metrics.specific_top_hits(np.zeros((4, 3)), np.zeros((4, 3)), np.zeros(3))


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

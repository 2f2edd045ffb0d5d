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


def test_bootstrap_is_the_ap_of_resampled_clips() -> None:
    targets, scores = random_data(150, 5, seed=6)
    targets[:, 4], targets[3, 4] = False, True
    samples = metrics.bootstrap_average_precision(targets, scores, metrics.resample_clips(150, 20, seed=7))
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
    samples = metrics.bootstrap_average_precision(targets, scores, metrics.resample_clips(70_000, 2, seed=9))
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
        samples = metrics.bootstrap_average_precision(targets, scores, metrics.resample_clips(400, 100))
        samples = np.nanmean(samples, axis=1)
        low, high = metrics.interval(samples, metrics.mean_average_precision(targets, scores))
        covered += low < expected < high
    assert covered >= 50


def test_sources_are_drawn_with_all_their_clips() -> None:
    """AP and means equal those of the drawn sources' clips, one after another."""
    targets, scores = random_data(90, 3, seed=11)
    sources = np.random.default_rng(12).choice(["a", "b", "c", "d", "e/f"], 90)
    values = np.random.default_rng(13).random((90, 2))
    values[5] = np.nan
    draws = metrics.resample_clips(90, 25, seed=14, sources=sources.tolist())
    samples, means = metrics.bootstrap_average_precision(targets, scores, draws), metrics.bootstrap_mean(values, draws)
    generator, names = np.random.default_rng(14), np.unique(sources)
    for sample, mean in zip(samples, means, strict=True):
        drawn = np.concatenate([np.flatnonzero(sources == names[one]) for one in generator.integers(5, size=5)])
        assert sample == pytest.approx(metrics.average_precision(targets[drawn], scores[drawn]), **TOLERANCE)
        assert mean == pytest.approx(np.nanmean(values[drawn], axis=0), **TOLERANCE)


def test_large_sources_are_counted_beyond_16_bits() -> None:
    """A source of 60,000 clips may be drawn twice."""
    targets = np.ones((60_001, 1), bool)
    targets[::2] = False
    scores = np.linspace(0, 1, 60_001)[:, None]
    draws = metrics.resample_clips(60_001, 20, sources=["large"] * 60_000 + ["small"])
    assert draws.sum(axis=0).max() == 120_000
    samples = metrics.bootstrap_average_precision(targets, scores, draws)[:, 0]
    twice = draws[0] == 2
    expected = metrics.average_precision(targets[:-1], scores[:-1])[0]
    assert samples[twice] == pytest.approx(np.full(twice.sum(), expected), abs=1e-4)  # each clip ranks beside itself


def test_intervals_over_sources_hold_what_intervals_over_clips_miss() -> None:
    """The share of hits in 20 sources of 30 clips whose share varies from source to source (standard deviation 0.2).

    Of 95 % intervals at least 82 of 100 hold the expected share (20 sources make them a little narrow); those over
    clips hold it in fewer than 60.
    """
    generator, covered = np.random.default_rng(15), {"sources": 0, "clips": 0}
    sources = np.repeat(np.arange(20), 30).astype(str).tolist()
    for _ in range(100):
        share = np.repeat(generator.beta(2.6, 2.6, 20), 30)
        values = (generator.random(600) < share).astype(float)[:, None]
        for name, drawn in (("sources", sources), ("clips", None)):
            samples = metrics.bootstrap_mean(values, metrics.resample_clips(600, 200, sources=drawn))[:, 0]
            low, high = metrics.interval(samples, values.mean())
            covered[name] += low < 0.5 < high
    assert covered["sources"] >= 82
    assert covered["clips"] < 60


def test_a_resample_without_a_value_is_nan() -> None:
    draws = np.array([[0, 1], [2, 1]], np.uint16)
    assert metrics.bootstrap_mean(np.array([[0.5], [np.nan]]), draws)[:, 0] == pytest.approx([np.nan, 0.5], nan_ok=True)
    precision = metrics.bootstrap_average_precision([[1], [0]], [[0.2], [0.4]], draws)
    assert metrics.mean_of_defined(precision) == pytest.approx([np.nan, 0.5], nan_ok=True)
    assert metrics.mean_of_defined(np.array([[0.5, np.nan, 1.0]])).tolist() == [0.75]


def test_interval_is_centred_on_the_estimate() -> None:
    assert metrics.interval(np.arange(1001) / 1000, 0.3, level=0.9) == pytest.approx((-0.15, 0.75))

"""The bootstrap against resampled clips, and its intervals against what they should cover."""

from __future__ import annotations

import numpy as np
import pytest

from audioset_dcls.evaluation import bootstrap, metrics
from tests.evaluation.random_data import random_data

TOLERANCE = {"rel": 0, "abs": 1e-9}


def test_bootstrap_is_the_ap_of_resampled_clips() -> None:
    targets, scores = random_data(150, 5, seed=6)
    targets[:, 4], targets[3, 4] = False, True
    samples = bootstrap.bootstrap_average_precision(targets, scores, bootstrap.resample_clips(150, 20, seed=7))
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
    samples = bootstrap.bootstrap_average_precision(targets, scores, bootstrap.resample_clips(70_000, 2, seed=9))
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
        samples = bootstrap.bootstrap_average_precision(targets, scores, bootstrap.resample_clips(400, 100))
        samples = np.nanmean(samples, axis=1)
        low, high = bootstrap.interval(samples, metrics.mean_average_precision(targets, scores))
        covered += low < expected < high
    assert covered >= 50


def test_sources_are_drawn_with_all_their_clips() -> None:
    """AP and means equal those of the drawn sources' clips, one after another."""
    targets, scores = random_data(90, 3, seed=11)
    sources = np.random.default_rng(12).choice(["a", "b", "c", "d", "e/f"], 90)
    values = np.random.default_rng(13).random((90, 2))
    values[5] = np.nan
    draws = bootstrap.resample_clips(90, 25, seed=14, sources=sources.tolist())
    samples, means = (
        bootstrap.bootstrap_average_precision(targets, scores, draws),
        bootstrap.bootstrap_mean(values, draws),
    )
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
    draws = bootstrap.resample_clips(60_001, 20, sources=["large"] * 60_000 + ["small"])
    assert draws.sum(axis=0).max() == 120_000
    samples = bootstrap.bootstrap_average_precision(targets, scores, draws)[:, 0]
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
            samples = bootstrap.bootstrap_mean(values, bootstrap.resample_clips(600, 200, sources=drawn))[:, 0]
            low, high = bootstrap.interval(samples, values.mean())
            covered[name] += low < 0.5 < high
    assert covered["sources"] >= 82
    assert covered["clips"] < 60


def test_a_resample_without_a_value_is_nan() -> None:
    draws = np.array([[0, 1], [2, 1]], np.uint16)
    assert bootstrap.bootstrap_mean(np.array([[0.5], [np.nan]]), draws)[:, 0] == pytest.approx(
        [np.nan, 0.5], nan_ok=True
    )
    precision = bootstrap.bootstrap_average_precision([[1], [0]], [[0.2], [0.4]], draws)
    assert bootstrap.mean_of_defined(precision) == pytest.approx([np.nan, 0.5], nan_ok=True)
    assert bootstrap.mean_of_defined(np.array([[0.5, np.nan, 1.0]])).tolist() == [0.75]


def test_interval_is_centred_on_the_estimate() -> None:
    assert bootstrap.interval(np.arange(1001) / 1000, 0.3, level=0.9) == pytest.approx((-0.15, 0.75))

"""Calibration against scikit-learn's logistic regression, and on clips it has not seen."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.metrics import log_loss as sklearn_log_loss

from audioset_dcls.evaluation.calibration import (
    Calibration,
    calibration_error,
    f1_thresholds,
    fit_calibration,
    log_loss,
)
from audioset_dcls.evaluation.metrics import average_precision


def clips(count, seed, classes=30):
    """Logits three times too sharp, with a bias of each class' own, and the labels that really follow."""
    offsets = np.random.default_rng(99).normal(0, 0.7, classes)
    rng = np.random.default_rng(seed)
    true = rng.normal(-2.5, 1.5, (count, classes))
    return rng.random((count, classes)) < 1 / (1 + np.exp(-true)), 3 * true + offsets * 3 + 1.5


def test_shared_part_equals_logistic_regression():
    """With no room for the classes' own biases what remains is a regression on the logit."""
    targets, logits = clips(400, 0)
    calibration = fit_calibration(targets, logits, bias_deviation=1e-4)
    reference = LogisticRegression(C=1e12, tol=1e-12, max_iter=1000).fit(logits.reshape(-1, 1), targets.ravel())
    assert 1 / calibration.temperature == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    np.testing.assert_allclose(calibration.bias, reference.intercept_[0], rtol=1e-3)


def test_a_class_with_many_clips_has_its_own_way():
    """Every calibrated class then predicts as many positives as there are."""
    targets, logits = clips(400, 1, classes=3)
    calibration = fit_calibration(targets, logits, bias_deviation=1e3)
    probabilities = 1 / (1 + np.exp(-calibration(logits)))
    np.testing.assert_allclose(probabilities.sum(0), targets.sum(0), rtol=1e-3)


def test_helps_on_clips_it_has_not_seen():
    """And more than the temperature alone, though each class has few positives; the order stays."""
    targets, logits = clips(300, 2)
    new_targets, new_logits = clips(3000, 3)
    calibration, shared = fit_calibration(targets, logits), fit_calibration(targets, logits, bias_deviation=1e-4)
    calibrated, alike = calibration(new_logits), shared(new_logits)
    assert log_loss(new_targets, calibrated) < 0.99 * log_loss(new_targets, alike) < log_loss(new_targets, new_logits)

    def error(values):
        return calibration_error(new_targets, 1 / (1 + np.exp(-values)))

    assert error(calibrated) < 0.03 < 0.1 < error(new_logits)
    np.testing.assert_allclose(
        average_precision(new_targets, calibrated), average_precision(new_targets, new_logits), atol=1e-12
    )


def test_log_loss_equals_scikit_learn():
    targets, logits = clips(200, 4)
    expected = sklearn_log_loss(targets.ravel(), 1 / (1 + np.exp(-logits.ravel())))
    assert log_loss(targets, logits) == pytest.approx(expected, rel=1e-9)


def test_calibration_error_by_hand():
    """Two bins: 0.2, 0.2 with one positive (0.3 off), 0.9 with none (0.9 off); 0.01 is not counted."""
    targets, scores = np.array([[1], [0], [0], [1]], bool), np.array([[0.2], [0.2], [0.9], [0.01]])
    assert calibration_error(targets, scores) == pytest.approx((2 * 0.3 + 0.9) / 3)


def test_extreme_logits_stay_finite():
    targets, logits = clips(100, 5)
    calibration = fit_calibration(targets, 1e3 * logits)
    assert isinstance(calibration, Calibration)
    assert np.isfinite(calibration(1e3 * logits)).all()


def test_nothing_to_calibrate_on():
    with pytest.raises(ValueError, match="not one clip has a label"):
        fit_calibration(np.zeros((4, 3), bool), np.zeros((4, 3)))


def test_f1_thresholds_are_those_of_all_that_part_the_scores() -> None:
    """Against scikit-learn's F1 at each score; classes with few positives, or without a negative, have none."""
    generator = np.random.default_rng(4)
    targets = generator.random((60, 4)) < [0.3, 0.5, 0.03, 2]
    targets[:, 2] = False
    targets[:4, 2] = True
    scores = np.round(1 / (1 + np.exp(-generator.normal(2 * targets - 1))), 2)
    found = f1_thresholds(targets, scores)
    assert list(found) == [0, 1]
    for index, threshold in found.items():
        values = [f1_score(targets[:, index], scores[:, index] >= cut) for cut in np.unique(scores[:, index])]
        assert f1_score(targets[:, index], scores[:, index] >= threshold) == pytest.approx(max(values))

"""Calibration against scikit-learn's regression without penalty, hand counts, and simulated patients."""

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from common.calibration import calibration, calibration_curve


def patients(n, *, intercept, slope, seed):
    """Probabilities of a model, and labels drawn from other ones: its logits times slope plus intercept."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, n)
    labels = (rng.random(n) < special.expit(intercept + slope * logits)).astype(int)
    return special.expit(logits), labels


def test_slope_and_intercept_are_the_logistic_regressions():
    probabilities, labels = patients(150, intercept=-0.6, slope=0.5, seed=3)
    found = calibration(probabilities, labels)
    logits = special.logit(probabilities)[:, None]
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits, labels)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], abs=1e-4)
    shifted = special.expit(logits[:, 0] + found.intercept)
    assert shifted.sum() == pytest.approx(labels.sum(), abs=1e-4)  # as many as there are
    assert found.brier == pytest.approx(np.mean((probabilities - labels) ** 2))
    assert found.chance == pytest.approx(labels.mean() * (1 - labels.mean()))


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = np.zeros(2)
    for seed in range(120):
        found = calibration(*patients(120, intercept=0.0, slope=1.0, seed=seed))
        held += [
            interval.low <= truth <= interval.high
            for truth, interval in ((0, found.intercept_interval), (1, found.slope_interval))
        ]
    assert (held / 120 > 0.89).all()


def test_where_nothing_can_be_fitted_it_is_not_defined():
    labels = np.array([0, 0, 1, 1])
    apart = calibration(np.array([0.1, 0.2, 0.8, 0.9]), labels)
    assert np.isnan(apart.slope)
    assert apart.intercept == pytest.approx(0, abs=1e-6)
    constant = calibration(np.full(4, 0.3), labels)
    assert np.isnan(constant.slope)
    assert constant.intercept == pytest.approx(-special.logit(0.3), abs=1e-6)
    assert calibration(np.array([0.0, 1.0, 0.0, 1.0]), labels).brier == 0.5


def test_the_curve_counts_patients():
    probabilities = np.array([0.1, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9])
    labels = np.array([0, 0, 1, 0, 1, 0, 1, 1])
    found = calibration_curve(probabilities, labels, groups=2)
    assert found["n"].tolist() == [4, 4]
    assert found["expected"].tolist() == pytest.approx([0.175, 0.75])
    assert found["observed"].tolist() == [0.25, 0.75]
    assert ((found["low"] < found["observed"]) & (found["observed"] < found["high"])).all()
    assert calibration_curve(np.full(8, 0.4), labels)["n"].tolist() == [8]


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration(np.array([0.2, 1.2]), np.array([0, 1]))
    with pytest.raises(ValueError, match="received shapes"):
        calibration_curve(np.array([0.2, 0.4, 0.1]), np.array([0, 1]))
    with pytest.raises(ValueError, match="both of them"):
        calibration(np.array([0.2, 0.4]), np.array([1, 1]))

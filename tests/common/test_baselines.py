"""The logistic regression on simple features, against its definition and by what it must and must not notice."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

from common.baselines import baseline_probabilities
from common.classification import roc_auc


def cohort(n, seed, effect=0.0):
    """Features of patients of whom class 1 has larger tumours and more often a sagittal series, by ``effect``."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    features = pd.DataFrame(
        {
            "volume_ml": rng.lognormal(3.5 + 0.4 * effect * labels, 0.5),
            "plane": np.where(rng.random(n) < 0.3 + 0.3 * effect * labels, "sagittal", "axial"),
            "images": rng.integers(20, 400, n),
        },
        index=[f"{number:05d}" for number in range(n)],
    )
    return features, labels


def penalised_fit(train, labels, test):
    """Minimum of the log loss plus half the squared weights, over columns made by hand."""
    loc, scale = train.volume_ml.mean(), train.volume_ml.std(ddof=0)
    images, images_scale = train.images.mean(), train.images.std(ddof=0)

    def columns(features):
        return np.column_stack(
            [
                (features.volume_ml - loc) / scale,
                (features.images - images) / images_scale,
                features.plane == "axial",
                features.plane == "sagittal",
            ]
        ).astype(float)

    x, sign = columns(train), 2 * labels - 1

    def cost(weights):
        return np.logaddexp(0, -sign * (x @ weights[1:] + weights[0])).sum() + weights[1:] @ weights[1:] / 2

    weights = optimize.minimize(cost, np.zeros(5), method="BFGS", options={"gtol": 1e-7}).x
    return special.expit(columns(test) @ weights[1:] + weights[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_is_penalised_logistic_regression(seed):
    train, labels = cohort(60, seed, effect=1.0)
    test, _ = cohort(25, seed + 10)
    found = baseline_probabilities(train, labels, test)
    assert found.shape == (25,)
    np.testing.assert_allclose(found, penalised_fit(train, labels, test), atol=1e-3)


def test_notices_a_difference_and_invents_none():
    train, labels = cohort(300, 0, effect=1.0)
    test, truth = cohort(300, 1, effect=1.0)
    assert roc_auc(baseline_probabilities(train, labels, test), truth) > 0.7
    train, labels = cohort(300, 2)
    test, truth = cohort(300, 3)
    assert roc_auc(baseline_probabilities(train, labels, test), truth) == pytest.approx(0.5, abs=0.1)


def test_units_and_the_order_of_patients_are_irrelevant():
    train, labels = cohort(60, 0, effect=1.0)
    test, _ = cohort(25, 1)
    expected = baseline_probabilities(train, labels, test)
    litres = [features.assign(volume_ml=features.volume_ml / 1000) for features in (train, test)]
    np.testing.assert_allclose(baseline_probabilities(litres[0], labels, litres[1]), expected, atol=1e-6)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(baseline_probabilities(train.iloc[order], labels[order], test), expected, atol=1e-3)


def test_only_training_patients_set_the_scale():
    train, labels = cohort(60, 0, effect=1.0)
    test, _ = cohort(25, 1)
    together = baseline_probabilities(train, labels, test)
    np.testing.assert_allclose(together[:3], baseline_probabilities(train, labels, test.iloc[:3]), atol=1e-12)


def test_one_kind_of_feature_is_enough():
    train, labels = cohort(60, 0, effect=1.0)
    for names in (["volume_ml"], ["plane"], ["images", "volume_ml"]):
        assert np.ptp(baseline_probabilities(train[names], labels, train[names])) > 0.05
    constant = pd.DataFrame({"images": np.full(60, 3)})
    np.testing.assert_allclose(baseline_probabilities(constant, labels, constant), 0.5, atol=1e-6)
    labels[:] = np.arange(60) % 4 == 0
    np.testing.assert_allclose(baseline_probabilities(constant, labels, constant), 0.25, atol=1e-3)


def test_a_plane_that_nobody_was_trained_on_is_no_plane():
    train, labels = pd.DataFrame({"plane": ["axial", "sagittal"] * 10}), np.tile([0, 1], 10)
    axial, sagittal, coronal = baseline_probabilities(
        train, labels, pd.DataFrame({"plane": ["axial", "sagittal", "coronal"]})
    )
    assert axial < 0.3 < coronal < 0.7 < sagittal
    assert coronal == pytest.approx(0.5, abs=1e-3)


def test_errors_say_what_was_wanted_and_what_came():
    train, labels = cohort(20, 0)
    with pytest.raises(ValueError, match=r"received volume_ml, plane, images and volume_ml, plane$"):
        baseline_probabilities(train, labels, train[["volume_ml", "plane"]])
    gap = train.astype({"images": float})
    gap.loc["00003", ["plane", "images"]] = [None, np.nan]
    for pair in ((gap, train), (train, gap)):
        with pytest.raises(ValueError, match=r"every feature for every patient, found none in plane, images$"):
            baseline_probabilities(pair[0], labels, pair[1])
    with pytest.raises(ValueError, match=r"labels 0 and 1, both of them, found 1$"):
        baseline_probabilities(train, np.ones(20, int), train)

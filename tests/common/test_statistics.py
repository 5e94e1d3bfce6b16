"""Bootstrap intervals: coverage by simulation, determinism, and the cases where an interval is not defined."""

import math

import numpy as np
import pytest

from common.statistics import bootstrap_interval


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("n", "least"), [(6, 0.87), (20, 0.90), (70, 0.92)])
def test_coverage_of_skewed_scores(seed, n, least):
    """Beta(6, 1) has mean 6/7. 400 cohorts know a coverage of 0.95 to a standard error of 0.011."""
    rng = np.random.default_rng(seed)
    intervals = [bootstrap_interval(rng.beta(6, 1, n), seed=trial, n_resamples=1000) for trial in range(400)]
    coverage = np.mean([low <= 6 / 7 <= high for low, high in intervals])
    assert least <= coverage <= 0.985


@pytest.mark.parametrize("seed", [0, 1])
def test_large_cohorts_approach_the_normal_interval(seed):
    values = np.random.default_rng(seed).normal(10, 2, 2000)
    half = 1.95996 * values.std(ddof=1) / math.sqrt(values.size)
    interval = bootstrap_interval(values, seed=seed, n_resamples=4000)
    np.testing.assert_allclose(interval, (values.mean() - half, values.mean() + half), atol=0.1 * half)


def test_higher_confidence_is_wider():
    values = np.random.default_rng(0).beta(6, 1, 15)
    narrow, wide = (bootstrap_interval(values, seed=0, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high


def test_the_seed_decides():
    values = np.random.default_rng(0).beta(6, 1, 12)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


@pytest.mark.parametrize("values", [[0.0, 0.0, 1.0], [0.9, 0.9, 0.9, 0.0], [0.0] * 69 + [1.0]])
def test_stays_within_the_values_when_they_are_extreme(values):
    low, high = bootstrap_interval(np.array(values), seed=0)
    assert min(values) <= low <= np.mean(values) <= high <= max(values)


def test_fewer_than_three_cases_have_no_interval():
    for values in ([], [0.5], [0.5, 0.7]):
        assert all(math.isnan(end) for end in bootstrap_interval(np.array(values), seed=0))


def test_equal_cases_have_an_interval_of_no_width():
    assert bootstrap_interval(np.full(5, 0.25), seed=0) == (0.25, 0.25)


def test_errors_say_what_was_wanted_and_what_came():
    for values in ([0.1, math.nan, 0.3], [0.1, math.inf, 0.3], [[0.1, 0.2, 0.3]]):
        with pytest.raises(ValueError, match="one finite number per case, received"):
            bootstrap_interval(np.array(values), seed=0)
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match=f"between 0 and 1, received {confidence}"):
            bootstrap_interval(np.arange(4.0), seed=0, confidence=confidence)

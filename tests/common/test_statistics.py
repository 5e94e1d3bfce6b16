"""Bootstrap intervals and paired tests: by simulation, by hand, and where they are not defined."""

import math

import numpy as np
import pytest
from scipy import stats

from common.statistics import bootstrap_interval, holm, paired_difference, unpaired_difference


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


def signed_rank_p(differences):
    """Wilcoxon's exact two-sided p from its definition: every choice of signs of the ranks is equally likely."""
    ranks = stats.rankdata(np.abs(differences))
    observed = ranks[differences > 0].sum()
    signs = np.array(np.meshgrid(*[(0, 1)] * len(ranks))).reshape(len(ranks), -1)
    sums = ranks @ signs
    return min(1.0, 2 * min(np.mean(sums <= observed), np.mean(sums >= observed)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_paired_p_is_the_share_of_signs_that_are_as_extreme(seed):
    rng = np.random.default_rng(seed)
    first = rng.random(9)
    second = first + rng.normal(0.1, 0.2, 9)
    found = paired_difference(first, second, seed=0)
    assert found.p == pytest.approx(signed_rank_p(second - first))
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert found.n == 9
    assert (found.low, found.high) == bootstrap_interval(second - first, seed=0)


def test_five_cases_that_all_rise_are_no_less_likely_than_one_in_sixteen():
    """Two of the 2^5 choices of signs are as extreme."""
    first, rise = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0.01, 0.02, 0.04, 0.08, 0.16])
    found = paired_difference(first, first + rise, seed=0)
    assert found.p == pytest.approx(2 / 32)
    assert found.low > 0
    turned = paired_difference(first + rise, first, seed=0)
    assert (turned.value, turned.p) == (pytest.approx(-found.value), found.p)


def test_equal_cases_leave_the_ranks_but_not_the_mean():
    first = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    change = np.array([0.0, 0.02, 0.04, 0.08, 0.0, -0.06])
    found = paired_difference(first, first + change, seed=0)
    assert found.p == pytest.approx(signed_rank_p(change[change != 0]))
    assert found.value == pytest.approx(change.mean())
    assert found.n == 6


def test_a_method_that_is_worse_in_most_cases_is_not_shown_to_be_better_by_a_few_large_gains():
    rng = np.random.default_rng(0)
    change = np.concatenate([-rng.uniform(0.005, 0.015, 194), rng.uniform(0.5, 0.7, 6)])
    assert change.mean() > 0 > np.median(change)
    assert stats.wilcoxon(change).pvalue < 1e-20
    assert paired_difference(np.zeros(200), change, seed=0).p == 1
    assert paired_difference(change, np.zeros(200), seed=0).p == 1


def test_patients_are_drawn_and_not_their_scans():
    """Of 25 patients of four equal scans each, three quarters of the numbers tell nothing."""
    rng = np.random.default_rng(1)
    means = rng.normal(0.1, 0.2, 25)
    values, whose = np.repeat(means, 4), np.repeat([f"P{n}" for n in rng.permutation(25)], 4)
    found, of_means = (
        bootstrap_interval(*each, seed=0, patients=who) for each, who in (((values,), whose), ((means,), None))
    )
    assert found == pytest.approx(of_means, abs=0.01)
    assert np.ptp(bootstrap_interval(values, seed=0)) < 0.6 * np.ptp(found)
    paired = paired_difference(np.zeros(100), values, seed=0, patients=whose)
    assert paired.n == 100
    assert paired.p == pytest.approx(paired_difference(np.zeros(25), means, seed=0).p)
    assert (paired.low, paired.high) == found
    other = rng.normal(0.3, 0.2, 30)
    unpaired = unpaired_difference(values, other, seed=0, patients=(whose, None))
    assert unpaired == pytest.approx(unpaired_difference(means, other, seed=0), abs=0.02)


def test_a_patient_with_many_scans_weighs_as_many_in_the_mean():
    """Scans of a patient are drawn together: the interval is that of a ratio of sums, by its linearisation."""
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 6, 200)
    whose = np.repeat(np.arange(200), counts)
    values = rng.normal(size=200)[whose] + rng.normal(size=len(whose))
    sums = np.bincount(whose, weights=values)
    mean = sums.sum() / counts.sum()
    error = np.sqrt(200 * np.var(sums - mean * counts, ddof=1)) / counts.sum()
    low, high = bootstrap_interval(values, seed=0, patients=whose)
    assert (low + high) / 2 == pytest.approx(mean, abs=0.03)
    assert high - low == pytest.approx(2 * 1.97 * error, rel=0.05)


def test_scans_of_one_or_two_patients_have_no_interval_and_equal_patients_one_of_no_width():
    values = np.array([0.5, 0.7, 0.9, 0.4])
    assert np.isnan(bootstrap_interval(values, seed=0, patients=np.array(["a", "a", "b", "b"]))).all()
    two = paired_difference(np.zeros(4), values, seed=0, patients=np.array(["a", "a", "b", "b"]))
    assert (two.value, two.n) == (pytest.approx(0.625), 4)
    assert math.isnan(two.p)
    alike = bootstrap_interval(np.array([0.5, 0.75] * 3), seed=0, patients=np.array(list("aabbcc")))
    assert alike == (0.625, 0.625)
    with pytest.raises(ValueError, match="expected the patient of each of 4 cases, received 3"):
        bootstrap_interval(values, seed=0, patients=np.array(["a", "b", "c"]))


def test_pairs_without_a_difference_and_without_cases():
    equal = paired_difference(np.full(4, 0.5), np.full(4, 0.5), seed=0)
    assert equal == (0.0, 0.0, 0.0, 1.0, 4)
    none = paired_difference(np.array([]), np.array([]), seed=0)
    assert none.n == 0
    assert all(math.isnan(value) for value in none[:4])
    one = paired_difference(np.array([0.5]), np.array([0.7]), seed=0)
    assert (one.value, one.n) == (pytest.approx(0.2), 1)
    assert math.isnan(one.low)
    assert math.isnan(one.p)
    two, three = (paired_difference(np.zeros(n), np.arange(1.0, n + 1), seed=0) for n in (2, 3))
    assert math.isnan(two.p)
    assert three.p == pytest.approx(2 / 2**3)


def test_paired_p_is_below_five_percent_in_five_percent_of_equal_methods():
    rng = np.random.default_rng(0)
    p = [paired_difference(np.zeros(12), rng.normal(size=12), seed=0).p for _ in range(300)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08


@pytest.mark.parametrize("second", [[0.1, 0.2], [[0.1, 0.2, 0.3]], 0.5])
def test_pairs_need_one_number_each(second):
    with pytest.raises(ValueError, match="one number per case, received shapes"):
        paired_difference(np.array([0.1, 0.2, 0.3]), np.array(second), seed=0)


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and the last must not fall below."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.5])), [1.0, 1.0])
    np.testing.assert_allclose(holm(np.array([0.02])), [0.02])
    assert holm(np.array([])).size == 0


def test_holm_rejects_what_its_step_down_rule_rejects():
    """The rule: go up the sorted values as long as the k-th is at most alpha / (m - k + 1)."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.random(6) ** 3
        rejected = np.zeros(6, bool)
        for k, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (6 - k):
                break
            rejected[index] = True
        np.testing.assert_array_equal(holm(p) <= 0.05, rejected)


def test_a_test_that_was_not_made_does_not_count():
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04])
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(np.array([0.5, 1.5]))


@pytest.mark.parametrize(("n", "m"), [(8, 20), (30, 12)])
def test_unpaired_differences_cover_the_true_one(n, m):
    """Means 6/7 and 0.7. 300 pairs of cohorts know a coverage of 0.95 to a standard error of 0.013."""
    rng = np.random.default_rng(n)
    inside = []
    for trial in range(300):
        low, high = unpaired_difference(rng.beta(6, 1, n), rng.beta(7, 3, m), seed=trial, n_resamples=600)
        inside.append(low <= 0.7 - 6 / 7 <= high)
    assert 0.88 <= np.mean(inside) <= 0.99


def test_large_unpaired_groups_approach_welchs_interval():
    rng = np.random.default_rng(3)
    first, second = rng.normal(10, 2, 1500), rng.normal(11, 4, 700)
    half = 1.95996 * math.sqrt(first.var(ddof=1) / 1500 + second.var(ddof=1) / 700)
    middle = second.mean() - first.mean()
    np.testing.assert_allclose(
        unpaired_difference(first, second, seed=0, n_resamples=4000), (middle - half, middle + half), atol=0.1 * half
    )


def test_unpaired_differences_that_are_not_defined_or_have_no_width():
    assert all(math.isnan(end) for end in unpaired_difference(np.ones(9), np.array([0.2, 0.4]), seed=0))
    assert unpaired_difference(np.full(4, 0.5), np.full(3, 0.75), seed=0) == (0.25, 0.25)
    low, high = unpaired_difference(np.zeros(5), np.array([0.1, 0.2, 0.6]), seed=0)
    assert 0.1 <= low < 0.3 < high <= 0.6
    with pytest.raises(ValueError, match="one finite number per case"):
        unpaired_difference(np.ones(3), np.array([1.0, np.nan, 2.0]), seed=0)

"""AUC, interval, comparison, threshold, permutation tests and verdict, against oracles and by simulation."""

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics
from scipy import special, stats

from common.classification import (
    accuracy_interval,
    auc_change,
    auc_difference,
    auc_interval,
    best_threshold,
    best_under_chance,
    log_loss,
    predicted_positive,
    roc_auc,
    two_sided_p,
    verdict,
)

Z = 1.959963984540054
BETTER = ": better than chance at the 5 % level"


def comparisons(values, labels):
    """1, 1/2 or 0 for every patient of class 1 (rows) against every patient of class 0."""
    values, labels = np.asarray(values, float), np.asarray(labels)
    ones, zeros = values[labels == 1], values[labels == 0]
    return np.array([[(one > zero) + 0.5 * (one == zero) for zero in zeros] for one in ones])


def delong(matrices):
    """AUCs and their covariance (DeLong 1988, equations 4 to 7), written out over all pairs."""
    aucs = np.array([matrix.mean() for matrix in matrices])
    ones, zeros = matrices[0].shape
    covariance = np.empty((len(matrices), len(matrices)))
    for r, s in np.ndindex(covariance.shape):
        across = [(matrices[r][i].mean() - aucs[r]) * (matrices[s][i].mean() - aucs[s]) for i in range(ones)]
        down = [(matrices[r][:, j].mean() - aucs[r]) * (matrices[s][:, j].mean() - aucs[s]) for j in range(zeros)]
        covariance[r, s] = sum(across) / (ones - 1) / ones + sum(down) / (zeros - 1) / zeros
    return aucs, covariance


def study(seed, ones, zeros, *, shift=0.8, decimals=9):
    """Two correlated scores of one cohort, in random order; few decimals give ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0], [ones, zeros]))
    common = rng.normal(size=labels.size)
    first, second = (common + rng.normal(size=labels.size) + shift * labels for _ in range(2))
    return np.round(first, decimals), np.round(second, decimals), labels


def rated(zeros, ones):
    """Ratings 1, 2, ... and labels from the number of patients of each class per rating."""
    ratings = np.arange(1, len(zeros) + 1)
    values = np.concatenate([np.repeat(ratings, zeros), np.repeat(ratings, ones)])
    return values, np.repeat([0, 1], [sum(zeros), sum(ones)])


def binormal(auc, ones, zeros, studies, seed):
    """Scores (studies, patients) of equal variance whose true AUC is as asked, and labels."""
    labels = np.repeat([1, 0], [ones, zeros])
    scores = np.random.default_rng(seed).normal(size=(studies, labels.size))
    return scores + math.sqrt(2) * special.ndtri(auc) * labels, labels


STUDIES = [(2, 2, 9), (2, 9, 9), (13, 8, 0), (35, 35, 9), (35, 35, 0), (20, 50, 1)]


@pytest.mark.parametrize(("ones", "zeros", "decimals"), STUDIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_auc_counts_pairs(ones, zeros, decimals, seed):
    values, _, labels = study(seed, ones, zeros, decimals=decimals)
    assert roc_auc(values, labels) == pytest.approx(comparisons(values, labels).mean(), abs=1e-12)
    assert roc_auc(values, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, values), abs=1e-12)
    assert roc_auc(-values, labels == 1) == pytest.approx(1 - roc_auc(values, labels), abs=1e-12)


@pytest.mark.parametrize(("ones", "zeros", "decimals"), STUDIES[2:])
@pytest.mark.parametrize("seed", [0, 1])
def test_interval_is_delongs_on_the_logit_scale(ones, zeros, decimals, seed):
    values, _, labels = study(seed, ones, zeros, decimals=decimals)
    (auc,), ((variance,),) = delong([comparisons(values, labels)])
    for confidence, z in ((0.95, Z), (0.5, 0.6744897501960817)):
        half = z * math.sqrt(variance) / (auc * (1 - auc))
        odds = [auc / (1 - auc) * math.exp(side * half) for side in (-1, 1)]
        np.testing.assert_allclose(
            auc_interval(values, labels, confidence=confidence), [odd / (1 + odd) for odd in odds], atol=1e-12
        )


@pytest.mark.parametrize(
    ("zeros", "ones", "auc", "error"),
    [
        # WFNS grade and outcome after subarachnoid haemorrhage (Turck 2010), as R's pROC has it: auc() and sqrt(var())
        ([37, 20, 3, 8, 4], [2, 12, 1, 8, 18], 0.823678861788618, math.sqrt(0.00146991470882363)),
        # CT ratings (Hanley & McNeil 1982), as Stata's manual has them, to four decimals
        ([33, 6, 6, 11, 2], [3, 2, 2, 11, 33], 0.8932, 0.0307),
    ],
)
def test_published_values(zeros, ones, auc, error):
    ratings, labels = rated(zeros, ones)
    found = roc_auc(ratings, labels)
    low, high = special.logit(auc_interval(ratings, labels))
    tolerance = 5e-5 if auc == 0.8932 else 1e-12
    assert found == pytest.approx(auc, abs=tolerance)
    assert (high - low) / (2 * Z) * found * (1 - found) == pytest.approx(error, abs=tolerance)


@pytest.mark.parametrize(("ones", "zeros", "decimals"), STUDIES[2:])
@pytest.mark.parametrize("seed", [0, 1])
def test_difference_is_delongs_paired_comparison(ones, zeros, decimals, seed):
    first, second, labels = study(seed, ones, zeros, decimals=decimals)
    aucs, covariance = delong([comparisons(first, labels), comparisons(second, labels)])
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    value = aucs[0] - aucs[1]
    expected = (value, value - Z * error, value + Z * error, math.erfc(abs(value) / error / math.sqrt(2)))
    np.testing.assert_allclose(auc_difference(first, second, labels), expected, atol=1e-12)
    reverse = auc_difference(second, first, labels)
    np.testing.assert_allclose(reverse, (-value, -expected[2], -expected[1], expected[3]), atol=1e-12)


def test_difference_to_a_constant_is_the_difference_to_one_half():
    first, _, labels = study(0, 30, 40)
    (auc,), ((variance,),) = delong([comparisons(first, labels)])
    value, low, high, _ = auc_difference(first, np.zeros(70), labels)
    assert value == pytest.approx(auc - 0.5)
    assert (high - low) / (2 * Z) == pytest.approx(math.sqrt(variance))


def test_difference_without_spread():
    values, _, labels = study(0, 6, 5)
    perfect = labels + values / 100
    for first, second, value, p in [
        (values, np.exp(values), 0, 1),  # another scale, the same order
        (perfect, labels, 0, 1),
        (perfect, -perfect, 1, math.nan),
        (np.zeros(11), perfect, -0.5, math.nan),
    ]:
        np.testing.assert_equal(auc_difference(first, second, labels), (value, math.nan, math.nan, p))
    # every patient's share of wins is a third higher in the first: rounding must not pass for spread
    value, *rest = auc_difference([2, 1, 4, 0, 3, 0], [0, 0, 1, 0, 2, 0], [1, 1, 1, 0, 0, 0])
    assert value == pytest.approx(1 / 3)
    np.testing.assert_equal(rest, [math.nan] * 3)
    np.testing.assert_equal(auc_difference([2, 1, 3], [1, 2, 3], [1, 0, 0])[1:], (math.nan, math.nan, math.nan))


@pytest.mark.parametrize("auc", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("each", [35, 70])
def test_interval_covers_the_true_auc(auc, each):
    """2000 studies know a coverage of 0.95 to a standard error of 0.005."""
    scores, labels = binormal(auc, each, each, 2000, seed=round(100 * auc) + each)
    intervals = np.array([auc_interval(study, labels) for study in scores])
    coverage = np.mean((intervals[:, 0] <= auc) & (auc <= intervals[:, 1]))
    assert coverage == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("auc", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize(("ones", "zeros"), [(35, 35), (20, 50), (70, 70)])
def test_coverage_is_that_of_the_docstring(auc, ones, zeros):
    scores, labels = binormal(auc, ones, zeros, 20_000, seed=1)
    intervals = np.array([auc_interval(study, labels) for study in scores])
    coverage = np.mean((intervals[:, 0] <= auc) & (auc <= intervals[:, 1]))
    rows = [line.split()[-6:] for line in auc_interval.__doc__.splitlines() if f"(this), {zeros} + {ones} " in line]
    stated = dict(zip([0.5, 0.6, 0.7, 0.8, 0.9, 0.95], map(float, rows[0]), strict=True))[auc]
    assert coverage == pytest.approx(stated, abs=0.006)  # three standard errors of either's 20,000


@pytest.mark.parametrize("shift", [0.0, 1.2])
def test_difference_of_equal_models_is_found_in_one_of_twenty(shift):
    """2000 studies know a rate of 0.05 to a standard error of 0.005."""
    studies = [auc_difference(*study(seed, 35, 35, shift=shift)) for seed in range(2000)]
    assert np.mean([each.p <= 0.05 for each in studies]) == pytest.approx(0.05, abs=0.015)
    assert np.mean([each.low <= 0 <= each.high for each in studies]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("ones", "zeros"), [(2, 2), (1, 3), (1, 1), (35, 35), (20, 50)])
def test_perfect_separation_is_not_certainty(ones, zeros):
    labels = np.repeat([1, 0], [ones, zeros])
    low, high = auc_interval(labels.astype(float), labels)
    assert high == 1
    assert 0 < low < 1
    # Newcombe's condition, with the two terms of Hanley and McNeil's variance weighted by the mean of the class sizes
    tail = (ones + zeros) / 2 - 1
    q1, q2 = low / (2 - low), 2 * low**2 / (1 + low)
    error = math.sqrt((low * (1 - low) + tail * (q1 - low**2) + tail * (q2 - low**2)) / (ones * zeros))
    assert 1 - low == pytest.approx(Z * error, abs=1e-8)
    np.testing.assert_allclose(auc_interval(-labels, labels), (0, 1 - low), atol=1e-12)
    constant = auc_interval(np.full(labels.size, 0.3), labels)
    assert constant.low == pytest.approx(1 - constant.high)
    assert 0 < constant.low < 0.4


def test_perfect_separation_gains_with_the_number_of_patients():
    lows = [auc_interval(np.repeat([0, 1], n), np.repeat([0, 1], n)).low for n in (2, 5, 20, 35, 70, 300)]
    assert lows == sorted(set(lows))
    assert lows[3] == pytest.approx(0.943, abs=5e-4)  # the docstring's


@pytest.mark.parametrize("values", list(itertools.permutations([0.1, 0.4, 0.6, 0.9])))
def test_four_patients(values):
    low, high = auc_interval(values, [0, 1, 0, 1])
    assert 0 <= low <= roc_auc(values, [0, 1, 0, 1]) <= high <= 1
    assert high - low > 0.5


def test_higher_confidence_is_wider():
    values, _, labels = study(0, 35, 35)
    narrow, wide = (auc_interval(values, labels, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < roc_auc(values, labels) < narrow.high < wide.high
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match=f"confidence between 0 and 1, received {confidence}"):
            auc_interval(values, labels, confidence=confidence)


@pytest.mark.parametrize(("correct", "n"), [(43, 70), (1, 4), (88, 88), (0, 20)])
def test_accuracy_interval_is_exact(correct, n):
    low, high = accuracy_interval(correct, n)
    # at either end as many right, or more (fewer), have a chance of 2.5 %
    assert low == 0 if correct == 0 else stats.binom.sf(correct - 1, n, low) == pytest.approx(0.025)
    assert high == 1 if correct == n else stats.binom.cdf(correct, n, high) == pytest.approx(0.025)


def test_accuracy_interval_by_hand():
    assert accuracy_interval(0, 20) == (0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert accuracy_interval(88, 88) == (pytest.approx(0.025 ** (1 / 88)), 1)
    for correct, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match=f"0 and n correct of n > 0 patients, received {correct} of {n}"):
            accuracy_interval(correct, n)


def test_log_loss_is_finite_where_a_certain_probability_is_wrong():
    rng = np.random.default_rng(0)
    probabilities, labels = np.append(rng.random(50), [0, 1]), np.append(rng.integers(0, 2, 50), [0, 1])
    assert log_loss(probabilities, labels) == pytest.approx(sklearn.metrics.log_loss(labels, probabilities))
    assert log_loss([0.5, 0.25], [1, 0]) == pytest.approx((math.log(2) - math.log(0.75)) / 2)
    assert log_loss([0, 1], [0, 1]) == pytest.approx(0, abs=1e-12)
    assert log_loss([1, 0], [0, 1]) == pytest.approx(52 * math.log(2))  # of the last bit of a double


def test_class_1_begins_at_the_threshold():
    assert predicted_positive([0.4, 0.5, np.nextafter(0.5, 0), 0.9], 0.5).tolist() == [False, True, False, True]


@pytest.mark.parametrize("seed", range(40))
def test_threshold_by_walking_outwards(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], [6, 8]))
    probabilities = special.expit(rng.normal(size=14) + labels)
    tried = [k / 49 for k in range(50)]
    right = [sum((p >= t) == bool(y) for p, y in zip(probabilities, labels, strict=True)) for t in tried]
    best = [k for k in range(50) if right[k] == max(right)]
    low = high = min(best, key=lambda k: (round(abs(tried[k] - 0.5), 9), k))
    while low - 1 in best:
        low -= 1
    while high + 1 in best:
        high += 1
    assert best_threshold(probabilities, labels) == tried[(low + high) // 2]


@pytest.mark.parametrize(
    ("probabilities", "labels", "steps", "expected"),
    [
        # tenths; a run from 0.3 to 0.9, its middle
        ([0.25, 0.95], [0, 1], 11, 0.6),
        # 0.3 to 0.8: the lower of the two middles
        ([0.25, 0.85], [0, 1], 11, 0.5),
        # 0.7, 0.8 and 0.9 are best, though 0.5 lies on the side of the class 0 patients
        ([0.1, 0.65, 0.95], [0, 0, 1], 11, 0.8),
        # three right: 0.1 (from 0.05 to 0.15) or 0.6 (from 0.55 to 0.65): nearer to 0.5
        ([0.05, 0.15, 0.55, 0.65], [0, 1, 0, 1], 11, 0.6),
        # the same distance on both sides, 0.3 and 0.7: the lower run
        ([0.25, 0.35, 0.65, 0.75], [0, 1, 0, 1], 11, 0.3),
        # a patient at a threshold belongs above it: 0.5 is best and 0.6 not
        ([0.45, 0.5], [0, 1], 11, 0.5),
        # all at one value: two right of three from 0 to 0.4, one above
        ([0.4, 0.4, 0.4], [0, 1, 1], 11, 0.2),
        # wrong way round: half are right at the ends, and none in the run between; 0 to 0.2 and 0.9 to 1
        ([0.25, 0.85], [1, 0], 11, 0.1),
        # the ends are tried
        ([0.0, 0.0, 1.0], [0, 0, 1], 2, 1.0),
        ([0.0, 0.5, 0.5], [1, 1, 0], 2, 0.0),
    ],
)
def test_threshold_among_equals(probabilities, labels, steps, expected):
    assert best_threshold(probabilities, labels, steps=steps) == pytest.approx(expected, abs=1e-12)


def test_thresholds_of_the_report_are_steps():
    # Fig. 13 prints k / 49 cut or rounded to three decimals
    for printed in (0.530, 0.469, 0.510, 0.694, 0.347, 0.735, 0.428, 0.673):
        step = best_threshold([printed - 0.012, printed + 0.012], [0, 1])
        assert step * 49 == pytest.approx(round(step * 49), abs=1e-9)
        assert step == pytest.approx(printed, abs=1e-3)


def permutation_p(values, labels, **settings):
    return best_under_chance(np.asarray(values)[np.newaxis], labels, **settings).p


def rank_test(values, labels):
    return stats.mannwhitneyu(values[labels == 1], values[labels == 0], alternative="greater").pvalue


def all_aucs(values, labels):
    """AUC of every way to deal the labels."""
    n, ones = len(labels), int(sum(labels))
    dealt = [np.isin(np.arange(n), chosen) for chosen in itertools.combinations(range(n), ones)]
    return np.array([comparisons(values, deal).mean() for deal in dealt])


@pytest.mark.parametrize("decimals", [9, 0])
def test_permutation_p_approaches_that_of_all_permutations(decimals):
    values, _, labels = study(1, 5, 6, shift=0.3, decimals=decimals)
    exact = np.mean(all_aucs(values, labels) >= comparisons(values, labels).mean() - 1e-12)
    assert 0.05 < exact < 0.6
    p = permutation_p(values, labels, seed=0, n_permutations=40_000)
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))
    assert p == pytest.approx(rank_test(values, labels), abs=0.03)


def test_permutation_p_is_one_sided_and_never_zero():
    labels = np.repeat([0, 1], 20)
    assert permutation_p(labels, labels, seed=0, n_permutations=99) == 0.01
    assert permutation_p(-labels, labels, seed=0, n_permutations=99) == 1
    assert permutation_p(np.zeros(40), labels, seed=0, n_permutations=99) == 1
    assert permutation_p(labels, labels, seed=0) == 1 / 10_001


def test_the_seed_decides():
    values, _, labels = study(0, 35, 35, shift=0.2)
    first, again, other = (permutation_p(values, labels, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first == pytest.approx(other, abs=0.02)


def test_best_of_independent_cells_under_chance():
    """24 cells, 35 + 35 patients: normal AUCs of standard error sqrt(71 / (12 x 35 x 35)), the maximum of 24."""
    labels = np.repeat([0, 1], 35)
    cells = np.random.default_rng(0).random((24, 70))
    error = math.sqrt(71 / (12 * 35 * 35))
    grid = np.linspace(-6, 6, 100_001)
    mean_of_maximum = np.sum(grid * 24 * stats.norm.pdf(grid) * stats.norm.cdf(grid) ** 23) * (grid[1] - grid[0])
    result = best_under_chance(cells, labels, seed=0)
    assert 0.5 + error * mean_of_maximum == pytest.approx(0.635, abs=1e-3)  # the docstring's
    assert result.expected == pytest.approx(0.5 + error * mean_of_maximum, abs=0.004)
    assert result.high == pytest.approx(0.5 + error * stats.norm.ppf(0.95 ** (1 / 24)), abs=0.008)
    assert result.best == pytest.approx(max(roc_auc(cell, labels) for cell in cells))
    other = best_under_chance(cells, labels, seed=1).expected
    assert other != result.expected
    assert other == pytest.approx(result.expected, abs=0.002)


def test_best_of_few_patients_is_that_of_all_permutations():
    """The same deal of labels scores all cells, so how they go together counts."""
    first, second, labels = study(0, 4, 5)
    cells = np.stack([first, second, -first])
    best = np.max([all_aucs(cell, labels) for cell in cells], axis=0)
    found = max(comparisons(cell, labels).mean() for cell in cells)
    result = best_under_chance(cells, labels, seed=0, n_permutations=40_000)
    assert result.best == pytest.approx(found)
    assert result.expected == pytest.approx(best.mean(), abs=4 * best.std() / 200)
    assert result.high == pytest.approx(np.quantile(best, 0.95))
    assert result.p == pytest.approx(np.mean(best >= found - 1e-12), abs=0.01)


def test_cells_that_agree_are_one_cell():
    values, _, labels = study(0, 35, 35, shift=0.2)
    one = best_under_chance(values[np.newaxis], labels, seed=0)
    assert best_under_chance(np.stack([values, 2 * values, np.exp(values)]), labels, seed=0) == one
    assert one.p == permutation_p(values, labels, seed=0)
    assert one.expected == pytest.approx(0.5, abs=0.003)
    other = best_under_chance(np.stack([values, np.random.default_rng(0).random(70)]), labels, seed=0)
    assert other.p > one.p


def false_alarms(cells, studies, n_permutations):
    """Share of studies without any signal that are called better than chance; cells share half of their variance."""
    alarms = 0
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.repeat([0, 1], [33, 37]))
        scores = special.expit(rng.normal(size=70) + rng.normal(size=(cells, 70)))
        words = verdict(scores[0] if cells == 1 else scores, labels, seed=seed, n_permutations=n_permutations)
        assert (BETTER in words) != (": cannot be told from chance" in words or ": not better than" in words)
        alarms += BETTER in words
    return alarms / studies


@pytest.mark.parametrize(("cells", "studies"), [(1, 2000), (24, 600)])
def test_verdict_is_wrong_in_one_of_twenty_studies_without_signal(cells, studies):
    """70 patients; a rate of 0.05 is known to a standard error of 0.005 or 0.009."""
    rate = false_alarms(cells, studies, n_permutations=199)
    assert rate == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / studies))


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 24])
def test_verdict_as_printed_is_wrong_in_one_of_twenty_studies_without_signal(cells):
    assert false_alarms(cells, studies=2000, n_permutations=10_000) == pytest.approx(0.05, abs=0.015)


def test_verdict_finds_a_signal_as_often_as_a_rank_test():
    """True AUC 0.7 at 35 + 35 patients: the rank test's power is Phi(0.2 sqrt(12 x 70 / 4) - 1.645) (Noether 1987)."""
    scores, labels = binormal(0.7, 35, 35, 300, seed=0)
    found = np.mean([BETTER in verdict(study, labels, seed=0, n_permutations=199) for study in scores])
    assert found == pytest.approx(stats.norm.cdf(0.2 * math.sqrt(12 * 70 / 4) - 1.645), abs=0.06)


def test_verdict_in_words():
    values, _, labels = study(0, 35, 35, shift=1.0)
    low, high = auc_interval(values, labels)
    assert verdict(values, labels, seed=0) == (
        f"AUC {roc_auc(values, labels):.3f} (95 % interval {low:.3f} to {high:.3f}, 70 patients): better than chance "
        f"at the 5 % level (one-sided permutation p = {permutation_p(values, labels, seed=0):.3f})."
    )
    low, high = auc_interval(values, labels, confidence=0.99)
    assert f"(99 % interval {low:.3f} to {high:.3f}, 70 patients)" in verdict(values, labels, seed=0, level=0.01)
    assert "at the 1 % level" in verdict(values, labels, seed=0, level=0.01)


def test_verdict_on_little_none_and_reversed_evidence():
    studies = (study(seed, 35, 35, shift=0.4) for seed in itertools.count())
    weak, labels = next((values, labels) for values, _, labels in studies if 0.03 < rank_test(values, labels) < 0.045)
    assert BETTER in verdict(weak, labels, seed=0)
    assert verdict(weak, labels, seed=0).endswith("). The two-sided interval holds 0.5, so the evidence is weak.")
    assert "cannot be told from chance at the 2 % level" in verdict(weak, labels, seed=0, level=0.02)
    assert verdict(np.zeros(70), labels, seed=0).endswith(
        "cannot be told from chance at the 5 % level (one-sided permutation p = 1.000)."
    )
    reversed_ = verdict(-labels, labels, seed=0)
    assert ": not better than chance at" in reversed_
    assert reversed_.endswith("The whole interval lies below 0.5: are the labels or the probabilities reversed?")


def test_verdict_on_the_best_of_several():
    cells, labels = np.random.default_rng(5).random((24, 70)), np.repeat([0, 1], 35)
    best = max(cells, key=lambda cell: sklearn.metrics.roc_auc_score(labels, cell))
    alone, together = verdict(best, labels, seed=0), verdict(cells, labels, seed=0)
    assert BETTER in alone
    assert BETTER not in together
    assert together.startswith("Best AUC of 24 " + alone.split()[1])
    assert alone[alone.index("(") : alone.index(")")] in together
    chance = best_under_chance(cells, labels, seed=0)
    assert f"p = {chance.p:.3f}). Without any signal the best of 24 is {chance.expected:.3f} on average" in together
    assert f"above {chance.high:.3f} in 5 % of studies" in together


FUNCTIONS = [
    roc_auc,
    auc_interval,
    lambda values, labels: auc_difference(values, values, labels),
    lambda values, labels: auc_difference(np.arange(len(labels)), values, labels),
    log_loss,
    best_threshold,
    lambda values, labels: permutation_p(values, labels, seed=0),
    lambda values, labels: best_under_chance(np.atleast_2d(values), labels, seed=0),
    lambda values, labels: verdict(values, labels, seed=0),
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("values", "labels", "why"),
    [
        ([0.1, 0.2, 0.3], [1, 1, 1], "labels 0 and 1, both of them, found 1$"),
        ([0.1, 0.2, 0.3], [0, 0, 0], "labels 0 and 1, both of them, found 0$"),
        ([0.1, 0.2, 0.3], [0, 1, 2], "labels 0 and 1, both of them, found 0, 1, 2$"),
        ([0.1, 0.2, 0.3], [0, 1, math.nan], "labels 0 and 1, both of them, found 0.0, 1.0, nan$"),
        ([], [], "labels 0 and 1, both of them, found none$"),
        ([0.1, math.nan, 0.3, 0.4], [0, 1, 0, 1], "finite values, found 1 that are not$"),
        ([math.inf, math.nan, 0.3, 0.4], [0, 1, 0, 1], "finite values, found 2 that are not$"),
        ([0.1, 0.2, 0.3], [0, 1], r"received shapes \((1, )?3,?\) and \(2,\)$"),
        ([0.1, 0.2], [[0], [1]], r"received shapes \((1, )?2,?\) and \(2, 1\)$"),
    ],
)
def test_errors_say_what_was_wanted_and_what_came(function, values, labels, why):
    with pytest.raises(ValueError, match=why):
        function(values, np.array(labels))


def test_errors_of_single_functions():
    for function in (log_loss, best_threshold):
        with pytest.raises(ValueError, match=r"probabilities between 0 and 1, found -0\.25 to 0\.5"):
            function([0.5, -0.25], [0, 1])
        with pytest.raises(ValueError, match=r"probabilities between 0 and 1, found 0\.5 to 1\.5"):
            function([0.5, 1.5], [0, 1])
    with pytest.raises(ValueError, match="at least 2 steps from 0 to 1, received 1"):
        best_threshold([0.5, 0.6], [0, 1], steps=1)
    with pytest.raises(ValueError, match="at least one permutation, received 0"):
        permutation_p([0.5, 0.6], [0, 1], seed=0, n_permutations=0)
    with pytest.raises(ValueError, match=r"values \(cells, n\) and labels \(n,\), received shapes \(2,\) and \(2,\)"):
        best_under_chance(np.array([0.5, 0.6]), [0, 1], seed=0)


def test_values_are_left_as_they_were():
    values, _, labels = study(0, 35, 35)
    before = values.copy(), labels.copy()
    for function in FUNCTIONS[:4] + FUNCTIONS[6:]:
        function(values, labels)
    np.testing.assert_array_equal(values, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_a_permutation_p_of_both_sides_counts_every_arrangement():
    """All 70 ways of dealing four ones among eight patients, against the sampled ones."""
    values, labels = np.array([1.0, 2, 2, 3, 5, 5, 6, 9]), np.array([0, 0, 1, 0, 1, 0, 1, 1])
    aucs = []
    for ones in itertools.combinations(range(8), 4):
        dealt = np.isin(np.arange(8), ones).astype(int)
        aucs.append(sklearn.metrics.roc_auc_score(dealt, values))
    exact = np.mean(np.abs(np.array(aucs) - 0.5) >= abs(sklearn.metrics.roc_auc_score(labels, values) - 0.5) - 1e-12)
    assert two_sided_p(values, labels, seed=0) == pytest.approx(exact, abs=0.015)
    assert two_sided_p(-values, labels, seed=0) == pytest.approx(exact, abs=0.015)


def test_change_of_an_auc_between_cohorts_is_defined_at_the_end_of_the_scale():
    perfect = np.arange(20.0), np.repeat([0, 1], 10)
    mixed = np.array([3.0, 1, 4, 1, 5, 9, 2, 6]), np.array([0, 1, 0, 1, 0, 1, 0, 1])
    value, (low, high) = auc_change(perfect, mixed)
    inside, outside = auc_interval(*perfect), auc_interval(*mixed)
    there = sklearn.metrics.roc_auc_score(mixed[1], mixed[0])
    assert value == pytest.approx(there - 1)
    assert inside.high == 1
    assert low == pytest.approx(value - (there - outside.low))
    assert high == pytest.approx(value + np.hypot(outside.high - there, 1 - inside.low))

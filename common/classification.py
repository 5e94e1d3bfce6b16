"""How well probabilities separate two classes of patients, and whether that can be told from chance.

Labels are 0 or 1 (MGMT promoter methylated), one per patient; both must occur. AUC is the area under the ROC curve: the
probability that a patient of class 1 gets a higher value than one of class 0, ties counted half. It asks for an order
only, so logits serve as well as probabilities; a threshold and the log loss ask for probabilities.
Every function raises ValueError when labels are not 0 and 1, a value is not finite, or the shapes do not match.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its parts when they are first used: stats alone takes half a second

from common.statistics import Interval
from common.words import p_value


class Difference(NamedTuple):
    """Difference of two AUCs (first less second), its interval and two-sided p-value; nan where not defined."""

    value: float
    low: float
    high: float
    p: float


class BestUnderChance(NamedTuple):
    """The best AUC found among several cells, beside what the best of as many is when labels mean nothing.

    expected: mean of the best AUC over label permutations. high: its 95 % quantile. p: of finding ``best`` or better.
    """

    best: float
    expected: float
    high: float
    p: float


def both_classes(labels: np.ndarray) -> np.ndarray:
    """Labels as boolean, of the same shape. Raises ValueError unless they are 0 and 1 and both occur."""
    if set(found := np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(f"expected labels 0 and 1, both of them, found {', '.join(map(str, found[:5])) or 'none'}")
    return np.asarray(labels).astype(bool)


def roc_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, (n,) values and labels; ties count half (Mann-Whitney, from midranks)."""
    wins, _ = _wins(*_checked(probabilities, labels))
    return float(wins.mean())


def auc_interval(probabilities: np.ndarray, labels: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Confidence interval of one AUC: DeLong's variance (1988), symmetrical on the logit scale.

    probabilities, labels: (n,). The logit keeps the interval within (0, 1) and near its nominal coverage where the
    plain one falls short (Pohar Perme & Manevski 2019, "Confidence intervals for the Mann-Whitney test").
    Coverage of the nominal 0.95 over 20,000 simulated binormal studies each (class 0 + class 1 patients):

    =====================  =====  =====  =====  =====  =====  =====
    true AUC               0.50   0.60   0.70   0.80   0.90   0.95
    =====================  =====  =====  =====  =====  =====  =====
    plain, 35 + 35         0.947  0.941  0.940  0.933  0.917  0.883
    logit (this), 35 + 35  0.958  0.954  0.957  0.957  0.950  0.945
    logit (this), 50 + 20  0.955  0.956  0.954  0.951  0.949  0.938
    plain, 70 + 70         0.947  0.948  0.943  0.942  0.932  0.916
    logit (this), 70 + 70  0.952  0.954  0.950  0.953  0.953  0.949
    =====================  =====  =====  =====  =====  =====  =====

    DeLong's variance is 0 where the classes do not overlap (AUC 0 or 1) or all values tie, and not defined with a
    single patient in a class. There the interval is Newcombe's (2006, method 5): all AUCs from which the one found is
    no further than their own standard error allows, with Hanley and McNeil's variance. So 35 + 35 patients told apart
    without a fault give 0.943 to 1. It is wide for a constant prediction, whose AUC is 0.5 whoever is drawn.
    Raises ValueError also when confidence lies outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, received {confidence}")
    wins, losses = _wins(*_checked(probabilities, labels))
    auc = float(wins.mean())
    z = float(scipy.stats.norm.isf((1 - confidence) / 2))
    variance = _mean_variance(wins, losses)
    if not variance > 0:  # 0 or, with a single patient in a class, nan
        return _interval_without_spread(auc, wins.size, losses.size, z)
    half = z * np.sqrt(variance) / (auc * (1 - auc))
    centre = scipy.special.logit(auc)
    return Interval(float(scipy.special.expit(centre - half)), float(scipy.special.expit(centre + half)))


def auc_difference(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> Difference:
    """AUC of first less AUC of second on the same patients, with the 95 % interval and p of DeLong's comparison (1988).

    first, second, labels: (n,), the same patient at the same place. Both models' errors on a patient are taken
    together, so models that err alike are compared more sharply than two intervals side by side would allow.
    Where the difference has no spread (equal orders, both perfect, a single patient in a class) the interval is nan; p
    is then 1 if the AUCs are equal, else nan.
    """
    wins, losses = (
        a - b for a, b in zip(_wins(*_checked(first, labels)), _wins(*_checked(second, labels)), strict=True)
    )
    value, variance = float(wins.mean()), _mean_variance(wins, losses)
    if not variance > 0:
        return Difference(value, float("nan"), float("nan"), 1.0 if value == 0 else float("nan"))
    error = np.sqrt(variance)
    half = float(scipy.stats.norm.isf(0.025) * error)
    return Difference(value, value - half, value + half, float(2 * scipy.stats.norm.sf(abs(value) / error)))


def auc_change(
    inside: tuple[np.ndarray, np.ndarray], outside: tuple[np.ndarray, np.ndarray], *, confidence: float = 0.95
) -> tuple[float, Interval]:
    """AUC outside less AUC inside, of different patients, and its interval.

    inside, outside: (values, labels), each (n,). The interval puts those of :func:`auc_interval` together as Zou and
    Donner (2008, "Construction of confidence limits about effect measures", method of variance estimates recovery) do:
    it stays defined where one AUC is 0 or 1, and keeps the single ones' asymmetry. Coverage of the nominal 0.95 over
    4000 simulated binormal studies with 35 + 35 patients inside and 60 + 60 outside, by the true AUCs: 0.950 (0.5
    inside, 0.5 outside), 0.952 (0.8, 0.5), 0.953 (0.95, 0.6).
    """
    (first, first_labels), (second, second_labels) = inside, outside
    a, b = roc_auc(first, first_labels), roc_auc(second, second_labels)
    a_low, a_high = auc_interval(first, first_labels, confidence=confidence)
    b_low, b_high = auc_interval(second, second_labels, confidence=confidence)
    low, high = b - a - np.hypot(b - b_low, a_high - a), b - a + np.hypot(b_high - b, a - a_low)
    return b - a, Interval(float(low), float(high))


def two_sided_p(values: np.ndarray, labels: np.ndarray, *, seed: int, n_permutations: int = 10_000) -> float:
    """Two-sided p of an AUC by permuting the labels: of lying as far from 0.5, on whichever side, or further.

    values, labels: (n,). Raises ValueError also for fewer than one permutation.
    """
    values, labels = _checked(values, labels)
    found, dealt = _permuted(values[None], labels, seed=seed, n_permutations=n_permutations)
    as_far = np.abs(dealt - 0.5) >= abs(found - 0.5) - 1e-9  # AUCs differ by half a pair, or by rounding
    return float((np.count_nonzero(as_far) + 1) / (n_permutations + 1))


def accuracy_interval(correct: int, n: int) -> Interval:
    """Exact 95 % interval of an accuracy of ``correct`` in ``n`` patients (Clopper & Pearson 1934).

    Raises ValueError unless 0 <= correct <= n and n > 0.
    """
    if not (n > 0 and 0 <= correct <= n):
        raise ValueError(f"expected between 0 and n correct of n > 0 patients, received {correct} of {n}")
    ends = scipy.stats.binomtest(correct, n).proportion_ci(0.95, method="exact")
    return Interval(float(ends.low), float(ends.high))


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary cross-entropy, natural logarithm; a probability of 0 or 1 that is wrong costs about 36, not infinity.

    Raises ValueError for a value outside [0, 1].
    """
    probabilities, labels = _checked(probabilities, labels, within=True)
    of_the_truth = np.where(labels, probabilities, 1 - probabilities)
    return float(-np.log(of_the_truth.clip(min=np.finfo(float).eps)).mean())


def predicted_positive(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Which patients are called class 1: those whose probability is the threshold or more, boolean."""
    return np.asarray(probabilities, dtype=float) >= threshold


def best_threshold(probabilities: np.ndarray, labels: np.ndarray, *, steps: int = 50) -> float:
    """The threshold of highest accuracy on these (validation) patients, of ``steps`` evenly spaced ones from 0 to 1.

    The report's search: all thresholds of its Fig. 13 are k / 49. It names no rule for ties, which are frequent. Here,
    of the runs of neighbouring best thresholds the one that comes nearest to 0.5 is taken, and of it the middle (of
    two runs or two middles the lower). Near 0.5 lies the best threshold of a calibrated network, and far from it are
    those that tie by calling nearly everybody the same; the middle stays clear of the patients on both sides.
    Raises ValueError for a value outside [0, 1] or fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"expected at least 2 steps from 0 to 1, received {steps}")
    probabilities, labels = _checked(probabilities, labels, within=True)
    correct = [int((predicted_positive(probabilities, step / (steps - 1)) == labels).sum()) for step in range(steps)]
    best = np.flatnonzero(np.equal(correct, max(correct)))
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    # in half steps from the middle, so that ties are ties
    nearest = min(runs, key=lambda run: np.abs(2 * run - (steps - 1)).min())
    return float(nearest[(nearest.size - 1) // 2] / (steps - 1))


def best_under_chance(
    probabilities: np.ndarray, labels: np.ndarray, *, seed: int, n_permutations: int = 10_000
) -> BestUnderChance:
    """What the best AUC of several cells (settings tried) is worth, by permuting the labels.

    probabilities: (cells, n), the same patients in the same order; labels: (n,). Each permutation is scored by all
    cells, so cells that agree count as little as they should (24 independent ones, 35 + 35 patients: 0.635 expected).
    Raises ValueError also for fewer than one permutation.
    """
    probabilities, labels = _checked(probabilities, labels, dimensions=2)
    best, chance = _permuted(probabilities, labels, seed=seed, n_permutations=n_permutations)
    p = (np.count_nonzero(chance >= best) + 1) / (n_permutations + 1)
    return BestUnderChance(float(best), float(chance.mean()), float(np.quantile(chance, 0.95)), float(p))


def verdict(
    probabilities: np.ndarray, labels: np.ndarray, *, seed: int, level: float = 0.05, n_permutations: int = 10_000
) -> str:
    """In words: AUC, interval, number of patients, and whether the AUC is better than chance at ``level``.

    probabilities: (n,), or (cells, n) where the best of several cells is reported, which is then compared with the best
    of as many under chance. labels: (n,). "better than chance" is said where the one-sided permutation p-value is at
    most ``level``: of 100 studies without any signal, 100 x level say so. The interval is two-sided, 1 - level.
    """
    cells, labels = _checked(np.atleast_2d(probabilities), labels, dimensions=2)
    chance = best_under_chance(cells, labels, seed=seed, n_permutations=n_permutations)
    best = max(cells, key=lambda cell: roc_auc(cell, labels))
    low, high = auc_interval(best, labels, confidence=1 - level)
    several = len(cells) > 1
    if chance.p <= level:
        finding = "better than chance"
    else:
        finding = "not better than chance" if high < 0.5 else "cannot be told from chance"
    sentences = [
        f"{f'Best AUC of {len(cells)}' if several else 'AUC'} {chance.best:.3f} ({100 * (1 - level):g} % interval "
        f"{low:.3f} to {high:.3f}, {labels.size} patients): {finding} at the {100 * level:g} % level "
        f"(one-sided permutation {p_value(chance.p, named=True)})."
    ]
    if several:
        sentences.append(
            f"Without any signal the best of {len(cells)} is {chance.expected:.3f} on average and above "
            f"{chance.high:.3f} in 5 % of studies; the interval does not know of the choice."
        )
    elif chance.p <= level and low <= 0.5:
        sentences.append("The two-sided interval holds 0.5, so the evidence is weak.")
    if high < 0.5:
        sentences.append("The whole interval lies below 0.5: are the labels or the probabilities reversed?")
    return " ".join(sentences)


def _permuted(
    cells: np.ndarray, labels: np.ndarray, *, seed: int, n_permutations: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best AUC of the cells (cells, n), and that of each permutation of the labels, (n_permutations,)."""
    if n_permutations < 1:
        raise ValueError(f"expected at least one permutation, received {n_permutations}")
    shuffled = np.random.default_rng(seed).permuted(np.tile(labels, (n_permutations, 1)), axis=1)
    ranks = scipy.stats.rankdata(cells, axis=1).T  # (n, cells)
    positives = np.count_nonzero(labels)
    pairs = positives * (labels.size - positives)
    # Sums of halves are exact, so a permuted AUC that equals the one found is counted as equal.
    best, chance = (
        ((dealt @ ranks).max(axis=-1) - positives * (positives + 1) / 2) / pairs
        for dealt in (labels.astype(float), shuffled.astype(float))
    )
    return best, chance


def _wins(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's structural components, from midranks (Sun & Xu 2014).

    Per patient of class 1 the share of class 0 below it, and per patient of class 0 the share of class 1 above it.
    """
    ones, zeros = values[labels], values[~labels]
    ranks = scipy.stats.rankdata(np.concatenate([ones, zeros]))
    below = ranks[: ones.size] - scipy.stats.rankdata(ones)
    above = ones.size - (ranks[ones.size :] - scipy.stats.rankdata(zeros))
    return below / zeros.size, above / ones.size


def _mean_variance(ones: np.ndarray, zeros: np.ndarray) -> float:
    """Variance of the mean over both classes of components; nan with a single patient in one, 0 without spread."""
    if min(ones.size, zeros.size) < 2:
        return float("nan")
    if max(np.ptp(ones), np.ptp(zeros)) < 1e-9:  # shares differ by half a patient, or by rounding
        return 0.0
    return float(ones.var(ddof=1) / ones.size + zeros.var(ddof=1) / zeros.size)


def _interval_without_spread(auc: float, ones: int, zeros: int, z: float) -> Interval:
    """Newcombe's interval, which needs only the AUC and the numbers of patients."""
    extra = (ones + zeros) / 2 - 1

    def low(auc: float) -> float:
        def beyond(true: float) -> float:
            spread = 1 + extra * ((1 - true) / (2 - true) + true / (1 + true))
            return auc - true - z * np.sqrt(true * (1 - true) * spread / (ones * zeros))

        # short of an AUC of 1, which has no spread of its own and is a root too
        return float(scipy.optimize.brentq(beyond, 0, auc * (1 - 1e-9))) if auc > 0 else 0.0

    return Interval(low(auc), 1 - low(1 - auc))


def _checked(
    values: np.ndarray, labels: np.ndarray, *, dimensions: int = 1, within: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Values as float and labels as boolean, of the same last axis."""
    values, labels = np.asarray(values, dtype=float), np.asarray(labels)
    if values.ndim != dimensions or labels.ndim != 1 or values.shape[-1] != labels.size:
        shape = "(cells, n)" if dimensions == 2 else "(n,)"
        raise ValueError(f"expected values {shape} and labels (n,), received shapes {values.shape} and {labels.shape}")
    labels = both_classes(labels)
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite values, found {values.size - np.isfinite(values).sum()} that are not")
    if within and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"expected probabilities between 0 and 1, found {values.min():g} to {values.max():g}")
    return values, labels

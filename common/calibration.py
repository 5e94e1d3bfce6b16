"""Whether probabilities mean what they say: calibration curve, intercept, slope and Brier score.

As in Van Calster et al. (2019, "Calibration: the Achilles heel of predictive analytics"): of all patients to whom a
model gives 0.7, seven in ten should be of class 1. An AUC asks for an order only and says nothing of this.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy  # its parts when they are first used: stats alone takes half a second

from common.classification import both_classes
from common.statistics import Interval

CLIPPED = 1e-6
"""A probability nearer to 0 or 1 counts as this far from it: its logit would be infinite."""
UNKNOWN = (float("nan"), Interval(float("nan"), float("nan")))


@dataclass(frozen=True)
class Calibration:
    """Of probabilities for class 1. nan where the classes do not overlap or all probabilities are equal.

    intercept: what is to be added to the logits so that as many of class 1 are expected as there are (0: right; below
    0: too many were expected), the slope left at 1. slope: what the logits are to be multiplied by (1: right; below 1:
    too sure of itself; 0: says nothing). brier: mean squared difference from the labels; chance: what the share of
    class 1 as everybody's probability has.
    """

    intercept: float
    intercept_interval: Interval
    slope: float
    slope_interval: Interval
    brier: float
    chance: float
    n: int


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """Calibration of probabilities (n,) against labels (n,) of 0 and 1, with 95 % Wald intervals.

    Raises ValueError when a value lies outside [0, 1], the shapes differ, or only one class occurs.
    """
    probabilities, truth = _checked(probabilities, labels)
    logits = scipy.special.logit(probabilities.clip(CLIPPED, 1 - CLIPPED))
    intercept = _fitted(np.ones((truth.size, 1)), truth, offset=logits)[0]
    slope = _fitted(np.column_stack([np.ones_like(logits), logits]), truth, offset=np.zeros_like(logits))[1]
    if _are_apart(logits, truth) or _are_apart(-logits, truth):  # the likelihood has no maximum
        slope = UNKNOWN
    share = truth.mean()
    return Calibration(
        *intercept,
        *slope,
        brier=float(np.mean((probabilities - truth) ** 2)),
        chance=float(share * (1 - share)),
        n=truth.size,
    )


def calibration_curve(probabilities: np.ndarray, labels: np.ndarray, *, groups: int = 5) -> pd.DataFrame:
    """Patients in groups of equal size by their probability: columns n, expected (mean probability), observed (share of
    class 1), low, high (95 % interval of Wilson, 1927). Fewer groups where probabilities are equal.

    Raises ValueError as :func:`calibration`, and for fewer than one group.
    """
    probabilities, truth = _checked(probabilities, labels)
    if groups < 1:
        raise ValueError(f"expected one group or more, received {groups}")
    order = scipy.stats.rankdata(probabilities, method="average")  # equal ones stay together
    place = np.minimum((order - 0.5) / truth.size * groups, groups - 1).astype(int)
    rows = []
    for group in np.unique(place):
        own = place == group
        n, ones = int(own.sum()), int(truth[own].sum())
        ends = scipy.stats.binomtest(ones, n).proportion_ci(0.95, method="wilson")
        rows.append((n, float(probabilities[own].mean()), ones / n, float(ends.low), float(ends.high)))
    return pd.DataFrame(rows, columns=["n", "expected", "observed", "low", "high"])


def _fitted(design: np.ndarray, truth: np.ndarray, *, offset: np.ndarray) -> list[tuple[float, Interval]]:
    """Coefficients of a logistic regression without penalty by maximum likelihood, each with its Wald interval."""

    def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
        logits = offset + design @ beta
        return float(np.sum(np.logaddexp(0, logits) - truth * logits)), design.T @ (scipy.special.expit(logits) - truth)

    found = scipy.optimize.minimize(loss, np.zeros(design.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    shares = scipy.special.expit(offset + design @ found)
    information = design.T @ (design * (shares * (1 - shares))[:, None])
    if np.linalg.cond(information) > 1e12:  # all probabilities are equal
        return [UNKNOWN] * len(found)
    halves = scipy.stats.norm.isf(0.025) * np.sqrt(np.diag(np.linalg.inv(information)))
    return [(float(b), Interval(float(b - h), float(b + h))) for b, h in zip(found, halves, strict=True)]


def _are_apart(logits: np.ndarray, truth: np.ndarray) -> bool:
    """Whether no patient of class 0 lies above one of class 1."""
    return bool(logits[truth == 0].max() <= logits[truth == 1].min())


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
    if probabilities.ndim != 1 or probabilities.shape != labels.shape:
        raise ValueError(
            f"expected probabilities and labels (n,), received shapes {probabilities.shape} and {labels.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("expected probabilities between 0 and 1, found others")
    return probabilities, both_classes(labels).astype(float)

"""Which method is first, by whose measure, and how often it would be with other patients (bootstrap)."""

import numpy as np
import pandas as pd
import scipy  # its parts when they are first used: stats alone takes half a second

from common.statistics import FEWEST_CASES
from common.summary import PATIENT, apply_empty_policy, higher_is_better

RANKS = "rank"
"""The criterion of BraTS's ranking: ranks within each case by Dice and HD95 of ET, TC and WT, averaged over all."""
RANKED = tuple(f"{score}_{region}" for score in ("dice", "hd95") for region in ("ET", "TC", "WT"))
RESAMPLES = 10_000
_AT_ONCE = 500


def ranking(
    cases: pd.DataFrame, metrics: tuple[str, ...], *, seed: int = 0, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """A row per criterion (RANKS, then the mean of each metric) and method.

    cases: method, case and the metrics, every method with the same cases; with PATIENT patients are drawn. Empty masks
    are valued as BraTS does, whatever the tables' policy, so that no method gains by a missed one.
    Columns: criterion, method; value: the mean rank, or the metric's mean; place (1 is best, equal ones share it) and
    first: share of the resamples in which the method is first, shared where several are; NaN below FEWEST_CASES.
    """
    valued = apply_empty_policy(cases, "brats")
    methods = list(dict.fromkeys(valued["method"]))
    tables = {metric: _by_method(valued, metric, methods) for metric in dict.fromkeys((*RANKED, *metrics))}
    ranks = np.mean([scipy.stats.rankdata(_costs(tables[metric], metric), axis=1) for metric in RANKED], axis=0)
    criteria = {RANKS: ranks} | {metric: _costs(tables[metric], metric) for metric in metrics}
    patients = valued.drop_duplicates("case").set_index("case").sort_index().get(PATIENT)
    first = _share_first(np.stack(list(criteria.values())), patients, seed, resamples)
    rows = []
    for (criterion, costs), shares in zip(criteria.items(), first, strict=True):
        values = (ranks if criterion == RANKS else tables[criterion]).mean(axis=0)
        places = scipy.stats.rankdata(costs.mean(axis=0).round(12), method="min").astype(int)
        rows += zip([criterion] * len(methods), methods, values, places, shares, strict=True)
    return pd.DataFrame(rows, columns=["criterion", "method", "value", "place", "first"])


def _by_method(valued: pd.DataFrame, metric: str, methods: list[str]) -> np.ndarray:
    """Values (case, method)."""
    return valued.pivot_table(metric, index="case", columns="method", dropna=False)[methods].to_numpy(float)


def _costs(values: np.ndarray, metric: str) -> np.ndarray:
    """The same, smaller being better."""
    return -values if higher_is_better(metric) else values


def _share_first(costs: np.ndarray, patients: pd.Series | None, seed: int, resamples: int) -> np.ndarray:
    """For costs (criterion, case, method) the share (criterion, method) of resamples with the smallest mean."""
    rng = np.random.default_rng(seed)
    own = np.arange(costs.shape[1]) if patients is None else pd.factorize(patients)[0]
    n = len(np.unique(own))
    if n < FEWEST_CASES:
        return np.full(costs.shape[::2], np.nan)
    found = np.zeros(costs.shape[::2])
    for start in range(0, resamples, _AT_ONCE):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(_AT_ONCE, resamples - start))[:, own]
        means = (np.einsum("rc,kcm->krm", times, costs, optimize=True) / times.sum(axis=1)[:, None]).round(12)
        best = means == means.min(axis=2, keepdims=True)
        found += (best / best.sum(axis=2, keepdims=True)).sum(axis=1)
    return found / resamples

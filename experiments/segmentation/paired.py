"""Scores of the same test cases by two methods: means, paired differences and what they are worth."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.runs import RunError
from common.statistics import PairedDifference, holm, paired_difference
from common.summary import EmptyPolicy, apply_empty_policy, patients_of
from experiments.base import results


def compare(against: Path, own: Path, policy: EmptyPolicy, metrics: Sequence[str]) -> pd.DataFrame:
    """One row per metric of two folders with cases.csv.

    Columns: metric; against and own, the means over the n cases that have a score in both; difference (own - against)
    with its 95 % interval low to high; p of Wilcoxon's signed-rank test and p_holm, after Holm over the rows.
    Raises RunError when the two folders hold other cases.
    """
    first, second = (
        apply_empty_policy(results.read_cases(folder), policy).set_index("case") for folder in (against, own)
    )
    if set(first.index) != set(second.index):
        raise RunError(f"{own}: expected the cases of {against}, found others")
    table = differences(first, second, metrics)
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def differences(first: pd.DataFrame, second: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """:func:`compare` of two frames of the same cases, by case and valued by a policy, without p_holm."""
    rows = []
    for metric in metrics:
        means, found = difference(first, second, metric)
        row = {"metric": metric, **means, "difference": found.value}
        rows.append(row | {"low": found.low, "high": found.high, "p": found.p, "n": found.n})
    return pd.DataFrame(rows)


def difference(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> tuple[dict[str, float], PairedDifference]:
    """A metric of two frames of cases, by case and valued by a policy: the means, ``against`` and ``own``, and how far
    the second is from the first, over the cases that have a score in both."""
    both = pd.concat([first[metric], second[metric]], axis=1, keys=["against", "own"]).dropna()
    found = paired_difference(both["against"], both["own"], seed=0, patients=patients_of(first.loc[both.index]))
    return both.mean().to_dict(), found

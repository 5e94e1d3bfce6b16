"""What a comparison of methods comes to: summaries, paired differences, ranking, and doubts about labels' meaning."""

import itertools
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import write_csv
from common.labels import CLASSES, CLASSES_WITH_CAVITY
from common.plausibility import absent
from common.statistics import holm
from common.summary import EmptyPolicy, apply_empty_policy, higher_is_better, summarise
from common.words import listed, plural
from experiments.base.results import Result
from experiments.evaluation.ranking import RANKS, ranking
from experiments.segmentation.paired import differences

EXPERIMENT = "score"
DICE = ("mean_dice", *(f"dice_{name}" for name in ("ET", "TC", "WT", "NCR", "ED")))
REGIONS = ("ET", "TC", "WT")
COMPARED = (
    *DICE,
    *(f"hd95_{region}" for region in REGIONS),
    *(f"lesion_{score}_brats2023_{region}" for score in ("dice", "hd95") for region in REGIONS),
)
"""What is tested pair by pair, and ranked."""
SHOWN = (
    *COMPARED,
    *(f"lesion_{score}_brats2023_{region}" for score in ("sensitivity", "fp") for region in REGIONS),
)
OF_CAVITY = ("dice_RC", "hd95_RC", "lesion_dice_brats2024_RC")
"""What comes on top where the resection cavity was scored."""
NEARLY = 0.001
"""Share of the tumour's voxels in which nearly equal label maps differ at most; no two readers come so near."""
SWAP_GAIN = 0.1
"""Mean Dice of the classes, all cases' voxels together, that another reading of a method's values must gain for a
note."""
SWAP_GAIN_OF_CASE = 0.3
"""The same in one case, where a network that takes a class for another gains, too."""


def write(
    folder: Path, methods: Sequence[str], cases: pd.DataFrame, policy: EmptyPolicy, *, synthetic: bool
) -> list[Result]:
    """Write scores.csv, comparisons.csv and ranking.csv of the cases' scores; returns the results of summary.json."""
    scores = pd.concat(
        summarise(cases[cases["method"] == method].drop(columns="method"), policy=policy).assign(method=method)
        for method in methods
    )
    comparisons = compare(cases, methods, policy)
    ranks = ranking(cases, compared(cases))
    for name, frame in (("scores", scores), ("comparisons", comparisons), ("ranking", ranks)):
        write_csv(folder / f"{name}.csv", frame)
    n = cases["case"].nunique()

    def result(name: str, value: float, n: int, low: float = np.nan, high: float = np.nan) -> Result:
        return Result.of(EXPERIMENT, name, float(value), int(n), (low, high), synthetic=synthetic)

    found = [
        result(f"{row.method}__{row.metric}", row.mean, row.n, row.low, row.high)
        for row in scores[scores["metric"].isin((*SHOWN, *OF_CAVITY))].itertuples()
    ]
    for row in comparisons.itertuples():
        name = f"{row.method}__minus_{row.against}__{row.metric}"  # no method's name holds two underscores
        found.append(result(name, row.difference, row.n, row.low, row.high))
        found.append(result(f"{name}_p", row.p_holm, row.n))
    for row in ranks[ranks["criterion"] == RANKS].itertuples():
        found.append(result(f"{row.method}__rank", row.value, n))
        if not np.isnan(row.first):
            found.append(result(f"{row.method}__first", row.first, n))
    return found


def compared(cases: pd.DataFrame) -> tuple[str, ...]:
    """COMPARED, and OF_CAVITY where the resection cavity was scored."""
    return COMPARED + tuple(metric for metric in OF_CAVITY if metric in cases)


def compare(cases: pd.DataFrame, methods: Sequence[str], policy: EmptyPolicy) -> pd.DataFrame:
    """Every pair of methods on the same cases, metric by metric.

    Columns: method, against, metric, difference (method - against) with its 95 % interval low to high, n, p of
    Wilcoxon's signed-rank test, p_holm after Holm over all rows, higher_is_better.
    """
    valued = apply_empty_policy(cases, policy)
    of = {method: valued[valued["method"] == method].set_index("case") for method in methods}
    found = [
        differences(of[against], of[method], compared(cases)).assign(method=method, against=against)
        for against, method in itertools.combinations(methods, 2)
    ]
    names = ["method", "against", "metric", "difference", "low", "high", "n", "p"]
    table = pd.concat(found)[names] if found else pd.DataFrame(columns=names)
    better = table["metric"].map(higher_is_better)
    return table.assign(p_holm=holm(table["p"].to_numpy(float)), higher_is_better=better)


def copies(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Methods with equal label maps; label maps that are equal for several cases, or the mask of another case.

    classes: by case, digests of the classes of its truth and of each method's label map, empty where there are none,
    which says nothing.
    """
    maps = {case: digests["label_maps"] for case, digests in classes.items()}
    masks = {digests["truth"]: case for case, digests in classes.items() if digests["truth"]}
    methods = next(iter(maps.values()), {})
    notes = []
    for one, other in itertools.combinations(methods, 2):
        if equal := [case for case, own in maps.items() if own[one] == own[other] != ""]:
            twice = ": is it one method twice?" * (len(equal) == len(maps))
            notes.append(f"{one} and {other}: equal label maps for {_of(equal, maps)}{twice}")
    for method in methods:
        cases: dict[str, list[str]] = {}
        for case, own in maps.items():
            if own[method]:
                cases.setdefault(own[method], []).append(case)
        if several := [case for group in cases.values() if len(group) > 1 for case in group]:
            notes.append(f"{method}: one and the same label map for several cases, {_of(several, maps)}")
        if others := [case for case, own in maps.items() if masks.get(own[method], case) != case]:
            notes.append(f"{method}: its label maps are the masks of other cases for {_of(others, maps)}")
    return notes


def truths(pairs: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Methods of which label maps are the truth in every voxel, or in nearly every one.

    pairs: by method and case, the voxels per pair of classes (predicted, true). A case without any tumour in its truth
    says nothing.
    """
    notes = []
    for method, own in pairs.items():
        differ = {case: int(found.sum() - np.trace(found)) for case, found in own.items() if found[1:].any()}
        equal = [case for case, n in differ.items() if n == 0]
        nearly = [case for case, n in differ.items() if 0 < n < NEARLY * own[case][:, 1:].sum()]
        for words, those in (("every voxel", equal), (f"all but {NEARLY:.1%} of the tumour's voxels", nearly)):
            if those:
                notes.append(
                    f"{method}: equal to the truth in {words} for {_of(those, own)}: are these the masks themselves?"
                )
    return notes


def swaps(pairs: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """What says that a method's values mean other classes than they are read as, in all cases or in some, or that its
    label maps lack classes.

    pairs: as of :func:`truths`.
    """
    notes = []
    for method, own in pairs.items():
        together = sum(own.values())
        held = together.any(axis=1)
        if said := _swapped(together, SWAP_GAIN, held):
            notes.append(f"{method}: its labels would agree better with the truth, by mean Dice over all voxels {said}")
            continue
        cases: dict[str, list[str]] = {}
        for case, found in own.items():
            if said := _swapped(found, SWAP_GAIN_OF_CASE, held):
                cases.setdefault(said.partition("with ")[2], []).append(case)
        notes += [
            f"{method}: in {_of(those, own)} its labels would agree much better with the truth with {said}"
            for said, those in cases.items()
        ]
        if not cases:
            notes += [f"{method}: {said}" for said in _absent(own)]
    return notes


def _swapped(pairs: np.ndarray, least_gain: float, held: np.ndarray) -> str:
    """Under which other reading of the values mean Dice gains so much, in words; empty where under none.

    held: by class, whether any of the method's label maps holds it; of others nothing can be read otherwise.
    """
    classes = range(1, len(CLASSES))
    orders = {
        order: _mean_dice(pairs[[0, *order]])
        for order in itertools.permutations((1, 2, 3, 4))
        if all(held[own] or own == name for own, name in zip(order, classes, strict=False))
    }
    read = orders.pop((1, 2, 3, 4))
    best = max(orders, key=orders.get, default=None)
    if best is None or orders[best] <= read + least_gain:
        return ""
    other = [
        f"its {CLASSES_WITH_CAVITY[own]} as {name}"
        for name, own in zip(CLASSES[1:], best[: len(CLASSES) - 1], strict=True)
        if CLASSES_WITH_CAVITY[own] != name
    ]
    return f"{orders[best]:.2f} in place of {read:.2f}, with {', '.join(other)}: check what its values mean"


def _absent(pairs: Mapping[str, np.ndarray]) -> list[str]:
    """Classes of the truths that none of a method's label maps holds, as a cohort's audit says it of masks."""
    masks = [{name for name, row in zip(CLASSES[1:], found[1:], strict=False) if row.any()} for found in pairs.values()]
    true = sum(pairs.values()).any(axis=0)
    return absent(masks, expected=[name for name, there in zip(CLASSES[1:], true[1:], strict=False) if there])


def _of(cases: Sequence[str], everyone: Sized) -> str:
    return f"{len(cases)} of {plural(len(everyone), 'case')} ({listed(cases)})"


def _mean_dice(pairs: np.ndarray) -> float:
    both = np.diag(pairs)[1 : len(CLASSES)]
    sizes = (pairs.sum(axis=0) + pairs.sum(axis=1))[1 : len(CLASSES)]
    return float(np.mean(2 * both / np.maximum(sizes, 1)))
